"""Training the multi-label classifier on tags, and its score on photographs it has not seen."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tag2mask.base.settings import LATER, canonical
from tag2mask.base.text import percent, plural
from tag2mask.data.samples import Sample
from tag2mask.engine.environment import Environment
from tag2mask.engine.stage import Accumulator, Estimate, ReduceStage
from tag2mask.engine.system import Batch, Losses, ParameterGroup, Position, System
from tag2mask.engine.training import TrainingSettings, TrainingStage
from tag2mask.engine.workspace import reading_artifact
from tag2mask.errors import SettingsError
from tag2mask.evaluation.classification import classification_scores
from tag2mask.losses.cam_consistency import cam_consistency_loss
from tag2mask.losses.classification import multi_label_loss
from tag2mask.networks.classifier import Classifier, ClassifierBlock, pooled
from tag2mask.networks.inference import ScaleSettings, photograph_scales
from tag2mask.networks.model_file import ModelHeader, load_model, save_model
from tag2mask.stages.backbone import BackboneSettings, backbone_and_head
from tag2mask.stages.timing import seconds_per_image
from tag2mask.stages.views import ViewSettings, change_colours, load_photograph, view_photograph


@dataclass(frozen=True)
class ClassifierHeadSettings:
    """What gives the classifier's score maps (Kim, dissertation 2022, section 2.3.1).

    Args:
        width: hidden channels of a block of two 3x3 convolutions and a 1x1 one; 0 takes a 1x1 convolution alone.
        dilations: of the first convolution of further blocks, which find what lies around an object's core and are
            gone after training; empty for none.
        cam_weight: of the loss that pulls the standard block's maps towards those of all blocks.
    """

    width: int = 0
    dilations: tuple[int, ...] = ()
    cam_weight: float = 0.1

    def __post_init__(self) -> None:
        if self.width < 0 or self.cam_weight < 0:
            raise SettingsError("classifier.head: width and cam_weight must not be negative")
        if self.dilations and not self.width:
            raise SettingsError(f"classifier.head.dilations: {list(self.dilations)} need a head.width above 0")
        if self.dilations and min(self.dilations) < 1:
            raise SettingsError(f"classifier.head.dilations: {list(self.dilations)} must be above 0")


@dataclass(frozen=True)
class ClassifierSettings:
    """The classifier whose activation maps show where tagged classes are.

    Args:
        backbone: the pretrained network under it.
        views: sizes and crops in training.
        dropout: probability on the pooled features, or after the hidden layers of the head's blocks.
        training: optimiser and length.
        head: what gives the score maps.
    """

    backbone: BackboneSettings = field(default_factory=BackboneSettings)
    views: ViewSettings = field(default_factory=ViewSettings)
    dropout: float = 0.0
    training: TrainingSettings = field(default_factory=TrainingSettings)
    head: ClassifierHeadSettings = field(default_factory=ClassifierHeadSettings, metadata=LATER)

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise SettingsError(f"classifier.dropout: {self.dropout} must lie in [0, 1)")


class ClassifierSystem(System):
    """The classifier and its binary cross-entropy; with dilated blocks theirs too, and the CAM loss.

    Kim, dissertation 2022, eq. 2.1 to 2.3: cross-entropies of all blocks are summed, each a mean over classes.

    Args:
        network: the classifier.
        dilated: blocks beside the classifier's own, on the same features.
        cam_weight: of the CAM loss.
        head_multiplier: learning rate of all new layers, as a multiple of the backbone's.
    """

    def __init__(
        self,
        network: Classifier,
        head_multiplier: float,
        dilated: Iterable[ClassifierBlock] = (),
        cam_weight: float = 0,
    ) -> None:
        super().__init__()
        self.network = network
        self.dilated = nn.ModuleList(dilated)
        self.cam_weight = cam_weight
        self.head_multiplier = head_multiplier

    def forward(self, batch: Batch, position: Position) -> Losses:
        tags = batch["tags"]
        if not self.dilated:
            return {"classification": multi_label_loss(self.network(batch["image"]), tags)}
        features = self.network.backbone(batch["image"])
        maps = torch.stack([block(features) for block in (self.network.head, *self.dilated)])
        # One sum over the blocks, one count: the mean over photographs and classes of each block, added up.
        total, _ = multi_label_loss(pooled(maps.flatten(0, 1)), tags.repeat(len(maps), 1))
        difference, count = cam_consistency_loss(maps[0], maps[1:], tags)
        return {
            "classification": (total, total.new_tensor(tags.numel())),
            "cam": (self.cam_weight * difference, count),
        }

    def parameter_groups(self) -> dict[str, list[ParameterGroup]]:
        new = [*self.network.head_parameters(), *self.dilated.parameters()]
        return {"network": backbone_and_head(self.network.backbone, new, self.head_multiplier)}


class TrainClassifier(TrainingStage):
    """Trains the classifier on the tags of the training photographs."""

    name = "classifier"
    version = 2
    reads = frozenset({"images", "tags"})
    settings: ClassifierSettings

    def __init__(self, settings: ClassifierSettings) -> None:
        settings.backbone.check()
        super().__init__(settings, "train")

    def training(self) -> TrainingSettings:
        return self.settings.training

    def identity(self, env: Environment) -> Any:
        return self.settings.backbone.identity

    def system(self, env: Environment) -> System:
        backbone = self.settings.backbone.create(env.runtime.seed)
        classes, dropout, head = len(env.dataset.classes), self.settings.dropout, self.settings.head
        network = Classifier(backbone, classes, dropout=dropout, width=head.width)
        dilated = [
            ClassifierBlock(backbone.channels, classes, width=head.width, dilation=dilation, dropout=dropout)
            for dilation in head.dilations
        ]
        return ClassifierSystem(network, self.settings.training.head_multiplier, dilated, head.cam_weight)

    def open(self, env: Environment) -> Callable[[Sample, int], dict[str, Any]]:
        views, seed = self.settings.views, env.runtime.seed
        backbone = self.settings.backbone.create(env.runtime.seed)

        def example(sample: Sample, epoch: int) -> dict[str, Any]:
            image = change_colours(load_photograph(sample), views.colour, seed=seed, epoch=epoch, image_id=sample.id)
            view = views.draw((image.shape[1], image.shape[2]), seed=seed, epoch=epoch, image_id=sample.id)
            return {
                "image": view_photograph(image, view, backbone),
                "tags": torch.from_numpy(env.dataset.tag_vector(sample)),
            }

        return example

    def example(self, env: Environment) -> dict[str, Tensor]:
        crop = self.settings.views.crop
        return {"image": torch.zeros(3, crop, crop), "tags": torch.zeros(len(env.dataset.classes))}

    def save(self, system: System, env: Environment, path: Path) -> None:
        assert isinstance(system, ClassifierSystem)
        network = system.network
        header = ModelHeader(
            kind="classifier",
            classes=env.dataset.classes,
            backbone=self.settings.backbone.architecture,
            head={"width": network.width} if network.width else {},
            inference=canonical(ScaleSettings(long_side=self.settings.views.crop)),
            weights=self.settings.backbone.licence,
            training=canonical(self.settings),
        )
        save_model(path, network, header)

    def load(self, env: Environment, *, output_stride: int | None = None) -> Classifier:
        """The trained classifier on the environment's device, at an output stride of choice."""
        with reading_artifact(self.model_path(env), self.folder(env)):
            network, _ = load_model(self.model_path(env), output_stride=output_stride)
        assert isinstance(network, Classifier)
        return env.runtime.place(network)


def train_classifier(settings: ClassifierSettings) -> TrainClassifier:
    """A classifier of the training photographs' tags."""
    return TrainClassifier(settings)


class _Scores:
    """Scores and tags of the photographs seen, in order."""

    def __init__(self, score: Callable[[Sample], np.ndarray[Any, Any]], env: Environment) -> None:
        self._score, self._env = score, env
        self.rows: list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]] = []

    def add(self, sample: Sample) -> None:
        self.rows.append((self._score(sample), self._env.dataset.tag_vector(sample)))

    def merge(self, other: "_Scores") -> None:
        self.rows += other.rows

    def result(self) -> dict[str, Any]:
        scores, targets = (np.stack(columns) for columns in zip(*self.rows, strict=True))
        return {**classification_scores(scores, targets, self._env.dataset.classes).to_dict(), "images": len(self.rows)}


class ScoreClassifier(ReduceStage):
    """Average precision of the classifier on a split; the only use of val tags."""

    name = "classifier_scores"
    version = 2
    on_device = True
    reads = frozenset({"images", "tags"})
    settings: ScaleSettings

    def __init__(self, classifier: TrainClassifier, settings: ScaleSettings) -> None:
        super().__init__(settings, "val", classifier=classifier)
        self.classifier = classifier

    def open(self, env: Environment) -> Callable[[], Accumulator]:
        network = self.classifier.load(env)
        runtime = env.runtime

        def score(sample: Sample) -> np.ndarray[Any, Any]:
            batches = photograph_scales(load_photograph(sample), network.backbone, self.settings, runtime.torch_device)
            with runtime.autocast():
                probabilities = [network.probabilities(batch).float().mean(0) for batch in batches]
            return torch.stack(probabilities).mean(0).cpu().numpy()

        return lambda: _Scores(score, env)

    def headline(self, env: Environment) -> str:
        figures = self.metrics(env)
        images = figures["images"]
        return f"mAP {percent(figures['mean_average_precision'])} on {images} {plural(images, 'photograph')}"

    def details(self, env: Environment) -> list[str]:
        return [f"AP of {name}: {percent(value)}" for name, value in self.metrics(env)["average_precision"].items()]

    def estimate(self, env: Environment) -> Estimate:
        backbone = self.classifier.settings.backbone
        seconds = seconds_per_image(backbone, self.settings, env, output_stride=backbone.output_stride)
        return Estimate(seconds * len(self.samples(env)), 1e4)


def score_classifier(classifier: TrainClassifier) -> ScoreClassifier:
    """The classifier's mean average precision on val, photographs whole at the training crop's size, mirrored too."""
    return ScoreClassifier(classifier, ScaleSettings(long_side=classifier.settings.views.crop))
