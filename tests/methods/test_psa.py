import dataclasses

import pytest

from tag2mask.errors import SettingsError
from tag2mask.methods.psa import PsaSettings, psa

SETTINGS = PsaSettings()


def test_the_chain() -> None:
    plan = psa(SETTINGS)
    names = [stage.name for stage in dataclasses.replace(plan, results={}, pictures={}).stages()]
    assert names == [
        "classifier",
        "cams",
        "confident_maps",
        "affinity_net",
        "walked_maps",
        "crf_labels",
        "segmenter",
        "predictions",
    ]
    assert list(plan.pictures["train"]) == ["CAM", "confident", "walked", "walked mask", "pseudo-label"]


@pytest.mark.parametrize(("train_on", "labels"), [("crf", "crf_labels"), ("walk", "walked_labels")])
def test_the_segmenter_learns_from_the_masks_asked_for(train_on: str, labels: str) -> None:
    plan = psa(dataclasses.replace(SETTINGS, train_on=train_on))
    assert plan.model.inputs["labels"].name == labels
    measured = {name: stage.inputs["labels"].name for name, stage in plan.results.items() if "labels" in name}
    assert measured == {"cam_labels": "cam_labels", "walked_labels": "walked_labels", "pseudo_labels": "crf_labels"}


def test_what_is_measured() -> None:
    results = psa(SETTINGS).results
    assert {name: stage.split for name, stage in results.items()} == {
        "classifier": "val",
        "cam_curve": "train",
        "cam_labels": "train",
        "walked_labels": "train",
        "pseudo_labels": "train",
        "val": "val",
    }


def test_other_masks_are_refused() -> None:
    with pytest.raises(SettingsError, match="train_on"):
        PsaSettings(train_on="cams")  # type: ignore[arg-type]
