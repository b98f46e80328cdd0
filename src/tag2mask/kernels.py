"""The kernels by themselves: plain functions of NumPy arrays or torch tensors that know nothing of runs and settings.

The dense CRF, region growing, the random walk and the affinities it walks on, superpixels and class patterns. Each
docstring gives shapes, ranges and the source; docs/kernels.md has the conventions and what they cost.
"""

from tag2mask.evaluation.superpixels import SuperpixelScores, score_superpixels
from tag2mask.evidence.affinity import pair_affinities
from tag2mask.evidence.class_pattern import orient, pattern_labels, principal_components, project
from tag2mask.evidence.class_statistics import ClassStatistics
from tag2mask.evidence.superpixel import discover_superpixels, label_superpixels
from tag2mask.refine.dense_crf import dense_crf, label_probabilities
from tag2mask.refine.random_walk import random_walk
from tag2mask.refine.region_growing import grow_regions, grow_superpixels

__all__ = [
    "dense_crf",
    "label_probabilities",
    "grow_regions",
    "grow_superpixels",
    "random_walk",
    "pair_affinities",
    "discover_superpixels",
    "label_superpixels",
    "score_superpixels",
    "SuperpixelScores",
    "ClassStatistics",
    "principal_components",
    "orient",
    "project",
    "pattern_labels",
]
