import pytest
import torch

from tag2mask.data.layers import HeatMap
from tag2mask.engine.stage import map_threads
from tag2mask.errors import SettingsError
from tag2mask.evidence.gradient import gradient_saliency
from tag2mask.networks.inference import ScaleSettings, image_scales
from tag2mask.stages.backbone import BackboneSettings
from tag2mask.stages.gradient_maps import GradientSettings, MakeGradientMaps, gradient_maps
from tag2mask.stages.saliency_used import saliency_used
from tag2mask.stages.train_classifier import ClassifierSettings, TrainClassifier, train_classifier
from tag2mask.stages.views import load_image
from tests.stages.conftest import Finished

SETTINGS = GradientSettings(block="blocks.2", long_side=64)


@pytest.fixture(scope="module")
def stage(finished: Finished) -> MakeGradientMaps:
    made = gradient_maps(finished.stage(TrainClassifier), SETTINGS)
    made.run(finished.env)
    return made


def test_maps_are_the_classifiers_gradient(finished: Finished, stage: MakeGradientMaps) -> None:
    env = finished.env
    network = stage.classifier.load(env)
    samples = stage.samples(env)
    assert len(samples) == 6
    for sample in samples:
        assert (sample.tags, sample.mask) == ((), None)
        (shown,) = image_scales(
            load_image(sample), network.backbone, ScaleSettings(long_side=64, mirror=False), torch.device("cpu")
        )
        (expected,) = gradient_saliency(network, shown, "blocks.2")
        found = stage.load(env, sample.id)
        torch.testing.assert_close(found, expected, atol=1 / 65535, rtol=0)
        assert found.shape == (-(-shown.shape[2] // 8), 8)
        assert found.max() == 1
        (layer,) = stage.layers(env, sample.id).values()
        assert isinstance(layer, HeatMap)


def test_threads_do_not_matter(finished: Finished, stage: MakeGradientMaps) -> None:
    env, files = finished.env, {}
    make = stage.open(env)
    samples = list(stage.samples(env))
    map_threads(lambda sample: files.update({sample.id: make(sample)}), samples, 3, lambda _: None)
    assert files == {sample.id: stage.path(env, sample.id).read_bytes() for sample in samples}


def test_it_counts_as_no_saliency(finished: Finished, stage: MakeGradientMaps) -> None:
    assert saliency_used(stage) == "no saliency"
    assert stage.notes(finished.env) == []


def test_settings_reach_the_fingerprint(finished: Finished, stage: MakeGradientMaps) -> None:
    env, classifier = finished.env, stage.classifier
    others = (GradientSettings("blocks.3", 64), GradientSettings("blocks.2", 65), GradientSettings("blocks.2", 64, 5))
    prints = {gradient_maps(classifier, settings).fingerprint(env) for settings in (SETTINGS, *others)}
    assert len(prints) == 4
    assert gradient_maps(classifier, SETTINGS, "val").fingerprint(env) not in prints


def test_the_estimate(finished: Finished, stage: MakeGradientMaps) -> None:
    assert stage.estimate(finished.env).seconds > 0


def test_what_cannot_be_is_told_before_anything_runs() -> None:
    classifier = train_classifier(ClassifierSettings(backbone=BackboneSettings(weights="none")))
    with pytest.raises(SettingsError, match=r"'blocks\.9'"):
        gradient_maps(classifier, GradientSettings(block="blocks.9"))
    vit = BackboneSettings("vit_tiny_patch16_224", output_stride=16, weights="none")
    with pytest.raises(SettingsError, match="cannot be cached at a block"):
        gradient_maps(train_classifier(ClassifierSettings(backbone=vit)), GradientSettings())
    for given, name in (({"median": 2}, "median"), ({"median": 0}, "median"), ({"long_side": 0}, "long_side")):
        with pytest.raises(SettingsError, match=rf"gradient\.{name}"):
            GradientSettings(**given)
