"""Features of frozen networks at a block, kept of every image, and those of several networks as one map."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from tag2mask.base.versions import Code
from tag2mask.data.samples import Sample
from tag2mask.data.view import tiled_grid
from tag2mask.engine.environment import Environment, SplitName
from tag2mask.engine.stage import Accumulator, Estimate, PerImageStage, ReduceStage, Stage
from tag2mask.engine.workspace import reading_artifact
from tag2mask.networks.inference import ScaleSettings
from tag2mask.networks.trunks import Trunks, part_view
from tag2mask.stages.trunks import TrunkSettings, create_trunks, seconds_of
from tag2mask.stages.views import load_image

CODE = Code("joined features")
_SMALLEST = 1e-4  # deviation of a channel that hardly ever changes


class KeptFeatures(PerImageStage):
    """float16 ``.safetensors`` with ``features`` (2, channels, h, w): of an image and of its mirror image."""

    on_device = True
    suffix = ".safetensors"
    reads = frozenset({"images"})

    def load(self, env: Environment, image_id: str, *, mirror: bool) -> Tensor:
        """Features of one image, or of its mirror image: float32 (channels, h, w).

        Raises:
            WorkspaceError: the file is missing or damaged.
        """
        path = self.path(env, image_id)
        with reading_artifact(path, self.folder(env)):
            features: Tensor = load_tensors(path.read_bytes())["features"]
        return features[int(mirror)].float()


def encode_features(features: Tensor) -> bytes:
    """The file of features (2, channels, h, w)."""
    return save_tensors({"features": features.to("cpu", torch.float16).contiguous()})


class BlockFeatures(KeptFeatures):
    """float16 ``.safetensors`` with ``features`` (2, channels, h, w): of the image and of its mirror image.

    They depend on network, block, size and image alone, so that every stage and method that reads them shares them. The
    image is not padded: its sides are multiples of the network's stride.
    """

    name = "block_features"
    settings: TrunkSettings

    def __init__(self, settings: TrunkSettings, split: SplitName = "train") -> None:
        super().__init__(settings, split)

    def identity(self, env: Environment) -> str:
        return self.settings.backbone.identity

    def open(self, env: Environment) -> Callable[[Sample], bytes]:
        runtime, side = env.runtime, self.settings.long_side
        backbone = runtime.place(self.settings.backbone.create(runtime.seed)).eval()

        @torch.no_grad()
        def make(sample: Sample) -> bytes:
            shown = part_view(load_image(sample), backbone, side).to(runtime.torch_device)
            with runtime.autocast():
                features = backbone(torch.cat([shown, shown.flip(3)]))
            return encode_features(features)

        return make

    def estimate(self, env: Environment) -> Estimate:
        settings, count = self.settings, len(self.samples(env))
        return Estimate(
            seconds_of((settings,), ScaleSettings(mirror=True), env) * count,
            4.0 * settings.channels * settings.cells**2 * count,
        )


@dataclass(frozen=True)
class FeatureMomentSettings:
    """Every cell of every training image counts once."""


class _Moments:
    """Sums of features and of their squares over all cells, channel by channel, in double precision."""

    def __init__(self, load: Callable[[Sample], Tensor], channels: int) -> None:
        self._load = load
        self.count = 0
        self.total, self.squares = torch.zeros(2, channels, dtype=torch.float64)

    def add(self, sample: Sample) -> None:
        cells = self._load(sample).flatten(1).double()
        self.count += cells.shape[1]
        self.total += cells.sum(1)
        self.squares += cells.square().sum(1)

    def merge(self, other: "_Moments") -> None:
        self.count += other.count
        self.total += other.total
        self.squares += other.squares

    def result(self) -> dict[str, Any]:
        mean = self.total / max(self.count, 1)
        variance = (self.squares / max(self.count, 1) - mean.square()).clamp(min=0)
        return {"cells": self.count, "mean": mean.tolist(), "std": variance.sqrt().tolist()}


class FeatureMoments(ReduceStage):
    """Mean and standard deviation of each channel of kept features, over the training images."""

    name = "feature_moments"
    reads = frozenset({"images"})

    def __init__(self, features: BlockFeatures) -> None:
        super().__init__(FeatureMomentSettings(), features.split, features=features)
        self.features = features

    def open(self, env: Environment) -> Callable[[], Accumulator]:
        def load(sample: Sample) -> Tensor:
            return self.features.load(env, sample.id, mirror=False)

        return lambda: _Moments(load, self.features.settings.channels)

    def load(self, env: Environment) -> tuple[Tensor, Tensor]:
        """Mean and deviation, float32 (channels,) each; the deviation is above 0."""
        figures = self.metrics(env)
        mean, std = (torch.from_numpy(np.array(figures[name], dtype=np.float32)) for name in ("mean", "std"))
        return mean, std.clamp(min=_SMALLEST)

    def estimate(self, env: Environment) -> Estimate:
        return Estimate(0.005 * len(self.samples(env)), 5e4)


class JoinedFeatures:
    """Kept features of several networks as one map per image, as `networks.trunks.Trunks` joins them.

    Args:
        parts: the networks; the grid is the first one's.
    """

    def __init__(self, parts: Sequence[TrunkSettings]) -> None:
        self.parts = tuple(parts)
        self.kept = [BlockFeatures(part) for part in self.parts]
        self.moments = [FeatureMoments(features) for features in self.kept]

    @property
    def stages(self) -> dict[str, Stage]:
        """The stages that they come from, by the name that a reader knows them by."""
        found: dict[str, Stage] = {}
        for number, (features, moments) in enumerate(zip(self.kept, self.moments, strict=True), start=1):
            found |= {f"trunk_{number}": features, f"trunk_{number}_moments": moments}
        return found

    @property
    def cells(self) -> int:
        """Of the grid, along an image's long side."""
        return self.parts[0].cells

    @property
    def channels(self) -> int:
        """Of all networks together."""
        return sum(part.channels for part in self.parts)

    def create(self, env: Environment) -> Trunks:
        """The networks with their weights and, where they are known already, the statistics of their features."""
        trunks = create_trunks(self.parts, env.runtime.seed)
        if all(stage.complete(env) for stage in self.moments):
            mean, std = zip(*(stage.load(env) for stage in self.moments), strict=True)
            trunks.standardise(torch.cat(mean), torch.cat(std))
        return trunks

    def open(self, env: Environment) -> Callable[[Sample, tuple[int, int], bool], dict[str, Tensor]]:
        """Returns the function of (sample, (height, width), mirror) that gives an image's entries of a batch.

        "features" is (channels, cells, cells), the joined features at the top left and 0 around them; "cells" is where
        they are, bool (cells, cells).
        """
        trunks = self.create(env)

        def make(sample: Sample, size: tuple[int, int], mirror: bool) -> dict[str, Tensor]:
            parts = [stage.load(env, sample.id, mirror=mirror)[None] for stage in self.kept]
            joined = trunks.join(parts)[0]
            rows, columns = tiled_grid(size, self.cells)
            features = torch.zeros(self.channels, self.cells, self.cells)
            features[:, :rows, :columns] = joined
            inside = torch.zeros(self.cells, self.cells, dtype=torch.bool)
            inside[:rows, :columns] = True
            return {"features": features, "cells": inside}

        return make

    def example(self) -> dict[str, Tensor]:
        """Made-up entries with the shapes of real ones."""
        return {
            "features": torch.zeros(self.channels, self.cells, self.cells),
            "cells": torch.ones(self.cells, self.cells, dtype=torch.bool),
        }
