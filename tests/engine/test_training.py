import dataclasses
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tag2mask.data.samples import Sample
from tag2mask.engine import training
from tag2mask.engine.environment import Environment
from tag2mask.engine.logs import read_log
from tag2mask.engine.schedules import ScheduleSettings
from tag2mask.engine.system import Batch, Losses, ParameterGroup, Position, System, total_loss
from tag2mask.engine.training import (
    Trainer,
    TrainingSettings,
    TrainingStage,
    batch_keys,
    epoch_batches,
    fit,
    make_optimizers,
    time_example,
    time_step,
    training_batches,
)
from tag2mask.errors import DataError, SettingsError, WorkspaceError
from tests.builders import shapes_environment


class Regression(System):
    """A small network with dropout: its training draws random numbers at every step."""

    def __init__(self, dies_at: int = -1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout(0.5))
        self.head = nn.Linear(4, 1)
        self.dies_at = dies_at
        self.seen: list[tuple[int, int, tuple[str, ...]]] = []

    def forward(self, batch: Batch, position: Position) -> Losses:
        if position.step == self.dies_at:
            raise KeyboardInterrupt
        self.seen.append((position.step, position.epoch, tuple(batch["id"])))
        value = self.head(self.body(batch["image"]).mean((2, 3)))[:, 0]
        error = (value - batch["target"]) ** 2
        return {"error": (error.sum(), batch["target"].new_tensor(len(error)))}

    def parameter_groups(self) -> dict[str, list[ParameterGroup]]:
        return {
            "body": [ParameterGroup(list(self.body.parameters()))],
            "head": [ParameterGroup(list(self.head.parameters()), 10.0)],
        }


def example(sample: Sample, epoch: int) -> dict[str, Any]:
    own = torch.Generator().manual_seed(int(sample.id[-2:]) * 100 + epoch)
    return {"image": torch.randn(3, 6, 6, generator=own), "target": torch.tensor(float(epoch))}


SETTINGS = TrainingSettings(
    epochs=3, batch_size=4, learning_rate=0.01, optimizer="adamw", gradient_clip=1.0, checkpoint_seconds=0
)


def train(folder: Path, system: Regression, settings: TrainingSettings = SETTINGS, **runtime: Any) -> Regression:
    env = shapes_environment(folder.parent, **{"threads": 1, **runtime})
    samples = env.samples("train", frozenset({"images"}))
    fit(system, samples, example, settings, env, folder=folder, title="regression")
    return system


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_killed_at_any_step_it_ends_the_same(tmp_path: Path, kind: str) -> None:
    settings = TrainingSettings(epochs=3, batch_size=4, optimizer=kind, checkpoint_seconds=0)  # type: ignore[arg-type]
    whole = train(tmp_path / "whole", Regression(), settings)
    assert [step for step, _, _ in whole.seen] == list(range(6))
    for step in range(1, 6):
        folder = tmp_path / f"killed{step}"
        with pytest.raises(KeyboardInterrupt):
            train(folder, Regression(dies_at=step), settings)
        again = train(folder, Regression(), settings)
        assert again.seen == whole.seen[step:]
        for name, value in whole.state_dict().items():
            assert torch.equal(again.state_dict()[name], value), (step, name)
        assert [line["step"] for line in read_log(folder)] == [2, 4, 6]


def test_every_photograph_once_per_epoch_in_a_new_order() -> None:
    first, second = epoch_batches(10, 4, 0, 0), epoch_batches(10, 4, 0, 1)
    assert sorted(index for batch in first for index in batch) == list(range(10))
    assert [len(batch) for batch in first] == [4, 4, 2]
    assert first != second
    assert first == epoch_batches(10, 4, 0, 0)
    assert first != epoch_batches(10, 4, 1, 0)


@given(
    count=st.integers(1, 20), size=st.integers(1, 8), epochs=st.integers(1, 4), steps=st.integers(0, 30), data=st.data()
)
def test_a_training_goes_on_with_the_batches_it_would_have_had(
    count: int, size: int, epochs: int, steps: int, data: st.DataObject
) -> None:
    settings = TrainingSettings(epochs=epochs, batch_size=size, steps=steps)
    total, per_epoch = settings.total_steps(count), settings.steps_per_epoch(count)
    whole = [
        [(index, epoch) for index in batch]
        for epoch in range(-(-total // per_epoch))
        for batch in epoch_batches(count, size, 7, epoch)
    ][:total]
    done = data.draw(st.integers(0, total))
    assert list(batch_keys(count, settings, 7, done)) == whole[done:]


@pytest.mark.parametrize("workers", [0, 2])
def test_no_more_than_an_epochs_batches_are_made_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    asked: list[int] = []

    def noted(count: int, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
        asked.append(epoch)
        return epoch_batches(count, batch_size, seed, epoch)

    monkeypatch.setattr(training, "epoch_batches", noted)
    env = shapes_environment(tmp_path, threads=1, workers=workers)
    samples = env.samples("train", frozenset({"images"}))
    settings = dataclasses.replace(SETTINGS, epochs=4, batch_size=1)
    per_epoch = settings.steps_per_epoch(len(samples))
    last, ahead = 4 * per_epoch - 1, 2 * workers  # each worker process is told of two batches more
    assert ahead < per_epoch
    for step, _ in training_batches(samples, example, settings, env.runtime, done=per_epoch + 2):
        assert asked[-1] == min(step + ahead, last) // per_epoch
    assert asked == [1, 2, 3]


def test_a_training_can_be_so_many_steps_long(tmp_path: Path) -> None:
    """Six photographs in batches of four are two steps an epoch: the fifth step is the third epoch's first."""
    counted = dataclasses.replace(SETTINGS, epochs=1, steps=5)
    whole = train(tmp_path / "whole", Regression(), counted)
    assert [(step, epoch) for step, epoch, _ in whole.seen] == [(0, 0), (1, 0), (2, 1), (3, 1), (4, 2)]
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", Regression(dies_at=3), counted)
    again = train(tmp_path / "killed", Regression(), counted)
    assert [step for step, _, _ in again.seen] == [3, 4]
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])


def test_every_epoch_is_told_and_the_last_step_too(tmp_path: Path) -> None:
    env = shapes_environment(tmp_path, threads=1)
    told: list[int] = []
    fit(
        Regression(),
        env.samples("train", frozenset({"images"})),
        example,
        dataclasses.replace(SETTINGS, steps=5),
        env,
        folder=tmp_path / "told",
        title="regression",
        after_epoch=lambda system, epoch: told.append(epoch),
    )
    assert told == [0, 1, 2]


def test_seed_changes_the_result(tmp_path: Path) -> None:
    first, second = train(tmp_path / "a", Regression()), train(tmp_path / "b", Regression(), seed=1)
    assert not torch.equal(first.head.weight, second.head.weight)


def test_workers_do_not_change_the_result(tmp_path: Path) -> None:
    first, second = train(tmp_path / "a", Regression()), train(tmp_path / "b", Regression(), workers=2)
    assert torch.equal(first.head.weight, second.head.weight)


def test_examples_are_made_by_all_threads_and_do_not_change_the_result(tmp_path: Path) -> None:
    seen = set()

    def slow(sample: Sample, epoch: int) -> dict[str, Any]:
        seen.add((threading.get_ident(), torch.get_num_threads()))
        time.sleep(0.002)
        return example(sample, epoch)

    env = shapes_environment(tmp_path, threads=3)
    samples, settings = env.samples("train", frozenset({"images"})), SETTINGS
    batches = list(training_batches(samples, slow, settings, env.runtime))
    assert len(seen) == 3
    assert {threads for _, threads in seen} == {1}
    alone = training_batches(samples, example, settings, dataclasses.replace(env.runtime, threads=1))
    for (step, batch), (expected_step, expected) in zip(batches, alone, strict=True):
        assert (step, batch["id"]) == (expected_step, expected["id"])
        assert torch.equal(batch["image"], expected["image"])
    later = list(training_batches(samples, example, settings, env.runtime, 3))
    assert [(step, batch["id"]) for step, batch in later] == [(step, batch["id"]) for step, batch in batches[3:]]


def test_log_holds_losses_rates_and_speed(tmp_path: Path) -> None:
    train(tmp_path / "a", Regression())
    lines = read_log(tmp_path / "a")
    assert len(lines) == 3
    assert set(lines[0]) == {"step", "learning_rate", "error", "images_per_second", "waiting_share"}
    assert lines[0]["learning_rate"] > lines[-1]["learning_rate"] > 0
    assert 0 <= lines[0]["waiting_share"] <= 1


def test_one_optimiser_per_owner_with_rates_per_group() -> None:
    optimizers = make_optimizers(Regression(), TrainingSettings(learning_rate=0.5))
    assert set(optimizers) == {"body", "head"}
    assert optimizers["head"].param_groups[0]["base_lr"] == 5.0
    assert isinstance(optimizers["body"], torch.optim.SGD)
    assert optimizers["body"].param_groups[0]["momentum"] == 0.9


def test_clipping_bounds_the_step(tmp_path: Path) -> None:
    before = Regression().head.weight.clone()
    settings = TrainingSettings(
        epochs=1,
        batch_size=6,
        learning_rate=1.0,
        head_multiplier=1,
        momentum=0,
        weight_decay=0,
        gradient_clip=1e-3,
        schedule=ScheduleSettings("constant"),
    )
    after = train(tmp_path / "a", Regression(), settings)
    assert 0 < float((after.head.weight - before).norm().detach()) <= 10 * 1e-3 * 1.01


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "checkpoint.pt").write_bytes(b"cut short")
    with pytest.raises(WorkspaceError, match=r"checkpoint\.pt"):
        train(tmp_path / "a", Regression())


def test_a_loss_that_is_not_finite_stops_with_its_name() -> None:
    losses = {"seed": (torch.tensor(1.0), torch.tensor(2)), "boundary": (torch.tensor(float("nan")), torch.tensor(1))}
    with pytest.raises(FloatingPointError, match="boundary nan"):
        total_loss(losses)


def test_an_empty_count_is_zero_with_zero_gradient() -> None:
    weight = torch.ones(3, requires_grad=True)
    total = total_loss({"empty": ((weight * 0).sum(), torch.tensor(0)), "mean": (weight.sum() * 2, torch.tensor(4))})
    assert float(total.detach()) == 1.5
    total.backward()
    assert weight.grad is not None
    assert torch.equal(weight.grad, torch.full((3,), 0.5))


def test_a_step_can_be_timed(tmp_path: Path) -> None:
    env = shapes_environment(tmp_path, threads=1)
    example: dict[str, Tensor] = {"image": torch.zeros(3, 8, 8), "target": torch.tensor(1.0)}
    assert time_step(Regression(), example, SETTINGS, env.runtime) > 0


def test_a_timed_step_is_a_training_step_that_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []

    class Watched(Trainer):
        def step(self, batch: Batch, position: Position, rate: float) -> Losses:
            rates.append(rate)
            return super().step(batch, position, rate)

    monkeypatch.setattr(training, "Trainer", Watched)
    env, system = shapes_environment(tmp_path, threads=1), Regression()
    before = {name: value.clone() for name, value in system.state_dict().items()}
    # at this rate a step would throw the second one out of float32's range
    settings = dataclasses.replace(SETTINGS, optimizer="sgd", learning_rate=1e38, gradient_clip=0.0)
    time_step(system, {"image": torch.ones(3, 8, 8), "target": torch.tensor(1.0)}, settings, env.runtime)
    assert rates == [0, 0]
    assert all(torch.equal(value, before[name]) for name, value in system.state_dict().items())


def test_the_time_of_an_example_is_shared_by_the_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(sample: Sample, epoch: int) -> dict[str, Any]:
        time.sleep(0.02)
        return example(sample, epoch)

    monkeypatch.setattr(training, "cpu_count", lambda: 4)
    env = shapes_environment(tmp_path, threads=1)
    sample = env.samples("train", frozenset({"images"}))[0]
    alone, shared = (
        time_example(slow, sample, dataclasses.replace(env.runtime, threads=threads)) for threads in (1, 4)
    )
    assert alone >= 0.02
    assert 0.005 <= shared < alone


class Made(TrainingStage):
    """A stage whose examples take a known time to make."""

    name, reads = "made", frozenset({"images"})

    def training(self) -> TrainingSettings:
        return SETTINGS

    def system(self, env: Environment) -> System:
        return Regression()

    def open(self, env: Environment) -> Callable[[Sample, int], dict[str, Any]]:
        def slow(sample: Sample, epoch: int) -> dict[str, Any]:
            time.sleep(0.5)
            return example(sample, epoch)

        return slow

    def save(self, system: System, env: Environment, path: Path) -> None:
        raise NotImplementedError

    def example(self, env: Environment) -> dict[str, Tensor]:
        return {"image": torch.zeros(3, 6, 6), "target": torch.tensor(0.0)}


def test_an_estimate_counts_the_making_of_examples_where_steps_wait_for_it(tmp_path: Path) -> None:
    # 3 epochs of 6 photographs at half a second; the steps themselves are next to nothing
    in_place = Made(None, "train").estimate(shapes_environment(tmp_path, threads=1, workers=0)).seconds
    beside = Made(None, "train").estimate(shapes_environment(tmp_path, threads=1, workers=1)).seconds
    to_come = Made(None, "train", before=Made(None, "train"))
    unknown = to_come.estimate(shapes_environment(tmp_path, threads=1, workers=0)).seconds
    assert in_place >= 9
    assert beside < 4
    assert unknown < 4


@pytest.mark.parametrize(
    "wrong", [{"epochs": 0}, {"batch_size": -1}, {"learning_rate": 0.0}, {"optimizer": "lamb"}, {"momentum": -0.1}]
)
def test_impossible_values_are_named(wrong: dict) -> None:
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        TrainingSettings(**wrong)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_photograph_is_one_line_from_workers_too(tmp_path: Path, workers: int) -> None:
    def damaged(sample: Sample, epoch: int) -> dict[str, Any]:
        raise DataError(f"{sample.image}: cut short")

    env = shapes_environment(tmp_path, threads=1, workers=workers)
    samples = env.samples("train", frozenset({"images"}))
    with pytest.raises(DataError, match=r"^[^\n]*shape_0\d\.png: cut short$"):
        fit(Regression(), samples, damaged, SETTINGS, env, folder=tmp_path / "x", title="x")
