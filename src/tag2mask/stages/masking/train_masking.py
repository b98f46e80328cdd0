"""Image masking's segmenter: it learns extent from saliency, and classes from what a classifier misses when erased."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tag2mask.base.settings import canonical
from tag2mask.data.classes import BACKGROUND
from tag2mask.engine.environment import Environment
from tag2mask.engine.seeding import generator
from tag2mask.engine.system import Batch, Losses, Position
from tag2mask.errors import SettingsError
from tag2mask.losses.attention import attention_loss, attention_map, draw_classes, mask_image
from tag2mask.losses.saliency import saliency_loss
from tag2mask.networks.backbones import Backbone
from tag2mask.networks.classifier import Classifier
from tag2mask.networks.frozen import Frozen
from tag2mask.networks.segmenter import Segmenter
from tag2mask.networks.trunks import single
from tag2mask.stages.labels import LabelStage
from tag2mask.stages.segmentation_system import SegmentationSystem, losses_over_scales, own_labels
from tag2mask.stages.segmenter_inputs import PRESENT, WHOLE_IMAGE, SegmenterInputs
from tag2mask.stages.segmenter_settings import ScaledSegmenterSettings
from tag2mask.stages.segmenter_training import SegmenterTraining
from tag2mask.stages.train_classifier import TrainClassifier
from tag2mask.supervision.objective import Objective
from tag2mask.supervision.targets import Targets


@dataclass(frozen=True)
class AttentionSettings:
    """Learning from a classifier that is shown masked images (Kim 2022, section 2.3.3).

    Args:
        enabled: take the attention loss; without it the saliency loss is all.
        weight: of the attention loss, beside 1 for the saliency loss.
        paths: masked copies of every photograph, each with classes drawn anew; the loss is their mean (N).
        side: side of the square that the classifier is shown, in pixels; 0 as the segmenter sees the photograph.
    """

    enabled: bool = True
    weight: float = 2.0
    paths: int = 2
    side: int = 0

    def __post_init__(self) -> None:
        if self.weight < 0:
            raise SettingsError(f"attention.weight: {self.weight} must not be negative")
        if self.paths < 1:
            raise SettingsError(f"attention.paths: {self.paths} must be above 0; attention.enabled false goes without")
        if self.side < 0:
            raise SettingsError(f"attention.side: {self.side} is negative; 0 takes the segmenter's size")


def saliency_objective() -> Objective:
    """The saliency loss on the targets' labels and the batch's tags."""

    def term(batch: Batch, scores: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
        return saliency_loss(scores, targets.labels, batch[PRESENT])

    return Objective({"saliency": (term, 1.0)}, needs={PRESENT})


class Renormalise(nn.Module):
    """Images normalised for one backbone, as another one's weights expect them."""

    gain: Tensor
    shift: Tensor

    def __init__(self, given: Backbone, wanted: Backbone) -> None:
        super().__init__()
        (mean, std), (other_mean, other_std) = (
            (torch.tensor(backbone.mean).view(3, 1, 1), torch.tensor(backbone.std).view(3, 1, 1))
            for backbone in (given, wanted)
        )
        self.register_buffer("gain", std / other_std, persistent=False)
        self.register_buffer("shift", (mean - other_mean) / other_std, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Shapes: (N, 3, H, W) -> the same."""
        return images * self.gain + self.shift


class Attention(nn.Module):
    """The attention loss of a segmenter's scores: a frozen classifier is shown what they leave of the images.

    All paths go through the classifier as one batch: one after the other would take as much memory, since what the
    gradient needs of each is kept until the step's end.

    Args:
        classifier: on the segmenter's classes, in their order.
        segmenter: whose normalisation the images have.
        settings: paths and size.
    """

    def __init__(self, classifier: Classifier, segmenter: Backbone, settings: AttentionSettings) -> None:
        super().__init__()
        self.renormalise = Renormalise(segmenter, single(classifier.backbone))
        self.classifier = Frozen(classifier)
        self.settings = settings

    def forward(self, batch: Batch, scores: Tensor, position: Position) -> tuple[Tensor, Tensor]:
        """(sum, number of images) of the loss, weight not included; the draws are of (seed, step, image).

        Args:
            batch: of it ids, tags and images.
            scores: logits on the label grid, (N, C + 1, h, w).
            position: of the step.
        """
        present: Tensor = batch[PRESENT][:, BACKGROUND + 1 :]
        drawn = [generator(position.seed, "erased", position.step, image_id) for image_id in batch["id"]]
        chosen = draw_classes(present, drawn, self.settings.paths)
        attention = attention_map(scores.float().softmax(1), chosen)
        masked = mask_image(self.renormalise(self._shown(batch[WHOLE_IMAGE])), attention)
        logits = self.classifier(masked.flatten(0, 1)).unflatten(0, chosen.shape[:2])
        return attention_loss(logits, present, chosen)

    def _shown(self, images: Tensor) -> Tensor:
        """The images at the size at which the classifier looks at them."""
        side = self.settings.side
        if side in (0, images.shape[2]):
            return images
        # Mixed precision hands half precision over, which antialiasing knows on no CPU.
        return nn.functional.interpolate(images.float(), size=(side, side), mode="bilinear", antialias=True)


class MaskingSystem(SegmentationSystem):
    """A segmentation network with the saliency loss at all scales and the attention loss at the first.

    Args:
        network: the segmenter.
        attention: gives the attention loss; None takes the saliency loss alone.
        scales: of the images, the first of them 1.
        options: further ones of `SegmentationSystem`.
    """

    def __init__(
        self, network: Segmenter, attention: Attention | None, *, scales: Sequence[float] = (1.0,), **options: Any
    ) -> None:
        super().__init__(network, **options)
        self.attention = attention
        self.objective = saliency_objective()
        self.scales = tuple(scales)

    def losses(self, batch: Batch, position: Position) -> Losses:
        """Losses by name: "saliency", summed over scales, and "attention", weight included."""
        scores = self.scores(batch)
        losses = losses_over_scales(self, self.objective, batch, scores, own_labels(batch), self.scales)
        if self.attention is not None:
            total, count = self.attention(batch, scores, position)
            losses["attention"] = (self.attention.settings.weight * total, count)
        return losses

    def targets(self, batch: Batch, position: Position) -> Targets:
        return own_labels(batch)


class TrainMasking(SegmenterTraining):
    """Trains a segmenter on saliency labels, watched by the classifier.

    Args:
        labels: refined saliency: 0 background, 255 unlabelled, anything else foreground of an unknown class.
        settings: network and training; the losses are the method's own.
        attention: the attention loss.
        classifier: is shown masked images; None where the attention loss is not enabled.
    """

    name = "segmenter_masking"
    version = 1
    settings: ScaledSegmenterSettings
    takes = ScaledSegmenterSettings

    def __init__(
        self,
        labels: LabelStage,
        settings: ScaledSegmenterSettings,
        attention: AttentionSettings,
        classifier: TrainClassifier | None,
    ) -> None:
        assert attention.enabled == (classifier is not None)
        if classifier is not None:
            classifier.settings.trunk.single("classifier.trunks")
        self.attention = attention
        self.classifier = classifier
        needs = saliency_objective().needs | ({WHOLE_IMAGE} if classifier is not None else set())
        batch = SegmenterInputs(settings, labels, needs=needs)
        super().__init__(settings, batch, networks={"classifier": classifier} if classifier is not None else None)

    def identity(self, env: Environment) -> Any:
        attention = canonical(self.attention, for_fingerprint=True) if self.classifier else None
        return [super().identity(env), attention]

    def system(self, env: Environment) -> MaskingSystem:
        return self._watched_by(lambda classifier: classifier.load(env), env)

    def system_to_time(self, env: Environment) -> MaskingSystem:
        def untrained(classifier: TrainClassifier) -> Classifier:
            network = classifier.system(env).network
            assert isinstance(network, Classifier)
            return network

        return self._watched_by(untrained, env)

    def _watched_by(self, network_of: Callable[[TrainClassifier], Classifier], env: Environment) -> MaskingSystem:
        # The segmenter comes first: its head is then drawn alike with a classifier and without.
        system = super().system_to_time(env)
        assert isinstance(system, MaskingSystem)
        if self.classifier is not None:
            system.attention = Attention(network_of(self.classifier), single(system.network.backbone), self.attention)
        return system

    def system_of(self, network: Segmenter, env: Environment) -> MaskingSystem:
        """The system without the classifier, which a trained segmenter no longer needs."""
        return MaskingSystem(
            network,
            None,
            head_multiplier=self.settings.training.head_multiplier,
            after=self.batch.after,
            scales=self.settings.scales,
        )


def train_masking(
    labels: LabelStage,
    settings: ScaledSegmenterSettings,
    attention: AttentionSettings,
    classifier: TrainClassifier,
) -> TrainMasking:
    """A segmenter on saliency labels; the classifier plays a part where `attention` is enabled."""
    return TrainMasking(labels, settings, attention, classifier if attention.enabled else None)
