from tag2mask.methods.cam import CamSettings, cam
from tag2mask.methods.supervised import SupervisedSettings, supervised


def test_the_chain() -> None:
    plan = supervised(SupervisedSettings())
    names = [stage.name for stage in plan.stages()]
    assert names == ["true_masks", "segmenter", "predictions", "evaluation"]
    assert plan.results["val"].inputs["labels"] is plan.predictions
    assert plan.model.inputs["labels"].name == "true_masks"


def test_it_is_every_methods_segmenter_on_other_labels() -> None:
    settings = CamSettings()
    bound = supervised(SupervisedSettings(settings.segmenter, settings.prediction))
    method = cam(settings)
    assert bound.model.settings == method.model.settings
    assert bound.predictions.settings == method.predictions.settings
    assert type(bound.model) is type(method.model)
