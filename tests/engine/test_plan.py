import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tag2mask.data.samples import Sample
from tag2mask.engine.environment import Environment
from tag2mask.engine.plan import Plan, forecast, forecast_table, run_plan
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


def test_what_is_only_shown_is_made_too_and_last() -> None:
    plan = diamond([])
    shown = Note("g", [], d=plan.model)
    plan = dataclasses.replace(plan, pictures={"train": {"b": plan.results["f"], "g": shown}, "val": {}})  # type: ignore[dict-item]
    assert labels(plan.stages())[:-1] == labels(diamond([]).stages())
    assert plan.stages()[-1] is shown


def test_stages_of_one_artifact_are_run_once(tmp_path: Path) -> None:
    diary: list[str] = []
    env, plan = shapes_environment(tmp_path), diamond(diary)
    assert sorted(labels(plan.distinct(env))) == ["a", "b", "c", "d", "e"]
    runs = run_plan(plan, env)
    assert diary == labels([run.stage for run in runs]) == labels(plan.distinct(env))
    assert not any(run.cached for run in runs)
    again = run_plan(diamond(diary), env)
    assert len(diary) == 5
    assert all(run.cached for run in again)
    assert [run.seconds for run in again] == [run.seconds for run in runs]


def test_results_are_made_before_what_they_do_not_need(tmp_path: Path) -> None:
    """So that what can be measured early is measured before the next training."""
    diary: list[str] = []
    early = Note("early", diary)
    late = Note("late", diary, x=Note("x", diary))
    run_plan(Plan(model=late, predictions=late, results={"early": early}), shapes_environment(tmp_path))  # type: ignore[arg-type]
    assert diary == ["early", "x", "late"]


def test_a_second_writer_is_kept_out(tmp_path: Path) -> None:
    env = shapes_environment(tmp_path)
    with env.workspace.lock(), pytest.raises(WorkspaceError, match="another tag2mask"):
        run_plan(diamond([]), shapes_environment(tmp_path))


def test_a_forecast_writes_nothing_and_knows_what_is_there(tmp_path: Path) -> None:
    env, plan = shapes_environment(tmp_path), diamond([])
    assert all(not item.cached and item.estimate == Estimate(90, 2e6) for item in forecast(plan, env))
    assert not env.workspace.root.exists()
    plan.stages()[0].run(env)
    items = {item.stage.label: item for item in forecast(plan, env)}  # type: ignore[attr-defined]
    assert items["a"].cached
    assert items["a"].estimate is None
    assert not items["b"].cached


def test_the_table_adds_up(tmp_path: Path) -> None:
    env, plan = shapes_environment(tmp_path), diamond([])
    plan.stages()[0].run(env)
    header, *rows, total = forecast_table(forecast(plan, env), env).splitlines()
    assert header.split() == ["stage", "state", "time", "disk"]
    assert len(rows) == 5
    assert [row.split()[0] for row in rows] == [stage.folder(env).name for stage in plan.distinct(env)]
    assert sum("cached" in row for row in rows) == 1
    assert sum("1 min 30 s" in row and "2 MB" in row for row in rows) == 4
    assert "6 min 00 s" in total
    assert "8 MB" in total
