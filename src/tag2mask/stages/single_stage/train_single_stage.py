"""RRM's single stage, and AALR's: a segmenter that learns from the CAMs of a second head on its own backbone."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from tag2mask.base.files import atomic_path
from tag2mask.base.settings import canonical
from tag2mask.data.classes import UNLABELLED
from tag2mask.engine.environment import Environment
from tag2mask.engine.system import Batch, Losses, ParameterGroup, Position
from tag2mask.engine.workspace import reading_artifact
from tag2mask.errors import SettingsError, unknown_choice
from tag2mask.losses.adaptive_affinity import Groups, adaptive_affinity_loss
from tag2mask.losses.classification import multi_label_loss
from tag2mask.losses.cross_entropy import foreground_background_cross_entropy
from tag2mask.losses.dense_energy import dense_energy
from tag2mask.losses.label_reassign import Reassigned, label_reassign
from tag2mask.networks.classifier import Classifier
from tag2mask.networks.inference import ScaleSettings
from tag2mask.networks.model_file import ModelHeader, load_model, save_model
from tag2mask.networks.segmenter import Levels, Segmenter, resize_scores, to_grid
from tag2mask.networks.single_stage import CamBranch
from tag2mask.stages.backbone import BackboneSettings, Start, check_start, take_weights
from tag2mask.stages.grown_labels import GrownLabels, grown_labels
from tag2mask.stages.growth import OnlineCRFSettings
from tag2mask.stages.label_strips import LabelStrips
from tag2mask.stages.segmentation_system import SegmentationSystem
from tag2mask.stages.segmenter_inputs import IMAGE_ON_GRID, INSIDE, PRESENT, WHOLE_IMAGE, SegmenterInputs
from tag2mask.stages.segmenter_settings import SegmenterTrainingSettings
from tag2mask.stages.segmenter_training import SegmenterTraining
from tag2mask.stages.train_classifier import TrainClassifier
from tag2mask.supervision.online_cams import OnlineCams
from tag2mask.supervision.targets import Targets

CLASSIFIER_FILE = "classifier.safetensors"


@dataclass(frozen=True)
class OnlineCamSettings:
    """The labels that the network's own CAMs give at every step (Zhang et al., RRM, AAAI 2020).

    Args:
        scales: the photograph is shown to the CAM head in these sizes beside the step's own, 1; only 1 with
            `segmenter.cache_features`.
        low_alpha: exponent of (1 - max CAM)^alpha that makes background strong: what is foreground even so is.
        high_alpha: exponent that makes it weak: what is background even so is.
        share: of the pixels that a class claims, those with the highest CAMs that may be labelled.
        cam_above: a CAM must be above it.
        background_above: the power map of the high alpha must be above it for background.
        probability_above: least probability, after the CRF, of a label.
        crf: the CRF that both backgrounds go through, on the label grid.
    """

    scales: tuple[float, ...] = (1.0, 0.5, 1.5, 2.0)
    low_alpha: float = 4.0
    high_alpha: float = 32.0
    share: float = 0.4
    cam_above: float = 0.1
    background_above: float = 0.8
    probability_above: float = 0.8
    crf: OnlineCRFSettings = field(default_factory=lambda: OnlineCRFSettings(shrink=1.0))

    def __post_init__(self) -> None:
        if 1 not in self.scales or min(self.scales) <= 0:
            raise SettingsError(f"online_cams.scales: {list(self.scales)} must be numbers above 0, one of them 1")
        if not 0 < self.low_alpha <= self.high_alpha:
            raise SettingsError(
                f"online_cams: 0 < low_alpha <= high_alpha is needed, not {self.low_alpha} and {self.high_alpha}"
            )
        if not 0 < self.share <= 1:
            raise SettingsError(f"online_cams.share: {self.share} must be above 0 and at most 1")
        for name in ("cam_above", "background_above", "probability_above"):
            if not 0 <= getattr(self, name) <= 1:
                raise SettingsError(f"online_cams.{name}: {getattr(self, name)} must lie between 0 and 1")

    def module(self) -> OnlineCams:
        """What makes the labels."""
        return OnlineCams(
            self.crf.module(),
            low_alpha=self.low_alpha,
            high_alpha=self.high_alpha,
            share=self.share,
            cam_above=self.cam_above,
            background_above=self.background_above,
            probability_above=self.probability_above,
        )


@dataclass(frozen=True)
class AdaptiveAffinitySettings:
    """AALR's adaptive affinity loss (Zhang et al., ACM MM 2021).

    Args:
        enabled: take it.
        weight: of the loss.
        distance: to a pixel's eight neighbours, in cells of `single_stage.grid_stride`.
        margin: pairs of different labels are pushed apart up to this much, times how sure they are.
        groups: "four", pairs of different labels averaged over two groups, or "published", over one, as what the
            authors published computes.
    """

    enabled: bool = True
    weight: float = 0.1
    distance: int = 4
    margin: float = 3.0
    groups: Groups = "four"

    def __post_init__(self) -> None:
        if self.groups not in get_args(Groups):
            raise SettingsError(unknown_choice("affinity.groups", self.groups, get_args(Groups)))
        if self.weight < 0 or self.distance < 1 or self.margin < 0:
            raise SettingsError("affinity: weight and margin must not be negative, distance must be 1 or more")


@dataclass(frozen=True)
class ReassignSettings:
    """The label reassign loss: AALR's in name, this project's own reading in formula, for no source gives one.

    Args:
        enabled: take it, and let it weigh the cross-entropy.
        weight: of the loss.
        temperature: cosines are divided by it.
    """

    enabled: bool = True
    weight: float = 0.1
    temperature: float = 0.1

    def __post_init__(self) -> None:
        if self.weight < 0 or self.temperature <= 0:
            raise SettingsError("reassign: weight must not be negative, temperature must be above 0")


@dataclass(frozen=True)
class SingleStageSettings:
    """What a single stage has beside its segmenter (RRM).

    Args:
        start: "classifier", whose backbone and head the network starts from, or "pretrained".
        segmentation_from: share of the steps after which the segmentation losses begin; from "pretrained" 0.5 in the
            paper, so that the CAMs have learnt something by then.
        dropout: probability on the features that the CAM head pools.
        grid_stride: pixels of the view per cell of the grid of AALR's two losses; a multiple of
            `segmenter.label_stride`.
    """

    start: Start = "classifier"
    segmentation_from: float = 0.0
    dropout: float = 0.0
    grid_stride: int = 8

    def __post_init__(self) -> None:
        check_start("single_stage.start", self.start)
        if not 0 <= self.segmentation_from < 1:
            raise SettingsError(f"single_stage.segmentation_from: {self.segmentation_from} must lie in [0, 1)")
        if not 0 <= self.dropout < 1:
            raise SettingsError(f"single_stage.dropout: {self.dropout} must lie in [0, 1)")
        if self.grid_stride < 1:
            raise SettingsError(f"single_stage.grid_stride: {self.grid_stride} must be above 0")


@dataclass(frozen=True)
class DenseEnergySettings:
    """RRM's regularised loss: what a dense CRF would charge for the segmenter's probabilities (optional there too).

    Args:
        enabled: take it.
        weight: of the loss.
        position_sxy: width in position of its kernel, pixels of the view.
        colour_srgb: width in colour, steps of 0..255.
        stride: pixels of the view per cell of its grid; a multiple of `segmenter.label_stride`.
    """

    enabled: bool = False
    weight: float = 1e-7
    position_sxy: float = 100.0
    colour_srgb: float = 15.0
    stride: int = 2

    def __post_init__(self) -> None:
        for name in ("position_sxy", "colour_srgb", "stride"):
            if getattr(self, name) <= 0:
                raise SettingsError(f"dense_energy.{name}: {getattr(self, name)} must be above 0")
        if self.weight < 0:
            raise SettingsError(f"dense_energy.weight: {self.weight} must not be negative")


@dataclass(frozen=True)
class SingleStageParts:
    """What a single stage is made of; AALR's two losses are None in RRM.

    Args:
        settings: where it starts and when its segmentation begins.
        online_cams: the labels of every step.
        dense_energy: RRM's optional loss.
        affinity: AALR's adaptive affinity loss.
        reassign: the label reassign loss.
    """

    settings: SingleStageSettings
    online_cams: OnlineCamSettings
    dense_energy: DenseEnergySettings | None = None
    affinity: AdaptiveAffinitySettings | None = None
    reassign: ReassignSettings | None = None


class SingleStageSystem(SegmentationSystem):
    """A segmentation head and a CAM head on one backbone; the second makes what the first learns from.

    Args:
        network: the segmenter.
        cam: the second head, and blocks of the backbone that it alone reads.
        online: makes labels of CAMs.
        parts: settings of the losses.
        stride: pixels of the view per cell of the label grid.
        options: further ones of `SegmentationSystem`.
    """

    def __init__(
        self,
        network: Segmenter,
        cam: CamBranch,
        online: OnlineCams,
        parts: SingleStageParts,
        *,
        stride: int,
        **options: Any,
    ) -> None:
        super().__init__(network, **options)
        self.cam = cam
        self.online = online
        self.parts = parts
        self.stride = stride

    def losses(self, batch: Batch, position: Position) -> Losses:
        """The losses by name.

        ``classification`` on tags (padding included, as the classifier's), and from `segmentation_from` on
        ``background`` and ``foreground``, cross-entropies of the online labels, each averaged over its own pixels of
        the batch. AALR adds the groups of ``affinity_*`` and ``reassign``, RRM's option ``dense_energy``. Before, no
        labels are made, and these losses are 0.
        """
        found = self.levels(batch)
        features = self.cam.features(found.features)
        classifier = self.cam.classifier
        tags = batch[PRESENT][:, 1:]
        losses = {"classification": multi_label_loss(classifier.scores(features), tags.float())}
        targets, inside = self._no_targets(batch), torch.zeros_like(batch[INSIDE])
        if position.step >= self.parts.settings.segmentation_from * position.steps:
            targets, inside = self._targets(batch, classifier.head(features.detach())), batch[INSIDE]
        return {**losses, **self._segmentation(batch, found, targets, inside)}

    @torch.no_grad()
    def targets(self, batch: Batch, position: Position) -> Targets:
        """The online labels of a batch."""
        return self._targets(batch, self.cam.maps(self.levels(batch).features))

    def parameter_groups(self) -> dict[str, list[ParameterGroup]]:
        backbone, head = super().parameter_groups()["network"]
        trunk = ParameterGroup([*backbone.parameters, *self.cam.trained_blocks()])
        heads = ParameterGroup([*head.parameters, *self.cam.classifier.head_parameters()], head.multiplier)
        return {"network": [trunk, heads]}

    @torch.no_grad()
    def _targets(self, batch: Batch, maps: Tensor) -> Targets:
        """Online labels from the step's own score maps and those of the other scales."""
        others = [self._maps_at(batch[WHOLE_IMAGE], scale) for scale in self.parts.online_cams.scales if scale != 1]
        targets: Targets = self.online([maps.detach(), *others], batch[PRESENT], batch[INSIDE], batch[IMAGE_ON_GRID])
        return targets

    def _no_targets(self, batch: Batch) -> Targets:
        """Nothing labelled: every loss's empty case, 0 with a gradient of 0 for every parameter."""
        inside: Tensor = batch[INSIDE]
        return Targets(
            torch.full(inside.shape, UNLABELLED, dtype=torch.uint8, device=inside.device),
            confidence=torch.zeros(inside.shape, device=inside.device),
        )

    def _maps_at(self, images: Tensor, scale: float) -> Tensor:
        height, width = images.shape[2:]
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        return self.cam.maps(self.network.backbone(resize_scores(images, size)))

    def _segmentation(self, batch: Batch, found: Levels, targets: Targets, inside: Tensor) -> Losses:
        labels, confidence = targets.labels, targets.confidence
        assert confidence is not None
        losses: dict[str, tuple[Tensor, Tensor]] = {}
        weights = None
        affinity, reassign, energy = self.parts.affinity, self.parts.reassign, self.parts.dense_energy
        grid = self._grid(labels, self.parts.settings.grid_stride)
        coarse = nearest(labels, grid)
        if affinity is not None:
            groups = adaptive_affinity_loss(
                resize_scores(found.scores.float(), grid).softmax(1),
                coarse,
                nearest(confidence, grid),
                distance=affinity.distance,
                margin=affinity.margin,
                groups=affinity.groups,
            )
            losses |= {f"affinity_{name}": (affinity.weight * total, n) for name, (total, n) in groups.items()}
        if reassign is not None:
            reassigned = label_reassign(
                resize_scores(found.hidden.float(), grid),
                coarse,
                nearest(confidence, grid),
                batch[PRESENT],
                temperature=reassign.temperature,
            )
            total, count = reassigned.loss
            losses["reassign"] = (reassign.weight * total, count)
            weights = _on_labels(reassigned, coarse, labels)
        if energy is not None:
            size = self._grid(labels, energy.stride)
            total, count = dense_energy(
                resize_scores(found.scores.float(), size).softmax(1),
                to_grid(batch[IMAGE_ON_GRID].float(), size).round().to(torch.uint8),
                sxy=energy.position_sxy / energy.stride,
                srgb=energy.colour_srgb,
                mask=nearest(inside, size),
            )
            losses["dense_energy"] = (energy.weight * total, count)
        size = (labels.shape[1], labels.shape[2])
        return {
            **foreground_background_cross_entropy(resize_scores(found.scores.float(), size), labels, weights),
            **losses,
        }

    def _grid(self, labels: Tensor, stride: int) -> tuple[int, int]:
        """Rows and columns of a grid at a stride that is a multiple of the labels'."""
        factor = stride // self.stride
        return -(-labels.shape[1] // factor), -(-labels.shape[2] // factor)


def nearest(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Labels, masks or confidences at another size: of each cell the value at its middle, (N, h, w) -> (N, *size)."""
    if maps.shape[1:] == size:
        return maps
    return F.interpolate(maps[:, None].float(), size, mode="nearest-exact")[:, 0].to(maps.dtype)


def _on_labels(reassigned: Reassigned, coarse: Tensor, labels: Tensor) -> Tensor:
    """Weights of a finer grid's labels: those of their cell where it has the same label, 1 elsewhere."""
    size = (labels.shape[1], labels.shape[2])
    return nearest(reassigned.weights, size).where(nearest(coarse, size) == labels, 1.0)


class TrainSingleStage(SegmenterTraining):
    """Trains a segmenter on labels that a CAM head on its own backbone makes at every step.

    Leaves ``model.safetensors``, the segmenter as any other, and ``classifier.safetensors``, backbone and CAM head as a
    classifier. The online labels of a few photographs are kept over the epochs, as where labels grow.

    Args:
        segmenter: network and training.
        parts: labels and losses.
        start: a classifier whose backbone and head are gone on from; None starts from the pretrained backbone.

    Raises:
        SettingsError: settings do not go together.
    """

    name = "single_stage"
    version = 1
    strips = LabelStrips(start="before training: no labels", file="online_labels_over_epochs.jpg")

    def __init__(
        self, segmenter: SegmenterTrainingSettings, parts: SingleStageParts, *, start: TrainClassifier | None = None
    ) -> None:
        _check(segmenter, parts)
        if start is not None and start.settings.head.width:
            # Labels are made while the head trains, and a wider one has dropout between its layers.
            raise SettingsError(
                f"classifier.head.width: {start.settings.head.width} is not 0; a single stage's CAMs come from one "
                "convolution"
            )
        self.parts = parts
        self.classifier = start
        batch = SegmenterInputs(segmenter, None, needs={PRESENT, INSIDE, IMAGE_ON_GRID}, classifier=start)
        super().__init__(segmenter, batch, start=start)

    def identity(self, env: Environment) -> Any:
        parts = canonical(self.parts, for_fingerprint=True)
        # Where it starts from is an input.
        del parts["settings"]["start"]
        return [super().identity(env), parts]

    def system(self, env: Environment) -> SingleStageSystem:
        system = self.system_to_time(env)
        if self.classifier is not None:
            trained = self.classifier.load(env, output_stride=self.settings.backbone.output_stride)
            take_weights(system.network.backbone, trained.backbone)
            take_weights(system.cam.classifier.backbone, trained.backbone)
            system.cam.classifier.head.load_state_dict(trained.head.state_dict())
        return system

    def system_to_time(self, env: Environment) -> SingleStageSystem:
        system = super().system_to_time(env)
        assert isinstance(system, SingleStageSystem)
        return system

    def system_of(self, network: Segmenter, env: Environment) -> SingleStageSystem:
        trunk, settings = network.backbone, self._cam_backbone
        shared = settings.block == self.settings.backbone.block
        backbone = trunk if shared else settings.create(env.runtime.seed)
        if trunk.block not in backbone.blocks:
            raise SettingsError(
                f"segmenter.backbone.block: '{trunk.block}' comes after '{backbone.block}', which the classifier reads"
            )
        classifier = Classifier(backbone, network.classes - 1, dropout=self.parts.settings.dropout)
        return SingleStageSystem(
            network,
            CamBranch(trunk, classifier),
            self.parts.online_cams.module(),
            self.parts,
            stride=self.settings.label_stride,
            head_multiplier=self.settings.training.head_multiplier,
            after=self.batch.after,
        )

    @property
    def _cam_backbone(self) -> BackboneSettings:
        """The backbone up to where the CAM head reads it: the classifier's block, or the segmenter's own."""
        block = self.classifier.settings.backbone.block if self.classifier else self.settings.backbone.block
        return dataclasses.replace(self.settings.backbone, block=block)

    def classifier_path(self, env: Environment) -> Path:
        """The file of the CAM head and its backbone."""
        return self.folder(env) / CLASSIFIER_FILE

    def save(self, system: Any, env: Environment, path: Path) -> None:
        assert isinstance(system, SingleStageSystem)
        classifier = system.cam.complete(system.network.backbone)
        header = ModelHeader(
            kind="classifier",
            classes=env.dataset.classes,
            backbone=self._cam_backbone.architecture,
            head={},
            inference=canonical(ScaleSettings(long_side=self.settings.views.crop)),
            weights=self.settings.backbone.licence,
            training=canonical(self.settings),
        )
        # Before the model file, whose presence says that the training is over.
        with atomic_path(self.classifier_path(env)) as aside:
            save_model(aside, classifier, header)
        super().save(system, env, path)

    def load_classifier(self, env: Environment) -> Classifier:
        """The CAM head on its backbone, on the environment's device.

        Raises:
            WorkspaceError: the file is missing or damaged.
        """
        with reading_artifact(self.classifier_path(env), self.folder(env)):
            network, _ = load_model(self.classifier_path(env))
        assert isinstance(network, Classifier)
        return env.runtime.place(network)

    def trained_system(self, env: Environment) -> SingleStageSystem:
        """All that was trained, on the environment's device, in evaluation mode.

        Raises:
            WorkspaceError: a file is missing or damaged.
        """
        system = self.system_of(self.load(env), env)
        system.cam.classifier.load_state_dict(self.load_classifier(env).state_dict())
        return env.runtime.place(system).eval()


def _check(segmenter: SegmenterTrainingSettings, parts: SingleStageParts) -> None:
    """Tells settings that do not go together.

    Raises:
        SettingsError: with the key.
    """
    if segmenter.head.kind == "aspp":
        raise SettingsError("segmenter.head.kind: a single stage reads a hidden layer, which aspp has not")
    if segmenter.cache_features and parts.online_cams.scales != (1.0,):
        raise SettingsError(
            f"online_cams.scales: {list(parts.online_cams.scales)} need photographs, but segmenter.cache_features "
            "keeps features at scale 1; take [1.0], or cache nothing"
        )
    strides = {"single_stage.grid_stride": parts.settings.grid_stride} if parts.affinity or parts.reassign else {}
    if parts.dense_energy:
        strides["dense_energy.stride"] = parts.dense_energy.stride
    for name, stride in strides.items():
        if stride % segmenter.label_stride:
            raise SettingsError(f"{name}: {stride} must be a multiple of segmenter.label_stride")


def train_single_stage(
    segmenter: SegmenterTrainingSettings, parts: SingleStageParts, classifier: TrainClassifier
) -> TrainSingleStage:
    """A segmenter that learns from its own CAMs, from the network that `single_stage.start` says."""
    return TrainSingleStage(segmenter, parts, start=classifier if parts.settings.start == "classifier" else None)


def online_labels(segmenter: TrainSingleStage) -> GrownLabels:
    """The online labels of the training photographs, as the trained network's CAMs give them."""
    return grown_labels(segmenter)
