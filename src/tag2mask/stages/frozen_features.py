"""Features of a backbone's frozen early blocks, computed once for every image and its mirror image."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tag2mask.data.resizing import to_grid
from tag2mask.data.samples import Sample
from tag2mask.engine.environment import Environment
from tag2mask.engine.stage import Estimate
from tag2mask.networks.backbones import Backbone
from tag2mask.networks.inference import ScaleSettings
from tag2mask.stages.backbone import BackboneSettings, take_weights
from tag2mask.stages.block_features import KeptFeatures, encode_features
from tag2mask.stages.timing import seconds_per_image
from tag2mask.stages.train_classifier import TrainClassifier
from tag2mask.stages.views import ViewSettings, load_image, view_image


@dataclass(frozen=True)
class FrozenFeatureSettings:
    """Settings of the features that are computed ahead.

    Args:
        backbone: the backbone; its blocks up to `frozen_until` are computed.
        views: must show whole photographs.
    """

    backbone: BackboneSettings
    views: ViewSettings


class FrozenFeatures(KeptFeatures):
    """float16 ``.safetensors`` with ``features`` (2, channels, h, w): of the image and of its mirror image.

    Args:
        settings: backbone and views.
        classifier: whose trained backbone it is; None takes the pretrained one.
    """

    name = "frozen_features"
    version = 2
    settings: FrozenFeatureSettings

    def __init__(self, settings: FrozenFeatureSettings, classifier: TrainClassifier | None = None) -> None:
        super().__init__(settings, "train", **({"classifier": classifier} if classifier else {}))
        self.classifier = classifier

    def identity(self, env: Environment) -> str:
        return self.settings.backbone.identity

    def open(self, env: Environment) -> Callable[[Sample], bytes]:
        runtime, views = env.runtime, self.settings.views
        backbone = self.settings.backbone.create(runtime.seed)
        if self.classifier is not None:
            take_weights(backbone, self.classifier.load(env).backbone)
        runtime.place(backbone).eval()

        @torch.no_grad()
        def make(sample: Sample) -> bytes:
            image = load_image(sample)
            size = (image.shape[1], image.shape[2])
            both = torch.stack(
                [view_image(image, views.whole_view(size, mirror=mirror), backbone) for mirror in (False, True)]
            )
            with runtime.autocast():
                features = self.read(backbone, both.to(runtime.torch_device))
            return encode_features(features)

        return make

    def read(self, backbone: Backbone, images: Tensor) -> Tensor:
        """Features that are kept of normalised images: (N, 3, H, W) -> (N, channels, h, w)."""
        return backbone.encode(images, self.settings.backbone.frozen_until)

    def shape(self, env: Environment) -> tuple[int, int, int]:
        """(channels, h, w) of the features of one image."""
        facts, block = self.settings.backbone.facts, self.settings.backbone.frozen_until
        side = -(-self.settings.views.crop // facts.stride_of(block))
        return facts.channels_of(block), side, side

    def estimate(self, env: Environment) -> Estimate:
        backbone = self.settings.backbone
        scales = ScaleSettings(long_side=self.settings.views.crop)
        seconds = seconds_per_image(backbone, scales, env, output_stride=backbone.output_stride)
        channels, height, width = self.shape(env)
        count = len(self.samples(env))
        return Estimate(seconds * count, 4.0 * channels * height * width * count)


@dataclass(frozen=True)
class EarlyFeatureSettings(FrozenFeatureSettings):
    """Settings of the features of an early block that are computed ahead.

    Args:
        early: the block; a frozen one.
        stride: pixels of the view per cell of what is kept.
    """

    early: str
    stride: int


class EarlyFeatures(FrozenFeatures):
    """The same of an early frozen block, on a coarser grid: DD-Net's low-level features."""

    name = "early_features"
    version = 1
    settings: EarlyFeatureSettings

    def read(self, backbone: Backbone, images: Tensor) -> Tensor:
        return to_grid(backbone.encode(images, self.settings.early), (self._side, self._side))

    def shape(self, env: Environment) -> tuple[int, int, int]:
        return self.settings.backbone.facts.channels_of(self.settings.early), self._side, self._side

    @property
    def _side(self) -> int:
        return -(-self.settings.views.crop // self.settings.stride)
