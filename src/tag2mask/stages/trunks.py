"""Settings of what a head reads: one backbone, or several frozen networks side by side."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tag2mask.base.settings import FINGERPRINT_AS
from tag2mask.engine.environment import Environment
from tag2mask.errors import SettingsError
from tag2mask.networks.backbones import list_backbones
from tag2mask.networks.inference import ScaleSettings
from tag2mask.networks.trunks import Trunks, check_long_side
from tag2mask.stages.backbone import BackboneSettings, kind_of_weights
from tag2mask.stages.timing import seconds_per_image

_OUTPUT_STRIDE = 16  # of a convolutional network; a vision transformer has its patch's


@dataclass(frozen=True)
class TrunkSettings:
    """A frozen network whose features are read beside those of others.

    Args:
        name: timm's name; `tag2mask list-backbones` shows the choices.
        weights: "auto" (an installed weight package, else timm's hub), "package", "hub", "none" or a path.
        block: the block whose features are read; empty takes the last.
        long_side: of the photograph as this network sees it, in pixels; a multiple of its stride.
    """

    name: str = "tf_efficientnet_lite0"
    weights: str = field(default="auto", metadata={FINGERPRINT_AS: kind_of_weights})
    block: str = ""
    long_side: int = 512

    def __post_init__(self) -> None:
        check_long_side(self.name, self.long_side, self.stride)

    @property
    def backbone(self) -> BackboneSettings:
        """The network, cut at the block."""
        strides = next((info.output_strides for info in list_backbones(self.name.partition(".")[0])), ())
        stride = _OUTPUT_STRIDE if _OUTPUT_STRIDE in strides or not strides else strides[0]
        return BackboneSettings(name=self.name, output_stride=stride, block=self.block, weights=self.weights)

    @property
    def stride(self) -> int:
        """Pixels of the image per cell of the features."""
        return self.backbone.facts.stride

    @property
    def channels(self) -> int:
        """Channels of the features."""
        return self.backbone.facts.channels

    @property
    def cells(self) -> int:
        """Of the features' grid, along an image's long side."""
        return self.long_side // self.stride


@dataclass(frozen=True)
class Trunk:
    """Networks that a head reads: one, frozen or not, or several frozen ones side by side.

    Args:
        backbone: the one network.
        parts: the several; empty for the one.
    """

    backbone: BackboneSettings
    parts: tuple[TrunkSettings, ...] = ()

    @property
    def networks(self) -> list[BackboneSettings]:
        """The network, or each of several."""
        return [part.backbone for part in self.parts] or [self.backbone]

    @property
    def identity(self) -> Any:
        """Identity of the weights in fingerprints; those of several networks count where their features are kept."""
        return None if self.parts else self.backbone.identity

    @property
    def architecture(self) -> dict[str, Any]:
        """Arguments that a model file needs to build it again."""
        if not self.parts:
            return self.backbone.architecture
        return {"trunks": [{**part.backbone.architecture, "long_side": part.long_side} for part in self.parts]}

    @property
    def licence(self) -> dict[str, Any]:
        """Source, name and licence of the weights, as model files record them."""
        if not self.parts:
            return self.backbone.licence
        return {"trunks": [part.backbone.licence for part in self.parts]}

    @property
    def words(self) -> str:
        """Names of networks and weights, for whoever reads a score."""
        return " + ".join(f"{network.name} from {network.info().name}" for network in self.networks)

    def single(self, setting: str) -> BackboneSettings:
        """The one network.

        Raises:
            SettingsError: there are several; the message has the setting's name.
        """
        if self.parts:
            raise SettingsError(f"{setting}: the blocks of a single network are read here; leave it empty")
        return self.backbone

    def seconds(self, scales: ScaleSettings, env: Environment, *, output_stride: int = 0) -> float:
        """Seconds per image at all scales; `output_stride` is that of the one network, its own by default."""
        if self.parts:
            return seconds_of(self.parts, scales, env)
        stride = output_stride or self.backbone.output_stride
        return seconds_per_image(self.backbone, scales, env, output_stride=stride)


def create_trunks(parts: Sequence[TrunkSettings], seed: int) -> Trunks:
    """The networks with their weights, features not standardised yet."""
    return Trunks([part.backbone.create(seed) for part in parts], [part.long_side for part in parts])


def seconds_of(parts: Sequence[TrunkSettings], scales: ScaleSettings, env: Environment) -> float:
    """Seconds per image of several networks at all scales, each at its own size."""
    return sum(
        seconds_per_image(
            part.backbone,
            dataclasses.replace(scales, long_side=part.long_side, stretch=False),
            env,
            output_stride=part.backbone.output_stride,
        )
        for part in parts
    )


def check_trunks(
    setting: str, parts: Sequence[TrunkSettings], *, crop: int, without_chance: bool, colour: float
) -> None:
    """Makes sure that features which are kept once are all that a training needs.

    Args:
        setting: name of the group that has the networks, "segmenter" for one.
        parts: the networks.
        crop: side of the training view in pixels.
        without_chance: whether an image has one view alone, and its mirror image.
        colour: strength of colour changes.

    Raises:
        SettingsError: with the key.
    """
    if not parts:
        return
    if not without_chance:
        raise SettingsError(f"{setting}.trunks: needs {setting}.views.whole, views without chance")
    if colour:
        raise SettingsError(f"{setting}.trunks: goes with {setting}.views.colour 0 only")
    if crop % parts[0].cells:
        raise SettingsError(
            f"{setting}.views.crop: {crop} must be a multiple of {parts[0].cells}, the cells of the first of "
            f"{setting}.trunks"
        )
