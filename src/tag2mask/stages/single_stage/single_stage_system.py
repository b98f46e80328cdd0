"""Two heads on one backbone, as a single stage trains them, and the losses of a batch (Zhang et al., RRM and AALR)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tag2mask.data.classes import UNLABELLED
from tag2mask.data.resizing import resize_scores, to_grid
from tag2mask.engine.system import Batch, Losses, ParameterGroup, Position
from tag2mask.losses.adaptive_affinity import adaptive_affinity_loss
from tag2mask.losses.classification import multi_label_loss
from tag2mask.losses.cross_entropy import foreground_background_cross_entropy
from tag2mask.losses.dense_energy import dense_energy
from tag2mask.losses.label_reassign import Reassigned, label_reassign
from tag2mask.networks.segmenter import Levels, Segmenter
from tag2mask.networks.single_stage import CamBranch
from tag2mask.stages.segmentation_system import SegmentationSystem
from tag2mask.stages.segmenter_inputs import IMAGE_ON_GRID, INSIDE, PRESENT, WHOLE_IMAGE
from tag2mask.stages.single_stage.single_stage_settings import SingleStageParts
from tag2mask.supervision.online_cams import OnlineCams
from tag2mask.supervision.targets import Targets


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
