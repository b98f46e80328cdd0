"""SSDD's dynamic training: a segmenter on masks that two difference detections refine at every step."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from tag2mask.base.files import atomic_path, write_bytes
from tag2mask.base.settings import canonical
from tag2mask.data.resizing import resize_scores
from tag2mask.engine.environment import Environment
from tag2mask.engine.system import Batch, Losses, ParameterGroup, Position, System
from tag2mask.engine.workspace import reading_artifact
from tag2mask.errors import SettingsError, unknown_choice
from tag2mask.networks.difference_net import DifferenceNet, load_difference_nets, save_difference_nets
from tag2mask.networks.heads import ASPP, Dilated, LargeFOV
from tag2mask.networks.segmenter import Segmenter, make_head
from tag2mask.networks.tensor_file import module_tensors
from tag2mask.stages.backbone import Start, check_start
from tag2mask.stages.difference.difference_settings import (
    DifferenceNetSettings,
    DynamicSegmenterSettings,
    PairSettings,
    check_paired,
)
from tag2mask.stages.difference.train_difference import DIFFERENCE_FILE
from tag2mask.stages.grown_labels import GrownLabels, grown_labels
from tag2mask.stages.growth import OnlineCRFSettings
from tag2mask.stages.label_strips import LabelStrips
from tag2mask.stages.labels import LabelStage
from tag2mask.stages.segmentation_system import SegmentationSystem, label_grid, on_label_grid
from tag2mask.stages.segmenter_inputs import IMAGE_ON_GRID, INSIDE, PRESENT, SegmenterInputs
from tag2mask.stages.segmenter_training import SegmenterTraining
from tag2mask.stages.train_classifier import TrainClassifier
from tag2mask.supervision.difference import SECOND_PAIRS, Branch, DynamicRefinement, DynamicStep
from tag2mask.supervision.targets import Targets

SUB_HEAD_FILE = "sub_head.safetensors"


@dataclass(frozen=True)
class DynamicSettings:
    """SSDD's dynamic part (Shimoda & Yanai, ICCV 2019, section 4).

    Args:
        segmenter: network and training; a head with one hidden layer, which both branches have.
        difference: both DD-Nets.
        pair: how masks are refined, the same for both pairs.
        online_crf: the CRF at every step; the paper's has 3 iterations on a grid of 112, widths not scaled to it.
        alpha: share of the seeds in what the sub branch learns from.
        second_pair: the mask beside the seeds that DD-Net 2 learns on: "ssdd1", or "ssdd2" as in the authors' code.
        start: "classifier" or "pretrained", the backbone that the training starts from.
    """

    segmenter: DynamicSegmenterSettings = field(default_factory=DynamicSegmenterSettings)
    difference: DifferenceNetSettings = field(default_factory=DifferenceNetSettings)
    pair: PairSettings = field(default_factory=lambda: PairSettings(bias=0.4, background_bias=0.0))
    online_crf: OnlineCRFSettings = field(default_factory=lambda: OnlineCRFSettings(iterations=3, shrink=1.0))
    alpha: float = 0.5
    second_pair: Literal["ssdd1", "ssdd2"] = "ssdd1"
    start: Start = "classifier"

    def __post_init__(self) -> None:
        check_paired(self.segmenter)
        if not 0 <= self.alpha <= 1:
            raise SettingsError(f"dynamic.alpha: {self.alpha} must lie between 0 and 1")
        if self.second_pair not in SECOND_PAIRS:
            raise SettingsError(unknown_choice("dynamic.second_pair", self.second_pair, SECOND_PAIRS))
        check_start("dynamic.start", self.start)


class DynamicSystem(SegmentationSystem):
    """Two segmentation heads on one backbone and two DD-Nets.

    The main branch is the network's own head, the sub branch another like it. The DD-Nets have an optimiser of their
    own, at the rate of new layers, and read features without gradient: they and the segmenter never share one.

    Args:
        network: the segmenter with the main branch.
        sub: the sub branch's head.
        refinement: DD-Nets, CRF and losses.
        early: the block of the low-level features; empty for none.
        options: further ones of `SegmentationSystem`.
    """

    def __init__(
        self,
        network: Segmenter,
        sub: LargeFOV | Dilated,
        refinement: DynamicRefinement,
        *,
        early: str,
        **options: Any,
    ) -> None:
        super().__init__(network, **options)
        self.sub = sub
        self.refinement = refinement
        self.early = early

    def losses(self, batch: Batch, position: Position) -> Losses:
        """The four losses of eq. 12, by name; see `DynamicRefinement.losses`."""
        main, sub, early = self.branches(batch)
        return self.refinement.losses(self._step(batch, main, sub, early), main, sub)

    def targets(self, batch: Batch, position: Position) -> Targets:
        """m_ssdd2 of a batch."""
        return Targets(self.refine(batch).ssdd2)

    @torch.no_grad()
    def refine(self, batch: Batch) -> DynamicStep:
        """Masks and difference maps of a batch, without gradient."""
        return self._step(batch, *self.branches(batch))

    def branches(self, batch: Batch) -> tuple[Branch, Branch, Tensor | None]:
        """Main branch, sub branch and low-level features of a batch, on the label grid, float32."""
        size = label_grid(batch)
        levels = on_label_grid(self.levels(batch, self.early or None), size)
        hidden = self.sub.hidden(levels.features)
        scores = self.sub.classify(hidden)
        sub = Branch(resize_scores(scores.float(), size), resize_scores(hidden.float(), size))
        return Branch(levels.scores, levels.hidden), sub, levels.early

    def _step(self, batch: Batch, main: Branch, sub: Branch, early: Tensor | None) -> DynamicStep:
        step: DynamicStep = self.refinement(
            main, sub, early, batch["labels"], batch[PRESENT], batch[INSIDE], batch[IMAGE_ON_GRID]
        )
        return step

    def parameter_groups(self) -> dict[str, list[ParameterGroup]]:
        backbone, head = super().parameter_groups()["network"]
        heads = ParameterGroup([*head.parameters, *self.sub.parameters()], head.multiplier)
        trained = [parameter for parameter in self.refinement.parameters() if parameter.requires_grad]
        return {"network": [backbone, heads], "difference": [ParameterGroup(trained, self.head_multiplier)]}


class TrainDynamic(SegmenterTraining):
    """Trains a segmenter on seeds that difference detection refines at every step.

    Leaves ``model.safetensors``, the main branch as any other segmenter, ``difference.safetensors``, the DD-Nets
    ("crf" and "seed"), and ``sub_head.safetensors``, the sub branch's head, whose hidden layer the latter reads. The
    masks learnt from, m_ssdd2, are kept of a few images over the epochs, as where labels grow.

    Args:
        seeds: m_ssdd0; any masks of background and tagged classes will do.
        settings: everything.
        start: a classifier whose backbone is gone on from; None starts from the pretrained one.

    Raises:
        SettingsError: settings do not go together.
    """

    name = "segmenter_dynamic"
    version = 1
    strips = LabelStrips(start="seeds", file="training_masks_over_epochs.jpg")

    def __init__(self, seeds: LabelStage, settings: DynamicSettings, *, start: TrainClassifier | None = None) -> None:
        segmenter = settings.segmenter
        self.dynamic = settings
        self.early = settings.difference.low(segmenter.backbone, cached=segmenter.cache_features)
        batch = SegmenterInputs(segmenter, seeds, needs=DynamicRefinement.needs, classifier=start, early=self.early)
        super().__init__(segmenter, batch, start=start)

    def identity(self, env: Environment) -> Any:
        dynamic = canonical(self.dynamic, for_fingerprint=True)
        # The segmenter is the stage's own settings, and where it starts from an input.
        return [super().identity(env), {name: dynamic[name] for name in dynamic if name not in ("segmenter", "start")}]

    def system_of(self, network: Segmenter, env: Environment) -> DynamicSystem:
        nets = [self.dynamic.difference.create(network, self.early) for _ in range(2)]
        return self._parts(network, *nets)

    def _parts(
        self, network: Segmenter, difference_crf: DifferenceNet, difference_seed: DifferenceNet
    ) -> DynamicSystem:
        settings = self.dynamic
        sub = make_head(network.backbone.channels, network.classes, self.settings.head)
        assert not isinstance(sub, ASPP)
        refinement = DynamicRefinement(
            difference_crf,
            difference_seed,
            settings.online_crf.module(),
            bias=settings.pair.bias,
            background_bias=settings.pair.background_bias,
            class_bias=float(settings.pair.class_terms),
            share=settings.pair.lost_below,
            alpha=settings.alpha,
            second_pair=settings.second_pair,
        )
        return DynamicSystem(
            network,
            sub,
            refinement,
            early=self.early,
            head_multiplier=self.settings.training.head_multiplier,
            after=self.batch.after,
        )

    def difference_path(self, env: Environment) -> Path:
        """The file of the DD-Nets."""
        return self.folder(env) / DIFFERENCE_FILE

    def sub_head_path(self, env: Environment) -> Path:
        """The file of the sub branch's head."""
        return self.folder(env) / SUB_HEAD_FILE

    def save(self, system: System, env: Environment, path: Path) -> None:
        assert isinstance(system, DynamicSystem)
        # Before the model file, whose presence says that the training is over.
        write_bytes(self.sub_head_path(env), save_tensors(module_tensors(system.sub)))
        nets = {"crf": system.refinement.difference_crf, "seed": system.refinement.difference_seed}
        settings = {
            "classes": env.dataset.classes,
            "low_block": self.early,
            "label_stride": self.settings.label_stride,
        }
        with atomic_path(self.difference_path(env)) as aside:
            save_difference_nets(aside, nets, settings)
        super().save(system, env, path)

    def trained_system(self, env: Environment) -> DynamicSystem:
        """All that was trained, on the environment's device, in evaluation mode.

        Raises:
            WorkspaceError: a file is missing or damaged.
        """
        network, folder = self.load(env), self.folder(env)
        with reading_artifact(self.difference_path(env), folder):
            nets = load_difference_nets(self.difference_path(env))
            system = self._parts(network, nets["crf"], nets["seed"])
        with reading_artifact(self.sub_head_path(env), folder):
            system.sub.load_state_dict(load_tensors(self.sub_head_path(env).read_bytes()))
        return env.runtime.place(system).eval()


def train_dynamic(seeds: LabelStage, settings: DynamicSettings, classifier: TrainClassifier) -> TrainDynamic:
    """A segmenter trained on seeds that are refined at every step, from the backbone that `settings.start` says."""
    return TrainDynamic(seeds, settings, start=classifier if settings.start == "classifier" else None)


def dynamic_labels(segmenter: TrainDynamic) -> GrownLabels:
    """m_ssdd2 of the training images, as the trained networks refine the seeds."""
    return grown_labels(segmenter)
