"""Training the segmentation network on labels."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tag2mask.data.samples import Sample
from tag2mask.data.view import LABELS, to_view
from tag2mask.engine.environment import Environment
from tag2mask.engine.system import Batch, Losses, ParameterGroup, Position, System
from tag2mask.engine.training import TrainingSettings, TrainingStage
from tag2mask.engine.workspace import reading_artifact
from tag2mask.errors import SettingsError, unknown_choice
from tag2mask.networks.inference import InferenceSettings
from tag2mask.networks.model_file import ModelHeader, load_model, save_model
from tag2mask.networks.segmenter import HeadSettings, Segmenter, resize_scores
from tag2mask.settings import canonical
from tag2mask.stages.backbone import BackboneSettings, backbone_and_head
from tag2mask.stages.frozen_features import FrozenFeatures, FrozenFeatureSettings
from tag2mask.stages.labels import LabelStage
from tag2mask.stages.views import ViewSettings, change_colours, load_photograph, view_photograph
from tag2mask.supervision.fixed_masks import FixedMasks
from tag2mask.supervision.objective import OBJECTIVES, Objective
from tag2mask.supervision.targets import Supervision


@dataclass(frozen=True)
class SegmenterSettings:
    """The segmentation network and its training.

    Args:
        backbone: the pretrained network under it.
        head: DeepLab-LargeFOV or -ASPP.
        views: sizes and crops in training.
        loss: "cross_entropy" or "balanced_seed".
        label_stride: scores are upsampled to, and labels read at, every so many pixels.
        cache_features: compute features of the frozen blocks once; needs `backbone.frozen_until` and `views.whole`.
        training: optimiser and length.
    """

    backbone: BackboneSettings = field(default_factory=BackboneSettings)
    head: HeadSettings = field(default_factory=HeadSettings)
    views: ViewSettings = field(default_factory=ViewSettings)
    loss: str = "cross_entropy"
    label_stride: int = 1
    cache_features: bool = False
    training: TrainingSettings = field(default_factory=TrainingSettings)

    def __post_init__(self) -> None:
        if self.loss not in OBJECTIVES:
            raise SettingsError(unknown_choice("segmenter.loss", self.loss, OBJECTIVES))
        if self.label_stride < 1:
            raise SettingsError(f"segmenter.label_stride: {self.label_stride} must be above 0")
        if self.cache_features and not self.backbone.frozen_until:
            raise SettingsError(
                "segmenter.cache_features: needs segmenter.backbone.frozen_until, the last frozen block"
            )
        if self.cache_features and not (self.views.whole or self.views.stretch):
            raise SettingsError(
                "segmenter.cache_features: needs segmenter.views.whole or stretch, views without chance"
            )
        if self.cache_features and self.views.colour:
            raise SettingsError("segmenter.cache_features: goes with segmenter.views.colour 0 only")


class SegmentationSystem(System):
    """A segmentation network, where its targets come from, and its objective."""

    def __init__(
        self,
        network: Segmenter,
        supervision: Supervision,
        objective: Objective,
        *,
        head_multiplier: float,
        after: str | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.supervision = supervision
        self.objective = objective
        self.head_multiplier = head_multiplier
        self.after = after

    def forward(self, batch: Batch, position: Position) -> Losses:
        inputs = batch["image"] if self.after is None else batch["features"]
        labels = batch["labels"]
        # In float32: on a GPU the resizing and its gradient would otherwise be summed up in half precision.
        coarse = self.network(inputs, after=self.after).float()
        scores = resize_scores(coarse, (labels.shape[1], labels.shape[2]))
        return self.objective(batch, scores, self.supervision(batch, scores, self.network, position))

    def parameter_groups(self) -> dict[str, list[ParameterGroup]]:
        return {
            "network": backbone_and_head(self.network.backbone, self.network.head_parameters(), self.head_multiplier)
        }


class TrainSegmenter(TrainingStage):
    """Trains a segmentation network on the labels another stage made."""

    name = "segmenter"
    version = 2
    reads = frozenset({"images"})
    settings: SegmenterSettings

    def __init__(
        self,
        labels: LabelStage,
        settings: SegmenterSettings,
        *,
        supervision: Callable[[], nn.Module] = FixedMasks,
        objective: Objective | None = None,
    ) -> None:
        settings.backbone.check(cached=settings.cache_features)
        self.labels = labels
        self.features: FrozenFeatures | None = None
        inputs: dict[str, Any] = {"labels": labels}
        if settings.cache_features:
            self.features = FrozenFeatures(FrozenFeatureSettings(settings.backbone, settings.views))
            inputs["features"] = self.features
        self.supervision = supervision
        self.objective = objective or OBJECTIVES[settings.loss]()
        super().__init__(settings, labels.split, **inputs)

    def training(self) -> TrainingSettings:
        return self.settings.training

    def identity(self, env: Environment) -> Any:
        # A supervision tells its settings in its representation, as torch's modules do (`extra_repr`).
        losses = {name: weight for name, (_, weight) in self.objective.terms.items()}
        return [self.settings.backbone.identity, repr(self.supervision()), losses]

    def system(self, env: Environment) -> System:
        network = Segmenter(
            self.settings.backbone.create(env.runtime.seed), len(env.dataset.classes) + 1, self.settings.head
        )
        return SegmentationSystem(
            network,
            self.supervision(),
            self.objective,
            head_multiplier=self.settings.training.head_multiplier,
            after=self.settings.backbone.frozen_until if self.features else None,
        )

    def open(self, env: Environment) -> Callable[[Sample, int], dict[str, Any]]:
        views, seed, stride = self.settings.views, env.runtime.seed, self.settings.label_stride
        backbone = self.settings.backbone.create(env.runtime.seed)

        def example(sample: Sample, epoch: int) -> dict[str, Any]:
            labels = torch.from_numpy(self.labels.load(env, sample.id))
            view = views.draw((labels.shape[0], labels.shape[1]), seed=seed, epoch=epoch, image_id=sample.id)
            viewed = {"labels": to_view(labels, view, LABELS, stride=stride)}
            if self.features is not None:
                return {"features": self.features.load(env, sample.id, mirror=view.mirror), **viewed}
            image = change_colours(load_photograph(sample), views.colour, seed=seed, epoch=epoch, image_id=sample.id)
            return {"image": view_photograph(image, view, backbone), **viewed}

        return example

    def example(self, env: Environment) -> dict[str, Tensor]:
        crop = self.settings.views.crop
        side = -(-crop // self.settings.label_stride)
        labels = torch.zeros(side, side, dtype=torch.uint8)
        if self.features is not None:
            return {"features": torch.zeros(self.features.shape(env)), "labels": labels}
        return {"image": torch.zeros(3, crop, crop), "labels": labels}

    def save(self, system: System, env: Environment, path: Path) -> None:
        assert isinstance(system, SegmentationSystem)
        network = system.network
        header = ModelHeader(
            kind="segmenter",
            classes=env.dataset.classes,
            backbone=self.settings.backbone.architecture,
            head=canonical(self.settings.head),
            inference=canonical(InferenceSettings(long_side=self.settings.views.crop)),
            weights=self.settings.backbone.licence,
            training=canonical(self.settings),
        )
        save_model(path, network, header)

    def load(self, env: Environment) -> Segmenter:
        """The trained network on the environment's device."""
        with reading_artifact(self.model_path(env), self.folder(env)):
            network, _ = load_model(self.model_path(env))
        assert isinstance(network, Segmenter)
        return env.runtime.place(network)


def train_segmenter(
    labels: LabelStage,
    settings: SegmenterSettings,
    *,
    supervision: Callable[[], nn.Module] = FixedMasks,
    objective: Objective | None = None,
) -> TrainSegmenter:
    """A segmentation network trained on labels.

    Args:
        labels: the stage whose masks are learnt from.
        settings: network and training.
        supervision: makes each step's targets; the labels as they are by default.
        objective: losses; those that `settings.loss` names by default.
    """
    return TrainSegmenter(labels, settings, supervision=supervision, objective=objective)
