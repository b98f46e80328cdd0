"""RRM's single stage, and AALR's: a segmenter that learns from the CAMs of a second head on its own backbone."""

import dataclasses
from pathlib import Path
from typing import Any

from tag2mask.base.files import atomic_path
from tag2mask.base.settings import canonical
from tag2mask.engine.environment import Environment
from tag2mask.engine.workspace import reading_artifact
from tag2mask.errors import SettingsError
from tag2mask.networks.classifier import Classifier
from tag2mask.networks.inference import ScaleSettings
from tag2mask.networks.model_file import ModelHeader, load_model, save_model
from tag2mask.networks.segmenter import Segmenter
from tag2mask.networks.single_stage import CamBranch
from tag2mask.networks.trunks import single
from tag2mask.stages.backbone import BackboneSettings, take_weights
from tag2mask.stages.grown_labels import GrownLabels, grown_labels
from tag2mask.stages.label_strips import LabelStrips
from tag2mask.stages.segmenter_inputs import IMAGE_ON_GRID, INSIDE, PRESENT, SegmenterInputs
from tag2mask.stages.segmenter_settings import SegmenterTrainingSettings
from tag2mask.stages.segmenter_training import SegmenterTraining
from tag2mask.stages.single_stage.single_stage_settings import SingleStageParts, check_parts
from tag2mask.stages.single_stage.single_stage_system import SingleStageSystem
from tag2mask.stages.train_classifier import TrainClassifier

CLASSIFIER_FILE = "classifier.safetensors"


class TrainSingleStage(SegmenterTraining):
    """Trains a segmenter on labels that a CAM head on its own backbone makes at every step.

    Leaves ``model.safetensors``, the segmenter as any other, and ``classifier.safetensors``, backbone and CAM head as a
    classifier. The online labels of a few images are kept over the epochs, as where labels grow.

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
        check_parts(segmenter, parts)
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
        if start is not None:
            own, read = self.settings.backbone.facts.block, self._cam_backbone.facts
            if own not in read.blocks:
                raise SettingsError(
                    f"segmenter.backbone.block: '{own}' comes after '{read.block}', which the classifier reads"
                )

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
        trunk, settings = single(network.backbone), self._cam_backbone
        shared = settings.block == self.settings.backbone.block
        backbone = trunk if shared else settings.create(env.runtime.seed)
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
        block = self.classifier.backbone.block if self.classifier else self.settings.backbone.block
        return dataclasses.replace(self.settings.backbone, block=block)

    def classifier_path(self, env: Environment) -> Path:
        """The file of the CAM head and its backbone."""
        return self.folder(env) / CLASSIFIER_FILE

    def save(self, system: Any, env: Environment, path: Path) -> None:
        assert isinstance(system, SingleStageSystem)
        classifier = system.cam.complete(single(system.network.backbone))
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


def train_single_stage(
    segmenter: SegmenterTrainingSettings, parts: SingleStageParts, classifier: TrainClassifier
) -> TrainSingleStage:
    """A segmenter that learns from its own CAMs, from the network that `single_stage.start` says."""
    return TrainSingleStage(segmenter, parts, start=classifier if parts.settings.start == "classifier" else None)


def online_labels(segmenter: TrainSingleStage) -> GrownLabels:
    """The online labels of the training images, as the trained network's CAMs give them."""
    return grown_labels(segmenter)
