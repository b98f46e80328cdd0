import dataclasses

from tag2mask.methods.cam import CamSettings, cam
from tag2mask.stages.activation_maps import ActivationMapSettings
from tag2mask.stages.seeds import SeedSettings
from tag2mask.stages.views import ViewSettings

SETTINGS = CamSettings()


def test_the_chain() -> None:
    plan = cam(SETTINGS)
    names = [stage.name for stage in dataclasses.replace(plan, results={}, pictures={}).stages()]
    assert names == ["classifier", "cams", "seeds", "refined_labels", "segmenter", "predictions"]
    labels = plan.model.inputs["labels"]
    assert labels.name == "refined_labels"  # it learns from what the CRF made, not from the seeds
    assert set(labels.inputs) == {"cams", "seeds"}
    assert labels.inputs["seeds"].inputs["cams"] is labels.inputs["cams"]
    assert labels.inputs["cams"].inputs["classifier"].name == "classifier"


def test_what_is_measured() -> None:
    results = cam(SETTINGS).results
    assert list(results) == ["classifier", "cam_curve", "seeds", "pseudo_labels", "val"]
    splits = {name: stage.split for name, stage in results.items()}
    assert splits == {
        "classifier": "val",
        "cam_curve": "train",
        "seeds": "train",
        "pseudo_labels": "train",
        "val": "val",
    }
    assert results["seeds"].inputs["labels"].name == "seeds"
    assert results["pseudo_labels"].inputs["labels"].name == "refined_labels"


def test_settings_reach_their_stage() -> None:
    changed = dataclasses.replace(
        SETTINGS,
        cams=ActivationMapSettings(rule="max"),
        seeds=SeedSettings(0.4, 0.1),
        segmenter=dataclasses.replace(SETTINGS.segmenter, views=ViewSettings(crop=99)),
    )
    by_name = {stage.name: stage for stage in cam(changed).stages()}
    for name in ("classifier", "cams", "seeds", "segmenter"):
        assert by_name[name].settings is getattr(changed, name)
    assert by_name["refined_labels"].settings is changed.refinement
    assert by_name["predictions"].settings is changed.prediction
