"""Recipes trained, scored and set against each other: the paper's tables."""
