"""Maps of one quantity in [0, 1] per image, kept as greyscale PNGs of 16 bits."""

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from tag2mask.data.images import open_image
from tag2mask.data.layers import HeatMap, MapLayer
from tag2mask.data.view import SCORES
from tag2mask.engine.environment import Environment
from tag2mask.engine.workspace import reading_artifact
from tag2mask.errors import DataError
from tag2mask.stages.maps import MapStage

_WHITE = 65535  # of 16 bits
_GREY = {"L": 255, "I;16": _WHITE, "I;16L": _WHITE, "I;16B": _WHITE, "I": _WHITE}  # Pillow's modes and their white
_COMPRESSION = 6  # fixed, so that equal maps are equal files


class UnitMapStage(MapStage):
    """A map of one quantity in [0, 1] per image: a greyscale PNG of 16 bits, exact to 1/131070."""

    map_kind = SCORES
    suffix = ".png"

    def load(self, env: Environment, image_id: str) -> Tensor:
        """The map of one whole image at its own resolution: float32 (h, w) in [0, 1].

        Raises:
            WorkspaceError: the file is missing or damaged.
        """
        path = self.path(env, image_id)
        with reading_artifact(path, self.folder(env)):
            return torch.from_numpy(read_unit_map(path))

    def layers(self, env: Environment, image_id: str) -> dict[str, MapLayer]:
        return {"": HeatMap(self.load(env, image_id).numpy())}


def encode_unit_map(values: Tensor) -> bytes:
    """A greyscale PNG of 16 bits, float (h, w) in [0, 1] -> file; equal maps give equal bytes."""
    levels = (values.double() * _WHITE).round().cpu().numpy().astype(np.uint16)
    content = io.BytesIO()
    Image.fromarray(levels).save(content, format="PNG", compress_level=_COMPRESSION)
    return content.getvalue()


def read_unit_map(path: Path) -> npt.NDArray[np.float32]:
    """A map in [0, 1] from a greyscale image of 8 or 16 bits, black 0 and white 1: float32 (h, w).

    Raises:
        DataError: the file cannot be read or is no such image.
    """
    with open_image(path) as image:
        if image.mode not in _GREY:
            raise DataError(f"{path}: a map is a greyscale image of 8 or 16 bits, not of colour mode {image.mode}")
        levels, white = np.asarray(image), _GREY[image.mode]
    if levels.min() < 0 or levels.max() > white:
        raise DataError(f"{path}: grey values {levels.min()} to {levels.max()} do not fit into 16 bits")
    values: npt.NDArray[np.float32] = levels.astype(np.float32) / np.float32(white)
    return values
