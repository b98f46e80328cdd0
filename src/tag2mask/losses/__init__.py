"""Losses of the papers: pure functions on tensors that return (sum, count), so that batches and devices add up."""

from tag2mask.losses.adaptive_affinity import adaptive_affinity_loss
from tag2mask.losses.affinity import affinity_losses
from tag2mask.losses.attention import attention_loss, attention_map, draw_classes, mask_image
from tag2mask.losses.balanced_seed import balanced_seed_loss
from tag2mask.losses.boundary import boundary_loss
from tag2mask.losses.cam_consistency import cam_consistency_loss
from tag2mask.losses.classification import multi_label_loss
from tag2mask.losses.cross_entropy import cross_entropy, foreground_background_cross_entropy
from tag2mask.losses.dense_energy import dense_energy
from tag2mask.losses.difference import difference_loss
from tag2mask.losses.expansion import expansion_loss
from tag2mask.losses.label_reassign import Reassigned, label_reassign
from tag2mask.losses.saliency import saliency_loss
from tag2mask.losses.seed import seed_loss

__all__ = [
    "adaptive_affinity_loss",
    "affinity_losses",
    "attention_loss",
    "attention_map",
    "balanced_seed_loss",
    "boundary_loss",
    "cam_consistency_loss",
    "cross_entropy",
    "dense_energy",
    "difference_loss",
    "draw_classes",
    "expansion_loss",
    "foreground_background_cross_entropy",
    "label_reassign",
    "mask_image",
    "multi_label_loss",
    "Reassigned",
    "saliency_loss",
    "seed_loss",
]
