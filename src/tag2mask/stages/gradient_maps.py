"""Sensitivity of the classifier's scores to each place of an image: SEC's saliency, learnt from tags alone."""

from collections.abc import Callable
from dataclasses import dataclass

from tag2mask.data.samples import Sample
from tag2mask.engine.environment import Environment, SplitName
from tag2mask.engine.stage import Estimate
from tag2mask.errors import SettingsError
from tag2mask.evidence.gradient import gradient_saliency
from tag2mask.networks.inference import ScaleSettings, image_scales
from tag2mask.stages.timing import seconds_per_image
from tag2mask.stages.train_classifier import TrainClassifier
from tag2mask.stages.unit_maps import UnitMapStage, encode_unit_map
from tag2mask.stages.views import load_image

_FORWARD_AND_BACKWARD = 3.0  # times a forward pass, roughly


@dataclass(frozen=True)
class GradientSettings:
    """Settings of the maps made of the classifier's gradient.

    Args:
        block: the block whose features the gradient is taken at. The paper's conv4_1 lies inside VGG-16's block
            ``conv4``, which is the nearest there.
        long_side: of the photograph as the classifier is shown it, in pixels.
        median: side of the median filter's window in cells of the features, odd; 1 filters nothing.
    """

    block: str = "blocks.3"
    long_side: int = 320
    median: int = 3

    def __post_init__(self) -> None:
        if self.long_side < 1:
            raise SettingsError(f"gradient.long_side: {self.long_side} must be above 0")
        if self.median < 1 or self.median % 2 == 0:
            raise SettingsError(f"gradient.median: {self.median} must be odd and above 0")


class MakeGradientMaps(UnitMapStage):
    """Median-filtered largest gradient of the classifier's scores over the channels of a block's features.

    It knows what the classifier knows, so that no result has to be marked for its sake.
    """

    name = "gradient_saliency"
    on_device = True
    reads = frozenset({"images"})
    settings: GradientSettings

    def __init__(self, classifier: TrainClassifier, settings: GradientSettings, split: SplitName) -> None:
        super().__init__(settings, split, classifier=classifier)
        self.classifier = classifier
        # A misspelt block or a kind of backbone that has no gradient at one is told now, not after the training.
        classifier.backbone.facts.check_cacheable(settings.block)

    def open(self, env: Environment) -> Callable[[Sample], bytes]:
        network, settings, runtime = self.classifier.load(env), self.settings, env.runtime
        scales = ScaleSettings(long_side=settings.long_side, mirror=False)

        def make(sample: Sample) -> bytes:
            (images,) = image_scales(load_image(sample), network.backbone, scales, runtime.torch_device)
            with runtime.autocast():
                (map_,) = gradient_saliency(network, images, settings.block, median=settings.median)
            return encode_unit_map(map_)

        return make

    def estimate(self, env: Environment) -> Estimate:
        backbone = self.classifier.backbone
        scales = ScaleSettings(long_side=self.settings.long_side, mirror=False)
        seconds = seconds_per_image(backbone, scales, env, output_stride=backbone.output_stride)
        count = len(self.samples(env))
        return Estimate(_FORWARD_AND_BACKWARD * seconds * count, 2e3 * count)


def gradient_maps(
    classifier: TrainClassifier, settings: GradientSettings, split: SplitName = "train"
) -> MakeGradientMaps:
    """Gradient saliency of the images of a split."""
    return MakeGradientMaps(classifier, settings, split)
