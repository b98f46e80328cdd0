"""Scores of background and the tagged classes: what masks of training images are the largest of."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tag2mask.base.versions import Code
from tag2mask.data.layers import HeatMap, MapLayer
from tag2mask.data.resizing import resize_scores
from tag2mask.engine.environment import Environment
from tag2mask.engine.stage import PerImageStage
from tag2mask.engine.workspace import reading_arrays

CODE = Code("class maps")


@dataclass(frozen=True)
class ClassMaps:
    """Scores of one image.

    Args:
        class_ids: 0 for background, then the tagged classes.
        maps: float32 (K, h, w), K the number of class ids; they sum to 1 in every cell.
        size: (height, width) of the image.
    """

    class_ids: tuple[int, ...]
    maps: Tensor
    size: tuple[int, int]

    def at_size(self) -> Tensor:
        """The maps at the image's size, float32 (K, H, W)."""
        return resize_scores(self.maps[None], self.size)[0]

    def largest(self) -> npt.NDArray[np.uint8]:
        """The class of the largest score at the image's size, uint8 (H, W)."""
        return largest_class(self.at_size(), self.class_ids).numpy()


def largest_class(scores: Tensor, class_ids: tuple[int, ...]) -> Tensor:
    """The class id of the largest score; the first of several.

    Shapes: (K, H, W) and K ids -> uint8 (H, W).
    """
    return torch.tensor(class_ids, dtype=torch.uint8, device=scores.device)[scores.max(0).indices]


def sum_to_one(scores: Tensor) -> Tensor:
    """Scores of 0 or more divided by their sum in each cell, (K, H, W); all 0 where that is 0."""
    return scores / scores.sum(0, keepdim=True).clamp(min=1e-6)


def encode_maps(class_ids: tuple[int, ...], size: tuple[int, int], **maps: Tensor) -> bytes:
    """The ``.npz`` of maps (K, h, w) in half precision, with their class ids and the image's (height, width)."""
    content = io.BytesIO()
    halves = {name: values.cpu().numpy().astype(np.float16) for name, values in maps.items()}
    ids = np.array(class_ids, dtype=np.int64)
    np.savez_compressed(content, allow_pickle=False, class_ids=ids, size=np.array(size, dtype=np.int64), **halves)
    return content.getvalue()


class MapsFile(PerImageStage):
    """One ``.npz`` of `encode_maps` per image."""

    suffix = ".npz"

    @contextmanager
    def _content(self, env: Environment, image_id: str) -> Iterator[Any]:
        """The arrays by name.

        Raises:
            WorkspaceError: the file is missing or damaged.
        """
        with reading_arrays(self.path(env, image_id), self.folder(env)) as content:
            yield content


class ClassMapStage(MapsFile):
    """Makes scores of background and an image's tagged classes, maps that sum to 1 in every cell."""

    def load(self, env: Environment, image_id: str) -> ClassMaps:
        """Scores of one image.

        Raises:
            WorkspaceError: the file is missing or damaged.
        """
        with self._content(env, image_id) as content:
            height, width = content["size"].tolist()
            maps = torch.from_numpy(content["maps"].astype(np.float32))
            return ClassMaps(tuple(content["class_ids"].tolist()), maps, (height, width))

    def layers(self, env: Environment, image_id: str) -> dict[str, MapLayer]:
        """The largest of the tagged classes' maps and, where there are several, each by its class."""
        scores = self.load(env, image_id)
        maps = scores.maps[1:].numpy()
        if not len(maps):
            return {"": HeatMap(np.zeros(scores.maps.shape[1:], np.float32))}
        shown: dict[str, MapLayer] = {"": HeatMap(maps.max(axis=0))}
        if len(maps) > 1:
            names = env.dataset.label_names
            shown |= {names[one]: HeatMap(map_) for one, map_ in zip(scores.class_ids[1:], maps, strict=True)}
        return shown
