import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from tag2mask.data.masks import read_mask
from tag2mask.engine.logs import read_log
from tag2mask.errors import SettingsError, WorkspaceError
from tag2mask.networks.model_file import load_model
from tag2mask.stages.single_stage.single_stage_settings import (
    AdaptiveAffinitySettings,
    DenseEnergySettings,
    ReassignSettings,
    SingleStageParts,
    SingleStageSettings,
)
from tag2mask.stages.single_stage.train_single_stage import TrainSingleStage, online_labels, train_single_stage
from tag2mask.stages.train_classifier import ClassifierHeadSettings, TrainClassifier
from tests.stages.conftest import Finished
from tests.stages.segmenters import check_made_up_example
from tests.stages.single_stage.parts import AFFINITY, BOTH, HEAD, ONLINE, RRM, stage_of


def test_a_classifier_of_several_convolutions_is_refused(finished: Finished) -> None:
    plain = finished.stage(TrainClassifier).settings
    wide = TrainClassifier(dataclasses.replace(plain, head=ClassifierHeadSettings(width=8)))
    parts = SingleStageParts(SingleStageSettings(grid_stride=4), ONLINE)
    settings = dataclasses.replace(finished.settings.segmenter, head=HEAD)
    with pytest.raises(SettingsError, match=r"classifier\.head\.width: 8 is not 0"):
        train_single_stage(settings, parts, wide)


@pytest.fixture(scope="module")
def trained(finished: Finished) -> TrainSingleStage:
    stage: TrainSingleStage = stage_of(finished, **BOTH)
    stage.run(finished.env)
    return stage


def test_losses_are_logged_one_by_one(finished: Finished, trained: TrainSingleStage) -> None:
    lines = read_log(trained.folder(finished.env))
    assert len(lines) == 2
    for line in lines:
        names = line.keys() - {"step", "learning_rate", "images_per_second", "waiting_share"}
        assert names == {*RRM, *AFFINITY, "reassign"}
        assert all(np.isfinite(line[name]) for name in names)
        assert all(line[name] > 0 for name in ("classification", "foreground", "affinity_same_object"))


def test_what_was_trained_is_rebuilt_whole(finished: Finished, trained: TrainSingleStage) -> None:
    """By the networks as they are loaded, labels are those that the last epoch's end had."""
    env = finished.env
    labels = online_labels(trained)
    labels.run(env)
    found = set()
    for sample in trained.samples(env):
        made = labels.load(env, sample.id)
        assert np.array_equal(made, read_mask(trained.folder(env) / "growth" / "002" / f"{sample.id}.png"))
        assert set(np.unique(made)) <= {0, 255, *sample.tags}
        found |= set(np.unique(made))
    assert found > {255}
    system = trained.trained_system(env)
    assert not system.training
    (strip,) = trained.draw(env, trained.folder(env) / "drawn")
    assert strip.name == "online_labels_over_epochs.jpg"


def test_both_files_are_networks_of_their_own(finished: Finished, trained: TrainSingleStage) -> None:
    env = finished.env
    segmenter, header = load_model(trained.model_path(env))
    assert (header.kind, header.head["kind"]) == ("segmenter", "dilated")
    assert {name.split(".")[0] for name in segmenter.state_dict()} == {"backbone", "head"}
    classifier: Any
    classifier, header = load_model(trained.classifier_path(env))
    assert header.kind == "classifier"
    system = trained.trained_system(env)
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features = system.network.backbone(images)
        assert torch.allclose(segmenter(images), system.network(images), atol=1e-5)
        assert torch.allclose(classifier.score_maps(images), system.cam.maps(features), atol=1e-5)
    before = finished.stage(TrainClassifier).load(env).head.weight
    assert not torch.equal(classifier.head.weight, before)


def test_a_damaged_part_is_named(finished: Finished) -> None:
    env, stage = finished.env, stage_of(finished)
    stage.run(env)
    stage.classifier_path(env).write_bytes(b"no weights")
    with pytest.raises(WorkspaceError, match=r"classifier\.safetensors.*delete the folder"):
        stage.trained_system(env)


def test_it_starts_from_the_classifiers_backbone_and_head(finished: Finished) -> None:
    env = finished.env
    classifier: Any = finished.stage(TrainClassifier).load(env, output_stride=16)
    system = stage_of(finished).system(env).eval()
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        maps = system.cam.maps(system.network.backbone(images))
        assert torch.allclose(maps, classifier.score_maps(images), atol=1e-5)
    settings = SingleStageSettings(start="pretrained", segmentation_from=0.0, grid_stride=4)
    stage = stage_of(finished, settings=settings, made=False, segmenter={"cache_features": False})
    assert "start" not in stage.inputs
    fresh = stage.system(env)
    assert fresh.cam.classifier.backbone is fresh.network.backbone
    moved = "network.blocks.3.0.conv_pw.weight"
    assert not torch.equal(fresh.network.backbone.state_dict()[moved], classifier.backbone.state_dict()[moved])
    stage.run(env)
    assert torch.equal(
        stage.load_classifier(env).backbone.state_dict()[moved], stage.load(env).backbone.state_dict()[moved]
    )
    assert all(np.isfinite(value) for line in read_log(stage.folder(env)) for value in line.values())


def test_true_masks_are_never_seen(finished: Finished, trained: TrainSingleStage) -> None:
    assert trained.reads == {"images", "tags"}
    assert all(sample.mask is None for sample in trained.samples(finished.env))


@pytest.mark.parametrize("cache_features", [True, False])
def test_made_up_examples_have_the_shapes_of_real_ones(finished: Finished, cache_features: bool) -> None:
    check_made_up_example(stage_of(finished, segmenter={"cache_features": cache_features}), finished.env)


def test_every_setting_counts(finished: Finished) -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"affinity": AdaptiveAffinitySettings()},
        {"affinity": AdaptiveAffinitySettings(groups="published")},
        {"reassign": ReassignSettings()},
        {"dense_energy": DenseEnergySettings(stride=4)},
        {"online_cams": dataclasses.replace(ONLINE, share=0.5)},
        {"settings": SingleStageSettings(segmentation_from=0.5, grid_stride=4)},
        {"settings": SingleStageSettings(segmentation_from=0.0, grid_stride=4, start="pretrained")},
        {"segmenter": {"label_stride": 2}},
    ]
    prints = [stage_of(finished, made=False, **change).fingerprint(finished.env) for change in changes]
    assert len(set(prints)) == len(prints)


def test_a_classifier_that_reads_an_earlier_block_cannot_be_gone_on_from(finished: Finished) -> None:
    backbone = dataclasses.replace(finished.settings.classifier.backbone, block="blocks.3")
    classifier = TrainClassifier(dataclasses.replace(finished.settings.classifier, backbone=backbone))
    settings = dataclasses.replace(finished.settings.segmenter, head=HEAD)
    parts = SingleStageParts(SingleStageSettings(), ONLINE)
    with pytest.raises(SettingsError, match=r"segmenter\.backbone\.block: 'blocks\.4' comes after 'blocks\.3'"):
        train_single_stage(settings, parts, classifier)
