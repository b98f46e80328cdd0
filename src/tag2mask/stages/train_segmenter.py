"""Training the segmentation network, on labels that are fixed or that grow while it learns."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from tag2mask.engine.environment import Environment
from tag2mask.engine.system import Batch, Losses, Position
from tag2mask.errors import SettingsError
from tag2mask.networks.segmenter import Segmenter
from tag2mask.stages.label_strips import LabelStrips
from tag2mask.stages.labels import LabelStage
from tag2mask.stages.maps import MapStage
from tag2mask.stages.segmentation_system import SegmentationSystem, losses_over_scales
from tag2mask.stages.segmenter_inputs import PRESENT, SegmenterInputs
from tag2mask.stages.segmenter_settings import SegmenterSettings
from tag2mask.stages.segmenter_training import SegmenterTraining
from tag2mask.stages.train_classifier import TrainClassifier
from tag2mask.supervision.fixed_masks import FixedMasks
from tag2mask.supervision.objective import OBJECTIVES, Objective
from tag2mask.supervision.targets import Supervision, Targets

_GROWTH = LabelStrips(start="seeds (pale: unlabelled)", file="seeds_growing_over_epochs.jpg")


class ObjectiveSystem(SegmentationSystem):
    """A segmentation network, where its targets come from, and its objective.

    Args:
        network: the segmenter.
        supervision: makes each step's targets.
        objective: the losses.
        scales: of the images; targets are made on the first, 1.
        options: further ones of `SegmentationSystem`.
    """

    def __init__(
        self,
        network: Segmenter,
        supervision: Supervision,
        objective: Objective,
        *,
        scales: Sequence[float] = (1.0,),
        **options: Any,
    ) -> None:
        super().__init__(network, **options)
        self.supervision = supervision
        self.objective = objective
        self.scales = tuple(scales)

    def losses(self, batch: Batch, position: Position) -> Losses:
        scores = self.scores(batch)
        targets = self.supervision(batch, scores, self.network, position)
        return losses_over_scales(self, self.objective, batch, scores, targets, self.scales)

    @torch.no_grad()
    def targets(self, batch: Batch, position: Position) -> Targets:
        return self.supervision(batch, self.scores(batch), self.network, position)


class TrainSegmenter(SegmenterTraining):
    """Trains a segmentation network on the labels another stage made.

    Where labels grow, those of a few images are kept over the epochs (`LabelStrips`).

    Args:
        labels: the stage whose masks are learnt from, or grown.
        settings: network and training.
        supervision: makes each step's targets.
        objective: the losses; what `settings.loss` names by default.
        maps: further maps and labels that the supervision reads, by the name of its batch entry.
        start: a trained segmenter of the same architecture whose weights are gone on from, or a classifier, whose
            backbone is.

    Raises:
        SettingsError: settings do not go together.
    """

    name = "segmenter"
    settings: SegmenterSettings
    takes = SegmenterSettings

    def __init__(
        self,
        labels: LabelStage,
        settings: SegmenterSettings,
        *,
        supervision: Callable[[], Supervision] = FixedMasks,
        objective: Objective | None = None,
        maps: Mapping[str, MapStage | LabelStage] | None = None,
        start: SegmenterTraining | TrainClassifier | None = None,
    ) -> None:
        same = (settings.trunk, settings.head)
        if isinstance(start, SegmenterTraining) and (start.settings.trunk, start.settings.head) != same:
            raise SettingsError(
                "retrain.segmenter: backbone and head must be those of segmenter, whose weights are gone on from; "
                "retrain.from_first false starts afresh"
            )
        self.labels = labels
        self.supervision = supervision
        self.objective = objective or OBJECTIVES[settings.loss]()
        batch = SegmenterInputs(
            settings,
            labels,
            needs=supervision().needs | self.objective.needs,
            maps=maps,
            classifier=start if isinstance(start, TrainClassifier) else None,
        )
        self.strips = _GROWTH if PRESENT in supervision().needs else None
        super().__init__(settings, batch, start=start)

    def identity(self, env: Environment) -> Any:
        # A supervision tells its settings in its representation, as torch's modules do (`extra_repr`).
        return [super().identity(env), repr(self.supervision()), self.objective.identity]

    def system_of(self, network: Segmenter, env: Environment) -> ObjectiveSystem:
        return ObjectiveSystem(
            network,
            self.supervision(),
            self.objective,
            scales=self.settings.scales,
            head_multiplier=self.settings.training.head_multiplier,
            after=self.batch.after,
        )


def train_segmenter(
    labels: LabelStage,
    settings: SegmenterSettings,
    *,
    supervision: Callable[[], Supervision] = FixedMasks,
    objective: Objective | None = None,
    maps: Mapping[str, MapStage | LabelStage] | None = None,
    start: SegmenterTraining | TrainClassifier | None = None,
) -> TrainSegmenter:
    """A segmentation network trained on labels; the arguments are `TrainSegmenter`'s."""
    return TrainSegmenter(labels, settings, supervision=supervision, objective=objective, maps=maps, start=start)
