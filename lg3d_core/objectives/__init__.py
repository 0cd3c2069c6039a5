"""Training losses: pure functions of features or logits, labels and constants."""

from lg3d_core.objectives.classification import (
    cross_entropy_loss,
    focal_loss,
    inverse_log_alpha,
    printed_alpha,
    weighted_cross_entropy_loss,
)
from lg3d_core.objectives.language import (
    ContrastiveLoss,
    anchor_scores,
    language_contrastive_loss,
    language_softmax_loss,
)
from lg3d_core.objectives.scene_contexts import scene_contexts_loss
from lg3d_core.objectives.supervised import (
    ContrastDraw,
    count_sources,
    draw_contrasts,
    supervised_contrastive_loss,
)

__all__ = [
    "ContrastDraw",
    "ContrastiveLoss",
    "anchor_scores",
    "count_sources",
    "cross_entropy_loss",
    "draw_contrasts",
    "focal_loss",
    "inverse_log_alpha",
    "language_contrastive_loss",
    "language_softmax_loss",
    "printed_alpha",
    "scene_contexts_loss",
    "supervised_contrastive_loss",
    "weighted_cross_entropy_loss",
]
