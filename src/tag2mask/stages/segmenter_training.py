"""Trainings whose product is a segmenter: the stage that all of them are."""

import dataclasses
from abc import abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from tag2mask.base.settings import canonical
from tag2mask.data.samples import Sample
from tag2mask.data.view import from_whole_view
from tag2mask.engine.environment import Environment
from tag2mask.engine.system import Batch, Position, System
from tag2mask.engine.training import TrainingSettings, TrainingStage
from tag2mask.engine.workspace import reading_artifact
from tag2mask.errors import SettingsError
from tag2mask.networks.inference import InferenceSettings
from tag2mask.networks.model_file import ModelHeader, load_model, save_model
from tag2mask.networks.segmenter import Segmenter
from tag2mask.stages.backbone import take_weights
from tag2mask.stages.label_strips import LabelStrips
from tag2mask.stages.saliency_used import saliency_source
from tag2mask.stages.segmentation_system import SegmentationSystem
from tag2mask.stages.segmenter_inputs import SegmenterInputs
from tag2mask.stages.segmenter_settings import SegmenterTrainingSettings
from tag2mask.stages.train_classifier import TrainClassifier


class SegmenterTraining(TrainingStage):
    """Trains a segmentation network and leaves it as ``model.safetensors``.

    What a training adds: a `system` around the network, its losses and where its targets come from. Where labels
    change while it learns, `strips` says how those of a few images are kept and shown.

    Args:
        settings: network and training; of the class that `takes` names, or one with more settings at their defaults.
        batch: what a batch holds.
        start: a trained segmenter of the same architecture whose weights are gone on from, or a classifier, whose
            backbone is.
        networks: further trained networks that the system uses, by name.
    """

    version = 2
    settings: SegmenterTrainingSettings
    strips: LabelStrips | None = None
    takes: ClassVar[type[SegmenterTrainingSettings]] = SegmenterTrainingSettings

    def __init__(
        self,
        settings: SegmenterTrainingSettings,
        batch: SegmenterInputs,
        *,
        start: "SegmenterTraining | TrainClassifier | None" = None,
        networks: Mapping[str, TrainingStage] | None = None,
    ) -> None:
        self._check_known(settings)
        if isinstance(start, TrainClassifier):
            # Told now, not after the classifier's training.
            start.settings.trunk.single("classifier.trunks")
        self.batch = batch
        self.start = start
        self.reads = batch.reads
        inputs = {**batch.label_stages, **(networks or {}), **batch.feature_stages}
        super().__init__(settings, batch.split, **inputs, **({"start": start} if start is not None else {}))

    def _check_known(self, settings: SegmenterTrainingSettings) -> None:
        """Check for settings that this training has not: those of another one, given in Python.

        Raises:
            SettingsError: one has another value than its default.
        """
        known = {field.name for field in dataclasses.fields(self.takes)}
        for field in dataclasses.fields(settings):
            if field.name not in known and getattr(settings, field.name) != field.default:
                raise SettingsError(f"segmenter.{field.name}: the stage '{self.name}' has no such setting")

    @abstractmethod
    def system_of(self, network: Segmenter, env: Environment) -> SegmentationSystem:
        """The system around a segmenter, everything else in it as it is before the first step."""

    def training(self) -> TrainingSettings:
        return self.settings.training

    def identity(self, env: Environment) -> Any:
        return self.settings.trunk.identity

    def system(self, env: Environment) -> SegmentationSystem:
        system = self.system_to_time(env)
        if isinstance(self.start, TrainClassifier):
            take_weights(system.network.backbone, self.start.load(env).backbone)
        elif self.start is not None:
            system.network.load_state_dict(self.start.load(env).state_dict())
        return system

    def system_to_time(self, env: Environment) -> SegmentationSystem:
        backbone = self.batch.network(env)
        return self.system_of(Segmenter(backbone, len(env.dataset.classes) + 1, self.settings.head), env)

    def open(self, env: Environment) -> Callable[[Sample, int], dict[str, Any]]:
        return self.batch.open(env)

    def example(self, env: Environment) -> dict[str, Tensor]:
        return self.batch.example(env)

    def online_labels(self, system: SegmentationSystem, env: Environment) -> Callable[[Sample], Tensor]:
        """Returns the function that makes an image's targets as the system would now, uint8 at its own size.

        They are made on the label grid of the whole image, and brought to its pixels by nearest neighbour.
        """
        batch, stride, runtime = self.batch, self.settings.label_stride, env.runtime
        entries = batch.entries(env)

        def make(sample: Sample) -> Tensor:
            labels = batch.labels_of(env, sample)
            size = (labels.shape[0], labels.shape[1])
            view = batch.whole_view(size)
            found = entries(sample, labels, view, None)
            one: Batch = {name: value[None].to(runtime.torch_device) for name, value in found.items()}
            with runtime.autocast():
                targets = system.targets(one, Position(0, 1, 0, runtime.seed))
            return from_whole_view(targets.labels[0].cpu(), view, size, stride=stride)

        return make

    def after_epoch(self, system: System, env: Environment, epoch: int) -> None:
        if self.strips is None:
            return
        assert isinstance(system, SegmentationSystem)
        changing = system.eval()
        self.strips.keep(self, env, epoch, lambda: self.online_labels(changing, env))
        system.train()

    def draw(self, env: Environment, folder: Path) -> list[Path]:
        if self.strips is None:
            return []
        return self.strips.draw(self, env, folder, lambda sample: self.batch.labels_of(env, sample))

    def save(self, system: System, env: Environment, path: Path) -> None:
        assert isinstance(system, SegmentationSystem)
        network = system.network
        header = ModelHeader(
            kind="segmenter",
            classes=env.dataset.classes,
            backbone=self.settings.trunk.architecture,
            head=canonical(self.settings.head),
            inference=canonical(InferenceSettings(long_side=self.settings.views.crop)),
            weights=self.settings.trunk.licence,
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
        """All that was trained, on the environment's device, in evaluation mode."""
        return env.runtime.place(self.system_of(self.load(env), env)).eval()
