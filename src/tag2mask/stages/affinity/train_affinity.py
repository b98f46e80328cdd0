"""Training AffinityNet on pairs of pixels whose labels are sure."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tag2mask.base.settings import canonical
from tag2mask.data.classes import UNLABELLED
from tag2mask.data.samples import Sample
from tag2mask.data.view import SCORES, to_view
from tag2mask.engine.environment import Environment
from tag2mask.engine.system import Batch, Losses, ParameterGroup, Position, System
from tag2mask.engine.training import TrainingSettings, TrainingStage
from tag2mask.engine.workspace import reading_artifact
from tag2mask.errors import SettingsError
from tag2mask.evidence.affinity import pair_affinities, pair_labels
from tag2mask.losses.affinity import affinity_losses
from tag2mask.networks.affinity_net import AffinityNet
from tag2mask.networks.model_file import ModelHeader, load_model, save_model
from tag2mask.stages.affinity.confident_maps import MakeConfidentMaps
from tag2mask.stages.backbone import BackboneSettings, backbone_and_head
from tag2mask.stages.views import ViewSettings, change_colours, load_image, view_image


@dataclass(frozen=True)
class AffinitySettings:
    """AffinityNet and its training (Ahn & Kwak, CVPR 2018).

    The published optimiser passes its weight decay in the place of momentum: its rate of 0.1 ran with a momentum of
    0.0005, next to none. `training` names both numbers, so that a preset says which is meant.

    Args:
        backbone: the pretrained network under it; it ends at the last of `blocks`, whatever its `block`.
        blocks: the blocks whose features are taken, from early to late.
        widths: channels that each block's features are brought to.
        radius: pairs of pixels closer than this on the grid are learnt from, and walked between.
        grid_stride: pixels of the image per cell of the grid.
        views: sizes and crops in training.
        training: optimiser and length.
    """

    backbone: BackboneSettings = field(default_factory=BackboneSettings)
    blocks: tuple[str, ...] = ("blocks.2", "blocks.4", "blocks.6")
    widths: tuple[int, ...] = (64, 128, 256)
    radius: int = 5
    grid_stride: int = 8
    views: ViewSettings = field(default_factory=ViewSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)

    def __post_init__(self) -> None:
        if not self.blocks or len(self.blocks) != len(self.widths) or min(self.widths) < 1:
            raise SettingsError(
                f"affinity: one width above 0 for each block is needed, not widths {list(self.widths)} for blocks "
                f"{list(self.blocks)}"
            )
        if self.radius < 2 or self.grid_stride < 1:
            raise SettingsError(
                f"affinity: radius must be 2 or more and grid_stride above 0, not {self.radius} and {self.grid_stride}"
            )

    @property
    def network(self) -> BackboneSettings:
        """The backbone up to the last of `blocks`: nothing behind it is of use."""
        return dataclasses.replace(self.backbone, block=self.blocks[-1])

    def check(self) -> None:
        """Check for a misspelt block before anything is computed.

        Raises:
            SettingsError: a block does not exist, or comes after the last of `blocks`.
        """
        try:
            self.network.check()
            for block in self.blocks:
                self.network.facts.position(block)
        except SettingsError as error:
            # Blocks behind the last one read are unknown to a backbone that ends there.
            raise SettingsError(
                f"affinity: the backbone ends at the last of blocks, '{self.network.block}': {error}"
            ) from error

    def create(self, seed: int) -> AffinityNet:
        """The network with pretrained backbone and new layers.

        Raises:
            SettingsError: a block does not exist, or comes after the last of `blocks`.
            WeightsError: the weights cannot be had.
        """
        self.check()
        return AffinityNet(self.network.create(seed), self.blocks, self.widths, grid_stride=self.grid_stride)


class AffinitySystem(System):
    """AffinityNet and its losses over three kinds of pairs."""

    def __init__(self, network: AffinityNet, radius: int, head_multiplier: float) -> None:
        super().__init__()
        self.network = network
        self.radius = radius
        self.head_multiplier = head_multiplier

    def forward(self, batch: Batch, position: Position) -> Losses:
        affinities = pair_affinities(self.network(batch["image"]), self.radius)
        return affinity_losses(affinities, pair_labels(batch["labels"], self.radius))

    def parameter_groups(self) -> dict[str, list[ParameterGroup]]:
        return {
            "network": backbone_and_head(self.network.backbone, self.network.head_parameters(), self.head_multiplier)
        }


class TrainAffinity(TrainingStage):
    """Trains AffinityNet on the confident labels of the training images."""

    name = "affinity_net"
    reads = frozenset({"images"})
    settings: AffinitySettings

    def __init__(self, confident: MakeConfidentMaps, settings: AffinitySettings) -> None:
        settings.check()
        super().__init__(settings, confident.split, confident=confident)
        self.confident = confident

    def training(self) -> TrainingSettings:
        return self.settings.training

    def identity(self, env: Environment) -> Any:
        return self.settings.backbone.identity

    def system(self, env: Environment) -> AffinitySystem:
        network = self.settings.create(env.runtime.seed)
        return AffinitySystem(network, self.settings.radius, self.settings.training.head_multiplier)

    def open(self, env: Environment) -> Callable[[Sample, int], dict[str, Any]]:
        settings, views, seed = self.settings, self.settings.views, env.runtime.seed
        facts = settings.network.facts

        def example(sample: Sample, epoch: int) -> dict[str, Any]:
            maps = self.confident.load(env, sample.id)
            image = load_image(sample)
            view = views.draw((image.shape[1], image.shape[2]), seed=seed, epoch=epoch, image_id=sample.id)
            # No probability is below 0: where they are, there is no image.
            amplified, suppressed = (
                to_view(scores, view, SCORES, stride=settings.grid_stride, fill=-1)
                for scores in (maps.amplified, maps.suppressed)
            )
            labels = maps._replace(amplified=amplified, suppressed=suppressed).labels()
            image = change_colours(image, views.colour, seed=seed, epoch=epoch, image_id=sample.id)
            return {
                "image": view_image(image, view, facts),
                "labels": labels.masked_fill_(amplified[0] < 0, UNLABELLED),
            }

        return example

    def example(self, env: Environment) -> dict[str, Tensor]:
        crop = self.settings.views.crop
        side = -(-crop // self.settings.grid_stride)
        return {"image": torch.zeros(3, crop, crop), "labels": torch.zeros(side, side, dtype=torch.uint8)}

    def save(self, system: System, env: Environment, path: Path) -> None:
        assert isinstance(system, AffinitySystem)
        settings = self.settings
        header = ModelHeader(
            kind="affinity",
            classes=env.dataset.classes,
            backbone=settings.network.architecture,
            head={"blocks": settings.blocks, "widths": settings.widths, "grid_stride": settings.grid_stride},
            inference={"radius": settings.radius},
            weights=settings.backbone.licence,
            training=canonical(settings),
        )
        save_model(path, system.network, header)

    def load(self, env: Environment) -> AffinityNet:
        """The trained network on the environment's device."""
        with reading_artifact(self.model_path(env), self.folder(env)):
            network, _ = load_model(self.model_path(env))
        assert isinstance(network, AffinityNet)
        return env.runtime.place(network)


def train_affinity(confident: MakeConfidentMaps, settings: AffinitySettings) -> TrainAffinity:
    """An AffinityNet of the training images."""
    return TrainAffinity(confident, settings)
