import dataclasses

from tag2mask.stages.affinity.affinity_masks import AffinityMaskSettings, affinity_masks
from tag2mask.stages.affinity.labels import MapCRFSettings
from tag2mask.stages.affinity.walked_maps import WalkSettings


def test_the_chain() -> None:
    made = affinity_masks(AffinityMaskSettings())
    assert [stage.name for stage in made] == [
        "classifier",
        "cams",
        "confident_maps",
        "affinity_net",
        "walked_maps",
        "cam_labels",
        "walked_labels",
        "crf_labels",
    ]
    assert made.walked.inputs == {"cams": made.cams, "affinity_net": made.affinity_net}
    assert made.affinity_net.inputs == {"confident": made.confident}
    for stage, name in ((made.cam_labels, "cams"), (made.walked_labels, "scores"), (made.crf_labels, "scores")):
        assert stage.inputs == {name: made.cams if name == "cams" else made.walked}


def test_settings_reach_their_stage() -> None:
    settings = dataclasses.replace(
        AffinityMaskSettings(), walk=WalkSettings(alpha=3.0), crf=MapCRFSettings(iterations=7)
    )
    made = affinity_masks(settings)
    assert made.classifier.settings is settings.classifier
    assert made.cams.settings is settings.cams
    assert made.confident.settings is settings.confidence
    assert made.affinity_net.settings is settings.affinity
    assert made.walked.settings is settings.walk
    assert made.crf_labels.settings is settings.crf
    assert made.cam_labels.settings.alpha == 3.0  # CAMs and walk compare beside one background
