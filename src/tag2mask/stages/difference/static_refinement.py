"""SSDD's static part as one piece: from any two stages of masks to refined ones."""

from dataclasses import dataclass, field
from typing import NamedTuple

from tag2mask.errors import SettingsError
from tag2mask.stages.backbone import Start, check_start
from tag2mask.stages.difference.difference_evaluation import DifferenceEvaluation
from tag2mask.stages.difference.difference_maps import DifferenceMaps, DifferenceMapSettings
from tag2mask.stages.difference.difference_seeds import DifferenceSeeds
from tag2mask.stages.difference.difference_settings import DifferenceNetSettings, PairedSegmenterSettings, PairSettings
from tag2mask.stages.difference.train_difference import TrainDifference
from tag2mask.stages.labels import LabelStage
from tag2mask.stages.train_classifier import TrainClassifier


@dataclass(frozen=True)
class StaticSettings:
    """SSDD's static part (Shimoda & Yanai, ICCV 2019, section 4.1).

    Args:
        segmenter: the segmentation network that DD-Net learns beside, and the training of both.
        start: what its backbone goes on from, "classifier" (the paper's) or "pretrained".
        difference: DD-Net.
        maps: how difference maps of whole photographs are made.
        seeds: how the two masks become one.
    """

    segmenter: PairedSegmenterSettings = field(default_factory=PairedSegmenterSettings)
    start: Start = "classifier"
    difference: DifferenceNetSettings = field(default_factory=DifferenceNetSettings)
    maps: DifferenceMapSettings = field(default_factory=DifferenceMapSettings)
    seeds: PairSettings = field(default_factory=PairSettings)

    def __post_init__(self) -> None:
        check_start("static.start", self.start)


class StaticRefinement(NamedTuple):
    """Stages of the static part.

    Args:
        net: the training of segmenter and DD-Net.
        maps: d of both masks of every image.
        seeds: the refined masks.
        scores: how good d and the refined masks are.
    """

    net: TrainDifference
    maps: DifferenceMaps
    seeds: DifferenceSeeds
    scores: DifferenceEvaluation


def static_refinement(
    before: LabelStage, after: LabelStage, classifier: TrainClassifier | None, settings: StaticSettings
) -> StaticRefinement:
    """Refines the masks of a stage by those that another one made of the same images.

    Args:
        before: the masks, m_psa in the paper.
        after: the others, m_crf0 in the paper: the same after the dense CRF.
        classifier: whose backbone is gone on from; not needed where `settings.start` is "pretrained".
        settings: networks, training and biases.

    Raises:
        SettingsError: settings do not go together, or there is no classifier to start from.
    """
    if settings.start == "classifier" and classifier is None:
        raise SettingsError("static.start: there is no classifier to start from; choices: pretrained")
    net = TrainDifference(
        before,
        after,
        settings.segmenter,
        settings.difference,
        lost_below=settings.seeds.lost_below,
        start=classifier if settings.start == "classifier" else None,
    )
    maps = DifferenceMaps(net, settings.maps)
    seeds = DifferenceSeeds(maps, settings.seeds)
    return StaticRefinement(net, maps, seeds, DifferenceEvaluation(seeds))
