"""Comparisons of recipes: train and score each one and tabulate the results, as in the paper's tables."""
