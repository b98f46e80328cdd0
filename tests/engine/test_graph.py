from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tag2mask.data.samples import Sample
from tag2mask.engine.environment import Environment
from tag2mask.engine.graph import distinct, forecast, forecast_table, ordered, run_stages
from tag2mask.engine.plan import Plan
from tag2mask.engine.stage import Estimate, PerImageStage
from tag2mask.errors import WorkspaceError
from tests.builders import shapes_environment


@dataclass(frozen=True)
class Settings:
    label: str


class Note(PerImageStage):
    """Writes down when it is run."""

    name, suffix, reads = "note", ".txt", frozenset({"tags"})

    def __init__(self, label: str, diary: list[str], **inputs: Any) -> None:
        super().__init__(Settings(label), "train", **inputs)
        self.label, self.diary = label, diary

    def open(self, env: Environment) -> Callable[[Sample], bytes]:
        for stage in self.inputs.values():
            assert stage.complete(env), "an input is not there yet"
        self.diary.append(self.label)
        return lambda sample: b"."

    def estimate(self, env: Environment) -> Estimate:
        return Estimate(90, 2e6)


def diamond(diary: list[str]) -> Plan:
    """d needs b and c, which need a; e needs c; f is a twin of b."""
    a = Note("a", diary)
    b, c = Note("b", diary, a=a), Note("c", diary, a=a)
    d, e, f = Note("d", diary, b=b, c=c), Note("e", diary, c=c), Note("b", diary, a=a)
    return Plan(model=d, predictions=e, results={"f": f})  # type: ignore[arg-type]


def labels(stages: list[Any]) -> list[str]:
    return [stage.label for stage in stages]


def test_every_stage_comes_once_and_after_its_inputs() -> None:
    order = diamond([]).stages()
    assert sorted(labels(order)) == ["a", "b", "b", "c", "d", "e"]
    for place, stage in enumerate(order):
        assert all(needed in order[:place] for needed in stage.inputs.values())


def test_stages_of_one_artifact_are_run_once(tmp_path: Path) -> None:
    diary: list[str] = []
    env, plan = shapes_environment(tmp_path), diamond(diary)
    assert sorted(labels(distinct(plan.stages(), env))) == ["a", "b", "c", "d", "e"]
    runs = run_stages(plan.stages(), env)
    assert diary == labels([run.stage for run in runs]) == labels(distinct(plan.stages(), env))
    assert not any(run.cached for run in runs)
    again = run_stages(diamond(diary).stages(), env)
    assert len(diary) == 5
    assert all(run.cached for run in again)
    assert [run.seconds for run in again] == [run.seconds for run in runs]


def test_a_second_writer_is_kept_out(tmp_path: Path) -> None:
    env = shapes_environment(tmp_path)
    with env.workspace.lock(), pytest.raises(WorkspaceError, match="another tag2mask"):
        run_stages(diamond([]).stages(), shapes_environment(tmp_path))


def test_a_forecast_writes_nothing_and_knows_what_is_there(tmp_path: Path) -> None:
    env, plan = shapes_environment(tmp_path), diamond([])
    assert all(not item.cached and item.estimate == Estimate(90, 2e6) for item in forecast(plan.stages(), env))
    assert not env.workspace.root.exists()
    plan.stages()[0].run(env)
    items = {item.stage.label: item for item in forecast(plan.stages(), env)}  # type: ignore[attr-defined]
    assert items["a"].cached
    assert items["a"].estimate is None
    assert not items["b"].cached


def test_the_table_adds_up(tmp_path: Path) -> None:
    env, plan = shapes_environment(tmp_path), diamond([])
    plan.stages()[0].run(env)
    header, *rows, total = forecast_table(forecast(plan.stages(), env), env).splitlines()
    assert header.split() == ["stage", "state", "time", "disk"]
    assert len(rows) == 5
    assert [row.split()[0] for row in rows] == [stage.folder(env).name for stage in distinct(plan.stages(), env)]
    assert sum("cached" in row for row in rows) == 1
    assert sum("1 min 30 s" in row and "2 MB" in row for row in rows) == 4
    assert "6 min 00 s" in total
    assert "8 MB" in total


class Counted(Note):
    """Counts how often it is asked for its inputs."""

    asked = 0

    @property
    def inputs(self) -> dict[str, Any]:
        Counted.asked += 1
        return self._inputs

    @inputs.setter
    def inputs(self, inputs: dict[str, Any]) -> None:
        self._inputs = inputs


def test_every_stage_is_visited_once_however_many_need_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a ladder of diamonds the number of paths doubles with every rung."""
    monkeypatch.setattr(Counted, "asked", 0)
    last: Any = Counted("first", [])
    for rung in range(12):
        last = Counted(f"{rung}", [], left=Counted(f"l{rung}", [], x=last), right=Counted(f"r{rung}", [], x=last))
    assert len(ordered([last])) == 37
    assert Counted.asked == 37


def test_one_stage_can_be_made_alone(tmp_path: Path) -> None:
    diary: list[str] = []
    env, plan = shapes_environment(tmp_path), diamond(diary)
    runs = run_stages([plan.model.inputs["b"]], env)
    assert diary == ["a", "b"] == labels([run.stage for run in runs])
    assert runs[-1].stage.path(env, "shape_00").read_bytes() == b"."  # type: ignore[attr-defined]
