"""Masks of images by a trained segmenter."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tag2mask.data.classes import BACKGROUND
from tag2mask.data.masks import encode_mask
from tag2mask.data.resizing import resize_scores
from tag2mask.data.samples import Sample
from tag2mask.engine.environment import Environment, Runtime, SplitName
from tag2mask.engine.stage import Estimate
from tag2mask.networks.inference import InferenceSettings, bounded_size, label_map, segment
from tag2mask.networks.segmenter import Segmenter
from tag2mask.stages.crf import CRFSettings
from tag2mask.stages.labels import LabelStage
from tag2mask.stages.memory import ROOM
from tag2mask.stages.saliency_used import saliency_used
from tag2mask.stages.segmenter_training import SegmenterTraining
from tag2mask.stages.views import load_image


@dataclass(frozen=True)
class PredictionSettings:
    """Settings of the masks that are made of images.

    Args:
        inference: scales, mirror and how they are merged.
        use_crf: refine probabilities with the dense CRF.
        crf: its kernels.
    """

    inference: InferenceSettings = field(default_factory=InferenceSettings)
    use_crf: bool = True
    crf: CRFSettings = field(default_factory=CRFSettings)


def predict_mask(
    network: Segmenter,
    image: Tensor,
    settings: PredictionSettings,
    runtime: Runtime,
    *,
    class_ids: Sequence[int] | None = None,
) -> npt.NDArray[np.uint8]:
    """The mask of one image at its own size.

    Threads may call it side by side; those with large images wait for each other.

    Args:
        network: on the runtime's device, in evaluation mode.
        image: uint8 (3, H, W).
        settings: scales, CRF.
        runtime: device and precision.
        class_ids: restrict the mask to these classes and background; all classes by default.

    Returns:
        uint8 (H, W).
    """
    with _room(network, image, settings):
        probabilities, ids = _class_probabilities(network, image, settings, runtime, class_ids)
        size = (image.shape[1], image.shape[2])
        mask: npt.NDArray[np.uint8] = ids.to(torch.uint8)[label_map(probabilities, size).long()].numpy()
        return mask


def class_probabilities(
    network: Segmenter,
    image: Tensor,
    settings: PredictionSettings,
    runtime: Runtime,
    *,
    class_ids: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Class probabilities of one image, whose largest make its mask; arguments as for `predict_mask`.

    Returns:
        probabilities, float32 (K, h, w), at the image's size unless it has more than `max_pixels` pixels, and the class
        ids they are of, (K,): background and `class_ids`, or all classes.
    """
    with _room(network, image, settings):
        return _class_probabilities(network, image, settings, runtime, class_ids)


def _room(network: Segmenter, image: Tensor, settings: PredictionSettings) -> AbstractContextManager[None]:
    height, width = bounded_size((image.shape[1], image.shape[2]), settings.inference.max_pixels)
    return ROOM.of(height * width * network.classes)


def _class_probabilities(
    network: Segmenter,
    image: Tensor,
    settings: PredictionSettings,
    runtime: Runtime,
    class_ids: Sequence[int] | None,
) -> tuple[Tensor, Tensor]:
    size = (image.shape[1], image.shape[2])
    probabilities = segment(network, image, settings.inference, runtime.torch_device, runtime.autocast())
    ids = torch.arange(len(probabilities))
    if class_ids is not None:
        ids = torch.tensor([BACKGROUND, *sorted(class_ids)])
        probabilities = probabilities[ids]
        probabilities = probabilities / probabilities.sum(0, keepdim=True).clamp(min=1e-12)
    if settings.use_crf:
        small = (probabilities.shape[1], probabilities.shape[2])
        shown = image if small == size else resize_scores(image[None].float(), small)[0].round().to(torch.uint8)
        refined = settings.crf.apply(
            shown.permute(1, 2, 0).contiguous().numpy(), probabilities.numpy(), shrunk=max(small) / max(size)
        )
        probabilities = torch.from_numpy(refined)
    return probabilities, ids


class Predict(LabelStage):
    """Masks of a split. It reads images and nothing else: tags never restrict what is scored."""

    name = "predictions"
    version = 2
    on_device = True
    reads = frozenset({"images"})
    settings: PredictionSettings

    def __init__(self, segmenter: SegmenterTraining, settings: PredictionSettings, split: SplitName) -> None:
        super().__init__(settings, split, segmenter=segmenter)
        self.segmenter = segmenter

    def how(self) -> str:
        return f" ({', '.join(self.terms())})"

    def terms(self) -> list[str]:
        """Terms of `how`, a few words each."""
        inference = self.settings.inference
        scales = ", ".join(f"{scale:g}" for scale in inference.scales)
        mirror = " and mirror" if inference.mirror else ""
        crf = "with CRF" if self.settings.use_crf else "without CRF"
        return [f"scales {scales}{mirror}", crf, self.segmenter.settings.trunk.words, saliency_used(self)]

    def open(self, env: Environment) -> Callable[[Sample], bytes]:
        network = self.segmenter.load(env)
        return lambda sample: encode_mask(predict_mask(network, load_image(sample), self.settings, env.runtime))

    def estimate(self, env: Environment) -> Estimate:
        seconds = self.segmenter.settings.trunk.seconds(self.settings.inference, env)
        if self.settings.use_crf:
            crf = self.settings.crf.seconds(env, classes=len(env.dataset.classes) + 1)
            seconds += crf / self.at_a_time(env)
        count = len(self.samples(env))
        return Estimate(seconds * count, 3e3 * count)


def predictions(segmenter: SegmenterTraining, settings: PredictionSettings, split: SplitName = "val") -> Predict:
    """Masks of the images of a split."""
    return Predict(segmenter, settings, split)
