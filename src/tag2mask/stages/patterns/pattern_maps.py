"""Maps of the tagged classes' patterns: where an image's features lie on the side of the class (DCP)."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tag2mask.data.images import image_size
from tag2mask.data.layers import HeatMap, MapLayer
from tag2mask.data.resizing import resize_scores
from tag2mask.data.samples import Sample
from tag2mask.engine.environment import Environment
from tag2mask.engine.stage import Estimate
from tag2mask.errors import SettingsError, unknown_choice
from tag2mask.stages.class_maps import MapsFile, encode_maps
from tag2mask.stages.patterns.class_patterns import ClassPatterns
from tag2mask.stages.timing import seconds_per_image

_LARGEST = torch.finfo(torch.float16).max  # files hold half precision


@dataclass(frozen=True)
class PatternMapSettings:
    """Choice of the patterns that features are projected on.

    Args:
        block: one of the blocks that the patterns were taken at.
    """

    block: str


@dataclass(frozen=True)
class PatternMap:
    """Projections of one image on its classes' patterns.

    Args:
        class_ids: the tagged classes that have a pattern, from 1 up.
        maps: q, float32 (P, h, w), positive where the class is.
        size: (height, width) of the image.
    """

    class_ids: tuple[int, ...]
    maps: Tensor
    size: tuple[int, int]

    def at_size(self) -> Tensor:
        """The maps at the image's size, bilinear, float32 (P, H, W)."""
        if not self.class_ids:
            return torch.zeros((0, *self.size))
        return resize_scores(self.maps[None], self.size)[0]


class PatternMaps(MapsFile):
    """q of every tagged class, on the grid of the block's features."""

    name = "pattern_maps"
    on_device = True
    reads = frozenset({"images", "tags"})
    settings: PatternMapSettings

    def __init__(self, patterns: ClassPatterns, settings: PatternMapSettings) -> None:
        if settings.block not in patterns.settings.blocks:
            raise SettingsError(unknown_choice("block of the class patterns", settings.block, patterns.settings.blocks))
        super().__init__(settings, patterns.split, patterns=patterns)
        self.patterns = patterns

    def open(self, env: Environment) -> Callable[[Sample], bytes]:
        block = self.settings.block
        read, patterns = self.patterns.open(env, (block,)), self.patterns.load(env)

        def make(sample: Sample) -> bytes:
            class_ids = tuple(tag for tag in sample.tags if patterns.has(tag))
            maps = torch.zeros(0, 1, 1)
            if class_ids:
                (features,) = read(sample)
                maps = torch.stack([patterns.project(block, features, class_id) for class_id in class_ids])
            return encode_maps(class_ids, image_size(sample.image), maps=maps.clamp(-_LARGEST, _LARGEST))

        return make

    def load(self, env: Environment, image_id: str) -> PatternMap:
        """Projections of one image.

        Raises:
            WorkspaceError: the file is missing or damaged.
        """
        with self._content(env, image_id) as content:
            height, width = content["size"].tolist()
            maps = torch.from_numpy(content["maps"].astype(np.float32))
            return PatternMap(tuple(content["class_ids"].tolist()), maps, (height, width))

    def layers(self, env: Environment, image_id: str) -> dict[str, MapLayer]:
        """The largest of the tagged classes' maps and, where there are several, each by its class.

        Shown is how far q is above or below 0, half way up the scale, as a share of what is farthest from it.
        """
        found = self.load(env, image_id)
        if not found.class_ids:
            return {"": HeatMap(np.zeros(found.maps.shape[1:], np.float32))}
        farthest = found.maps.abs().amax((1, 2), keepdim=True).clamp(min=1e-6)
        maps = (0.5 + 0.5 * found.maps / farthest).numpy()
        shown: dict[str, MapLayer] = {"": HeatMap(maps.max(axis=0))}
        if len(maps) > 1:
            names = env.dataset.label_names
            shown |= {names[class_id]: HeatMap(map_) for class_id, map_ in zip(found.class_ids, maps, strict=True)}
        return shown

    def estimate(self, env: Environment) -> Estimate:
        seconds = seconds_per_image(
            self.patterns.classifier.backbone,
            self.patterns.settings.scales,
            env,
            output_stride=self.patterns.output_stride,
        )
        count = len(self.samples(env))
        return Estimate(seconds * count, 3e3 * count)


def pattern_maps(patterns: ClassPatterns, block: str) -> PatternMaps:
    """Projections of the patterns' images at one block."""
    return PatternMaps(patterns, PatternMapSettings(block))
