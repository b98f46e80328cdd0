"""A run's page: what it shows, put together from the run's record and the artifacts in its workspace."""

import mimetypes
import shlex
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import yaml

from tag2mask.base.text import duration
from tag2mask.data.classes import BACKGROUND, UNLABELLED, voc_palette
from tag2mask.data.images import read_image
from tag2mask.data.layers import LabelMap, MapLayer, Picture
from tag2mask.data.samples import Sample
from tag2mask.engine.environment import Environment, SplitName
from tag2mask.engine.graph import distinct
from tag2mask.engine.logs import read_log
from tag2mask.engine.plan import Plan
from tag2mask.engine.stage import Stage, map_in_order
from tag2mask.engine.training import TrainingStage
from tag2mask.errors import SettingsError, WorkspaceError
from tag2mask.evaluation.pictures import evenly_spread
from tag2mask.evaluation.report.content import (
    Card,
    ClassScores,
    Curve,
    Figure,
    Layer,
    ReportContent,
    StageRow,
    Training,
)
from tag2mask.evaluation.report.page import write_page
from tag2mask.methods.registry import find_method
from tag2mask.networks.weights import WEIGHT_SOURCES
from tag2mask.runs.record import RunRecord
from tag2mask.runs.settings import Configuration, as_arguments, parse_arguments
from tag2mask.stages.evaluate import Evaluate
from tag2mask.stages.saliency_used import saliency_notes, saliency_source, true_saliency_used
from tag2mask.stages.train_classifier import EvaluateClassifier

REPORT_FILE = "report.html"
SETTINGS_FILE = "settings.yaml"

_SIDE = 480
"""Longest side of the page's images and maps in pixels: sharp in a grid, and a thousand of them still one file."""

_SPLITS: tuple[SplitName, ...] = ("train", "val")
_FILE_SETTINGS = ("train_list", "val_list", "labels_csv", "val_csv", "labels_npy")
_NO_FILES: dict[str, tuple[str, ...]] = {"weights": WEIGHT_SOURCES, "path": ("",)}
"""Settings of methods that name a file or folder, whatever group they are in, and what else they can be."""

_NO_LOSS = {"step", "learning_rate", "images_per_second", "waiting_share"}


def write_report(path: Path, title: str, record: RunRecord, plan: Plan, env: Environment, *, gallery: int) -> Path:
    """Writes the page of a finished run; the same artifacts and record give the same bytes.

    Args:
        path: the HTML file.
        title: name of the run.
        record: what the run tells about itself.
        plan: its stages, all complete.
        env: what they were made in.
        gallery: images shown; 0 for none.

    Returns:
        the path.

    Raises:
        Tag2MaskError: an artifact, an image or a mask cannot be read.
    """
    write_page(path, report_content(title, record, plan, env, gallery=gallery))
    return path


def plan_notes(plan: Plan, env: Environment) -> list[str]:
    """Notes for a reader of a plan's figures, a sentence each."""
    return [
        *plan.notes,
        *(note for stage in plan.results.values() for note in stage.notes(env)),
        *saliency_notes(env, *plan.stages()),
    ]


def report_content(title: str, record: RunRecord, plan: Plan, env: Environment, *, gallery: int) -> ReportContent:
    """Content of the page of a finished run; arguments as for `write_report`."""
    palette = voc_palette()
    results = plan.results.items()
    headlines = [(name, line) for name, stage in results if (line := stage.headline(env))]
    return ReportContent(
        title=title,
        facts=_facts(record, plan, env),
        headlines=headlines,
        notes=plan_notes(plan, env),
        classes=[(name, "#" + palette[index].tobytes().hex()) for index, name in enumerate(env.dataset.label_names)],
        scores=_scores(plan, env),
        trainings=[
            Training(name, [Curve(loss, *points) for loss, points in loss_curves(stage, env).items()])
            for name, stage in _trainings(plan, env).items()
        ],
        figures=_figures(plan, env),
        stages=[StageRow(stage.folder, stage.split, stage.seconds, stage.cached) for stage in record.stages],
        settings=settings_yaml(record),
        cards=_cards(plan, env, gallery),
        cards_total=sum(len(env.split(split)) for split in _SPLITS),
        rankings=_rankings(plan),
    )


def settings_yaml(record: RunRecord) -> str:
    """All settings of a run as YAML, as ``tag2mask run METHOD --config FILE`` reads them in any working directory."""
    return yaml.safe_dump(_settings_anywhere(record), sort_keys=False, allow_unicode=True)


def loss_curves(stage: TrainingStage, env: Environment) -> dict[str, tuple[list[float], list[float]]]:
    """(steps, means of the epoch) of every loss of a training, from its log."""
    log = read_log(stage.folder(env))
    names = [name for name in (log[0] if log else {}) if name not in _NO_LOSS]
    return {name: ([line["step"] for line in log], [line[name] for line in log]) for name in names}


def check_artifacts(folder: Path, record: RunRecord, plan: Plan, env: Environment) -> None:
    """Makes sure that a plan built from a run's record is what the run made, and that all of it is still there.

    Args:
        folder: the run's.
        record: the run's.
        plan: built from the record.
        env: built from the record.

    Raises:
        WorkspaceError: a stage is missing or another one, with the command that makes it again.
    """
    made = {stage.folder for stage in record.stages}
    settings = str(folder / SETTINGS_FILE) if (folder / SETTINGS_FILE).is_file() else "FILE"
    places = ["--data", record.data, "--workspace", str(env.workspace.root)]
    again = shlex.join(["tag2mask", "run", record.method, "--config", settings, *places])
    for stage in distinct(plan.stages(), env):
        name = stage.folder(env).name
        if name not in made:
            reason = f"photographs, weights or tag2mask have changed since: it would have the stage {name}"
        elif not stage.complete(env):
            reason = f"its stage {name} is not in {env.workspace.stages} any more, or not whole"
        else:
            continue
        raise WorkspaceError(f"{folder}: {reason}; make it again with: {again}")


def recorded_configuration(folder: Path, record: RunRecord, *, allow_pickle: bool = False) -> Configuration:
    """The settings of a run, with the folder that it lies in as the workspace: that may have been moved.

    Args:
        folder: the run's, absolute.
        record: the run's.
        allow_pickle: the caller trusts the run's ``labels_npy``. A record may come from anywhere, so what it says
            about trust does not count.

    Raises:
        SettingsError: the method or a setting is none of this version's, or the run has `labels_npy` and
            `allow_pickle` is not set.
        WorkspaceError: the run is not finished, or its folder is in no workspace.
    """
    if record.state != "finished":
        raise WorkspaceError(f"{folder}: this run has not finished; the same `tag2mask run` again goes on with it")
    workspace = folder.parent.parent
    if not (workspace / "stages").is_dir():
        raise WorkspaceError(f"{folder}: not in a workspace, there is no {workspace / 'stages'}")
    settings = _settings_anywhere(record)
    if settings.get("labels_npy") and not allow_pickle:
        raise SettingsError(
            f"{folder}: its tags are in {settings['labels_npy']}, a pickle, which can run any code when it is read; "
            "`--allow_pickle` reads it if you trust where it comes from"
        )
    given = {**settings, "workspace": workspace, "allow_pickle": allow_pickle}
    return parse_arguments(find_method(record.method), as_arguments(given))


def _settings_anywhere(record: RunRecord) -> dict[str, Any]:
    """All settings of a run, with absolute paths for those that refer to its working directory.

    What is no text where a path is expected stays, for the parser to refuse.
    """
    settings = {**record.run, **record.runtime, **_with_absolute_paths(record.settings, record.directory)}
    for name in _FILE_SETTINGS:
        if isinstance(value := settings.get(name), str):
            settings[name] = _table_anywhere(value, record)
    if isinstance(workspace := settings.get("workspace"), str):
        settings["workspace"] = str(Path(record.directory, workspace))
    return {**settings, "data": record.data}


def _with_absolute_paths(settings: dict[str, Any], directory: str) -> dict[str, Any]:
    """Settings of a method with what they name on disk, weights or saliency, found from a directory."""
    found = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            value = _with_absolute_paths(value, directory)
        elif isinstance(value, str) and value not in _NO_FILES.get(name, (value,)):
            # A path of the home folder is as good as an absolute one.
            value = value if value.startswith("~") else str(Path(directory, value))
        found[name] = value
    return found


def _table_anywhere(name: str, record: RunRecord) -> str:
    """A list or table as it can be found from any working directory, where it was found by the run's own."""
    path = Path(record.directory, name)
    # The data folder comes first for its readers too, and what has no suffix is the name of a list.
    return str(path) if path.suffix and path.is_file() and not Path(record.data, name).exists() else name


def _facts(record: RunRecord, plan: Plan, env: Environment) -> list[tuple[str, str]]:
    method, runtime = find_method(record.method), record.runtime
    layout = f" (layout: {env.dataset.layout})" if env.dataset.layout else ""
    lists = ", ".join(f"{len(split):,} {split.name}" for split in env.dataset.splits)
    learnt = "photographs and their tags; no mask is seen in training" if method.tags_only else "true masks"
    saliency = saliency_source(*plan.stages())
    if method.tags_only and true_saliency_used(*plan.stages()):
        learnt = "photographs, their tags and the foreground of their TRUE MASKS: an upper bound"
    elif method.tags_only and saliency:
        learnt = "photographs, their tags and saliency; no mask of these photographs is seen in training"
    seconds = sum(stage.seconds for stage in record.stages)
    return [
        ("method", f"{method.name}: {method.title}"),
        ("source", method.source),
        ("data", f"{record.data}{layout}"),
        ("photographs", lists),
        ("classes", f"{env.dataset.num_classes}"),
        ("learnt from", learnt),
        ("saliency", saliency or "none"),
        ("machine", f"{runtime['device']}, precision {runtime['precision']}, {runtime['threads']} threads"),
        ("seed", f"{runtime['seed']}"),
        ("date", _readable_time(record.finished)),
        ("time", f"{duration(seconds)} for all stages, whichever run made them"),
        ("versions", ", ".join(f"{name} {version}" for name, version in record.versions.items())),
    ]


def _readable_time(moment: str) -> str:
    """An ISO 8601 time as people write it, in the zone of the machine that wrote it; early runs have none."""
    if not moment:
        return "not recorded"
    when = datetime.fromisoformat(moment)
    return f"{when:%Y-%m-%d %H:%M} {when.tzname() or ''}".rstrip()


def _scores(plan: Plan, env: Environment) -> list[ClassScores]:
    """Figures class by class of all results that have some."""
    found = []
    for name, stage in plan.results.items():
        figures = stage.metrics(env)
        if isinstance(stage, Evaluate):
            scores = ClassScores(
                name, "IoU", stage.headline(env), figures["mean_iou"], figures["iou"], stage.confusion(env)
            )
            found.append(scores)
        elif isinstance(stage, EvaluateClassifier) and (mean := figures["mean_average_precision"]) is not None:
            values = figures["average_precision"]
            found.append(ClassScores(name, "average precision", stage.headline(env), mean, values))
    return found


def _rankings(plan: Plan) -> list[str]:
    """Results that images have a score of; the predictions of images not trained on come first."""
    scored = [name for name, stage in plan.results.items() if isinstance(stage, Evaluate)]
    return sorted(scored, key=lambda name: name != "val")


def _trainings(plan: Plan, env: Environment) -> dict[str, TrainingStage]:
    """Trainings by name; where two share one, with the result that each was made for."""
    stages = [stage for stage in distinct(plan.stages(), env) if isinstance(stage, TrainingStage)]
    times = Counter(stage.name for stage in stages)
    named = {}
    for stage in stages:
        purpose = "" if times[stage.name] == 1 else f" ({_purpose(stage, plan, env)})"
        named[stage.name + purpose] = stage
    return named


def _purpose(stage: TrainingStage, plan: Plan, env: Environment) -> str:
    """Name of the first result that needs a stage, its folder if there is none."""
    made = stage.fingerprint(env)

    def needs(other: Stage) -> bool:
        return other.fingerprint(env) == made or any(needs(below) for below in other.inputs.values())

    return next((name for name, result in plan.results.items() if needs(result)), stage.folder(env).name)


def _figures(plan: Plan, env: Environment) -> list[Figure]:
    """The pictures that stages draw of themselves as a whole."""
    figures = []
    with TemporaryDirectory() as folder:
        for stage in distinct(plan.stages(), env):
            for path in stage.draw(env, Path(folder)):
                media_type = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
                figures.append(Figure(path.stem.replace("_", " "), media_type, path.read_bytes()))
    return figures


def _cards(plan: Plan, env: Environment, gallery: int) -> Iterator[Card]:
    """The gallery, evenly spread over all lists, each card made when it is asked for."""
    everything = [(split, sample) for split in _SPLITS for sample in env.split(split).samples]
    chosen = [everything[position] for position in evenly_spread(gallery, len(everything))]
    scores = {
        name: (stage.split, stage.per_image(env)) for name, stage in plan.results.items() if isinstance(stage, Evaluate)
    }

    def make(place: tuple[SplitName, Sample]) -> Card:
        split, sample = place
        own = {name: per_image[sample.id] for name, (of, per_image) in scores.items() if of == split and sample.mask}
        return _card(split, sample, {name: score for name, score in own.items() if score is not None}, plan, env)

    with env.reporter.task("report", len(chosen)) as task:
        for card in map_in_order(make, chosen, env.runtime.threads):
            task.advance()
            yield card


def _card(split: SplitName, sample: Sample, scores: dict[str, float], plan: Plan, env: Environment) -> Card:
    image = read_image(sample.image)
    shown: dict[str, MapLayer] = {}
    for column, stage in plan.pictures.get(split, {}).items():
        for name, layer in stage.layers(env, sample.id).items():
            shown[f"{column} {name}" if name else column] = layer
    present: tuple[int, ...] = ()
    if sample.mask is not None:
        truth = LabelMap(sample.mask.read())
        present = tuple(np.setdiff1d(truth.ids, (BACKGROUND, UNLABELLED)).tolist())
        shown["truth"] = truth
    photograph = Layer("photograph", "photo", *Picture(image).encode(_SIDE))
    return Card(
        id=sample.id,
        split=env.split(split).name,
        tags=sample.tags,
        present=present,
        size=(image.shape[0], image.shape[1]),
        scores=scores,
        layers=[photograph, *(Layer(name, layer.kind, *layer.encode(_SIDE)) for name, layer in shown.items())],
    )
