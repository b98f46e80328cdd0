import json
from datetime import datetime
from pathlib import Path

import pytest

from tag2mask.base.settings import canonical
from tag2mask.engine.environment import Environment
from tag2mask.engine.graph import StageRun, distinct
from tag2mask.engine.plan import Plan
from tag2mask.engine.progress import Reporter
from tag2mask.errors import WorkspaceError
from tag2mask.methods.registry import METHODS, find_method
from tag2mask.runs.prepare import prepare
from tag2mask.runs.record import RUN_FILE, RunRecord, StageRecord, begin_run, finish_run, read_record, run_folder
from tag2mask.runs.settings import Configuration, as_arguments, parse_arguments
from tests.builders import TINY, write_shapes

Prepared = tuple[Configuration, Environment, Plan]


@pytest.fixture
def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Prepared:
    write_shapes(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    given = {"data": "data", "workspace": "ws", "threads": 1, "device": "cpu", **TINY}
    configuration = parse_arguments(METHODS["cam"], as_arguments(given))
    return configuration, *prepare(configuration, Reporter(quiet=True))


def test_a_run_that_starts_says_all_that_is_needed_to_make_its_settings_again(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configuration, env, plan = prepared
    begun = begin_run(plan, configuration, env)
    folder = run_folder(plan, "cam", env)
    record = read_record(folder)
    assert begun.started == record.started
    assert folder.parent == Path("ws/runs")
    assert (record.state, record.finished, record.metrics) == ("running", "", {})
    assert record.run["data"] == "data"
    assert record.data == str(tmp_path / "data")
    assert record.directory == str(tmp_path)
    assert record.classes == ("disc", "square")
    assert record.photographs == {"train": 6, "val": 3}
    assert record.versions["torch"]
    assert datetime.fromisoformat(record.started).tzinfo is not None
    assert [stage.folder for stage in record.stages] == [
        stage.folder(env).name for stage in distinct(plan.stages(), env)
    ]
    monkeypatch.chdir("/")
    settings = {**record.settings, **record.run, **record.runtime, "data": record.data}
    again = parse_arguments(find_method(record.method), as_arguments(settings))
    assert canonical(again.settings) == canonical(configuration.settings)
    other_env, other_plan = prepare(again, Reporter(quiet=True))
    assert run_folder(other_plan, "cam", other_env).name == folder.name


def test_a_run_that_ends_adds_times_and_figures(prepared: Prepared) -> None:
    configuration, env, plan = prepared
    begin_run(plan, configuration, env)
    runs = [StageRun(stage, 1.26, index == 0) for index, stage in enumerate(distinct(plan.stages(), env))]
    started = "2024-01-02T03:04:05+01:00"
    record = finish_run(plan, runs, {"val": {"mean_iou": 0.5}}, configuration, env, started=started)
    assert record == read_record(run_folder(plan, "cam", env))
    assert (record.state, record.started) == ("finished", "2024-01-02T03:04:05+01:00")
    assert datetime.fromisoformat(record.finished) > datetime.fromisoformat(record.started)
    assert record.metrics == {"val": {"mean_iou": 0.5}}
    assert [stage.cached for stage in record.stages] == [True] + [False] * (len(runs) - 1)
    assert record.stages[0].seconds == 1.3


def test_an_end_without_a_start_is_recorded_too(prepared: Prepared) -> None:
    configuration, env, plan = prepared
    assert finish_run(plan, [], {}, configuration, env).started


def test_a_finished_run_stays_finished_until_there_is_something_newer(prepared: Prepared) -> None:
    configuration, env, plan = prepared
    for stage in distinct(plan.stages(), env):
        stage.folder(env).mkdir(parents=True)
        (stage.folder(env) / "stage.json").write_text("{}")
    path = run_folder(plan, "cam", env) / RUN_FILE
    begin_run(plan, configuration, env)
    assert read_record(path.parent).state == "running"
    finished = finish_run(plan, [], {"val": {"mean_iou": 0.5}}, configuration, env, started="2024-01-02T03:04:05+01:00")
    before = path.read_bytes()
    again = begin_run(plan, configuration, env)
    assert path.read_bytes() == before
    assert (again.state, again.metrics) == ("running", {})
    assert again.started > finished.started
    path.write_text("{")
    begin_run(plan, configuration, env)
    assert read_record(path.parent).state == "running"


def test_a_finished_run_with_a_stage_gone_is_running_again(prepared: Prepared) -> None:
    configuration, env, plan = prepared
    *rest, _ = distinct(plan.stages(), env)
    for stage in rest:
        stage.folder(env).mkdir(parents=True)
        (stage.folder(env) / "stage.json").write_text("{}")
    finish_run(plan, [], {}, configuration, env)
    begin_run(plan, configuration, env)
    assert read_record(run_folder(plan, "cam", env)).state == "running"


OLD = {
    "method": "cam",
    "data": "photos",
    "settings": {},
    "run": {"data": "photos"},
    "runtime": {},
    "stages": [{"name": "cams", "split": "train", "folder": "cams-1", "cached": True, "seconds": 2.0}],
    "something": "else",
}


def test_a_record_of_an_early_version_is_that_of_a_finished_run(tmp_path: Path) -> None:
    (tmp_path / RUN_FILE).write_text(json.dumps(OLD))
    record = read_record(tmp_path)
    stage = StageRecord("cams", "train", "cams-1", True, 2.0)
    assert record == RunRecord("finished", "cam", "photos", {}, {"data": "photos"}, {}, (stage,))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        "\xff",
        json.dumps({**OLD, "state": "dreaming"}),
        json.dumps({**OLD, "stages": [1]}),
        json.dumps({**OLD, "stages": None}),
        json.dumps({**OLD, "stages": [{"name": "cams", "split": "train", "folder": 1}]}),
        json.dumps({**OLD, "stages": [{"name": "cams", "split": "train", "folder": "cams-1", "seconds": None}]}),
        json.dumps({**OLD, "stages": [{"name": "cams", "split": "train", "folder": "cams-1", "cached": "no"}]}),
        json.dumps({**OLD, "settings": []}),
        json.dumps({**OLD, "metrics": None}),
        json.dumps({**OLD, "metrics": {"val": None}}),
        json.dumps({**OLD, "metrics": {"val": {"mean_iou": "high"}}}),
        json.dumps({**OLD, "metrics": {"val": {"saliency": 1}}}),
        json.dumps({**OLD, "photographs": None}),
        json.dumps({**OLD, "photographs": {"train": None}}),
        json.dumps({**OLD, "versions": []}),
        json.dumps({**OLD, "data": 5}),
        json.dumps({**OLD, "finished": None}),
        json.dumps({**OLD, "started": "yesterday"}),
        json.dumps({**OLD, "classes": [1]}),
        json.dumps({**OLD, "classes": None}),
        "[" * 100_000,
        json.dumps({name: value for name, value in OLD.items() if name != "method"}),
    ],
)
def test_a_damaged_record_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / RUN_FILE).write_bytes(text.encode("latin-1"))
    with pytest.raises(WorkspaceError, match=r"run\.json: not the record of a run, or damaged"):
        read_record(tmp_path)


def test_a_record_that_cannot_be_read_is_named_once(tmp_path: Path) -> None:
    (tmp_path / RUN_FILE).mkdir()
    with pytest.raises(WorkspaceError) as told:
        read_record(tmp_path)
    assert str(told.value) == f"{tmp_path / RUN_FILE}: cannot be read (Is a directory)"
    (tmp_path / "report.html").touch()
    with pytest.raises(WorkspaceError, match=r"report\.html/run\.json: there is no such file; give the folder"):
        read_record(tmp_path / "report.html")


def test_no_record_is_named(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match=r"nothing.run\.json: there is no such file"):
        read_record(tmp_path / "nothing")
