"""A segmentation network in training: what every such training shares, whatever it learns from."""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from tag2mask.base.versions import Code
from tag2mask.data.resizing import resize_scores, to_grid
from tag2mask.engine.system import Batch, Losses, ParameterGroup, Position, System
from tag2mask.networks.segmenter import Levels, Segmenter
from tag2mask.stages.backbone import backbone_and_head
from tag2mask.stages.segmenter_inputs import WHOLE_IMAGE
from tag2mask.supervision.objective import Objective
from tag2mask.supervision.targets import Targets

CODE = Code("segmentation system")


class SegmentationSystem(System):
    """Base of the systems whose product is a segmenter.

    Args:
        network: the segmenter.
        head_multiplier: learning rate of new layers, as a multiple of the backbone's.
        after: the block whose features a batch has in place of the image; None for the image.
    """

    def __init__(self, network: Segmenter, *, head_multiplier: float, after: str | None = None) -> None:
        super().__init__()
        self.network = network
        self.head_multiplier = head_multiplier
        self.after = after

    def forward(self, batch: Batch, position: Position) -> Losses:
        return self.losses(batch, position)

    @abstractmethod
    def losses(self, batch: Batch, position: Position) -> Losses:
        """Named losses of one batch, as (sum, count)."""

    @abstractmethod
    def targets(self, batch: Batch, position: Position) -> Targets:
        """Targets that would be learnt of a batch now, without gradient."""

    def scores(self, batch: Batch, scale: float = 1.0) -> Tensor:
        """Scores on the label grid, float32 (N, C + 1, h, w), of the batch's images brought to a scale."""
        inputs = self._inputs(batch)
        if scale != 1:
            height, width = inputs.shape[2:]
            inputs = resize_scores(inputs, (max(1, round(height * scale)), max(1, round(width * scale))))
        # In float32: on a GPU the resizing and its gradient would otherwise be summed up in half precision.
        coarse = self.network(inputs, after=self.after).float()
        size = label_grid(batch)
        return coarse if coarse.shape[2:] == size else resize_scores(coarse, size)

    def levels(self, batch: Batch, early: str | None = None) -> Levels:
        """Features, hidden layer and scores on the network's own grid.

        Args:
            batch: of it what the network reads.
            early: a block whose features are wanted too; kept features of it are in the batch.
        """
        if self.after is None:
            return self.network.levels(self._inputs(batch), early=early)
        found = self.network.levels(self._inputs(batch), after=self.after)
        return found._replace(early=batch["early"] if early else None)

    def parameter_groups(self) -> dict[str, list[ParameterGroup]]:
        return {
            "network": backbone_and_head(self.network.backbone, self.network.head_parameters(), self.head_multiplier)
        }

    def _inputs(self, batch: Batch) -> Tensor:
        inputs: Tensor = batch[WHOLE_IMAGE] if self.after is None else batch["features"]
        return inputs


def label_grid(batch: Batch) -> tuple[int, int]:
    """Rows and columns of the grid that a batch's labels are on."""
    return batch["labels"].shape[1], batch["labels"].shape[2]


def on_label_grid(levels: Levels, size: tuple[int, int]) -> Levels:
    """Hidden layer, scores and early features on a grid, float32; the backbone's features as they are."""
    return Levels(
        features=levels.features,
        hidden=resize_scores(levels.hidden.float(), size),
        scores=resize_scores(levels.scores.float(), size),
        early=None if levels.early is None else to_grid(levels.early.float(), size),
    )


def losses_over_scales(
    system: SegmentationSystem,
    objective: Objective,
    batch: Batch,
    scores: Tensor,
    targets: Targets,
    scales: Sequence[float],
) -> dict[str, tuple[Tensor, Tensor]]:
    """An objective's losses by name, summed over scales.

    Args:
        system: gives the scores of the scales.
        objective: the losses.
        batch: what they are of.
        scores: of the batch at scale 1, as `SegmentationSystem.scores` gives them.
        targets: the same at every scale.
        scales: the first of them 1.
    """
    losses = dict(objective(batch, scores, targets))
    for scale in scales[1:]:
        for name, (total, count) in objective(batch, system.scores(batch, scale), targets).items():
            losses[name] = (losses[name][0] + total, count)
    return losses


def own_labels(batch: Batch) -> Targets:
    """The labels that a batch brings along, which nothing changes."""
    labels: Tensor = torch.as_tensor(batch["labels"])
    return Targets(labels=labels)
