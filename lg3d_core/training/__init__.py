"""Training loop and the two commands that use it: pre-training and fine-tuning."""
