"""Training the multi-label classifier on tags, and its score on photographs it has not seen."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tag2mask.data.samples import Sample
from tag2mask.engine.environment import Environment
from tag2mask.engine.stage import Accumulator, Estimate, ReduceStage
from tag2mask.engine.system import Batch, Losses, ParameterGroup, Position, System
from tag2mask.engine.training import TrainingSettings, TrainingStage
from tag2mask.engine.workspace import reading_artifact
from tag2mask.errors import SettingsError
from tag2mask.evaluation.classification import classification_scores
from tag2mask.evaluation.text import percent
from tag2mask.losses.classification import multi_label_loss
from tag2mask.networks.classifier import Classifier
from tag2mask.networks.inference import ScaleSettings, photograph_scales
from tag2mask.networks.model_file import ModelHeader, load_model, save_model
from tag2mask.plurals import plural
from tag2mask.settings import canonical
from tag2mask.stages.backbone import BackboneSettings, backbone_and_head
from tag2mask.stages.timing import seconds_per_image
from tag2mask.stages.views import ViewSettings, change_colours, load_photograph, view_photograph


@dataclass(frozen=True)
class ClassifierSettings:
    """The classifier whose activation maps show where tagged classes are.

    Args:
        backbone: the pretrained network under it.
        views: sizes and crops in training.
        dropout: probability on the pooled features.
        training: optimiser and length.
    """

    backbone: BackboneSettings = field(default_factory=BackboneSettings)
    views: ViewSettings = field(default_factory=ViewSettings)
    dropout: float = 0.0
    training: TrainingSettings = field(default_factory=TrainingSettings)

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise SettingsError(f"classifier.dropout: {self.dropout} must lie in [0, 1)")


class ClassifierSystem(System):
    """The classifier and its binary cross-entropy."""

    def __init__(self, network: Classifier, head_multiplier: float) -> None:
        super().__init__()
        self.network = network
        self.head_multiplier = head_multiplier

    def forward(self, batch: Batch, position: Position) -> Losses:
        return {"classification": multi_label_loss(self.network(batch["image"]), batch["tags"])}

    def parameter_groups(self) -> dict[str, list[ParameterGroup]]:
        return {
            "network": backbone_and_head(self.network.backbone, self.network.head_parameters(), self.head_multiplier)
        }


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
        network = Classifier(backbone, len(env.dataset.classes), dropout=self.settings.dropout)
        return ClassifierSystem(network, self.settings.training.head_multiplier)

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
            head={},
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
