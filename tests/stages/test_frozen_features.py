import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tag2mask.data.resizing import to_grid
from tag2mask.errors import SettingsError, WorkspaceError
from tag2mask.stages.backbone import BackboneSettings, take_weights
from tag2mask.stages.frozen_features import (
    EarlyFeatures,
    EarlyFeatureSettings,
    FrozenFeatures,
    FrozenFeatureSettings,
)
from tag2mask.stages.train_classifier import TrainClassifier
from tag2mask.stages.views import load_image, view_image
from tests.stages.conftest import Finished


def test_features_are_the_frozen_blocks_of_photograph_and_mirror_image(finished: Finished) -> None:
    stage, env = finished.stage(FrozenFeatures), finished.env
    backbone = finished.settings.segmenter.backbone.create(env.runtime.seed).eval()
    views = finished.settings.segmenter.views
    for sample in stage.samples(env)[:3]:
        image = load_image(sample)
        for mirror in (False, True):
            view = views.whole_view((image.shape[1], image.shape[2]), mirror=mirror)
            with torch.no_grad():
                expected = backbone.encode(view_image(image, view, backbone)[None], "blocks.2")[0]
            found = stage.load(env, sample.id, mirror=mirror)
            assert found.dtype == torch.float32
            assert found.shape == stage.shape(env) == (40, 8, 8)
            # Half precision keeps eleven bits; a little is added for another memory layout's sums.
            assert torch.allclose(found, expected, rtol=2**-10, atol=1e-4)
    first = stage.load(env, "shape_00", mirror=False)
    assert not torch.allclose(first, stage.load(env, "shape_00", mirror=True), atol=1e-3)


def test_files_hold_half_precision(finished: Finished) -> None:
    stage, env = finished.stage(FrozenFeatures), finished.env
    tensors = load_file(stage.path(env, "shape_00"))
    assert {name: (value.dtype, value.shape) for name, value in tensors.items()} == {
        "features": (torch.float16, (2, 40, 8, 8))
    }
    assert all(not sample.tags and sample.mask is None for sample in stage.samples(env))


def test_stretched_photographs_fill_the_square(finished: Finished) -> None:
    env, settings = finished.env, finished.settings.segmenter
    views = dataclasses.replace(settings.views, whole=False, stretch=True, crop=32)
    stage = FrozenFeatures(FrozenFeatureSettings(settings.backbone, views))
    stage.run(env)
    assert stage.load(env, "shape_00", mirror=False).shape == stage.shape(env) == (40, 4, 4)


@pytest.mark.parametrize("content", [None, b"", b"no tensors at all"])
def test_a_damaged_file_is_named(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    stage = finished.stage(FrozenFeatures)
    path = tmp_path / "shape_00.safetensors"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setattr(stage, "path", lambda *_: path)
    with pytest.raises(WorkspaceError, match=r"shape_00\.safetensors: cannot be read"):
        stage.load(finished.env, "shape_00", mirror=False)


def test_a_backbone_that_cannot_be_entered_halfway_is_told(finished: Finished) -> None:
    settings = finished.settings.segmenter
    backbone = dataclasses.replace(settings.backbone, name="convnext_atto", block="", frozen_until="stages.0")
    stage = FrozenFeatures(FrozenFeatureSettings(backbone, settings.views))
    with pytest.raises(SettingsError, match="cannot be cached"):
        stage.produce(finished.env)


def test_estimates(finished: Finished) -> None:
    stage, env = finished.stage(FrozenFeatures), finished.env
    estimate = stage.estimate(env)
    assert estimate.seconds > 0
    on_disk = sum(path.stat().st_size for path in (stage.folder(env) / "items").iterdir())
    assert estimate.bytes == pytest.approx(on_disk, rel=0.05)


def test_early_features_are_averaged_to_the_grid(finished: Finished) -> None:
    env, settings = finished.env, finished.settings.segmenter
    stage = EarlyFeatures(EarlyFeatureSettings(settings.backbone, settings.views, "blocks.1", 8))
    stage.run(env)
    backbone = settings.backbone.create(env.runtime.seed).eval()
    sample = stage.samples(env)[1]
    image = load_image(sample)
    view = settings.views.whole_view((image.shape[1], image.shape[2]), mirror=True)
    with torch.no_grad():
        features = backbone.encode(view_image(image, view, backbone)[None], "blocks.1")
    assert features.shape == (1, 24, 16, 16)
    found = stage.load(env, sample.id, mirror=True)
    assert found.shape == stage.shape(env) == (24, 8, 8)
    assert torch.allclose(found, to_grid(features, (8, 8))[0], rtol=2**-9, atol=1e-4)


def test_features_of_the_classifier_are_its_own(finished: Finished) -> None:
    env, settings = finished.env, finished.settings.segmenter
    classifier = finished.stage(TrainClassifier)
    stage = FrozenFeatures(FrozenFeatureSettings(settings.backbone, settings.views), classifier)
    assert stage.fingerprint(env) != finished.stage(FrozenFeatures).fingerprint(env)
    stage.run(env)
    trained = classifier.load(env).backbone
    sample = stage.samples(env)[0]
    image = load_image(sample)
    view = settings.views.whole_view((image.shape[1], image.shape[2]), mirror=False)
    backbone = settings.backbone.create(env.runtime.seed).eval()
    take_weights(backbone, trained)
    with torch.no_grad():
        expected = backbone.encode(view_image(image, view, backbone)[None], "blocks.2")[0]
    found = stage.load(env, sample.id, mirror=False)
    assert torch.allclose(found, expected, rtol=2**-9, atol=1e-4)
    pretrained = finished.stage(FrozenFeatures).load(env, sample.id, mirror=False)
    assert not torch.allclose(found, pretrained, atol=1e-3)


def test_weights_of_another_network_are_refused(finished: Finished) -> None:
    trained = BackboneSettings(weights="none", block="blocks.2").create(0)
    for other in (BackboneSettings(weights="none", block="blocks.4"), BackboneSettings("resnet18", weights="none")):
        with pytest.raises(SettingsError, match="cannot go on from the classifier's"):
            take_weights(other.create(0), trained)
