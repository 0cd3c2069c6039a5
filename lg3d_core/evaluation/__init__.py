"""Prediction, confusion matrices, scores and exports."""
