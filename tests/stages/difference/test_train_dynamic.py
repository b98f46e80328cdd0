import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tag2mask.data.masks import read_mask
from tag2mask.engine.environment import Environment
from tag2mask.engine.logs import read_log
from tag2mask.engine.system import Position, total_loss
from tag2mask.engine.training import make_optimizers
from tag2mask.errors import SettingsError, WorkspaceError
from tag2mask.networks.difference_net import load_difference_nets
from tag2mask.networks.heads import Dilated, LargeFOV
from tag2mask.networks.model_file import load_model
from tag2mask.networks.segmenter import HeadSettings
from tag2mask.stages.difference.difference_settings import DifferenceNetSettings, PairSettings
from tag2mask.stages.difference.train_dynamic import (
    DynamicSettings,
    DynamicSystem,
    TrainDynamic,
    dynamic_labels,
    train_dynamic,
)
from tag2mask.stages.growth import OnlineCRFSettings
from tag2mask.stages.seeds import RefineSeeds
from tag2mask.stages.train_classifier import TrainClassifier
from tests.stages.conftest import Finished
from tests.stages.segmenters import check_made_up_example

START = Position(0, 1, 0, 0)
LOSSES = ["segmentation_main", "segmentation_sub", "difference_crf", "difference_seed"]
HEAD = HeadSettings(kind="dilated", width=12, dilations=(2,), dropout=0.0)


def settings(finished: Finished, **changes: Any) -> DynamicSettings:
    segmenter = dataclasses.replace(finished.settings.segmenter, **{"head": HEAD, **changes.pop("segmenter", {})})
    plain = DynamicSettings(
        segmenter=segmenter,
        difference=DifferenceNetSettings(width=6),
        online_crf=OnlineCRFSettings(iterations=2, shrink=4.0),
    )
    return dataclasses.replace(plain, **changes)


def stage_of(finished: Finished, **changes: Any) -> TrainDynamic:
    """On seeds of `cam`, from its classifier; every input is made."""
    stage = train_dynamic(finished.stage(RefineSeeds), settings(finished, **changes), finished.stage(TrainClassifier))
    for needed in stage.inputs.values():
        if not needed.complete(finished.env):
            needed.run(finished.env)
    return stage


def batch_of(stage: TrainDynamic, env: Environment, count: int = 2, epoch: int = 0) -> dict[str, Any]:
    load = stage.open(env)
    examples = [load(sample, epoch) for sample in stage.samples(env)[:count]]
    return {name: torch.stack([example[name] for example in examples]) for name in examples[0]}


@pytest.fixture(scope="module")
def trained(finished: Finished) -> TrainDynamic:
    stage = stage_of(finished)
    stage.run(finished.env)
    return stage


def test_losses_are_logged_one_by_one(finished: Finished, trained: TrainDynamic) -> None:
    lines = read_log(trained.folder(finished.env))
    assert len(lines) == 2
    for line in lines:
        assert all(np.isfinite(line[name]) and line[name] > 0 for name in LOSSES)
    assert lines[1]["segmentation_main"] < lines[0]["segmentation_main"]


def test_what_was_trained_is_rebuilt_whole(finished: Finished, trained: TrainDynamic) -> None:
    """Refined by the networks as they are loaded, seeds become what the last epoch's end made of them."""
    env = finished.env
    labels = dynamic_labels(trained)
    labels.run(env)
    changed = 0
    for sample in trained.samples(env):
        made = labels.load(env, sample.id)
        assert np.array_equal(made, read_mask(trained.folder(env) / "growth" / "002" / f"{sample.id}.png"))
        assert set(np.unique(made)) <= {0, 255, *sample.tags}
        changed += int((made != trained.batch.labels.load(env, sample.id)).sum())
    assert changed
    system, again = (trained.trained_system(env) for _ in range(2))
    assert not system.training
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in system.state_dict().items())
    fresh = trained.system(env).sub.state_dict()
    assert not torch.equal(system.sub.state_dict()["first.weight"], fresh["first.weight"])
    nets = load_difference_nets(trained.difference_path(env))
    for name, net in (("crf", system.refinement.difference_crf), ("seed", system.refinement.difference_seed)):
        assert torch.equal(nets[name].score.weight, net.score.weight)


def test_the_model_file_is_the_main_branch(finished: Finished, trained: TrainDynamic) -> None:
    env = finished.env
    network, header = load_model(trained.model_path(env))
    assert (header.kind, header.head["kind"]) == ("segmenter", "dilated")
    system = trained.trained_system(env)
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(network(images), system.network(images), atol=1e-4)
    assert {name.split(".")[0] for name in network.state_dict()} == {"backbone", "head"}


def test_masks_over_the_epochs_are_drawn(finished: Finished, trained: TrainDynamic, tmp_path: Path) -> None:
    assert trained.strips is not None
    (path,) = trained.draw(finished.env, tmp_path)
    assert path.name == "training_masks_over_epochs.jpg"
    assert path.is_file()


def test_a_damaged_part_is_named(finished: Finished) -> None:
    env, stage = finished.env, stage_of(finished, second_pair="ssdd2")
    stage.run(env)
    stage.sub_head_path(env).write_bytes(b"no weights")
    with pytest.raises(WorkspaceError, match=r"sub_head\.safetensors.*delete the folder"):
        stage.trained_system(env)


def test_true_masks_are_never_seen(finished: Finished, trained: TrainDynamic) -> None:
    assert trained.reads == {"images", "tags"}
    assert all(sample.mask is None for sample in trained.samples(finished.env))


@pytest.mark.parametrize("cache_features", [True, False])
def test_made_up_examples_have_the_shapes_of_real_ones(finished: Finished, cache_features: bool) -> None:
    check_made_up_example(stage_of(finished, segmenter={"cache_features": cache_features}), finished.env)


def test_features_stand_for_the_image(finished: Finished) -> None:
    """Later blocks, heads and DD-Nets on cached features come to the same losses, up to half precision."""
    env, found = finished.env, []
    for cache_features in (True, False):
        stage = stage_of(finished, segmenter={"cache_features": cache_features})
        torch.manual_seed(0)
        system = stage.system(env).eval()
        batch = batch_of(stage, env)
        assert {"features", "early"} <= batch.keys() if cache_features else "image" in batch
        found.append({name: float((s / n).detach()) for name, (s, n) in system(batch, START).items()})
    assert found[0].keys() == set(LOSSES)
    assert found[0] == pytest.approx(found[1], abs=2e-3)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"difference": DifferenceNetSettings(width=6, low_level=False)},
        {"difference": DifferenceNetSettings(width=6, frozen_norm=True)},
        {"segmenter": {"head": HeadSettings(width=8, dilations=(2,))}},
    ],
)
def test_gradients_of_a_step_keep_apart(finished: Finished, changes: dict[str, Any]) -> None:
    stage, env = stage_of(finished, **changes), finished.env
    system: Any = stage.system(env).train()
    assert type(system.sub) is type(system.network.head)
    assert isinstance(system.sub, Dilated | LargeFOV)
    groups = system.parameter_groups()
    assert list(groups) == ["network", "difference"]
    owned = {name: [id(p) for group in made for p in group.parameters] for name, made in groups.items()}
    trained = [id(p) for p in system.parameters() if p.requires_grad]
    assert sorted(owned["network"] + owned["difference"]) == sorted(trained)
    multiplier = stage.settings.training.head_multiplier
    assert [group.multiplier for made in groups.values() for group in made] == [1, multiplier, multiplier]
    assert set(make_optimizers(system, stage.settings.training)) == {"network", "difference"}

    def moved(names: list[str]) -> set[str]:
        system.zero_grad()
        losses = system(batch_of(stage, env, 4), START)
        total_loss({name: losses[name] for name in names}).backward()
        return {
            owner
            for owner, made in groups.items()
            for group in made
            for p in group.parameters
            if p.grad is not None and p.grad.any()
        }

    assert moved(LOSSES[:2]) == {"network"}
    assert moved(LOSSES[2:]) == {"difference"}


def test_the_sub_branch_and_the_features_of_a_batch(finished: Finished) -> None:
    stage, env = stage_of(finished, segmenter={"cache_features": False}), finished.env
    system = stage.system(env).eval()
    assert isinstance(system, DynamicSystem)
    batch = batch_of(stage, env)
    main, sub, early = system.branches(batch)
    network = system.network
    features, low = network.backbone.features_at(batch["image"], [network.backbone.block, stage.early])
    for branch, head in ((main, network.head), (sub, system.sub)):
        scores = torch.nn.functional.interpolate(head(features), (16, 16), mode="bilinear", align_corners=False)
        assert torch.allclose(branch.scores, scores, atol=1e-6)
        assert branch.hidden.shape == (2, 12, 16, 16)
    assert early is not None
    assert early.shape == (2, low.shape[1], 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        losses = system(batch, START)
    assert all(total.dtype == torch.float32 and total.isfinite() for total, _ in losses.values())


def test_it_starts_from_the_classifier_or_not(finished: Finished) -> None:
    env = finished.env
    classifier = finished.stage(TrainClassifier).load(env).backbone.state_dict()
    moved = "network.blocks.3.0.conv_pw.weight"
    for start, same in (("classifier", True), ("pretrained", False)):
        stage = stage_of(finished, start=start, segmenter={"cache_features": False})
        assert ("start" in stage.inputs) is same
        assert torch.equal(stage.system(env).network.backbone.state_dict()[moved], classifier[moved]) is same


def test_every_setting_counts(finished: Finished, trained: TrainDynamic) -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"alpha": 0.25},
        {"second_pair": "ssdd2"},
        {"pair": PairSettings(bias=0.2, background_bias=0.0)},
        {"online_crf": OnlineCRFSettings(iterations=3, shrink=4.0)},
        {"difference": DifferenceNetSettings(width=7)},
        {"start": "pretrained"},
        {"segmenter": {"label_stride": 8}},
    ]
    prints = [
        train_dynamic(
            finished.stage(RefineSeeds), settings(finished, **change), finished.stage(TrainClassifier)
        ).fingerprint(finished.env)
        for change in changes
    ]
    assert prints[0] == trained.fingerprint(finished.env)
    assert len(set(prints)) == len(prints)


def test_settings_reach_the_refinement(finished: Finished) -> None:
    pair = PairSettings(bias=0.3, background_bias=0.05, class_terms=False, lost_below=0.4)
    stage = stage_of(finished, pair=pair, alpha=0.2, second_pair="ssdd2")
    system: Any = stage.system(finished.env)
    made = system.refinement
    assert (made.bias, made.background_bias, made.class_bias, made.share) == (0.3, 0.05, 0.0, 0.4)
    assert (made.alpha, made.second_pair, made.crf.iterations, made.crf.shrink) == (0.2, "ssdd2", 2, 4.0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"alpha": -0.1}, r"dynamic\.alpha: -0\.1"),
        ({"second_pair": "sub"}, "dynamic.second_pair.*ssdd1, ssdd2"),
        ({"start": "static"}, "dynamic.start.*classifier, pretrained"),
    ],
)
def test_impossible_settings(finished: Finished, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        settings(finished, **wrong)


def test_an_aspp_head_has_no_hidden_layer(finished: Finished) -> None:
    aspp = dataclasses.replace(finished.settings.segmenter, head=HeadSettings(kind="aspp", dilations=(2, 4)))
    with pytest.raises(SettingsError, match=r"segmenter\.head\.kind"):
        DynamicSettings(segmenter=aspp)
