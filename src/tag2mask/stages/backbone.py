"""The backbone of a stage's network, as settings."""

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import nn

from tag2mask.base.settings import FINGERPRINT_AS
from tag2mask.engine.seeding import derived_seed
from tag2mask.engine.system import ParameterGroup
from tag2mask.errors import SettingsError, unknown_choice
from tag2mask.networks.backbone_facts import BackboneFacts, backbone_facts
from tag2mask.networks.backbones import Backbone, check_backbone, create_backbone
from tag2mask.networks.weights import WEIGHT_SOURCES, WeightsInfo, resolve_weights

Start = Literal["classifier", "pretrained"]
"""Whose backbone a part's network starts from: the classifier's, as in the paper, or the one classifiers start from."""


def kind_of_weights(weights: str) -> str:
    """Fingerprint entry beside `BackboneSettings.identity`: a file counts by its content, not by its path."""
    return weights if weights in WEIGHT_SOURCES else "path"


@dataclass(frozen=True)
class BackboneSettings:
    """A pretrained backbone.

    Args:
        name: timm's name; `tag2mask list-backbones` shows the choices.
        output_stride: pixels of the image per step of the features; a ViT has its patch's.
        block: the block whose features are used; empty takes the last.
        weights: "auto" (an installed weight package, else timm's hub), "package", "hub", "none" or a path.
        frozen_until: this block and those before it are not trained; empty trains all.
    """

    name: str = "tf_efficientnet_lite0"
    output_stride: int = 16
    block: str = ""
    weights: str = field(default="auto", metadata={FINGERPRINT_AS: kind_of_weights})
    frozen_until: str = ""

    def __post_init__(self) -> None:
        check_backbone(self.name, self.output_stride)

    def check(self, *, cached: bool = False) -> None:
        """Check for a misspelt block before anything is computed, not when a training's turn comes.

        Args:
            cached: whether features of the frozen blocks are to be kept.

        Raises:
            SettingsError: `block` or `frozen_until` is no block of the backbone, or its features cannot be kept.
        """
        facts = self.facts
        if self.frozen_until:
            facts.position(self.frozen_until)
        if cached and not facts.cacheable:
            raise SettingsError(f"segmenter.cache_features: features of '{self.name}' cannot be kept at a block")

    @property
    def facts(self) -> BackboneFacts:
        """Blocks, shapes and normalisation, without a network or weights.

        Raises:
            SettingsError: the backbone has no such `block`.
        """
        return backbone_facts(self.name, self.output_stride, self.block or None)

    def create(self, seed: int) -> Backbone:
        """The backbone with its weights, early blocks frozen.

        Args:
            seed: random weights come from it, the same for every stage that builds this backbone: features cached by
                one are then those another would compute.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(seed, "backbone", self.name))
            backbone = create_backbone(
                self.name, output_stride=self.output_stride, block=self.block or None, weights=self.weights
            )
        backbone.freeze(self.frozen_until or None)
        return backbone

    def info(self) -> WeightsInfo:
        """Source and licence of the weights, without loading them."""
        return resolve_weights(self.name, self.weights)

    @property
    def architecture(self) -> dict[str, Any]:
        """Arguments that a model file needs to build the backbone again."""
        return {"name": self.name, "output_stride": self.output_stride, "block": self.block or None}

    @property
    def licence(self) -> dict[str, str]:
        """Source, name and licence of the weights, as model files record them."""
        info = self.info()
        return {"source": info.source, "name": info.name, "licence": info.licence}

    @property
    def identity(self) -> str:
        """Identity of the weights in fingerprints."""
        return self.info().identity


def backbone_and_head(backbone: nn.Module, head: list[nn.Parameter], head_multiplier: float) -> list[ParameterGroup]:
    """Two groups: what of the backbone is trained, at the base rate, and new layers at a multiple of it."""
    trained = [parameter for parameter in backbone.parameters() if parameter.requires_grad]
    return [ParameterGroup(trained), ParameterGroup(head, head_multiplier)]


def check_start(setting: str, start: str) -> None:
    """Check that there is such a start.

    Raises:
        SettingsError: it is none of `Start`; the message has the setting's name.
    """
    if start not in get_args(Start):
        raise SettingsError(unknown_choice(setting, start, get_args(Start)))


def take_weights(backbone: nn.Module, trained: nn.Module) -> None:
    """Gives a backbone the weights of another that has at least its blocks.

    Raises:
        SettingsError: they are different networks, or the other one ends at an earlier block.
    """
    if not isinstance(backbone, Backbone) or not isinstance(trained, Backbone):
        raise SettingsError("trunks: several frozen networks neither go on from a classifier's backbone nor lend one")
    weights = trained.state_dict()
    missing = backbone.state_dict().keys() - weights.keys()
    if backbone.name.partition(".")[0] != trained.name.partition(".")[0] or missing:
        raise SettingsError(
            f"backbone '{backbone.name}' up to '{backbone.block}' cannot go on from the classifier's, which is "
            f"'{trained.name}' up to '{trained.block}'"
        )
    backbone.load_state_dict({name: weights[name] for name in backbone.state_dict()})
