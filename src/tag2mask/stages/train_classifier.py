"""Training the multi-label classifier on tags, and its score on images it has not seen."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tag2mask.base.settings import LATER, UNSEEN, canonical
from tag2mask.base.text import percent, plural
from tag2mask.data.images import image_size
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
from tag2mask.networks.inference import ScaleSettings, image_scales
from tag2mask.networks.model_file import ModelHeader, load_model, save_model
from tag2mask.stages.backbone import BackboneSettings, backbone_and_head
from tag2mask.stages.block_features import JoinedFeatures
from tag2mask.stages.trunks import Trunk, TrunkSettings, check_trunks
from tag2mask.stages.views import ViewSettings, change_colours, load_image, view_image


@dataclass(frozen=True)
class ClassifierHeadSettings:
    """Settings of the head that gives the classifier's score maps (Kim, dissertation 2022, section 2.3.1).

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
        trunks: several frozen networks that the head reads side by side, in place of `backbone`; their features are
            computed once. Needs `views.whole`; empty for the one backbone.
    """

    backbone: BackboneSettings = field(default_factory=BackboneSettings)
    views: ViewSettings = field(default_factory=ViewSettings)
    dropout: float = 0.0
    training: TrainingSettings = field(default_factory=TrainingSettings)
    head: ClassifierHeadSettings = field(default_factory=ClassifierHeadSettings, metadata=LATER)
    trunks: tuple[TrunkSettings, ...] = field(default=(), metadata=UNSEEN)

    def __post_init__(self) -> None:
        views = self.views
        check_trunks(
            "classifier", self.trunks, crop=views.crop, without_chance=views.without_chance, colour=views.colour
        )
        if not 0 <= self.dropout < 1:
            raise SettingsError(f"classifier.dropout: {self.dropout} must lie in [0, 1)")

    @property
    def trunk(self) -> Trunk:
        """The trunk that the head reads."""
        return Trunk(self.backbone, self.trunks)


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
        tags, inside = batch["tags"], batch.get("cells")
        features = self.network.backbone(batch["image"]) if inside is None else batch["features"]
        if not self.dilated:
            return {"classification": multi_label_loss(self.network.scores(features, inside), tags)}
        maps = torch.stack([block(features) for block in (self.network.head, *self.dilated)])
        # One sum over the blocks, one count: the mean over images and classes of each block, added up.
        cells = None if inside is None else inside.repeat(len(maps), 1, 1)
        total, _ = multi_label_loss(pooled(maps.flatten(0, 1), cells), tags.repeat(len(maps), 1))
        difference, count = cam_consistency_loss(maps[0], maps[1:], tags)
        return {
            "classification": (total, total.new_tensor(tags.numel())),
            "cam": (self.cam_weight * difference, count),
        }

    def parameter_groups(self) -> dict[str, list[ParameterGroup]]:
        new = [*self.network.head_parameters(), *self.dilated.parameters()]
        return {"network": backbone_and_head(self.network.backbone, new, self.head_multiplier)}


class TrainClassifier(TrainingStage):
    """Trains the classifier on the tags of the training images."""

    name = "classifier"
    version = 2
    reads = frozenset({"images", "tags"})
    settings: ClassifierSettings

    def __init__(self, settings: ClassifierSettings) -> None:
        self.joined = JoinedFeatures(settings.trunks) if settings.trunks else None
        if self.joined is None:
            settings.backbone.check()
        super().__init__(settings, "train", **(self.joined.stages if self.joined else {}))

    @property
    def backbone(self) -> BackboneSettings:
        """The one network whose blocks further stages read.

        Raises:
            SettingsError: there are several side by side.
        """
        return self.settings.trunk.single("classifier.trunks")

    def training(self) -> TrainingSettings:
        return self.settings.training

    def identity(self, env: Environment) -> Any:
        return self.settings.trunk.identity

    def system(self, env: Environment) -> System:
        backbone = self.joined.create(env) if self.joined else self.settings.backbone.create(env.runtime.seed)
        classes, dropout, head = len(env.dataset.classes), self.settings.dropout, self.settings.head
        network = Classifier(backbone, classes, dropout=dropout, width=head.width)
        dilated = [
            ClassifierBlock(backbone.channels, classes, width=head.width, dilation=dilation, dropout=dropout)
            for dilation in head.dilations
        ]
        return ClassifierSystem(network, self.settings.training.head_multiplier, dilated, head.cam_weight)

    def open(self, env: Environment) -> Callable[[Sample, int], dict[str, Any]]:
        if self.joined is not None:
            return self._open_joined(self.joined, env)
        views, seed, facts = self.settings.views, env.runtime.seed, self.settings.backbone.facts

        def example(sample: Sample, epoch: int) -> dict[str, Any]:
            image = change_colours(load_image(sample), views.colour, seed=seed, epoch=epoch, image_id=sample.id)
            view = views.draw((image.shape[1], image.shape[2]), seed=seed, epoch=epoch, image_id=sample.id)
            return {
                "image": view_image(image, view, facts),
                "tags": torch.from_numpy(env.dataset.tag_vector(sample)),
            }

        return example

    def _open_joined(self, joined: JoinedFeatures, env: Environment) -> Callable[[Sample, int], dict[str, Any]]:
        views, seed, entries = self.settings.views, env.runtime.seed, joined.open(env)

        def example(sample: Sample, epoch: int) -> dict[str, Any]:
            size = image_size(sample.image)
            view = views.draw(size, seed=seed, epoch=epoch, image_id=sample.id)
            return {**entries(sample, size, view.mirror), "tags": torch.from_numpy(env.dataset.tag_vector(sample))}

        return example

    def example(self, env: Environment) -> dict[str, Tensor]:
        if self.joined is not None:
            return {**self.joined.example(), "tags": torch.zeros(len(env.dataset.classes))}
        crop = self.settings.views.crop
        return {"image": torch.zeros(3, crop, crop), "tags": torch.zeros(len(env.dataset.classes))}

    def save(self, system: System, env: Environment, path: Path) -> None:
        assert isinstance(system, ClassifierSystem)
        network = system.network
        header = ModelHeader(
            kind="classifier",
            classes=env.dataset.classes,
            backbone=self.settings.trunk.architecture,
            head={"width": network.width} if network.width else {},
            inference=canonical(ScaleSettings(long_side=self.settings.views.crop)),
            weights=self.settings.trunk.licence,
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
    """A classifier of the training images' tags."""
    return TrainClassifier(settings)


class _Scores:
    """Scores and tags of the images seen, in order."""

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


class EvaluateClassifier(ReduceStage):
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
            batches = image_scales(load_image(sample), network.backbone, self.settings, runtime.torch_device)
            with runtime.autocast():
                probabilities = [network.probabilities(batch).float().mean(0) for batch in batches]
            return torch.stack(probabilities).mean(0).cpu().numpy()

        return lambda: _Scores(score, env)

    def headline(self, env: Environment) -> str:
        figures = self.metrics(env)
        images = figures["images"]
        return f"mAP {percent(figures['mean_average_precision'])} on {images} {plural(images, 'image')}"

    def details(self, env: Environment) -> list[str]:
        return [f"AP of {name}: {percent(value)}" for name, value in self.metrics(env)["average_precision"].items()]

    def estimate(self, env: Environment) -> Estimate:
        seconds = self.classifier.settings.trunk.seconds(self.settings, env)
        return Estimate(seconds * len(self.samples(env)), 1e4)


def evaluate_classifier(classifier: TrainClassifier) -> EvaluateClassifier:
    """The classifier's mean average precision on val, images whole at the training crop's size, mirrored too."""
    return EvaluateClassifier(classifier, ScaleSettings(long_side=classifier.settings.views.crop))
