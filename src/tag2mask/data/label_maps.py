"""Label maps with more labels than a mask has classes: superpixels, on disk and in pictures."""

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.colors import hsv_to_rgb
from PIL import Image
from scipy import ndimage

from tag2mask.data.images import open_image
from tag2mask.errors import DataError

MAX_LABELS = 2**16
"""Labels that a 16-bit PNG can tell apart."""

_COMPRESSION = 6  # fixed, so that equal maps are equal files
_GOLDEN = (math.sqrt(5) - 1) / 2  # of the colour circle between two labels: no two of few come close
_LINE = 400  # pixels of the image's longer side per pixel of the lines' width
_CONTOUR = np.array([255, 255, 255], dtype=np.uint8)


def encode_label_map(labels: npt.NDArray[np.integer[Any]], source: str | Path) -> bytes:
    """Bytes of a 16-bit greyscale PNG; equal maps give equal bytes.

    Args:
        labels: integers of shape (H, W), 0 to 65,535.
        source: the image, for the message.

    Raises:
        DataError: there are more labels than 16 bits hold.
        ValueError: the array is no map of labels from 0.
    """
    if labels.ndim != 2 or not np.issubdtype(labels.dtype, np.integer) or labels.min(initial=0) < 0:
        raise ValueError(f"a label map has integers from 0, shape (H, W), not {labels.dtype} of shape {labels.shape}")
    if labels.max(initial=0) >= MAX_LABELS:
        raise DataError(f"{source}: {labels.max() + 1} labels; a 16-bit PNG holds {MAX_LABELS}")
    file = io.BytesIO()
    Image.fromarray(labels.astype(np.uint16)).save(file, format="PNG", compress_level=_COMPRESSION)
    return file.getvalue()


def read_label_map(path: str | Path) -> npt.NDArray[np.int32]:
    """Reads what `encode_label_map` wrote.

    Args:
        path: a PNG of grey values, 8 or 16 bits.

    Returns:
        int32 (H, W).

    Raises:
        DataError: the file cannot be read, or is another kind of image.
    """
    path = Path(path)
    with open_image(path) as image:
        if image.format != "PNG" or not (image.mode == "L" or image.mode.startswith("I")):
            raise DataError(
                f"{path}: {image.format} of colour mode {image.mode}; a 16-bit greyscale PNG of labels is expected"
            )
        return np.array(image).astype(np.int32)


def draw_label_map(
    image: npt.NDArray[np.uint8], labels: npt.NDArray[np.integer[Any]], opacity: float = 0.35
) -> npt.NDArray[np.uint8]:
    """An image with its label map: a white line between labels, and a tint per label.

    The tint tells which parts belong together, for superpixels need not be connected.

    Args:
        image: RGB values, uint8 of shape (H, W, 3).
        labels: integers from 0, of shape (H, W).
        opacity: weight of the tints, 0 (lines only) to 1.

    Returns:
        RGB values, uint8 of shape (H, W, 3).

    Raises:
        ValueError: the shapes differ or the opacity is out of range.
    """
    if image.shape != (*labels.shape, 3):
        raise ValueError(f"image of shape {image.shape} and labels of shape {labels.shape} do not belong together")
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity {opacity} is not within 0..1")
    # Mixed as whole numbers of a byte: a large image needs no copy in floating point.
    weight = round(256 * opacity)
    tints = (_colours(int(labels.max(initial=0)) + 1) * weight).astype(np.uint16)
    result = ((image * np.uint16(256 - weight) + tints[labels] + np.uint16(128)) >> np.uint16(8)).astype(np.uint8)
    border = np.zeros(labels.shape, dtype=bool)
    border[:, 1:] = labels[:, 1:] != labels[:, :-1]
    border[1:] |= labels[1:] != labels[:-1]
    thickness = round(max(labels.shape) / _LINE)
    if thickness > 1:
        border = ndimage.maximum_filter(border, size=thickness)
    result[border] = _CONTOUR
    return result


def _colours(count: int) -> npt.NDArray[np.float64]:
    """Colours of labels 0..count-1, 0..255 of shape (count, 3): hues a golden section apart, every third one darker."""
    index = np.arange(count)
    hsv = np.stack([index * _GOLDEN % 1, np.full(count, 0.9), 1 - 0.25 * (index % 3)], axis=1)
    colours: npt.NDArray[np.float64] = 255 * hsv_to_rgb(hsv)
    return colours
