from typing import Any

import numpy as np
import pytest
import torch

from tag2mask.data.view import LABELS, to_view
from tag2mask.engine.logs import read_log
from tag2mask.engine.system import Position
from tag2mask.errors import SettingsError
from tag2mask.networks.model_file import read_header
from tag2mask.stages.affinity.train_affinity import AffinitySettings, train_affinity
from tag2mask.stages.backbone import BackboneSettings
from tests.stages.conftest import FinishedMasks

LOSSES = {"affinity_background", "affinity_foreground", "affinity_different"}


def test_an_example_is_a_view_and_its_confident_labels(finished_masks: FinishedMasks) -> None:
    stage, env = finished_masks.made.affinity_net, finished_masks.env
    load = stage.open(env)
    agree, padded = [], 0
    for sample in stage.samples(env):
        for epoch in range(3):
            example = load(sample, epoch)
            again = load(sample, epoch)
            assert all(torch.equal(example[name], again[name]) for name in example)
            assert (example["image"].shape, example["labels"].shape) == ((3, 64, 64), (8, 8))
            maps = stage.confident.load(env, sample.id)
            size = finished_masks.made.cams.load(env, sample.id).size
            view = stage.settings.views.draw(size, seed=env.runtime.seed, epoch=epoch, image_id=sample.id)
            inside = to_view(torch.ones(size, dtype=torch.uint8), view, LABELS, stride=8, fill=0).bool()
            assert (example["labels"][~inside] == 255).all()
            padded += int((~inside).sum())
            # Labels of the whole photograph, seen nearest, agree but at borders.
            nearest = to_view(maps.labels(), view, LABELS, stride=8)
            agree.append((example["labels"] == nearest).float().mean())
    assert padded
    assert np.mean(agree) > 0.8


def test_a_made_up_example_has_the_shapes_of_a_real_one(finished_masks: FinishedMasks) -> None:
    stage, env = finished_masks.made.affinity_net, finished_masks.env
    real, made_up = stage.open(env)(stage.samples(env)[0], 0), stage.example(env)
    assert {name: (value.shape, value.dtype) for name, value in made_up.items()} == {
        name: (value.shape, value.dtype) for name, value in real.items()
    }


def test_every_loss_is_logged_by_name(finished_masks: FinishedMasks) -> None:
    log = read_log(finished_masks.made.affinity_net.folder(finished_masks.env))
    assert log[-1].keys() >= LOSSES
    assert all(np.isfinite(log[-1][name]) for name in LOSSES)


def test_a_step_without_a_labelled_pair_moves_nothing(finished_masks: FinishedMasks) -> None:
    system = finished_masks.made.affinity_net.system(finished_masks.env)
    batch: dict[str, Any] = {"image": torch.randn(1, 3, 64, 64), "labels": torch.full((1, 8, 8), 255)}
    losses = system(batch, Position(0, 1, 0, 0))
    assert losses.keys() == LOSSES
    sum(total for total, _ in losses.values()).backward()
    for parameter in system.network.head_parameters():
        assert parameter.grad is not None
        assert not parameter.grad.any()


def test_training_moves_what_is_not_frozen(finished_masks: FinishedMasks) -> None:
    stage, env = finished_masks.made.affinity_net, finished_masks.env
    trained, start = stage.load(env).state_dict(), stage.settings.network.create(env.runtime.seed).state_dict()
    changed = {name for name, value in start.items() if not torch.equal(trained[f"backbone.{name}"], value)}
    assert changed
    assert not any(name.startswith(("network.conv_stem", "network.bn1", "network.blocks.1.")) for name in changed)
    assert not any(name.startswith("backbone.network.blocks.5") for name in trained)  # it ends at the last block read


def test_the_model_file_says_what_it_is(finished_masks: FinishedMasks) -> None:
    stage, env = finished_masks.made.affinity_net, finished_masks.env
    header = read_header(stage.model_path(env))
    assert (header.kind, header.classes) == ("affinity", ("disc", "square"))
    assert header.head == {"blocks": ["blocks.1", "blocks.2", "blocks.4"], "widths": [4, 6, 8], "grid_stride": 8}
    network = stage.load(env)
    assert not network.training
    assert network.grid_stride == 8


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"widths": (4, 6)}, "one width above 0 for each block"),
        ({"widths": (4, 6, 0)}, "one width above 0 for each block"),
        ({"blocks": ()}, "one width above 0 for each block"),
        ({"radius": 1}, "radius must be 2 or more"),
        ({"grid_stride": 0}, "grid_stride above 0"),
    ],
)
def test_impossible_settings(wrong: dict, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        AffinitySettings(**wrong)


def test_a_misspelt_block_is_told_before_anything_is_made(finished_masks: FinishedMasks) -> None:
    settings = AffinitySettings(BackboneSettings(weights="none"), blocks=("blocks.2", "blocs.4", "blocks.6"))
    with pytest.raises(SettingsError, match=r"blocs\.4"):
        train_affinity(finished_masks.made.confident, settings)


@pytest.mark.parametrize(
    ("frozen_until", "blocks"), [("", ("layer4", "layer3", "layer2")), ("layer4", ("stem", "layer1", "layer2"))]
)
def test_a_block_behind_the_last_one_read_is_told_as_such(frozen_until: str, blocks: tuple[str, ...]) -> None:
    settings = AffinitySettings(BackboneSettings("resnet18", weights="none", frozen_until=frozen_until), blocks=blocks)
    with pytest.raises(SettingsError, match=r"affinity: .* ends at the last of blocks, 'layer2': .*'layer4'"):
        settings.create(0)
