"""The folder that a run leaves for people: run.json, a summary, the model and pictures."""

import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tag2mask.base.files import atomic_path, write_bytes
from tag2mask.base.settings import canonical
from tag2mask.base.text import duration
from tag2mask.data.images import read_image
from tag2mask.data.masks import overlay
from tag2mask.engine.environment import Environment
from tag2mask.engine.graph import StageRun
from tag2mask.engine.plan import Plan
from tag2mask.engine.stage import PerImageStage, Stage
from tag2mask.engine.training import MODEL_FILE, TrainingStage
from tag2mask.evaluation.pictures import contact_sheet, evenly_spread, plot_lines, save_sheet
from tag2mask.networks.model_file import load_model, read_header, save_model
from tag2mask.networks.segmenter import Segmenter
from tag2mask.runs.record import finish_run, run_folder
from tag2mask.runs.report import REPORT_FILE, SETTINGS_FILE, loss_curves, plan_notes, settings_yaml, write_report
from tag2mask.runs.settings import Configuration


@dataclass(frozen=True)
class RunResult:
    """Result of a run: files and figures.

    Args:
        folder: the run's folder.
        model: the model file, for `predict`.
        masks: folder of the predicted masks.
        pictures: files of pictures to look at.
        report: the page that shows all of it.
        metrics: figures by the name of what was measured.
        headlines: those one asks for first, as text.
    """

    folder: Path
    model: Path
    masks: Path
    pictures: tuple[Path, ...]
    report: Path
    metrics: dict[str, dict[str, Any]]
    headlines: tuple[str, ...]


def write_run(
    plan: Plan, runs: list[StageRun], configuration: Configuration, env: Environment, *, started: str = ""
) -> RunResult:
    """Writes the run's folder, ``<workspace>/runs/<method>-<fingerprint>/``.

    Args:
        plan: the run's stages, all complete.
        runs: what making each of them took.
        configuration: the run's settings.
        env: what it was made in.
        started: date and time of its start (ISO 8601); now if empty.

    Raises:
        WorkspaceError: an artifact is missing or damaged.
        OSError: the disk is full or cannot be written.
    """
    folder = run_folder(plan, configuration.method.name, env)
    metrics = {key: stage.metrics(env) for key, stage in plan.results.items()}
    model = folder / MODEL_FILE
    _export_model(plan, configuration, env, model)
    for name, stage in plan.exports.items():
        for source in stage.folder(env).glob(f"*{model.suffix}"):
            _copy_file(source, folder / name / source.name)
    _gather_masks(plan, env, folder / "masks")
    pictures = _draw(plan, runs, configuration, env, folder / "pictures")
    record = finish_run(plan, runs, metrics, configuration, env, started=started)
    write_bytes(folder / "summary.md", summary(folder.name, plan, runs, env).encode())
    write_bytes(folder / SETTINGS_FILE, settings_yaml(record).encode())
    # From the record on disk, as `tag2mask report` has it: both come to the same page.
    report = write_report(folder / REPORT_FILE, folder.name, record, plan, env, gallery=configuration.run.gallery)
    return RunResult(folder, model, folder / "masks", pictures, report, metrics, tuple(headlines(plan, env)))


def headlines(plan: Plan, env: Environment) -> list[str]:
    """The figures one asks for first, a line for each result that has any."""
    lines = ((name, stage.headline(env)) for name, stage in plan.results.items())
    return [f"{name}: {line}" for name, line in lines if line]


def summary(title: str, plan: Plan, runs: list[StageRun], env: Environment) -> str:
    """A run's figures as text."""
    lines = [f"# {title}", "", *(f"- {line}" for line in [*headlines(plan, env), *plan_notes(plan, env)])]
    lines += ["", "## Time per stage", ""]
    for run in runs:
        state = " (made by an earlier run)" if run.cached else ""
        lines.append(f"- {run.stage.folder(env).name}, {run.stage.split}: {duration(run.seconds)}{state}")
    for name, stage in plan.results.items():
        details = [f"- {line}" for line in stage.details(env)]
        lines += ["", f"## {name}", "", *details] if details else []
    return "\n".join(lines) + "\n"


def _gather_masks(plan: Plan, env: Environment, folder: Path) -> None:
    """All masks the run's model made, in one folder, whatever splits the images were in."""
    for stage in plan.results.values():
        if stage.name == plan.predictions.name and stage.inputs["segmenter"] is plan.model:
            _copy_items(stage, env, folder)
    _copy_items(plan.predictions, env, folder)


def _copy_items(stage: Stage, env: Environment, folder: Path) -> None:
    assert isinstance(stage, PerImageStage)
    for sample in stage.samples(env):
        # An id may have folders in it.
        _copy_file(stage.path(env, sample.id), folder / f"{sample.id}{stage.suffix}")


def _copy_file(source: Path, target: Path) -> None:
    # Copies, not links: people edit masks, and an artifact must stay what it is.
    with atomic_path(target) as aside:
        shutil.copyfile(source, aside)


def _export_model(plan: Plan, configuration: Configuration, env: Environment, path: Path) -> None:
    """The trained segmenter with the run's way of making masks in its header."""
    source = plan.model.model_path(env)
    network, _ = load_model(source)
    assert isinstance(network, Segmenter)
    header = dataclasses.replace(read_header(source), inference=canonical(configuration.settings.prediction))
    with atomic_path(path) as aside:
        save_model(aside, network, header)


def _draw(
    plan: Plan,
    runs: list[StageRun],
    configuration: Configuration,
    env: Environment,
    folder: Path,
) -> tuple[Path, ...]:
    drawn = []
    for split_name, columns in plan.pictures.items() if configuration.run.pictures else ():
        samples = env.split(split_name).samples
        chosen = [samples[position] for position in evenly_spread(configuration.run.pictures, len(samples))]
        truth = any(sample.mask for sample in chosen)
        rows = []
        for sample in chosen:
            image = read_image(sample.image)
            layers = [stage.layers(env, sample.id).get("") for stage in columns.values()]
            row = [image, *(layer.over(image) if layer else image for layer in layers)]
            if truth:
                row.append(overlay(image, sample.mask.read()) if sample.mask else image)
            rows.append(row)
        captions = [
            f"{sample.id}: {', '.join(env.dataset.classes[tag - 1] for tag in sample.tags) or 'no tag'}"
            for sample in chosen
        ]
        titles = ["photograph", *columns, *(["truth"] if truth else [])]
        path = folder / f"{split_name}.jpg"
        save_sheet(path, contact_sheet(titles, rows, captions))
        drawn.append(path)
    for run in runs:
        if isinstance(run.stage, TrainingStage):
            path = folder / f"{run.stage.folder(env).name}.png"
            plot_training(run.stage, env, path)
            drawn.append(path)
        drawn += run.stage.draw(env, folder)
    return tuple(drawn)


def plot_training(stage: TrainingStage, env: Environment, path: Path) -> None:
    """Draws the loss of every epoch from a training's log."""
    plot_lines(path, loss_curves(stage, env), x="step", y="loss, mean of the epoch", title=stage.name)
