"""The two class ids that mean the same everywhere, and the colours masks are drawn in."""

import numpy as np
import numpy.typing as npt

BACKGROUND = 0
"""Class id of everything that is none of the tagged classes."""

UNLABELLED = 255
"""Id of pixels without a label: left out of every loss and of IoU."""

MAX_CLASSES = UNLABELLED
"""A mask is one byte per pixel, so background and foreground classes together are at most this many."""


def voc_palette() -> npt.NDArray[np.uint8]:
    """PASCAL VOC's colour map: the bits of the class id dealt out to the high bits of red, green and blue.

    Returns:
        array of shape (256, 3): RGB colour of each class id.
    """
    ids = np.arange(256)
    palette = np.zeros((256, 3), dtype=np.uint8)
    for bit in range(8):
        for channel in range(3):
            palette[:, channel] |= (((ids >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
    return palette
