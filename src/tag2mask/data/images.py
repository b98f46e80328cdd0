"""Reading images, whatever camera or program wrote them."""

import hashlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from tag2mask.errors import DataError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm")
"""Suffixes, in lower case, by which a file counts as an image."""

_WHITE = (255, 255, 255, 255)
_TURNED = range(2, 9)  # EXIF orientations of images that are not shown as they are stored
_QUARTER_TURNS = (5, 6, 7, 8)  # EXIF orientations that exchange height and width
_SEVERAL_JPEGS = "MPO"  # Pillow's name of a camera's JPEG with previews or a depth map behind the image
_DIGEST_BYTES = 16

# Pillow warns at half its limit, but a camera of 100 megapixels is no attack. Once for the process: `catch_warnings`
# around each picture would take the filters of other threads along.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


@contextmanager
def open_image(path: Path) -> Iterator[Image.Image]:
    """Opens an image lazily; everything that goes wrong inside the block is reported with the file's name.

    Pillow's limit of about 180 megapixels is an error. Pillow never completes a truncated file unless a program asks
    for it; nothing here does.

    Raises:
        DataError: the file is missing, unreadable, empty, too large, truncated or no image.
    """
    try:
        with Image.open(path) as image:
            yield image
    except (DataError, MemoryError):  # a full memory is no fault of the file's
        raise
    except UnidentifiedImageError as error:
        raise DataError(f"{path}: not an image, or of a format that cannot be read") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{path}: too large to be a photograph ({error})") from error
    except Exception as error:  # Pillow's decoders raise nearly every kind of exception on damaged files
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise DataError(f"{path}: cannot be read as an image ({reason})") from error


def _to_rgb(image: Image.Image, path: Path) -> npt.NDArray[np.uint8]:
    """Any Pillow mode -> uint8 (H, W, 3)."""
    if image.mode == "F":
        raise DataError(f"{path}: floating-point pixels have no agreed range; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.int64)
        if grey.min() < 0 or grey.max() > np.iinfo(np.uint16).max:
            raise DataError(f"{path}: grey values {grey.min()} to {grey.max()} do not fit into 16 bits")
        # 257 = 65535 / 255 brings white to white; half of it rounds to the nearest value.
        return np.repeat(((grey + 128) // 257).astype(np.uint8)[..., None], 3, axis=2)
    if image.has_transparency_data:
        opaque = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", opaque.size, _WHITE), opaque)
    return np.array(image.convert("RGB"))


def read_image(path: str | Path) -> npt.NDArray[np.uint8]:
    """Reads an image as it is meant to be seen.

    The EXIF orientation is applied. Grey, palette and CMYK images become RGB (without colour management), 16-bit
    grey is scaled to 8 bits, transparent images are laid on white, as a page would show them, and of an animation
    the first frame is taken.

    Args:
        path: the image file.

    Returns:
        RGB values 0..255, uint8 of shape (H, W, 3), writable.

    Raises:
        DataError: the file is missing, empty, truncated, no image, too large (about 180 megapixels), or has
            floating-point or more than 16-bit pixels.
    """
    path = Path(path)
    with open_image(path) as image:
        return _to_rgb(ImageOps.exif_transpose(image), path)


def as_photograph(image: Image.Image | npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """An image that is in memory already, as `read_image` would give it.

    Args:
        image: a Pillow image of any mode `read_image` takes, turned as it is shown; or an array of 8 bits per channel,
            (H, W, 3), (H, W, 4) with an alpha channel, (H, W, 1) or (H, W).

    Returns:
        RGB values 0..255, uint8 (H, W, 3), writable.

    Raises:
        DataError: another shape or type.
    """
    if isinstance(image, Image.Image):
        return _to_rgb(ImageOps.exif_transpose(image), Path("image"))
    array = np.asarray(image)
    grey = array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 1)
    if array.dtype != np.uint8 or not (grey or (array.ndim == 3 and array.shape[2] in (3, 4))) or not array.size:
        raise DataError(
            f"an image must be uint8 of shape (H, W, 3) or (H, W), not {array.dtype} of shape {array.shape}"
        )
    if grey:
        return np.repeat(array.reshape(*array.shape[:2], 1), 3, axis=2)
    if array.shape[2] == 4:
        return _to_rgb(Image.fromarray(array), Path("image"))
    return np.array(array, order="C")


@dataclass(frozen=True)
class ImageFacts:
    """Properties of a stored image.

    Attributes:
        height: in pixels, as it is shown.
        width: in pixels, as it is shown.
        format: Pillow's name of the file format, such as ``"JPEG"`` or ``"PNG"``, whatever the suffix.
        mode: Pillow's name of the kind of pixels, such as ``"RGB"``, ``"L"``, ``"P"`` or ``"I;16"``.
        turned: whether the EXIF orientation turns or mirrors it.
        transparent: whether it has an alpha channel or a transparent colour.
        animated: whether there are more frames or pages than the first.
    """

    height: int
    width: int
    format: str
    mode: str
    turned: bool
    transparent: bool
    animated: bool


def inspect_image(path: str | Path) -> ImageFacts:
    """Reads an image to its last pixel, as `read_image` does, and tells what kind of image it is.

    Raises:
        DataError: `read_image` cannot read it.
    """
    path = Path(path)
    with open_image(path) as image:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
        mode, transparent = image.mode, image.has_transparency_data
        height, width, _ = _to_rgb(ImageOps.exif_transpose(image), path).shape
        several = image.format == _SEVERAL_JPEGS
        return ImageFacts(
            height=height,
            width=width,
            format="JPEG" if several else image.format or path.suffix,
            mode=mode,
            turned=orientation in _TURNED,
            transparent=transparent,
            # Asked last: Pillow looks for a second frame of a GIF by going there.
            animated=not several and getattr(image, "is_animated", False),
        )


def image_size(path: str | Path) -> tuple[int, int]:
    """Height and width of `read_image(path)`, from the file's header.

    Only a PNG without EXIF data in front of its pixels is decoded, since such data may follow them.

    Raises:
        DataError: the file is missing, empty, no image or too large.
    """
    with open_image(Path(path)) as image:
        width, height = image.size
        # Pillow's TIFF reader gives the size of the turned image itself; PNG, JPEG and WebP do not.
        turned = image.format != "TIFF" and image.getexif().get(ExifTags.Base.Orientation) in _QUARTER_TURNS
    return (width, height) if turned else (height, width)


def content_digest(path: str | Path) -> str:
    """BLAKE2b digest (32 hexadecimal digits) of a file's bytes; names and dates do not enter.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=_DIGEST_BYTES)).hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
