"""Training the segmentation network, on labels that are fixed or that grow while it learns."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from tag2mask.base.files import write_bytes
from tag2mask.base.settings import LATER, canonical
from tag2mask.data.classes import UNLABELLED
from tag2mask.data.images import image_size
from tag2mask.data.layers import LabelMap
from tag2mask.data.masks import encode_mask, read_mask
from tag2mask.data.samples import Sample
from tag2mask.data.view import IMAGE, LABELS, View, from_whole_view, to_view
from tag2mask.engine.environment import Environment
from tag2mask.engine.system import Batch, Losses, ParameterGroup, Position, System
from tag2mask.engine.training import TrainingSettings, TrainingStage
from tag2mask.engine.workspace import reading_artifact
from tag2mask.errors import SettingsError, unknown_choice
from tag2mask.evaluation.pictures import contact_sheet, evenly_spread, save_sheet
from tag2mask.networks.inference import InferenceSettings
from tag2mask.networks.model_file import ModelHeader, load_model, save_model
from tag2mask.networks.segmenter import HeadSettings, Levels, Segmenter, resize_scores, to_grid
from tag2mask.stages.backbone import BackboneSettings, backbone_and_head, take_weights
from tag2mask.stages.frozen_features import EarlyFeatures, EarlyFeatureSettings, FrozenFeatures, FrozenFeatureSettings
from tag2mask.stages.labels import LabelStage
from tag2mask.stages.maps import MapStage
from tag2mask.stages.saliency_maps import saliency_source
from tag2mask.stages.train_classifier import TrainClassifier
from tag2mask.stages.views import ViewSettings, change_colours, load_photograph, view_photograph
from tag2mask.supervision.fixed_masks import FixedMasks
from tag2mask.supervision.objective import OBJECTIVES, Objective
from tag2mask.supervision.targets import Supervision, Targets

_STRIPS = 6  # photographs whose labels are kept after every epoch
_STRIP_CELLS = 8  # epochs shown of a strip

PRESENT, INSIDE, IMAGE_ON_GRID, WHOLE_IMAGE = "present", "inside", "image_on_grid", "image"
"""What supervisions and objectives can ask for beside the labels: the photograph's tags as bool (C + 1); where the
label grid shows the photograph, bool (h, w); the photograph on that grid, uint8 (3, h, w); and the photograph as the
network sees it, normalised, float32 (3, H, W), also where it reads kept features. Anything else they need is a map,
which the method gives."""


@dataclass(frozen=True)
class SegmenterSettings:
    """The segmentation network and its training.

    Args:
        backbone: the pretrained network under it.
        head: DeepLab-LargeFOV or -ASPP, or the dilated one of SSDD.
        views: sizes and crops in training.
        loss: "cross_entropy", "balanced_seed" (DSRG) or "seed" (SEC).
        label_stride: scores are upsampled to, and labels read at, every so many pixels.
        cache_features: compute features of the frozen blocks once; needs `backbone.frozen_until` and `views.whole`.
        training: optimiser and length.
        scales: every crop is shown in these sizes, losses are summed over them; labels grow on the first.
    """

    backbone: BackboneSettings = field(default_factory=BackboneSettings)
    head: HeadSettings = field(default_factory=HeadSettings)
    views: ViewSettings = field(default_factory=ViewSettings)
    loss: str = "cross_entropy"
    label_stride: int = 1
    cache_features: bool = False
    training: TrainingSettings = field(default_factory=TrainingSettings)
    scales: tuple[float, ...] = field(default=(1.0,), metadata=LATER)

    def __post_init__(self) -> None:
        if self.loss not in OBJECTIVES:
            raise SettingsError(unknown_choice("segmenter.loss", self.loss, OBJECTIVES))
        if self.label_stride < 1:
            raise SettingsError(f"segmenter.label_stride: {self.label_stride} must be above 0")
        if not self.scales or min(self.scales) <= 0 or self.scales[0] != 1:
            raise SettingsError(f"segmenter.scales: {list(self.scales)} must be numbers above 0, the first of them 1")
        if self.cache_features and not self.backbone.frozen_until:
            raise SettingsError(
                "segmenter.cache_features: needs segmenter.backbone.frozen_until, the last frozen block"
            )
        if self.cache_features and not self.views.without_chance:
            raise SettingsError(
                "segmenter.cache_features: needs segmenter.views.whole or stretch, views without chance"
            )
        if self.cache_features and self.views.colour:
            raise SettingsError("segmenter.cache_features: goes with segmenter.views.colour 0 only")
        if self.cache_features and len(self.scales) > 1:
            raise SettingsError("segmenter.cache_features: features are kept at one scale, segmenter.scales has more")


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
        scales: tuple[float, ...] = (1.0,),
        early: str | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.supervision = supervision
        self.objective = objective
        self.head_multiplier = head_multiplier
        self.after = after
        self.scales = scales
        self.early = early

    def forward(self, batch: Batch, position: Position) -> Losses:
        return self.losses(batch, self.scores(batch), position)

    def losses(self, batch: Batch, scores: Tensor, position: Position) -> Losses:
        """The objective's losses, summed over scales.

        Args:
            batch: of it the labels and what supervision and objective need.
            scores: of the batch at scale 1, as `scores` gives them.
            position: of the step.
        """
        targets = self.supervision(batch, scores, self.network, position)
        losses = dict(self.objective(batch, scores, targets))
        for scale in self.scales[1:]:
            for name, (total, count) in self.objective(batch, self.scores(batch, scale), targets).items():
                losses[name] = (losses[name][0] + total, count)
        return losses

    def scores(self, batch: Batch, scale: float = 1.0) -> Tensor:
        """Scores on the label grid, float32 (N, C + 1, h, w), of the batch's images brought to a scale."""
        inputs: Tensor = batch[WHOLE_IMAGE] if self.after is None else batch["features"]
        if scale != 1:
            height, width = inputs.shape[2:]
            inputs = resize_scores(inputs, (max(1, round(height * scale)), max(1, round(width * scale))))
        # In float32: on a GPU the resizing and its gradient would otherwise be summed up in half precision.
        coarse = self.network(inputs, after=self.after).float()
        size = (batch["labels"].shape[1], batch["labels"].shape[2])
        return coarse if coarse.shape[2:] == size else resize_scores(coarse, size)

    def levels(self, batch: Batch) -> Levels:
        """Hidden layer, scores and early features on the label grid, float32; the backbone's as they are."""
        size = (batch["labels"].shape[1], batch["labels"].shape[2])
        if self.after is None:
            found = self.network.levels(batch[WHOLE_IMAGE], early=self.early)
        else:
            found = self.network.levels(batch["features"], after=self.after)
            found = found._replace(early=batch["early"] if self.early else None)
        return Levels(
            features=found.features,
            hidden=resize_scores(found.hidden.float(), size),
            scores=resize_scores(found.scores.float(), size),
            early=None if found.early is None else to_grid(found.early.float(), size),
        )

    @torch.no_grad()
    def targets(self, batch: Batch, position: Position) -> Targets:
        """What the supervision makes of a batch now."""
        return self.supervision(batch, self.scores(batch), self.network, position)

    def parameter_groups(self) -> dict[str, list[ParameterGroup]]:
        return {
            "network": backbone_and_head(self.network.backbone, self.network.head_parameters(), self.head_multiplier)
        }


class TrainSegmenter(TrainingStage):
    """Trains a segmentation network on the labels another stage made.

    Where labels grow, those of a few photographs, evenly spread over the list, are kept after every epoch (of many
    epochs, after some evenly spread ones) as ``growth/<epoch>/<image id>.png``.

    Args:
        labels: the stage whose masks are learnt from, or grown; None where all labels come from the supervision, which
            then sees unlabelled photographs.
        settings: network and training.
        supervision: makes each step's targets.
        objective: the losses; what `settings.loss` names by default.
        maps: further maps and labels that the supervision reads, by the name of its batch entry.
        start: a trained segmenter of the same architecture whose weights are gone on from, or a classifier, whose
            backbone is.
        early: a block whose features the system reads too (`SegmentationSystem.levels`).
        networks: further trained networks that the system uses, by name.
    """

    name = "segmenter"
    version = 2
    reads = frozenset({"images"})
    own_needs: ClassVar[frozenset[str]] = frozenset()
    strips_start: ClassVar[str] = "seeds (pale: unlabelled)"
    strips_file: ClassVar[str] = "seeds_growing_over_epochs.jpg"
    settings: SegmenterSettings

    def __init__(
        self,
        labels: LabelStage | None,
        settings: SegmenterSettings,
        *,
        supervision: Callable[[], Supervision] = FixedMasks,
        objective: Objective | None = None,
        maps: Mapping[str, MapStage | LabelStage] | None = None,
        start: "TrainSegmenter | TrainClassifier | None" = None,
        early: str = "",
        networks: Mapping[str, TrainingStage] | None = None,
    ) -> None:
        settings.backbone.check(cached=settings.cache_features)
        self.labels = labels
        self.maps = dict(maps or {})
        self.start = start
        self.features: FrozenFeatures | None = None
        inputs: dict[str, Any] = {**({"labels": labels} if labels else {}), **self.maps, **(networks or {})}
        classifier = start if isinstance(start, TrainClassifier) else None
        self.early = early
        self.early_features: EarlyFeatures | None = None
        if settings.cache_features:
            self.features = FrozenFeatures(FrozenFeatureSettings(settings.backbone, settings.views), classifier)
            inputs["features"] = self.features
            if early:
                self.early_features = EarlyFeatures(
                    EarlyFeatureSettings(settings.backbone, settings.views, early, settings.label_stride), classifier
                )
                inputs["early_features"] = self.early_features
        if start is not None:
            inputs["start"] = start
        same = (settings.backbone, settings.head)
        if isinstance(start, TrainSegmenter) and (start.settings.backbone, start.settings.head) != same:
            raise SettingsError(
                "retrain.segmenter: backbone and head must be those of segmenter, whose weights are gone on from; "
                "retrain.from_first false starts afresh"
            )
        self.supervision = supervision
        self.objective = objective or OBJECTIVES[settings.loss]()
        self.needs = supervision().needs | self.objective.needs | self.own_needs
        if PRESENT in self.needs:
            self.reads = frozenset({"images", "tags"})
        super().__init__(settings, labels.split if labels else "train", **inputs)

    @property
    def grows(self) -> bool:
        """Whether its labels change while it is trained."""
        return PRESENT in self.supervision().needs

    def training(self) -> TrainingSettings:
        return self.settings.training

    def identity(self, env: Environment) -> Any:
        # A supervision tells its settings in its representation, as torch's modules do (`extra_repr`).
        return [self.settings.backbone.identity, repr(self.supervision()), self.objective.identity]

    def system(self, env: Environment) -> SegmentationSystem:
        system = self.system_to_time(env)
        if isinstance(self.start, TrainClassifier):
            take_weights(system.network.backbone, self.start.load(env).backbone)
        elif self.start is not None:
            system.network.load_state_dict(self.start.load(env).state_dict())
        return system

    def system_to_time(self, env: Environment) -> SegmentationSystem:
        backbone = self.settings.backbone.create(env.runtime.seed)
        return self._system(Segmenter(backbone, len(env.dataset.classes) + 1, self.settings.head))

    def _system(self, network: Segmenter) -> SegmentationSystem:
        return SegmentationSystem(
            network,
            self.supervision(),
            self.objective,
            head_multiplier=self.settings.training.head_multiplier,
            after=self.settings.backbone.frozen_until if self.features else None,
            scales=self.settings.scales,
            early=self.early or None,
        )

    def open(self, env: Environment) -> Callable[[Sample, int], dict[str, Any]]:
        views, seed = self.settings.views, env.runtime.seed
        entries = self._entries(env)

        def example(sample: Sample, epoch: int) -> dict[str, Any]:
            labels = self._labels_of(env, sample)
            view = views.draw((labels.shape[0], labels.shape[1]), seed=seed, epoch=epoch, image_id=sample.id)
            return entries(sample, labels, view, epoch)

        return example

    def _labels_of(self, env: Environment, sample: Sample) -> Tensor:
        """Labels of a photograph at its own size, uint8 (H, W); all unlabelled where no stage makes them."""
        if self.labels is None:
            return torch.full(image_size(sample.image), UNLABELLED, dtype=torch.uint8)
        return torch.from_numpy(self.labels.load(env, sample.id))

    def _entries(self, env: Environment) -> Callable[[Sample, Tensor, View, int | None], dict[str, Any]]:
        """Returns the function of (sample, labels, view, epoch) that gives what a batch holds of a photograph.

        Without an epoch colours stay as they are.
        """
        settings, seed, stride = self.settings, env.runtime.seed, self.settings.label_stride
        backbone = settings.backbone.create(env.runtime.seed)

        def entries(sample: Sample, labels: Tensor, view: View, epoch: int | None) -> dict[str, Any]:
            found: dict[str, Any] = {"labels": to_view(labels, view, LABELS, stride=stride)}
            for name, stage in self.maps.items():
                found[name] = to_view(torch.as_tensor(stage.load(env, sample.id)), view, stage.map_kind, stride=stride)
            if self.early_features is not None:
                found["early"] = self.early_features.load(env, sample.id, mirror=view.mirror)
            if PRESENT in self.needs:
                tags = torch.from_numpy(env.dataset.tag_vector(sample)).bool()
                found[PRESENT] = torch.cat([torch.ones(1, dtype=torch.bool), tags])
            if INSIDE in self.needs:
                found[INSIDE] = to_view(torch.ones_like(labels), view, LABELS, stride=stride, fill=0).bool()
            if self.features is not None:
                found["features"] = self.features.load(env, sample.id, mirror=view.mirror)
            if self.features is not None and not self.needs & {IMAGE_ON_GRID, WHOLE_IMAGE}:
                return found
            image = load_photograph(sample)
            if IMAGE_ON_GRID in self.needs:
                fill = [255 * value for value in backbone.mean]
                on_grid = to_view(image, view, IMAGE, stride=stride, fill=fill)
                found[IMAGE_ON_GRID] = on_grid.round().to(torch.uint8)
            if self.features is None or WHOLE_IMAGE in self.needs:
                if epoch is not None:
                    image = change_colours(image, settings.views.colour, seed=seed, epoch=epoch, image_id=sample.id)
                found[WHOLE_IMAGE] = view_photograph(image, view, backbone)
            return found

        return entries

    def example(self, env: Environment) -> dict[str, Tensor]:
        crop = self.settings.views.crop
        side = -(-crop // self.settings.label_stride)
        example = {"labels": torch.zeros(side, side, dtype=torch.uint8)}
        if self.features is not None:
            example["features"] = torch.zeros(self.features.shape(env))
        if self.features is None or WHOLE_IMAGE in self.needs:
            example[WHOLE_IMAGE] = torch.zeros(3, crop, crop)
        if self.early_features is not None:
            example["early"] = torch.zeros(self.early_features.shape(env))
        for name in self.maps:
            example[name] = torch.zeros(side, side, dtype=torch.int32)
        if PRESENT in self.needs:
            example[PRESENT] = torch.ones(len(env.dataset.classes) + 1, dtype=torch.bool)
        if INSIDE in self.needs:
            example[INSIDE] = torch.ones(side, side, dtype=torch.bool)
        if IMAGE_ON_GRID in self.needs:
            example[IMAGE_ON_GRID] = torch.zeros(3, side, side, dtype=torch.uint8)
        return example

    def online_labels(self, system: SegmentationSystem, env: Environment) -> Callable[[Sample], Tensor]:
        """Returns the function that makes a photograph's targets as the system would now, uint8 at its own size.

        They are made on the label grid of the whole photograph, and brought to its pixels by nearest neighbour.
        """
        entries, views, stride = self._entries(env), self.settings.views, self.settings.label_stride
        runtime = env.runtime

        def make(sample: Sample) -> Tensor:
            labels = self._labels_of(env, sample)
            size = (labels.shape[0], labels.shape[1])
            view = views.whole_view(size, mirror=False)
            found = entries(sample, labels, view, None)
            batch: Batch = {name: value[None].to(runtime.torch_device) for name, value in found.items()}
            with runtime.autocast():
                targets = system.targets(batch, Position(0, 1, 0, runtime.seed))
            return from_whole_view(targets.labels[0].cpu(), view, size, stride=stride)

        return make

    def after_epoch(self, system: System, env: Environment, epoch: int) -> None:
        if not self.grows or epoch not in self._shown_epochs(env):
            return
        assert isinstance(system, SegmentationSystem)
        system.eval()
        labels = self.online_labels(system, env)
        for sample in self._strip_samples(env):
            write_bytes(self._growth(env, epoch, sample.id), encode_mask(labels(sample).numpy()))
        system.train()

    def _strip_samples(self, env: Environment) -> list[Sample]:
        samples = self.samples(env)
        return [samples[index] for index in evenly_spread(_STRIPS, len(samples))]

    def _shown_epochs(self, env: Environment) -> list[int]:
        """The epochs after which labels are kept: the first, the last and some evenly spread between them."""
        training, count = self.settings.training, len(self.samples(env))
        epochs = -(-training.total_steps(count) // training.steps_per_epoch(count))
        return sorted({0, *evenly_spread(_STRIP_CELLS - 2, epochs), epochs - 1})

    def _growth(self, env: Environment, epoch: int, image_id: str) -> Path:
        return self.folder(env) / "growth" / f"{epoch + 1:03d}" / f"{image_id}.png"

    def draw(self, env: Environment, folder: Path) -> list[Path]:
        """Seeds that grow over the epochs, a strip per photograph (DSRG, figure 1)."""
        if not self.grows:
            return []
        shown = self._shown_epochs(env)
        rows, captions = [], []
        for sample in self._strip_samples(env):
            image = load_photograph(sample).permute(1, 2, 0).numpy()
            masks = [self._labels_of(env, sample).numpy()]
            for epoch in shown:
                path = self._growth(env, epoch, sample.id)
                with reading_artifact(path, self.folder(env)):
                    masks.append(read_mask(path))
            rows.append([image, *(LabelMap(mask).over(image) for mask in masks)])
            tags = ", ".join(env.dataset.classes[tag - 1] for tag in sample.tags)
            captions.append(f"{sample.id}: {tags}")
        titles = ["photograph", self.strips_start, *(f"after epoch {epoch + 1}" for epoch in shown)]
        path = folder / self.strips_file
        save_sheet(path, contact_sheet(titles, rows, captions))
        return [path]

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
            saliency=saliency_source(self),
        )
        save_model(path, network, header)

    def load(self, env: Environment) -> Segmenter:
        """The trained network on the environment's device."""
        with reading_artifact(self.model_path(env), self.folder(env)):
            network, _ = load_model(self.model_path(env))
        assert isinstance(network, Segmenter)
        return env.runtime.place(network)

    def trained_system(self, env: Environment) -> SegmentationSystem:
        """The trained network with its supervision, on the environment's device, in evaluation mode."""
        return env.runtime.place(self._system(self.load(env))).eval()


def train_segmenter(
    labels: LabelStage | None,
    settings: SegmenterSettings,
    *,
    supervision: Callable[[], Supervision] = FixedMasks,
    objective: Objective | None = None,
    maps: Mapping[str, MapStage | LabelStage] | None = None,
    start: TrainSegmenter | TrainClassifier | None = None,
) -> TrainSegmenter:
    """A segmentation network trained on labels; the arguments are `TrainSegmenter`'s."""
    return TrainSegmenter(labels, settings, supervision=supervision, objective=objective, maps=maps, start=start)
