import contextlib
import dataclasses
import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from tag2mask.data.samples import Sample
from tag2mask.engine.environment import Environment
from tag2mask.engine.stage import Accumulator, Estimate, PerImageStage, ReduceStage, map_in_order, map_threads
from tag2mask.errors import WorkspaceError
from tests.builders import file_bytes, shapes_environment


@dataclass(frozen=True)
class Settings:
    factor: int = 2


class Lengths(PerImageStage):
    name, suffix, reads = "lengths", ".txt", frozenset({"tags"})

    def __init__(self, settings: Settings, dies_at: str = "", **inputs: Any) -> None:
        super().__init__(settings, "train", **inputs)
        self.dies_at, self.made = dies_at, []

    def open(self, env: Environment) -> Callable[[Sample], bytes]:
        def make(sample: Sample) -> bytes:
            if sample.id == self.dies_at:
                raise KeyboardInterrupt
            self.made.append(sample.id)
            return str(len(sample.tags) * self.settings.factor).encode()

        return make

    def estimate(self, env: Environment) -> Estimate:
        return Estimate(1, 1)


class Sum(ReduceStage):
    name, reads, block = "sum", frozenset({"tags"}), 2

    def __init__(self, lengths: Lengths) -> None:
        super().__init__(Settings(), "train", lengths=lengths)
        self.lengths = lengths

    def open(self, env: Environment) -> Callable[[], Accumulator]:
        stage = self

        class Adder:
            def __init__(self) -> None:
                self.parts: list[list[int]] = [[]]

            def add(self, sample: Sample) -> None:
                self.parts[-1].append(int(stage.lengths.path(env, sample.id).read_text()))

            def merge(self, other: "Adder") -> None:
                self.parts += other.parts

            def result(self) -> dict[str, Any]:
                return {"parts": self.parts[1:]}

        return Adder

    def estimate(self, env: Environment) -> Estimate:
        return Estimate(1, 1)


def test_a_file_per_photograph_and_a_marker_at_the_end(tmp_path: Path) -> None:
    env, stage = shapes_environment(tmp_path), Lengths(Settings())
    assert not stage.complete(env)
    stage.run(env)
    assert stage.complete(env)
    assert stage.path(env, "shape_00").read_text() == "4"
    assert len(list((stage.folder(env) / "items").iterdir())) == 6
    marker = json.loads((stage.folder(env) / "stage.json").read_text())
    assert marker["settings"] == {"factor": 2}
    assert marker["fingerprint"] == stage.fingerprint(env)


@pytest.mark.parametrize("threads", [1, 2])
def test_killed_and_started_again_nothing_is_made_twice(tmp_path: Path, threads: int) -> None:
    env = shapes_environment(tmp_path, threads=threads)
    with pytest.raises(KeyboardInterrupt):
        Lengths(Settings(), dies_at="shape_03").run(env)
    again = Lengths(Settings())
    assert not again.complete(env)
    there = {path.stem for path in (again.folder(env) / "items").iterdir()}
    again.run(env)
    assert set(again.made).isdisjoint(there)
    assert set(again.made) | there == {f"shape_{index:02d}" for index in range(6)}
    assert not list(again.folder(env).rglob("*.part"))
    fresh = shapes_environment(tmp_path / "other", threads=threads)
    Lengths(Settings()).run(fresh)
    assert file_bytes(env.workspace.stages) == file_bytes(fresh.workspace.stages)


def test_fingerprint_follows_settings_inputs_version_and_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env = shapes_environment(tmp_path)
    first = Lengths(Settings()).fingerprint(env)
    assert Lengths(Settings()).fingerprint(env) == first
    assert Lengths(Settings(3)).fingerprint(env) != first
    assert Lengths(Settings(), other=Lengths(Settings(3))).fingerprint(env) != first
    assert Lengths(Settings()).on("val").fingerprint(env) != first
    monkeypatch.setattr(Lengths, "version", 2)
    assert Lengths(Settings()).fingerprint(env) != first


def test_time_adds_up_over_interruptions(tmp_path: Path) -> None:
    env = shapes_environment(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        Lengths(Settings(), dies_at="shape_05").run(env)
    stage = Lengths(Settings())
    stage._add_seconds(env, 5.0)
    stage.run(env)
    assert stage.seconds(env) >= 5.0
    assert Lengths(Settings(9)).seconds(env) == 0.0


def test_reduce_merges_fixed_blocks_in_order(tmp_path: Path) -> None:
    env = shapes_environment(tmp_path)
    lengths = Lengths(Settings())
    lengths.run(env)
    total = Sum(lengths)
    total.run(env)
    assert total.metrics(env) == {"parts": [[4, 2], [2, 4], [2, 2]]}
    assert lengths.metrics(env) == {}
    (total.folder(env) / "result.json").write_text("{ cut")
    with pytest.raises(WorkspaceError, match=r"result\.json"):
        total.metrics(env)


def test_a_stage_shows_and_says_nothing_by_default(tmp_path: Path) -> None:
    env = shapes_environment(tmp_path)
    assert Lengths(Settings()).layers(env, "x") == {}
    assert Lengths(Settings()).notes(env) == []


def test_map_threads_stops_at_the_first_error() -> None:
    seen, lock = [], threading.Lock()

    def function(item: int) -> None:
        with lock:
            seen.append(item)
        if item == 3:
            raise ValueError("three")

    with pytest.raises(ValueError, match="three"):
        map_threads(function, list(range(100)), 2, lambda item: None)
    assert len(seen) < 100
    done: list[int] = []
    map_threads(lambda item: None, list(range(20)), 3, done.append)
    assert sorted(done) == list(range(20))


def test_each_thread_of_a_stage_computes_alone_and_ours_is_as_before(tmp_path: Path) -> None:
    own = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        seen: list[int] = []
        for threads in (1, 2):
            map_threads(lambda item: seen.append(torch.get_num_threads()), list(range(4)), threads, lambda item: None)
        assert seen == [1] * 8
        assert list(map_in_order(lambda item: torch.get_num_threads(), range(5), 1)) == [1] * 5
        assert torch.get_num_threads() == 3
        with ThreadPoolExecutor(1) as pool:  # threads that are started later are not held to one either
            assert pool.submit(torch.get_num_threads).result() == 3
    finally:
        torch.set_num_threads(own)


def test_a_gpu_is_given_a_few_photographs_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env, stage = shapes_environment(tmp_path, threads=8), Lengths(Settings())
    assert stage.at_a_time(env) == 8
    monkeypatch.setattr(Lengths, "on_device", True)
    assert stage.at_a_time(env) == 8
    env.runtime = dataclasses.replace(env.runtime, device="cuda")
    assert stage.at_a_time(env) == 2


@pytest.mark.parametrize("threads", [1, 3])
def test_blocks_are_merged_in_order_however_many_are_made_at_a_time(tmp_path: Path, threads: int) -> None:
    env = shapes_environment(tmp_path, threads=threads)
    lengths = Lengths(Settings())
    lengths.run(env)
    Sum(lengths).run(env)
    assert Sum(lengths).metrics(env) == {"parts": [[4, 2], [2, 4], [2, 2]]}


def test_map_in_order_keeps_the_order_and_stays_only_a_little_ahead() -> None:
    started, lock = [], threading.Lock()

    def function(item: int) -> int:
        with lock:
            started.append(item)
        time.sleep(0.002 * (item % 3))  # later items are often done before earlier ones
        return item * item

    found = map_in_order(function, iter(range(50)), 2)
    assert [next(found), next(found)] == [0, 1]
    assert len(started) < 15
    assert list(found) == [item * item for item in range(2, 50)]
    assert list(map_in_order(function, [], 3)) == []


def test_map_in_order_raises_an_error_in_its_place() -> None:
    def function(item: int) -> int:
        if item == 3:
            raise ValueError("three")
        return item

    found = map_in_order(function, range(100), 2)
    assert [next(found) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(found)


@pytest.mark.parametrize("failing", [True, False])
def test_what_waits_is_not_begun_after_an_error(failing: bool) -> None:
    """The error may be the function's, or that of whoever uses the results."""
    started = []

    def function(item: int) -> int:
        started.append(item)
        time.sleep(0.2 if item else 0.02)
        if item == 0 and failing:
            raise ValueError("zero")
        return item

    found = map_in_order(function, range(100), 2)
    with contextlib.suppress(ValueError):
        next(found)
    found.close()  # type: ignore[attr-defined]
    assert len(started) <= 3
