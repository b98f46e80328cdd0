import copy
import dataclasses
import math
from typing import Any

import pytest
import torch

from tag2mask.engine.environment import Environment
from tag2mask.engine.logs import read_log
from tag2mask.engine.system import Batch, Position
from tag2mask.engine.training import Trainer, make_optimizers
from tag2mask.errors import SettingsError, WorkspaceError
from tag2mask.networks.model_file import load_model
from tag2mask.networks.segmenter import HeadSettings, Segmenter
from tag2mask.stages.difference.difference_settings import DifferenceNetSettings
from tag2mask.stages.difference.train_difference import StaticSystem, TrainDifference
from tag2mask.stages.segmenter_training import SegmenterTraining
from tag2mask.stages.train_classifier import TrainClassifier
from tests.builders import file_bytes
from tests.stages.conftest import Boxes, Finished, FinishedPairs, pair_settings

START = Position(0, 1, 0, 0)


def training(pairs: FinishedPairs, difference: DifferenceNetSettings | None = None, **changes: Any) -> TrainDifference:
    """The same training with other settings of the segmenter; without kept features."""
    settings = dataclasses.replace(pairs.settings.segmenter, **{"cache_features": False, **changes})
    net = pairs.made.net
    return TrainDifference(net.before, net.after, settings, difference or pairs.settings.difference)


def batch(system_of: TrainDifference, env: Environment, count: int) -> Batch:
    load, samples = system_of.open(env), system_of.samples(env)[:count]
    examples = [load(sample, 0) for sample in samples]
    return {name: torch.stack([example[name] for example in examples]) for name in examples[0]}


def made_up() -> Batch:
    """Three photographs: one as it should be, one that loses a class, one with padding."""
    generator = torch.Generator().manual_seed(0)
    before = torch.zeros(3, 16, 16, dtype=torch.uint8)
    before[:, 4:12, 4:12] = 1
    after = before.clone()
    after[0, 10:14, 4:12] = 1
    after[1, 4:12, 5:12] = 0
    after[2, 2:5, 3:9] = 1
    inside = torch.ones(3, 16, 16, dtype=torch.bool)
    inside[2, :, 8:] = False
    for mask in (before, after):
        mask[~inside] = 255
    return {
        "image": torch.randn(3, 3, 64, 64, generator=generator),
        "labels": before,
        "after": after,
        "present": torch.tensor([[True, True, False]]).repeat(3, 1),
        "inside": inside,
    }


def one_by_one(values: torch.Tensor, differs: torch.Tensor, inside: torch.Tensor) -> float:
    """J of one photograph, pixel by pixel."""
    halves: dict[bool, list[float]] = {False: [], True: []}
    for y, x in inside.nonzero().tolist():
        said, is_so = 1 / (1 + math.exp(-float(values[y, x].detach()))), bool(differs[y, x])
        halves[is_so].append(-math.log(said if is_so else 1 - said))
    return sum(sum(half) / len(half) for half in halves.values() if half) / 2


def test_the_two_losses_are_the_papers(finished_pairs: FinishedPairs) -> None:
    system, given = training(finished_pairs).system(finished_pairs.env).eval(), made_up()
    losses = system(given, START)
    assert list(losses) == ["segmentation", "change"]
    levels = system.grid_levels(given)
    log_p = levels.scores.log_softmax(1)
    labelled = (given["labels"] != 255).nonzero().tolist()
    expected = -sum(float(log_p[n, int(given["labels"][n, y, x]), y, x].detach()) for n, y, x in labelled)
    assert int(losses["segmentation"][1]) == len(labelled) == 3 * 256 - 128
    assert float(losses["segmentation"][0].detach()) == pytest.approx(expected, rel=1e-4)
    d = system.differences(levels, given["labels"], given["after"])
    differs = given["labels"] != given["after"]
    good = [n for n in range(3) if n != 1]  # photograph 1 keeps an eighth of its class
    expected = sum(one_by_one(logits[n], differs[n], given["inside"][n]) for n in good for logits in d) / 2
    assert int(losses["change"][1]) == 2
    assert float(losses["change"][0].detach()) == pytest.approx(expected, rel=1e-4)
    # With a looser test of loss all three count.
    system.lost_below = 0.1
    assert int(system(given, START)["change"][1]) == 3


def test_without_a_good_photograph_only_the_segmenter_learns(finished_pairs: FinishedPairs) -> None:
    system = training(finished_pairs).system(finished_pairs.env)
    given = {name: value[1:2] for name, value in made_up().items()}
    losses = system(given, START)
    assert float(losses["change"][0].detach()) == 0 == float(losses["change"][1])
    sum(total for total, _ in losses.values()).backward()
    assert all(p.grad is not None and not p.grad.any() for p in system.difference.parameters())
    assert any(p.grad is not None and p.grad.any() for p in system.network.parameters())


def test_neither_loss_reaches_the_other_network(finished_pairs: FinishedPairs) -> None:
    system = training(finished_pairs).system(finished_pairs.env)
    for name, taught, other in (
        ("change", system.difference, system.network),
        ("segmentation", system.network, system.difference),
    ):
        system.zero_grad()
        system(made_up(), START)[name][0].backward()
        assert all(p.grad is None or not p.grad.any() for p in other.parameters()), name
        learnt = [p for p in taught.parameters() if p.requires_grad]
        assert any(p.grad is not None and p.grad.any() for p in learnt), name


def test_the_net_has_an_optimiser_of_its_own(finished_pairs: FinishedPairs) -> None:
    stage = training(finished_pairs, DifferenceNetSettings(width=8, frozen_norm=True))
    system = stage.system(finished_pairs.env)
    optimizers = make_optimizers(system, stage.training())
    assert list(optimizers) == ["network", "difference"]
    (group,) = optimizers["difference"].param_groups
    assert group["base_lr"] == stage.training().learning_rate * stage.training().head_multiplier
    assert {id(p) for p in group["params"]} == {id(p) for p in system.difference.parameters() if p.requires_grad}
    shared = {id(p) for g in optimizers["network"].param_groups for p in g["params"]} & {id(p) for p in group["params"]}
    assert not shared


def test_examples_are_pairs_of_masks_at_the_photographs_view(finished_pairs: FinishedPairs) -> None:
    env, cached = finished_pairs.env, finished_pairs.made.net
    plain = training(finished_pairs)
    for stage, names in ((cached, {"features", "early"}), (plain, {"image"})):
        given, made = batch(stage, env, 6), stage.example(env)
        assert set(given) == {*names, "labels", "after", "present", "inside"} == set(made)
        assert {name: value.shape[1:] for name, value in given.items()} == {n: v.shape for n, v in made.items()}
        inside = given["inside"]
        assert not inside.all()
        assert (given["labels"][~inside] == 255).all()
        assert (given["after"][~inside] == 255).all()
        # The larger boxes lie around the smaller ones, but where the class is lost.
        kept = [n for n, sample in enumerate(stage.samples(env)) if sample.id != "shape_04"]
        assert ((given["after"] == given["labels"]) | (given["labels"] == 0))[kept].all()


@pytest.mark.parametrize("head", [HeadSettings(width=12, dilations=(2,), dropout=0.0), None])
def test_kept_features_stand_for_the_image(finished_pairs: FinishedPairs, head: HeadSettings | None) -> None:
    env, settings = finished_pairs.env, finished_pairs.settings
    segmenter = dataclasses.replace(settings.segmenter, head=head or settings.segmenter.head)
    losses = []
    for stage in (
        training(finished_pairs, head=segmenter.head, cache_features=True),
        training(finished_pairs, head=segmenter.head),
    ):
        torch.manual_seed(0)
        system = stage.system(env).eval()
        losses.append(system(batch(stage, env, 4), START))
    for name in ("segmentation", "change"):
        kept, computed = (float(values[name][0].detach()) for values in losses)
        assert kept == pytest.approx(computed, rel=1e-3)
        assert kept > 0


def test_losses_are_logged_by_name(finished_pairs: FinishedPairs) -> None:
    lines = read_log(finished_pairs.made.net.folder(finished_pairs.env))
    assert len(lines) == 2
    for line in lines:
        assert line["segmentation"] > 0
        assert line["change"] > 0


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_step_in_either_precision(finished_pairs: FinishedPairs, precision: str) -> None:
    stage, env = training(finished_pairs), finished_pairs.env
    torch.manual_seed(0)
    system = stage.system(env)
    before = copy.deepcopy(system.difference.state_dict())
    runtime = dataclasses.replace(env.runtime, precision=precision)
    given = {"id": ["a", "b", "c"], **made_up()}
    losses = Trainer(system, stage.training(), runtime).step(given, START, 1.0)
    assert all(total.dtype == torch.float32 and torch.isfinite(total) for total, _ in losses.values())
    assert any(not torch.equal(value, before[name]) for name, value in system.difference.state_dict().items())


def run_afresh(stage: TrainDifference, env: Environment) -> dict[str, bytes]:
    stage.run(env)
    files = file_bytes(stage.folder(env))
    for path in sorted(stage.folder(env).rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    return files


def test_killed_between_its_files_it_is_not_complete(
    finished_pairs: FinishedPairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    env, stage = (
        finished_pairs.env,
        training(finished_pairs, DifferenceNetSettings(width=6, low_level=False), cache_features=True),
    )
    whole = run_afresh(stage, env)

    def dies(*args: Any) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(SegmenterTraining, "save", dies)
        with pytest.raises(RuntimeError, match="killed"):
            stage.run(env)
    assert stage.difference_path(env).is_file()
    assert not stage.model_path(env).exists()
    assert not stage.complete(env)
    stage.run(env)
    assert file_bytes(stage.folder(env)) == whole
    assert {"model.safetensors", "difference.safetensors"} <= set(whole)


def test_what_is_loaded_is_what_was_trained(finished_pairs: FinishedPairs) -> None:
    env, stage = finished_pairs.env, finished_pairs.made.net
    network, difference = stage.load_nets(env)
    assert isinstance(network, Segmenter)
    assert not network.training
    assert not difference.training
    assert load_model(stage.model_path(env))[1].kind == "segmenter"
    assert difference.arguments == {"high": 12, "low": 16, "classes": 3, "width": 8, "frozen_norm": False}
    torch.manual_seed(0)
    start = stage.system(env)
    for trained, begun in ((network.head, start.network.head), (difference, start.difference)):
        moved = trained.state_dict()
        assert any(not torch.equal(moved[name], value) for name, value in begun.state_dict().items())
    system = stage.image_system(env)
    assert isinstance(system, StaticSystem)
    assert torch.equal(system.difference.score.weight, difference.score.weight)
    assert system(made_up(), START)["change"][0].isfinite()


def test_a_damaged_file_is_named(finished_pairs: FinishedPairs) -> None:
    env, stage = finished_pairs.env, training(finished_pairs, DifferenceNetSettings(width=3))
    with pytest.raises(WorkspaceError, match=r"difference\.safetensors.*delete the folder"):
        stage.load_nets(env)


def test_all_that_it_learns_from_is_in_its_fingerprint(finished_pairs: FinishedPairs) -> None:
    env, net, settings = finished_pairs.env, finished_pairs.made.net, finished_pairs.settings
    before, after, segmenter = net.before, net.after, settings.segmenter
    others = [
        TrainDifference(before, before, segmenter, settings.difference),
        TrainDifference(after, before, segmenter, settings.difference),
        TrainDifference(before, after, segmenter, DifferenceNetSettings(width=8, low_block="stem")),
        TrainDifference(before, after, segmenter, DifferenceNetSettings(width=8, low_level=False)),
        TrainDifference(before, after, segmenter, settings.difference, lost_below=0.4),
    ]
    prints = {stage.fingerprint(env) for stage in [net, *others]}
    assert len(prints) == 6
    same = TrainDifference(before, after, segmenter, settings.difference, lost_below=0.5)
    assert same.fingerprint(env) in prints
    assert "masks" not in net.reads


def test_it_goes_on_from_the_classifiers_backbone(finished: Finished) -> None:
    env, classifier = finished.env, finished.stage(TrainClassifier)
    settings = dataclasses.replace(pair_settings().segmenter, cache_features=False)
    stage = TrainDifference(Boxes(8), Boxes(9), settings, DifferenceNetSettings(width=4), start=classifier)
    weights, trained = stage.system(env).network.backbone.state_dict(), classifier.load(env).backbone.state_dict()
    fresh = settings.backbone.create(env.runtime.seed).state_dict()
    assert all(torch.equal(value, trained[name]) for name, value in weights.items())
    assert any(not torch.equal(value, fresh[name]) for name, value in weights.items())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"head": HeadSettings(kind="aspp", width=0, dilations=(1, 2))}, "head.kind.*aspp"),
    ],
)
def test_settings_that_do_not_go_together(wrong: dict[str, Any], message: str) -> None:
    settings = dataclasses.replace(pair_settings().segmenter, **wrong)
    with pytest.raises(SettingsError, match=message):
        TrainDifference(Boxes(8), Boxes(9), settings, DifferenceNetSettings(width=4))


def test_masks_of_different_lists_make_no_pairs() -> None:
    with pytest.raises(ValueError, match="no pairs"):
        TrainDifference(Boxes(8), Boxes(9).on("val"), pair_settings().segmenter, DifferenceNetSettings(width=4))
