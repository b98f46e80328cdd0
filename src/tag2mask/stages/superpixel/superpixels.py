"""Superpixels of the training images, discovered in the keys of a self-supervised transformer."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tag2mask.data.images import read_image
from tag2mask.data.label_maps import draw_label_map, encode_label_map, read_label_map
from tag2mask.data.layers import MapLayer, Picture
from tag2mask.data.samples import Sample
from tag2mask.data.view import IMAGE, SUPERPIXELS, View, to_view
from tag2mask.engine.environment import Environment, Runtime, SplitName
from tag2mask.engine.stage import Estimate
from tag2mask.engine.workspace import reading_artifact
from tag2mask.errors import SettingsError, unknown_choice
from tag2mask.evidence.superpixel import discover_superpixels, label_superpixels
from tag2mask.networks.backbones import check_backbone
from tag2mask.networks.inference import ScaleSettings, bounded_size, normalise
from tag2mask.networks.vit_backbone import KeyCentre, VitBackbone
from tag2mask.stages.backbone import BackboneSettings
from tag2mask.stages.crf import CRFSettings
from tag2mask.stages.maps import MapStage
from tag2mask.stages.memory import ROOM
from tag2mask.stages.timing import seconds_per_image
from tag2mask.stages.views import load_image

_TYPICAL_COUNT = 16  # superpixels of an image at the default settings, for estimates of time


@dataclass(frozen=True)
class SuperpixelSettings:
    """Settings of superpixels, discovered and brought to the image's pixels (Kim, dissertation 2022, section 3.3.1).

    Args:
        backbone: a plain vision transformer, whose last attention layer gives the keys.
        long_side: long side in pixels at which the transformer sees the photograph; 0 takes the photograph's own. Both
            sides are then brought to the nearest multiple of the patch.
        tau: similarity to its seed above which a patch joins a superpixel: the higher, the more superpixels there are.
            0.6 with DINOv2's keys plays the part of the paper's 0.3 with DINO's.
        centre: what is subtracted from the keys: the layer's key bias ("bias"), their mean ("mean") or nothing
            ("none", for DINO).
        highest_first: seeds of the highest degree first instead of the lowest (Kim, figure 3.11).
        confidence: probability of a pixel's own superpixel in the CRF's unary.
        crf: the CRF that brings superpixels to the photograph's edges; 0 iterations leave it out.
        max_pixels: larger photographs are shown to the transformer and refined at this many pixels.
    """

    backbone: BackboneSettings = field(
        default_factory=lambda: BackboneSettings(name="vit_small_patch14_dinov2", output_stride=14)
    )
    long_side: int = 448
    tau: float = 0.6
    centre: KeyCentre = "bias"
    highest_first: bool = False
    confidence: float = 0.7
    crf: CRFSettings = field(
        default_factory=lambda: CRFSettings(
            iterations=20,
            gaussian_sxy=10.0,
            gaussian_weight=10.0,
            bilateral_sxy=20.0,
            bilateral_srgb=5.0,
            bilateral_weight=10.0,
            reference_side=500,
        )
    )
    max_pixels: int = 1_000_000

    def __post_init__(self) -> None:
        if check_backbone(self.backbone.name, self.backbone.output_stride) != "ViT":
            raise SettingsError(
                f"superpixels.backbone.name: '{self.backbone.name}' is no vision transformer, which alone has keys; "
                "`tag2mask list-backbones 'vit*'` shows those there are"
            )
        if self.long_side < 0:
            raise SettingsError(f"superpixels.long_side: {self.long_side} is negative; 0 takes the photograph's own")
        if not 0 <= self.tau < 1:
            raise SettingsError(f"superpixels.tau: {self.tau} must be at least 0 and below 1")
        if self.centre not in get_args(KeyCentre):
            raise SettingsError(unknown_choice("superpixels.centre", self.centre, get_args(KeyCentre)))
        if not 0 < self.confidence <= 1:
            raise SettingsError(f"superpixels.confidence: {self.confidence} must be above 0 and at most 1")
        if self.max_pixels < 1:
            raise SettingsError(f"superpixels.max_pixels: {self.max_pixels} must be above 0")

    def view(self, size: tuple[int, int]) -> View:
        """The transformer's view of an image of (height, width) `size`: all of it, in whole patches."""
        long_side = self.long_side or max(bounded_size(size, self.max_pixels))
        patch = self.backbone.output_stride
        factor = long_side / max(size) / patch
        height, width = (max(1, int(side * factor + 0.5)) * patch for side in size)
        return View((height, width), False, (0, 0, height, width))


def open_transformer(settings: SuperpixelSettings, runtime: Runtime) -> VitBackbone:
    """The transformer with its weights, on the device and in evaluation mode, for `discover`.

    Raises:
        WeightsError: the weights cannot be had.
    """
    network = runtime.place(settings.backbone.create(runtime.seed)).eval()
    assert isinstance(network, VitBackbone)  # the settings have seen to it
    return network


@torch.no_grad()
def discover(
    network: VitBackbone, image: Tensor, settings: SuperpixelSettings, runtime: Runtime
) -> npt.NDArray[np.int32]:
    """The superpixels of one image. Threads may call it side by side; large images wait for each other.

    Args:
        network: from `open_transformer`.
        image: uint8 (3, H, W).
        settings: size, threshold, CRF.
        runtime: device and precision.

    Returns:
        int32 (H, W): superpixels from 0 without gaps, in order of discovery.
    """
    size = (image.shape[1], image.shape[2])
    batch = normalise(to_view(image, settings.view(size), IMAGE, fill=0), network)[None].to(runtime.torch_device)
    with runtime.autocast():
        (keys,) = network.keys(batch, centre=settings.centre)
    patches = discover_superpixels(keys.flatten(1).mT, settings.tau, highest_first=settings.highest_first)
    with ROOM.of(min(size[0] * size[1], settings.max_pixels) * (int(patches.max()) + 1)):
        return label_superpixels(
            image.permute(1, 2, 0).contiguous().numpy(),
            patches.view(keys.shape[1:]).cpu().numpy(),
            confidence=settings.confidence,
            max_pixels=settings.max_pixels,
            **settings.crf.kernels(size),
        )


class MakeSuperpixels(MapStage):
    """One 16-bit greyscale PNG per image: superpixels from 0, at the image's size."""

    name = "superpixels"
    on_device = True
    suffix = ".png"
    reads = frozenset({"images"})
    map_kind = SUPERPIXELS
    settings: SuperpixelSettings

    def __init__(self, settings: SuperpixelSettings, split: SplitName) -> None:
        super().__init__(settings, split)

    def identity(self, env: Environment) -> str:
        return self.settings.backbone.identity

    def open(self, env: Environment) -> Callable[[Sample], bytes]:
        network = open_transformer(self.settings, env.runtime)

        def make(sample: Sample) -> bytes:
            labels = discover(network, load_image(sample), self.settings, env.runtime)
            return encode_label_map(labels, sample.image)

        return make

    def load(self, env: Environment, image_id: str) -> Tensor:
        """Superpixels of one image, int32 (H, W), numbered from 0 without gaps.

        Raises:
            WorkspaceError: the file is missing or damaged.
        """
        path = self.path(env, image_id)
        with reading_artifact(path, self.folder(env)):
            return torch.from_numpy(read_label_map(path))

    def layers(self, env: Environment, image_id: str) -> dict[str, MapLayer]:
        image = read_image(env.split(self.split).by_id[image_id].image)
        return {"": Picture(draw_label_map(image, self.load(env, image_id).numpy()))}

    def estimate(self, env: Environment) -> Estimate:
        backbone = self.settings.backbone
        scales = ScaleSettings(long_side=self.settings.long_side, mirror=False)
        seconds = seconds_per_image(backbone, scales, env, output_stride=backbone.output_stride)
        if self.settings.crf.iterations:
            seconds += self.settings.crf.seconds(env, classes=_TYPICAL_COUNT) / self.at_a_time(env)
        count = len(self.samples(env))
        return Estimate(seconds * count, 5e3 * count)


def superpixels(settings: SuperpixelSettings, split: SplitName = "train") -> MakeSuperpixels:
    """Superpixels of the images of a split."""
    return MakeSuperpixels(settings, split)
