import dataclasses
import io
import json
import shlex
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import timm
import yaml
from PIL import Image
from safetensors.torch import save_file

import tag2mask
from tag2mask.api.run import dry_run
from tag2mask.base.settings import canonical
from tag2mask.cli import main
from tag2mask.data.masks import MaskFile
from tag2mask.engine.environment import Environment, Runtime
from tag2mask.engine.graph import distinct, run_stages
from tag2mask.engine.logs import read_log
from tag2mask.engine.plan import Plan
from tag2mask.engine.progress import Reporter
from tag2mask.errors import SettingsError, WorkspaceError
from tag2mask.evaluation.report.content import Card, ReportContent
from tag2mask.methods.registry import METHODS
from tag2mask.runs.folder import RunResult, write_run
from tag2mask.runs.prepare import prepare
from tag2mask.runs.record import RunRecord, read_record, write_record
from tag2mask.runs.report import check_artifacts, recorded_configuration, report_content, settings_yaml
from tag2mask.runs.settings import Configuration, as_arguments, parse_arguments
from tag2mask.stages.activation_maps import MakeActivationMaps
from tag2mask.stages.evaluate import Evaluate
from tests.builders import TINY, write_shapes


class Made(NamedTuple):
    """A run that is over."""

    result: RunResult
    configuration: Configuration
    env: Environment
    plan: Plan

    @property
    def record(self) -> RunRecord:
        return read_record(self.result.folder)

    def content(self, gallery: int = 100) -> ReportContent:
        return report_content("a run", self.record, self.plan, self.env, gallery=gallery)


def make(folder: Path, **given: Any) -> Made:
    places = {"data": folder / "data", "workspace": folder / "ws", "threads": 2, "device": "cpu", "pictures": 0}
    configuration = parse_arguments(METHODS["cam"], as_arguments({**places, **TINY, **given}))
    env, plan = prepare(configuration, Reporter(quiet=True))
    result = write_run(plan, run_stages(plan.stages(), env), configuration, env)
    return Made(result, configuration, env, plan)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """With truth, the upper bound and masks of all photographs; changed by no test."""
    folder = tmp_path_factory.mktemp("told")
    write_shapes(folder / "data")
    return make(folder, bound=True, all_masks=True)


@pytest.fixture(scope="module")
def untold(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Photographs and a table of tags, nothing else: some are held out, and no figure of masks is possible."""
    folder = tmp_path_factory.mktemp("untold")
    shapes = write_shapes(folder / "shapes", train=12, val=0, masks=False)
    (shapes / "JPEGImages").rename(folder / "data")
    rows = (shapes / "tags.csv").read_text().replace("JPEGImages/", "")
    (folder / "data" / "labels.csv").write_text(rows)
    return make(folder, hold_out=0.2)


def cards(content: ReportContent) -> dict[str, Card]:
    return {card.id: card for card in content.cards}


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))


def test_every_photograph_has_a_card_with_what_was_made_of_it(made: Made) -> None:
    content = made.content()
    found = cards(content)
    assert list(found) == [sample.id for split in made.env.dataset.splits for sample in split]
    assert content.cards_total == len(found) == 9
    two_tags = ["photograph", "CAM", "CAM disc", "CAM square", "seeds", "pseudo-label", "prediction", "truth"]
    assert [layer.name for layer in found["shape_00"].layers] == two_tags
    assert [layer.name for layer in found["shape_01"].layers] == [n for n in two_tags if not n.startswith("CAM ")]
    assert [layer.name for layer in found["shape_07"].layers] == ["photograph", "prediction", "supervised", "truth"]
    for card in found.values():
        sample = made.env.dataset.sample(card.id)
        assert [layer.kind for layer in card.layers] == ["photo", *["cover"] * (len(card.layers) - 1)]
        assert card.tags == card.present == sample.tags
        height, width = card.size
        assert pixels(card.layers[0].data).shape == (height, width, 4)
        assert isinstance(sample.mask, MaskFile)
        truth = np.asarray(Image.open(sample.mask.path))
        assert np.array_equal(pixels(card.layers[-1].data)[..., 3] > 0, truth > 0)
    assert {card.split for card in found.values()} == {"train", "val"}


def test_scores_of_a_photograph_are_those_of_its_own_results(made: Made) -> None:
    content = made.content()
    assert content.rankings == ["val", "seeds", "pseudo_labels", "train", "bound_val"]
    for card in cards(content).values():
        names = {"val", "bound_val"} if card.split == "val" else {"seeds", "pseudo_labels", "train"}
        assert set(card.scores) == names
        for name in names:
            stage = made.plan.results[name]
            assert isinstance(stage, Evaluate)
            assert card.scores[name] == stage.per_image(made.env)[card.id]


def test_the_gallery_is_spread_over_all_lists(made: Made) -> None:
    few = made.content(gallery=3)
    assert [card.id for card in few.cards] == ["shape_01", "shape_04", "shape_07"]
    assert few.cards_total == 9
    assert list(made.content(gallery=0).cards) == []


def test_cards_are_made_when_they_are_asked_for(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []
    load = MakeActivationMaps.load
    monkeypatch.setattr(MakeActivationMaps, "load", lambda *given: loaded.append(given[2]) or load(*given))
    content = made.content()
    assert not loaded
    next(iter(content.cards))
    assert 0 < len(loaded) <= 6


def test_figures_class_by_class(made: Made) -> None:
    scores = {item.name: item for item in made.content().scores}
    assert list(scores) == ["classifier", "seeds", "pseudo_labels", "val", "train", "bound_val"]
    for name, item in scores.items():
        metrics = made.result.metrics[name]
        if name == "classifier":
            assert item.measure == "average precision"
            assert item.mean == metrics["mean_average_precision"]
            assert item.values == metrics["average_precision"]
            assert item.confusion is None
        else:
            assert item.measure == "IoU"
            assert item.mean == metrics["mean_iou"]
            assert list(item.values) == ["background", "disc", "square"]
            assert item.confusion is not None
            assert sum(map(sum, item.confusion)) == metrics["pixels"]
        assert item.headline == dict(made.content().headlines)[name]


def test_a_classifier_without_a_positive_has_no_figures(tmp_path: Path) -> None:
    table = write_shapes(tmp_path / "data") / "tags.csv"
    rows = table.read_text().splitlines()
    table.write_text("\n".join([*rows[:7], *(row.split(",")[0] + "," for row in rows[7:])]) + "\n")
    content = make(tmp_path).content()
    assert "classifier" not in [item.name for item in content.scores]
    assert "mAP -" in dict(content.headlines)["classifier"]


def test_trainings_are_told_apart_and_have_their_logs_losses(made: Made) -> None:
    trainings = made.content().trainings
    assert [training.name for training in trainings] == ["classifier", "segmenter (val)", "segmenter (bound_val)"]
    log = read_log(made.plan.model.folder(made.env))
    (curve,) = trainings[1].curves
    assert curve.name == "cross_entropy"
    assert list(curve.steps) == [line["step"] for line in log]
    assert list(curve.values) == [line["cross_entropy"] for line in log]


def test_facts_figures_stages_and_settings(made: Made) -> None:
    content, record = made.content(), made.record
    facts = dict(content.facts)
    assert facts["method"].startswith("cam: ")
    assert str(made.env.dataset.root) in facts["data"]
    assert facts["photographs"] == "6 train, 3 val"
    assert "no mask is seen" in facts["learnt from"]
    assert facts["saliency"] == "none"
    assert facts["machine"] == "cpu, precision 32-true, 2 threads"
    assert facts["seed"] == "0"
    assert facts["date"].startswith(record.finished[:16].replace("T", " ") + " UTC")
    assert f"torch {record.versions['torch']}" in facts["versions"]
    assert [row.name for row in content.stages] == [stage.folder for stage in record.stages]
    (figure,) = content.figures
    assert (figure.title, figure.media_type) == ("threshold curve", "image/png")
    assert pixels(figure.data).shape[0] > 100
    assert content.classes[:2] == [("background", "#000000"), ("disc", "#800000")]
    assert content.settings == (made.result.folder / "settings.yaml").read_text() == settings_yaml(record)


def test_an_early_run_has_no_date(made: Made) -> None:
    record = dataclasses.replace(made.record, finished="")
    content = report_content("early", record, made.plan, made.env, gallery=0)
    assert dict(content.facts)["date"] == "not recorded"


def test_the_written_settings_give_the_run_again(made: Made) -> None:
    again = parse_arguments(METHODS["cam"], ["--config", str(made.result.folder / "settings.yaml")])
    for part in ("settings", "run", "runtime"):
        assert canonical(getattr(again, part)) == canonical(getattr(made.configuration, part)), part
    assert yaml.safe_load((made.result.folder / "settings.yaml").read_text())["all_masks"] is True


def test_notes_say_what_was_chosen_on_the_truth(made: Made) -> None:
    best = made.result.metrics["cam_curve"]["best_threshold"]
    (note,) = made.content().notes
    assert f"{best:.2f}, was chosen on the truth: it is reported, not used" in note
    assert f"- {note}\n" in (made.result.folder / "summary.md").read_text()


def test_without_truth_the_notes_say_so_and_no_figure_is_made_up(untold: Made) -> None:
    content = untold.content()
    held, no_train, no_val = content.notes
    assert "held out of training" in held
    assert "the classifier's tags alone were scored" in held
    assert held.startswith(f"{len(untold.env.split('val'))} of the 12 photographs")
    assert no_train.startswith("no truth: no true masks of the ")
    assert "could not be measured (left out: cam_curve, seeds, pseudo_labels, train); look at them." in no_train
    assert "held-out photographs" in no_val
    assert "(left out: val)" in no_val
    assert list(content.rankings) == []
    assert [item.name for item in content.scores] == ["classifier"]
    assert list(content.figures) == []
    summary = (untold.result.folder / "summary.md").read_text()
    for note in content.notes:
        assert f"- {note}\n" in summary
    found = cards(content)
    assert len(found) == 12
    for card in found.values():
        assert card.scores == {}
        assert card.present == ()
        assert [layer.name for layer in card.layers][-1] == "prediction"
        assert "truth" not in [layer.name for layer in card.layers]
    assert len(list(untold.result.masks.iterdir())) == 12


def test_a_record_gives_its_configuration(made: Made) -> None:
    found = recorded_configuration(made.result.folder, made.record)
    assert found.settings == dataclasses.replace(
        made.configuration.settings,
        classifier=found.settings.classifier,  # without what cannot change a result
        segmenter=found.settings.segmenter,
    )
    assert canonical(found.settings) == canonical(made.configuration.settings)
    assert Path(found.run.workspace) == made.env.workspace.root
    env, plan = prepare(found, Reporter(quiet=True))
    check_artifacts(made.result.folder, made.record, plan, env)


@pytest.fixture
def copied(made: Made, tmp_path: Path) -> Path:
    """The run in a workspace that may be spoilt."""
    shutil.copytree(made.env.workspace.root, tmp_path / "moved")
    return tmp_path / "moved" / "runs" / made.result.folder.name


def test_a_moved_workspace_gives_the_same_page(made: Made, copied: Path) -> None:
    before = made.result.report.read_bytes()
    (copied / "report.html").unlink()
    assert tag2mask.report(copied / "run.json", quiet=True) == copied / "report.html"
    assert (copied / "report.html").read_bytes() == before


def test_a_pickle_is_read_for_who_asks_for_it_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "data"
    write_shapes(folder)
    vectors = {f"shape_{index:02d}": np.eye(2)[index % 2] if index % 3 else np.ones(2) for index in range(9)}
    np.save(folder / "cls_labels.npy", np.array(vectors, dtype=object), allow_pickle=True)
    (folder / "tags.csv").unlink()
    run = make(tmp_path, labels_npy="cls_labels.npy", allow_pickle=True).result
    before = run.report.read_bytes()
    with pytest.raises(SettingsError, match=r"cam-\w+: its tags are in cls_labels\.npy, a pickle.*`--allow_pickle`"):
        tag2mask.report(run.folder, quiet=True)
    assert main(["report", str(run.folder)]) == 2
    assert "--allow_pickle" in capsys.readouterr().err
    assert tag2mask.report(run.folder, allow_pickle=True, quiet=True).read_bytes() == before
    record = read_record(run.folder)
    assert record.run["allow_pickle"]
    without = dataclasses.replace(record, run={**record.run, "labels_npy": None})
    assert not recorded_configuration(run.folder, without).run.allow_pickle


def test_the_device_of_the_run_need_not_be_there(made: Made, copied: Path, tmp_path: Path) -> None:
    """The artifacts as a GPU that no machine has would have named them: the kind of device is in their fingerprints."""
    runtime = {**made.record.runtime, "device": "cuda:99"}
    absent = Environment(
        made.env.dataset, made.env.workspace, Runtime(**runtime), made.env.reporter, device_needed=False
    )
    names = {stage.folder(made.env).name: stage.folder(absent).name for stage in distinct(made.plan.stages(), made.env)}
    assert not set(names) & set(names.values())
    for name, other in names.items():
        (copied.parents[1] / "stages" / name).rename(copied.parents[1] / "stages" / other)
    stages = tuple(dataclasses.replace(stage, folder=names[stage.folder]) for stage in made.record.stages)
    write_record(copied, dataclasses.replace(made.record, runtime=runtime, stages=stages))
    page = tag2mask.report(copied, out=tmp_path / "page.html", quiet=True).read_text()
    assert "cuda:99, precision" in page
    write_record(copied, dataclasses.replace(made.record, runtime={**runtime, "device": "tpu!"}))
    with pytest.raises(SettingsError, match="device: 'tpu!' is unknown"):
        tag2mask.report(copied, quiet=True)


def test_what_is_missing_is_named_with_the_way_out(made: Made, copied: Path) -> None:
    stage = made.plan.model.folder(made.env).name
    (copied.parents[1] / "stages" / stage / "stage.json").unlink()
    with pytest.raises(
        WorkspaceError, match=rf"its stage {stage} is not in .*tag2mask run cam --config .*settings.yaml"
    ):
        tag2mask.report(copied, quiet=True)
    shutil.rmtree(copied.parents[1] / "stages")
    with pytest.raises(WorkspaceError, match="not in a workspace"):
        tag2mask.report(copied, quiet=True)


def test_a_run_of_other_data_is_not_mixed_with_it(made: Made, copied: Path, tmp_path: Path) -> None:
    shutil.copytree(made.env.dataset.root, tmp_path / "data")
    write_record(copied, dataclasses.replace(made.record, data=str(tmp_path / "data")))
    tag2mask.report(copied, out=tmp_path / "same.html", quiet=True)  # the same photographs elsewhere are the same
    Image.new("RGB", (64, 48)).save(tmp_path / "data" / "JPEGImages" / "shape_03.png")
    with pytest.raises(WorkspaceError, match="have changed since: it would have the stage classifier-"):
        tag2mask.report(copied, quiet=True)


def test_a_run_that_has_not_finished_has_no_report(made: Made, copied: Path) -> None:
    write_record(copied, dataclasses.replace(made.record, state="running"))
    with pytest.raises(WorkspaceError, match="has not finished"):
        tag2mask.report(copied, quiet=True)
    content = json.loads((copied / "run.json").read_text())
    (copied / "run.json").write_text(json.dumps({**content, "state": "finished", "method": "cap"}))
    with pytest.raises(SettingsError, match="unknown method 'cap'"):
        tag2mask.report(copied, quiet=True)


def test_a_table_named_from_another_folder_is_found(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    write_shapes(tmp_path / "data")
    (tmp_path / "data" / "tags.csv").rename(elsewhere / "mine.csv")
    monkeypatch.chdir(elsewhere)
    run = make(tmp_path, labels_csv="mine.csv", train_list="train")
    monkeypatch.chdir(tmp_path)
    found = recorded_configuration(run.result.folder, run.record)
    assert found.run.labels_csv == str(elsewhere / "mine.csv")
    assert found.run.train_list == "train"
    before = run.result.report.read_bytes()
    assert tag2mask.report(run.result.folder, quiet=True).read_bytes() == before


def test_a_run_of_relative_paths_is_found_and_made_again_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tmp_path / "there"
    write_shapes(there / "data")
    (there / "data" / "tags.csv").rename(there / "mine.csv")
    save_file(timm.create_model("tf_efficientnet_lite0").state_dict(), there / "w.safetensors")
    monkeypatch.chdir(there)
    weights = {"classifier.backbone.weights": "w.safetensors", "segmenter.backbone.weights": "w.safetensors"}
    folder = make(Path(), labels_csv="mine.csv", **weights).result.folder.resolve()
    monkeypatch.chdir(tmp_path)
    before = (folder / "report.html").read_bytes()
    assert tag2mask.report(folder, quiet=True).read_bytes() == before

    written = yaml.safe_load((folder / "settings.yaml").read_text())
    for stage in ("classifier", "segmenter"):
        assert written[stage]["backbone"]["weights"] == str(there / "w.safetensors")
    names = ("data", "workspace", "labels_csv", "train_list")
    assert [written[name] for name in names] == [*(str(there / name) for name in ("data", "ws", "mine.csv")), "train"]
    again = parse_arguments(METHODS["cam"], ["--config", str(folder / "settings.yaml")])
    assert all(item.cached for item in dry_run(again, Reporter(quiet=True))[0])

    (next((there / "ws" / "stages").glob("evaluation-*")) / "stage.json").unlink()
    with pytest.raises(WorkspaceError) as told:
        tag2mask.report(folder, quiet=True)
    words = shlex.split(str(told.value).partition("make it again with: ")[2])
    assert words[:3] == ["tag2mask", "run", "cam"]
    assert main(words[1:]) == 0
    tag2mask.report(folder, quiet=True)


def test_weights_that_are_no_relative_path_stay_as_they_are(made: Made) -> None:
    assert yaml.safe_load(settings_yaml(made.record))["classifier"]["backbone"]["weights"] == "none"
    home = {**made.record.settings, "classifier": {"backbone": {"weights": "~/w.pth"}}}
    written = yaml.safe_load(settings_yaml(dataclasses.replace(made.record, settings=home)))
    assert written["classifier"]["backbone"]["weights"] == "~/w.pth"


@pytest.mark.parametrize("name", ["workspace", "labels_csv", "classifier"])
def test_a_record_with_something_else_for_a_path_is_one_line(made: Made, name: str) -> None:
    odd = {"classifier": {"backbone": {"weights": [5]}}}.get(name, [5])
    part = "settings" if name == "classifier" else "run"
    record = dataclasses.replace(made.record, **{part: {**getattr(made.record, part), name: odd}})
    assert yaml.safe_load(settings_yaml(record))[name] == odd


def test_a_file_of_the_run_or_its_name_will_do(made: Made, copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (copied.parents[1]).rename(copied.parents[2] / "workspace")
    monkeypatch.chdir(copied.parents[2])
    folder = Path("workspace/runs").resolve() / copied.name
    before = made.result.report.read_bytes()
    for given in (folder / "report.html", folder / "summary.md", copied.name, copied.name[:7], folder.parent / "cam"):
        (folder / "report.html").write_text("old")
        assert tag2mask.report(given, quiet=True) == folder / "report.html"
        assert (folder / "report.html").read_bytes() == before, given
    for given in ("dsrg", "workspace/runs/dsrg"):
        with pytest.raises(WorkspaceError, match=f"workspace/runs: unknown run 'dsrg'; choices: {copied.name}$"):
            tag2mask.report(given, quiet=True)
    with pytest.raises(WorkspaceError, match=r"^photos/gone: there is no such run; give its folder, or the name"):
        tag2mask.report("photos/gone", quiet=True)
    monkeypatch.chdir(folder)
    with pytest.raises(WorkspaceError, match=r"^cam: there is no such run; give its folder, or the name of one in"):
        tag2mask.report("cam", quiet=True)


def test_the_verb_checks_what_it_is_given(made: Made, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"--out .*: is a folder"):
        tag2mask.report(made.result.folder, out=tmp_path, quiet=True)
    with pytest.raises(SettingsError, match="gallery: -1 must not be negative"):
        tag2mask.report(made.result.folder, gallery=-1, quiet=True)
    with pytest.raises(WorkspaceError, match=r"run\.json"):
        tag2mask.report(tmp_path, quiet=True)
