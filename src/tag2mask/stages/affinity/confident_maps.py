"""CAMs beside an amplified and a suppressed background, each through the dense CRF: what AffinityNet's labels are."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tag2mask.data.images import read_image
from tag2mask.data.layers import LabelMap, MapLayer
from tag2mask.data.samples import Sample
from tag2mask.engine.environment import Environment
from tag2mask.engine.stage import Estimate
from tag2mask.errors import SettingsError
from tag2mask.evidence.affinity import confident_labels
from tag2mask.evidence.cam import with_background_power
from tag2mask.stages.activation_maps import MakeActivationMaps
from tag2mask.stages.class_maps import MapsFile, encode_maps, largest_class, sum_to_one
from tag2mask.stages.crf import CRFSettings


@dataclass(frozen=True)
class ConfidenceSettings:
    """Choice of the pixels that AffinityNet's labels are sure of (Ahn & Kwak, CVPR 2018).

    Args:
        background_low_alpha: exponent of (1 - max CAM)^alpha that amplifies background: foreground that is left beside
            it is sure.
        background_high_alpha: exponent that suppresses background: what is background even so is surely background.
        crf: the CRF both results go through.
        map_stride: pixels of the photograph per cell of the maps that are kept.
    """

    background_low_alpha: float = 4.0
    background_high_alpha: float = 32.0
    crf: CRFSettings = field(default_factory=CRFSettings)
    map_stride: int = 4

    def __post_init__(self) -> None:
        if not 0 < self.background_low_alpha <= self.background_high_alpha:
            raise SettingsError(
                "confidence: 0 < background_low_alpha <= background_high_alpha is needed, not "
                f"{self.background_low_alpha} and {self.background_high_alpha}"
            )
        if self.map_stride < 1:
            raise SettingsError(f"confidence.map_stride: {self.map_stride} must be above 0")


class ConfidentMaps(NamedTuple):
    """The CRF's two results for one image.

    Args:
        class_ids: 0 for background, then the tagged classes.
        amplified: probabilities beside amplified background, float32 (K, h, w), K the number of class ids.
        suppressed: the same beside suppressed background.
        size: (height, width) of the image.
    """

    class_ids: tuple[int, ...]
    amplified: Tensor
    suppressed: Tensor
    size: tuple[int, int]

    def labels(self) -> Tensor:
        """The confident labels, uint8 (h, w), 255 where the two results leave it open."""
        return confident_labels(
            largest_class(self.amplified, self.class_ids), largest_class(self.suppressed, self.class_ids)
        )


class MakeConfidentMaps(MapsFile):
    """Both results of the CRF: ``.npz`` with ``class_ids``, float16 ``amplified`` and ``suppressed``, and ``size``."""

    name = "confident_maps"
    reads = frozenset({"images", "tags"})
    settings: ConfidenceSettings

    def __init__(self, cams: MakeActivationMaps, settings: ConfidenceSettings) -> None:
        super().__init__(settings, cams.split, cams=cams)
        self.cams = cams

    def open(self, env: Environment) -> Callable[[Sample], bytes]:
        settings = self.settings

        def make(sample: Sample) -> bytes:
            cams = self.cams.load(env, sample.id)
            image, maps = read_image(sample.image), cams.at_size()
            coarse = (-(-cams.size[0] // settings.map_stride), -(-cams.size[1] // settings.map_stride))

            def refined(alpha: float) -> Tensor:
                scores = sum_to_one(with_background_power(maps, alpha))
                if cams.class_ids:
                    scores = torch.from_numpy(settings.crf.apply(image, scores.numpy()))
                return F.adaptive_avg_pool2d(scores, coarse)

            return encode_maps(
                (0, *cams.class_ids),
                cams.size,
                amplified=refined(settings.background_low_alpha),
                suppressed=refined(settings.background_high_alpha),
            )

        return make

    def load(self, env: Environment, image_id: str) -> ConfidentMaps:
        """Both results for one image.

        Raises:
            WorkspaceError: the file is missing or damaged.
        """
        with self._content(env, image_id) as content:
            height, width = content["size"].tolist()
            amplified, suppressed = (
                torch.from_numpy(content[name].astype(np.float32)) for name in ("amplified", "suppressed")
            )
            return ConfidentMaps(tuple(content["class_ids"].tolist()), amplified, suppressed, (height, width))

    def layers(self, env: Environment, image_id: str) -> dict[str, MapLayer]:
        """The confident labels."""
        maps = self.load(env, image_id)
        labels = F.interpolate(maps.labels()[None, None], maps.size, mode="nearest-exact")
        return {"": LabelMap(labels[0, 0].numpy())}

    def estimate(self, env: Environment) -> Estimate:
        count = len(self.samples(env))
        seconds = 2 * self.settings.crf.seconds(env, classes=3) / env.runtime.threads
        return Estimate(seconds * count, 30e3 * count)


def confident_maps(cams: MakeActivationMaps, settings: ConfidenceSettings) -> MakeConfidentMaps:
    """Maps that AffinityNet's labels are made of, for the images of the CAMs."""
    return MakeConfidentMaps(cams, settings)
