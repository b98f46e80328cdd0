import dataclasses
from pathlib import Path

from tag2mask.engine.graph import run_stages
from tag2mask.engine.plan import Plan
from tests.builders import shapes_environment
from tests.engine.test_graph import Note, diamond, labels


def test_what_is_only_shown_is_made_too_and_last() -> None:
    plan = diamond([])
    shown = Note("g", [], d=plan.model)
    plan = dataclasses.replace(plan, pictures={"train": {"b": plan.results["f"], "g": shown}, "val": {}})  # type: ignore[dict-item]
    assert labels(plan.stages())[:-1] == labels(diamond([]).stages())
    assert plan.stages()[-1] is shown


def test_results_are_made_before_what_they_do_not_need(tmp_path: Path) -> None:
    """So that what can be measured early is measured before the next training."""
    diary: list[str] = []
    early = Note("early", diary)
    late = Note("late", diary, x=Note("x", diary))
    run_stages(Plan(model=late, predictions=late, results={"early": early}).stages(), shapes_environment(tmp_path))  # type: ignore[arg-type]
    assert diary == ["early", "x", "late"]


def test_what_a_model_learns_from_is_apart_from_how_it_is_measured() -> None:
    plan = diamond([])
    assert labels(plan.learning()) == ["a", "b", "c", "d", "e"]
    assert plan.results["f"] not in plan.learning()
