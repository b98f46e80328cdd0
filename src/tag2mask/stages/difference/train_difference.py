"""SSDD's static training: a segmenter on fixed masks and, beside it, a network that predicts where others differ."""

from pathlib import Path
from typing import Any

from torch import Tensor

from tag2mask.base.files import atomic_path
from tag2mask.base.settings import canonical
from tag2mask.engine.environment import Environment
from tag2mask.engine.system import Batch, Losses, ParameterGroup, Position, System
from tag2mask.engine.workspace import reading_artifact
from tag2mask.losses.difference import difference_loss
from tag2mask.networks.difference_net import DifferenceNet, load_difference_nets, save_difference_nets
from tag2mask.networks.segmenter import Levels, Segmenter
from tag2mask.refine.difference import difference_map, missing_classes
from tag2mask.stages.difference.difference_settings import DifferenceNetSettings, PairedSegmenterSettings, check_paired
from tag2mask.stages.labels import LabelStage
from tag2mask.stages.segmentation_system import SegmentationSystem, label_grid, on_label_grid, own_labels
from tag2mask.stages.segmenter_inputs import INSIDE, PRESENT, SegmenterInputs
from tag2mask.stages.segmenter_training import SegmenterTraining
from tag2mask.stages.train_classifier import TrainClassifier
from tag2mask.supervision.objective import OBJECTIVES, Objective
from tag2mask.supervision.targets import Targets

DIFFERENCE_FILE = "difference.safetensors"

_AFTER = "after"  # batch entry of the other mask; the one before is "labels"
_NET = "difference"  # the network's name in its file


class StaticSystem(SegmentationSystem):
    """A segmenter on the masks before, and a DD-Net on the pairs (Shimoda & Yanai, SSDD, ICCV 2019, eq. 5 and 6).

    The DD-Net's gradient does not reach the segmenter: it reads features without gradient.

    Args:
        network: the segmenter.
        difference: the DD-Net, for its hidden layer, early features and classes.
        objective: of the segmenter.
        lost_below: images of which the change loses a class this far teach the DD-Net nothing.
        early: the block of the low-level features; empty for none.
        options: further ones of `SegmentationSystem`.
    """

    def __init__(
        self,
        network: Segmenter,
        difference: DifferenceNet,
        objective: Objective,
        *,
        lost_below: float,
        early: str,
        **options: Any,
    ) -> None:
        super().__init__(network, **options)
        self.difference = difference
        self.objective = objective
        self.lost_below = lost_below
        self.early = early

    def losses(self, batch: Batch, position: Position) -> Losses:
        """L_static by its two parts: "segmentation" (the objective, on before) and "change".

        "change" is the mean of the two difference losses, from before and from after. An image whose crop loses a class
        takes no part in it, and neither does the padding.
        """
        before, after = batch["labels"], batch[_AFTER]
        levels = self.grid_levels(batch)
        (segmentation,) = self.objective(batch, levels.scores, Targets(labels=before)).values()
        differs = difference_map(before, after)
        good = ~missing_classes(before, after, batch[PRESENT], share=self.lost_below).any(1)
        (of_before, count), (of_after, _) = (
            difference_loss(logits, differs, inside=batch[INSIDE], samples=good)
            for logits in self.differences(levels, before, after)
        )
        return {"segmentation": segmentation, "change": ((of_before + of_after) / 2, count)}

    def targets(self, batch: Batch, position: Position) -> Targets:
        return own_labels(batch)

    def grid_levels(self, batch: Batch) -> Levels:
        """Hidden layer, scores and low-level features of a batch on its label grid."""
        return on_label_grid(self.levels(batch, self.early or None), label_grid(batch))

    def differences(self, levels: Levels, before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
        """d of both masks of a pair: where each says that the other differs.

        Args:
            levels: of the images, as `grid_levels` gives them.
            before: class ids (N, h, w) on the label grid.
            after: the other mask.

        Returns:
            logits, float32 (N, h, w) each.
        """
        return self.difference.pair(self.difference.shared(levels.hidden, levels.early), before, after)

    def parameter_groups(self) -> dict[str, list[ParameterGroup]]:
        trained = [parameter for parameter in self.difference.parameters() if parameter.requires_grad]
        return {**super().parameter_groups(), "difference": [ParameterGroup(trained, self.head_multiplier)]}


class TrainDifference(SegmenterTraining):
    """Trains a segmenter on the masks before and a DD-Net on the pairs of masks before and after.

    Leaves ``model.safetensors``, the segmenter as any other, and ``difference.safetensors``, the DD-Net.

    Args:
        before: masks that are learnt, m_psa in the paper.
        after: masks that another step made of them, m_crf0 in the paper.
        settings: the segmenter and the training of both; a head with one hidden layer.
        difference: the DD-Net.
        lost_below: see `StaticSystem`.
        start: a classifier whose backbone is gone on from; None starts from the pretrained one.

    Raises:
        SettingsError: settings do not go together.
    """

    name = "difference_net"
    version = 1
    settings: PairedSegmenterSettings
    takes = PairedSegmenterSettings

    def __init__(
        self,
        before: LabelStage,
        after: LabelStage,
        settings: PairedSegmenterSettings,
        difference: DifferenceNetSettings,
        *,
        lost_below: float = 0.5,
        start: TrainClassifier | None = None,
    ) -> None:
        check_paired(settings)
        if before.split != after.split:
            raise ValueError(f"masks of {before.split} and of {after.split} make no pairs")
        self.before, self.after = before, after
        self.difference = difference
        self.lost_below = lost_below
        self.early = difference.low(settings.backbone, cached=settings.cache_features)
        self.objective = OBJECTIVES[settings.loss]()
        batch = SegmenterInputs(
            settings,
            before,
            needs=self.objective.needs | {PRESENT, INSIDE},
            maps={_AFTER: after},
            classifier=start,
            early=self.early,
        )
        super().__init__(settings, batch, start=start)

    def identity(self, env: Environment) -> Any:
        difference = canonical(self.difference, for_fingerprint=True)
        return [super().identity(env), self.objective.identity, difference, self.lost_below]

    def system_of(self, network: Segmenter, env: Environment) -> StaticSystem:
        return self._pair(network, self.difference.create(network, self.early))

    def _pair(self, network: Segmenter, difference: DifferenceNet) -> StaticSystem:
        return StaticSystem(
            network,
            difference,
            self.objective,
            lost_below=self.lost_below,
            early=self.early,
            head_multiplier=self.settings.training.head_multiplier,
            after=self.batch.after,
        )

    def difference_path(self, env: Environment) -> Path:
        """The file of the DD-Net."""
        return self.folder(env) / DIFFERENCE_FILE

    def save(self, system: System, env: Environment, path: Path) -> None:
        assert isinstance(system, StaticSystem)
        # Before the model file, whose presence says that the training is over.
        with atomic_path(self.difference_path(env)) as aside:
            save_difference_nets(
                aside,
                {_NET: system.difference},
                {"classes": env.dataset.classes, "low_block": self.early, "label_stride": self.settings.label_stride},
            )
        super().save(system, env, path)

    def load_nets(self, env: Environment) -> tuple[Segmenter, DifferenceNet]:
        """The trained segmenter and DD-Net, on the environment's device, in evaluation mode.

        Raises:
            WorkspaceError: a file is missing or damaged.
        """
        path = self.difference_path(env)
        with reading_artifact(path, self.folder(env)):
            difference = load_difference_nets(path)[_NET]
        return self.load(env), env.runtime.place(difference)

    def trained_system(self, env: Environment) -> StaticSystem:
        return env.runtime.place(self._pair(*self.load_nets(env))).eval()

    def image_system(self, env: Environment) -> StaticSystem:
        """The same for images whose features are not kept: it reads "image" in any case."""
        system = self.trained_system(env)
        system.after = None
        return system
