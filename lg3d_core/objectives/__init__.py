"""What training minimises: pure functions of features or logits, labels and constants."""

from lg3d_core.objectives.classification import cross_entropy_loss, focal_loss, inverse_log_alpha, printed_alpha
from lg3d_core.objectives.language import ContrastiveLoss, language_contrastive_loss

__all__ = [
    "ContrastiveLoss",
    "cross_entropy_loss",
    "focal_loss",
    "inverse_log_alpha",
    "language_contrastive_loss",
    "printed_alpha",
]
