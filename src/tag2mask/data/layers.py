"""Artifacts of an image as pictures: for sheets laid over the image, for pages as small files."""

import io
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from PIL import Image

from tag2mask.data.classes import BACKGROUND, UNLABELLED, voc_palette
from tag2mask.data.masks import overlay

RGB = npt.NDArray[np.uint8]

_HEAT = "turbo"
_LEVELS = 256
_OPAQUE = 255
_UNLABELLED_ALPHA = 110  # the image stays visible where nothing is said about it
_COMPRESSION = 6  # fixed, so that equal layers are equal files
_JPEG_QUALITY = 80


class MapLayer(ABC):
    """A map or picture of one image.

    Attributes:
        kind: "cover" has transparent parts and is laid over the image, "picture" stands beside it.
    """

    kind: ClassVar[Literal["cover", "picture"]]

    @abstractmethod
    def over(self, image: RGB) -> RGB:
        """The layer with its image, for sheets of pictures.

        Args:
            image: uint8 of shape (H, W, 3).

        Returns:
            RGB values, uint8 of shape (H, W, 3); a picture keeps its own size.
        """

    @abstractmethod
    def encode(self, side: int) -> tuple[str, bytes]:
        """The layer alone as a small file, for a page.

        Args:
            side: longest side in pixels, above 0; smaller layers are not enlarged.

        Returns:
            media type and content; the same layer gives the same bytes.
        """


@dataclass(frozen=True)
class LabelMap(MapLayer):
    """Class ids in VOC's colours; background is transparent, unlabelled pixels are half so.

    Args:
        ids: uint8 of shape (H, W), the image's size.
    """

    ids: npt.NDArray[np.uint8]
    kind = "cover"

    def over(self, image: RGB) -> RGB:
        """The colours over the image, regions outlined; raises as `tag2mask.data.masks.overlay` does."""
        return overlay(image, self.ids)

    def encode(self, side: int) -> tuple[str, bytes]:
        """Palette PNG, shrunk by nearest neighbour so that it holds no classes but the mask's."""
        small = np.asarray(_shrunk(Image.fromarray(self.ids), side, Image.Resampling.NEAREST))
        # A palette of the ids that occur: one of 256 colours would be most of so small a file.
        ids = np.flatnonzero(np.bincount(small.ravel(), minlength=UNLABELLED + 1))
        index = np.zeros(UNLABELLED + 1, dtype=np.uint8)
        index[ids] = np.arange(len(ids))
        alpha = np.select([ids == BACKGROUND, ids == UNLABELLED], [0, _UNLABELLED_ALPHA], _OPAQUE)
        return _palette_png(index[small], voc_palette()[ids], alpha)


@dataclass(frozen=True)
class HeatMap(MapLayer):
    """A map of one quantity in false colours, the more opaque the higher.

    Args:
        values: float of shape (h, w) within 0..1, which is clipped to; any resolution, it is stretched over the image.
    """

    values: npt.NDArray[np.floating[Any]]
    kind = "cover"

    def over(self, image: RGB) -> RGB:
        """The colours over the image, `heat_overlay` of the map brought to its size."""
        size = (image.shape[1], image.shape[0])
        map_ = Image.fromarray(self.values.astype(np.float32))
        return heat_overlay(image, np.asarray(map_.resize(size, Image.Resampling.BILINEAR)))

    def encode(self, side: int) -> tuple[str, bytes]:
        """Palette PNG of 256 colours at the map's own resolution, shrunk if that is above `side`."""
        levels = np.rint(np.clip(self.values, 0, 1) * (_LEVELS - 1)).astype(np.uint8)
        small = np.asarray(_shrunk(Image.fromarray(levels), side, Image.Resampling.BILINEAR))
        steps = np.linspace(0, 1, _LEVELS)
        # Half way up the colours are opaque already: a page fades the whole layer as its reader likes.
        return _palette_png(small, _turbo(steps), np.minimum(2 * steps, 1) * _OPAQUE)


@dataclass(frozen=True)
class Picture(MapLayer):
    """A picture that needs no image below it.

    Args:
        rgb: uint8 of shape (H, W, 3), any size.
    """

    rgb: RGB
    kind = "picture"

    def over(self, image: RGB) -> RGB:
        """The picture itself."""
        return self.rgb

    def encode(self, side: int) -> tuple[str, bytes]:
        """JPEG."""
        content = io.BytesIO()
        small = _shrunk(Image.fromarray(self.rgb), side, Image.Resampling.LANCZOS)
        small.save(content, format="JPEG", quality=_JPEG_QUALITY)
        return "image/jpeg", content.getvalue()


def heat_overlay(image: RGB, heat: npt.NDArray[np.float32], opacity: float = 0.6) -> RGB:
    """A map in [0, 1] in false colours over an image.

    Shapes: (H, W, 3) and (H, W) -> (H, W, 3).
    """
    mixed: RGB = (image * (1 - opacity) + _turbo(np.clip(heat, 0, 1)) * opacity).round().astype(np.uint8)
    return mixed


def _turbo(values: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
    """Values in [0, 1] of any shape -> RGB in 0..255 along a last axis."""
    colours: npt.NDArray[np.float64] = colormaps[_HEAT](values)[..., :3] * 255
    return colours


def _shrunk(image: Image.Image, side: int, resampling: Image.Resampling) -> Image.Image:
    """The image at no more than `side` pixels along its longer side, at least one pixel along the other."""
    factor = side / max(image.size)
    if factor >= 1:
        return image
    width, height = (max(1, round(length * factor)) for length in image.size)
    return image.resize((width, height), resampling)


def _palette_png(index: npt.NDArray[Any], colours: npt.NDArray[Any], alpha: npt.NDArray[Any]) -> tuple[str, bytes]:
    """PNG of indices (H, W) into colours (n, 3) and opacities (n,), both in 0..255."""
    image = Image.fromarray(index.astype(np.uint8))
    image.putpalette(np.rint(colours).astype(np.uint8).tobytes())
    content = io.BytesIO()
    opacities = np.rint(alpha).astype(np.uint8).tobytes()
    image.save(content, format="PNG", transparency=opacities, compress_level=_COMPRESSION)
    return "image/png", content.getvalue()
