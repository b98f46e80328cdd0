"""PSA's stages from tags to masks, which `psa` trains its segmenter on and `ssdd` refines."""

from dataclasses import dataclass, field
from typing import NamedTuple

from tag2mask.stages.activation_maps import ActivationMapSettings, MakeActivationMaps, activation_maps
from tag2mask.stages.affinity.confident_maps import ConfidenceSettings, MakeConfidentMaps, confident_maps
from tag2mask.stages.affinity.labels import (
    MapCRFSettings,
    MapLabels,
    PowerLabels,
    RefinedMapLabels,
    map_labels,
    power_labels,
    refined_map_labels,
)
from tag2mask.stages.affinity.train_affinity import AffinitySettings, TrainAffinity, train_affinity
from tag2mask.stages.affinity.walked_maps import MakeWalkedMaps, WalkSettings, walked_maps
from tag2mask.stages.train_classifier import ClassifierSettings, TrainClassifier, train_classifier


@dataclass(frozen=True)
class AffinityMaskSettings:
    """Settings of PSA's masks, stage by stage.

    Args:
        classifier: `classifier`, trained on tags.
        cams: `cams`, class activation maps of the training photographs.
        confidence: `confident_maps`, which pixels AffinityNet's labels are sure of.
        affinity: `affinity_net`, trained on pairs of these.
        walk: `walked_maps`, CAMs after the random walk.
        crf: the dense CRF after the walk.
    """

    classifier: ClassifierSettings = field(default_factory=ClassifierSettings)
    cams: ActivationMapSettings = field(default_factory=ActivationMapSettings)
    confidence: ConfidenceSettings = field(default_factory=ConfidenceSettings)
    affinity: AffinitySettings = field(default_factory=AffinitySettings)
    walk: WalkSettings = field(default_factory=WalkSettings)
    crf: MapCRFSettings = field(default_factory=MapCRFSettings)


class AffinityMasks(NamedTuple):
    """The stages, in order; the last three are masks.

    Args:
        classifier: of tags.
        cams: its class activation maps.
        confident: what AffinityNet's labels are made of.
        affinity_net: AffinityNet.
        walked: p_psa, CAMs and background after the walk.
        cam_labels: the largest of CAMs and background before the walk.
        walked_labels: the largest after it.
        crf_labels: the largest after the walk and the dense CRF.
    """

    classifier: TrainClassifier
    cams: MakeActivationMaps
    confident: MakeConfidentMaps
    affinity_net: TrainAffinity
    walked: MakeWalkedMaps
    cam_labels: PowerLabels
    walked_labels: MapLabels
    crf_labels: RefinedMapLabels


def affinity_masks(settings: AffinityMaskSettings) -> AffinityMasks:
    """Classifier, CAMs, confident labels, AffinityNet, random walk, dense CRF."""
    classifier = train_classifier(settings.classifier)
    cams = activation_maps(classifier, settings.cams)
    confident = confident_maps(cams, settings.confidence)
    affinity_net = train_affinity(confident, settings.affinity)
    walked = walked_maps(cams, affinity_net, settings.walk)
    return AffinityMasks(
        classifier,
        cams,
        confident,
        affinity_net,
        walked,
        cam_labels=power_labels(cams, settings.walk.alpha),
        walked_labels=map_labels(walked),
        crf_labels=refined_map_labels(walked, settings.crf),
    )
