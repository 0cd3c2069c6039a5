"""The one training loop, and the two commands that run it: pre-training and fine-tuning."""
