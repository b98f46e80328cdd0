"""Masks on disk and in pictures: one byte per pixel, drawn in PASCAL VOC's colours."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from tag2mask.data.classes import BACKGROUND, UNLABELLED, voc_palette
from tag2mask.data.images import open_image
from tag2mask.errors import DataError

_COMPRESSION = 6  # fixed, so that equal masks are equal files
_CONTOUR = np.array([255, 255, 255], dtype=np.uint8)


def read_mask(path: str | Path) -> npt.NDArray[np.uint8]:
    """Reads a mask of class ids.

    Args:
        path: palette or grey image without loss, PNG as a rule. Of a palette image the indices count, not the
            colours, so any palette will do.

    Returns:
        class ids, uint8 of shape (H, W), writable; 255 is unlabelled.

    Raises:
        DataError: the file cannot be read, is a colour or 1-bit image, a JPEG (whose loss mixes ids up), or holds
            ids above 255.
    """
    path = Path(path)
    with open_image(path) as image:
        if image.format == "JPEG":
            raise DataError(f"{path}: JPEG changes class ids; save the mask as a palette PNG")
        if image.mode not in ("P", "L") and not image.mode.startswith("I"):
            raise DataError(f"{path}: mask of colour mode {image.mode}; a palette PNG of class ids is expected")
        ids = np.array(image)
    if ids.max(initial=0) > UNLABELLED or ids.min(initial=0) < 0:
        raise DataError(f"{path}: mask with ids {ids.min()} to {ids.max()}; 0 to {UNLABELLED} are possible")
    return ids.astype(np.uint8)


@dataclass(frozen=True)
class MaskFile:
    """A true mask that lies in a file of its own (see `tag2mask.data.samples.TrueMask`).

    Attributes:
        path: palette or grey image of class ids.
    """

    path: Path

    def read(self) -> npt.NDArray[np.uint8]:
        """Class ids, uint8 of shape (H, W); raises as `read_mask` does."""
        return read_mask(self.path)

    def size(self) -> None:
        """Unknown until it is read."""

    def digest(self, of_file: Callable[[Path], str]) -> str:
        """Digest of the file."""
        return of_file(self.path)

    def __str__(self) -> str:
        return str(self.path)


def _checked(mask: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    if mask.dtype != np.uint8 or mask.ndim != 2:
        raise ValueError(f"a mask is uint8 of shape (H, W), not {mask.dtype} of shape {mask.shape}")
    return mask


def encode_mask(mask: npt.NDArray[np.uint8]) -> bytes:
    """Bytes of a palette PNG in VOC's colours; equal masks give equal bytes.

    Args:
        mask: class ids, uint8 of shape (H, W); 255 is unlabelled.

    Raises:
        ValueError: the array is not uint8 of two dimensions.
    """
    image = Image.fromarray(np.ascontiguousarray(_checked(mask)))
    image.putpalette(voc_palette().tobytes())
    file = io.BytesIO()
    image.save(file, format="PNG", compress_level=_COMPRESSION)
    return file.getvalue()


def write_mask(path: str | Path, mask: npt.NDArray[np.uint8]) -> None:
    """Writes `encode_mask(mask)` to a file.

    Raises:
        ValueError: the array is not uint8 of two dimensions.
        OSError: the file cannot be written.
    """
    Path(path).write_bytes(encode_mask(mask))


def colour_mask(mask: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """VOC's colours of a mask.

    Args:
        mask: class ids, uint8 of shape (H, W).

    Returns:
        RGB values, uint8 of shape (H, W, 3).
    """
    return voc_palette()[_checked(mask)]


def overlay(image: npt.NDArray[np.uint8], mask: npt.NDArray[np.uint8], opacity: float = 0.5) -> npt.NDArray[np.uint8]:
    """Lays a mask's colours over its image, with a white contour one pixel wide around each region.

    Background pixels keep the image; unlabelled ones are drawn in their own colour like a class.

    Args:
        image: RGB values, uint8 of shape (H, W, 3).
        mask: class ids, uint8 of shape (H, W).
        opacity: weight of the colours, 0 (the image and contours only) to 1.

    Returns:
        RGB values, uint8 of shape (H, W, 3).

    Raises:
        ValueError: the shapes differ or the opacity is out of range.
    """
    if image.shape != (*_checked(mask).shape, 3):
        raise ValueError(f"image of shape {image.shape} and mask of shape {mask.shape} do not belong together")
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity {opacity} is not within 0..1")
    shown = mask != BACKGROUND
    border = np.zeros_like(shown)
    across, down = mask[:, 1:] != mask[:, :-1], mask[1:] != mask[:-1]
    border[:, 1:] |= across
    border[:, :-1] |= across
    border[1:] |= down
    border[:-1] |= down
    result = image.copy()
    result[shown] = np.rint((1 - opacity) * image[shown] + opacity * colour_mask(mask)[shown]).astype(np.uint8)
    result[shown & border] = _CONTOUR
    return result
