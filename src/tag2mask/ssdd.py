"""Re-refinement of any pair of masks by difference detection (Shimoda & Yanai, SSDD, ICCV 2019).

What somebody needs who has masks of their own: `refine`, the features it reads, and reading and writing of difference
networks. Runs of the method `ssdd` leave such networks in their folder.
"""

from tag2mask.networks.difference_net import (
    DifferenceNet,
    load_difference_nets,
    read_difference_settings,
    save_difference_nets,
)
from tag2mask.refine.pairs import ImageFeatures, image_features, refine

__all__ = [
    "refine",
    "image_features",
    "ImageFeatures",
    "DifferenceNet",
    "load_difference_nets",
    "read_difference_settings",
    "save_difference_nets",
]
