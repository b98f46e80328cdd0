"""Saliency maps of a user, made up, and labels that used them."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from tag2mask.data.samples import Sample
from tag2mask.data.view import SCORES, to_view, whole_view
from tag2mask.engine.environment import Environment
from tag2mask.engine.stage import Estimate
from tag2mask.methods.registry import METHODS
from tag2mask.runs.settings import Configuration, as_arguments, parse_arguments
from tag2mask.stages.labels import LabelStage, encode_labels
from tag2mask.stages.maps import MapStage
from tag2mask.stages.saliency_maps import MakeSaliencyMaps, SaliencySettings, saliency_maps
from tag2mask.stages.views import load_image
from tests.builders import TINY


@dataclasses.dataclass(frozen=True)
class AboveSettings:
    """Threshold of `Above`."""

    threshold: float = 0.5


class Above(LabelStage):
    """The first tag where saliency is high: labels that used it."""

    name = "above"
    reads = frozenset({"images", "tags"})
    settings: AboveSettings

    def __init__(self, saliency: MapStage) -> None:
        super().__init__(AboveSettings(), saliency.split, saliency=saliency)
        self.saliency = saliency

    def open(self, env: Environment) -> Callable[[Sample], bytes]:
        def make(sample: Sample) -> bytes:
            image = load_image(sample)
            size = (image.shape[1], image.shape[2])
            map_ = to_view(self.saliency.load(env, sample.id), whole_view(size), SCORES)
            return encode_labels(sample, np.where(map_ > self.settings.threshold, sample.tags[0], 0).astype(np.uint8))

        return make

    def estimate(self, env: Environment) -> Estimate:
        return Estimate(0, 0)


def write_maps(folder: Path, env: Environment, *, suffix: str = ".png", bits: int = 16) -> Path:
    """A map of every training photograph, brighter to the right and each darker than the one before."""
    folder.mkdir()
    for number, sample in enumerate(env.dataset.train):
        height, width = load_image(sample).shape[1:]
        values = np.tile(np.linspace(0, 1, width), (height, 1)) * (1 - 0.1 * number)
        levels = np.rint(values * (2**bits - 1)).astype(np.uint16 if bits == 16 else np.uint8)
        Image.fromarray(levels).save(folder / f"{sample.id}{suffix}")
    return folder


def from_folder(folder: Path) -> MakeSaliencyMaps:
    return saliency_maps(SaliencySettings(source="folder", path=str(folder)))


def tiny(folder: Path) -> Configuration:
    places = {"data": folder / "data", "workspace": folder / "workspace", "device": "cpu", "threads": 1, "bound": False}
    return parse_arguments(METHODS["cam"], as_arguments({**places, **TINY, "pictures": 0, "gallery": 2}))
