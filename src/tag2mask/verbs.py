"""What tag2mask does, as functions: the commands of the same names call these."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from tag2mask.configure import Configuration, as_arguments, parse_arguments
from tag2mask.data.csv_folder import LabelRow, read_label_table
from tag2mask.data.demo import write_demo_data
from tag2mask.data.images import IMAGE_SUFFIXES, read_image
from tag2mask.data.masks import encode_mask, overlay
from tag2mask.data.records import is_photograph, tag_ids
from tag2mask.engine.environment import Environment, Runtime, SplitName
from tag2mask.engine.plan import Plan, StageForecast, forecast, run_plan
from tag2mask.engine.progress import Reporter
from tag2mask.engine.stage import Stage, map_in_order
from tag2mask.engine.workspace import Workspace
from tag2mask.errors import DataError, SettingsError, WeightsError
from tag2mask.evaluation.segmentation import SegmentationScores, evaluate_folders
from tag2mask.files import atomic_path, write_bytes
from tag2mask.housekeeping import find_run_folder
from tag2mask.input_check import check_input
from tag2mask.methods.registry import METHODS, Method, find_method
from tag2mask.methods.supervised import SupervisedSettings, supervised
from tag2mask.networks.backbones import BackboneInfo
from tag2mask.networks.backbones import list_backbones as _list_backbones
from tag2mask.networks.inference import InferenceSettings
from tag2mask.networks.model_file import ModelHeader, load_model
from tag2mask.networks.segmenter import Segmenter
from tag2mask.plurals import plural
from tag2mask.run_folder import RunResult, write_run
from tag2mask.run_record import begin_run, read_record
from tag2mask.run_report import REPORT_FILE, check_artifacts, recorded_configuration, write_report
from tag2mask.stages.crf import CRFSettings
from tag2mask.stages.evaluate import evaluate_labels
from tag2mask.stages.labels import LabelStage
from tag2mask.stages.predict import PredictionSettings, predict_mask


def run(
    method: str,
    data: str | Path,
    *,
    workspace: str | Path = "workspace",
    config: str | Path | None = None,
    quiet: bool = False,
    **settings: Any,
) -> RunResult:
    """Trains a method on a folder of tagged photographs, predicts masks and scores them where there is truth.

    What an earlier run has made already is used again; a run that was killed goes on where it stopped.

    Args:
        method: one of `list_methods`.
        data: folder of tagged photographs.
        workspace: folder that keeps everything.
        config: YAML of settings, or a preset's name such as ``"small/cam"``.
        quiet: no progress.
        settings: any other setting, two underscores for a dot: ``classifier__training__epochs=3``.

    Returns:
        where model, masks and pictures are, and the figures.

    Raises:
        Tag2MaskError: bad settings or data, in one clear line.

    Example:
        >>> result = tag2mask.run("cam", "photos", config="small/cam")  # doctest: +SKIP
        >>> result.metrics["val"]["mean_iou"]  # doctest: +SKIP
    """
    given = {"data": str(data), "workspace": str(workspace), **settings}
    arguments = [*(["--config", str(config)] if config else []), *as_arguments(given)]
    return run_configuration(parse_arguments(find_method(method), arguments), Reporter(quiet=quiet))


def run_configuration(configuration: Configuration, reporter: Reporter) -> RunResult:
    """Runs a method with its settings made up.

    A run that cannot start leaves no trace: its record is written when settings, photographs and masks have been
    checked. A workspace that was there keeps what of them was found sound.

    Raises:
        Tag2MaskError: bad settings or data, or the workspace is in use or cannot be written.
        OSError: the disk became full or cannot be written; it names the file.
    """
    env, plan = prepare(configuration, reporter)
    # Told before photographs are read, which takes minutes the first time.
    env.workspace.check_free()
    check_input(plan, env)
    with env.workspace.lock():
        started = begin_run(plan, configuration, env).started
        return write_run(plan, run_plan(plan, env), configuration, env, started=started)


def dry_run(configuration: Configuration, reporter: Reporter) -> tuple[list[StageForecast], Environment]:
    """What a run would do: stages, what is there already, an estimate of time and disk. Nothing is written."""
    env, plan = prepare(configuration, reporter)
    return forecast(plan, env), env


def prepare(
    configuration: Configuration, reporter: Reporter, *, device_needed: bool = True
) -> tuple[Environment, Plan]:
    """Data set, workspace and the method's graph of stages, with what needs truth only where there is truth.

    Args:
        configuration: settings of the run.
        reporter: whom to tell.
        device_needed: False where nothing will be computed, as for `Environment`.

    Raises:
        Tag2MaskError: bad settings or data, in one clear line.
    """
    dataset, held_out = configuration.run.dataset(configuration.runtime.seed)
    workspace = Workspace(Path(configuration.run.workspace))
    env = Environment(dataset, workspace, configuration.runtime, reporter, device_needed=device_needed)
    plan = configuration.method.build(configuration.settings)
    results, notes = dict(plan.results), []
    pictures = {split: dict(columns) for split, columns in plan.pictures.items()}
    if held_out:
        notes.append(_held_out_note(env))
    if held_out or configuration.run.all_masks:
        # The photographs a person tagged are what masks are wanted of, and most of them are in the training list.
        masks = plan.predictions.on("train")
        assert isinstance(masks, LabelStage)
        results |= {"masks": masks, "train": evaluate_labels(masks)}
        pictures.setdefault("train", {})["prediction"] = masks
    if configuration.run.bound and configuration.method.tags_only:
        if all(sample.mask for sample in env.split("train").samples):
            settings = configuration.settings
            # True masks are whole: losses made for sparse seeds would give a bound of their own for every method.
            segmenter = dataclasses.replace(settings.segmenter, loss="cross_entropy")
            bound = supervised(SupervisedSettings(segmenter, settings.prediction))
            results |= {f"bound_{name}": stage for name, stage in bound.results.items()}
            pictures.setdefault("val", {})["supervised"] = bound.predictions
        else:
            notes.append("The upper bound was left out: not every training photograph has a true mask.")
    results, untold = _with_truth(results, env)
    notes += untold
    _check_truth(configuration.method, plan, env)
    for note in notes:
        reporter.say(note)
    return env, dataclasses.replace(plan, results=results, pictures=pictures, notes=tuple(notes))


def _held_out_note(env: Environment) -> str:
    held, count = env.split("val"), sum(len(split) for split in env.dataset.splits)
    scored = "tags and masks" if any(sample.mask for sample in held) else "the classifier's tags alone"
    return (
        f"{len(held)} of the {count} photographs {plural(len(held), 'was', 'were')} held out of training, because no "
        f"list of photographs to measure on was given: {scored} were scored on {plural(len(held), 'it', 'them')}."
    )


def _with_truth(results: dict[str, Stage], env: Environment) -> tuple[dict[str, Stage], list[str]]:
    """The results that can be measured, and a note on those of each split that cannot, for want of true masks."""
    kept: dict[str, Stage] = {}
    left_out: dict[SplitName, list[str]] = {}
    for name, stage in results.items():
        if "masks" in stage.reads and not any(sample.mask for sample in env.split(stage.split)):
            left_out.setdefault(stage.split, []).append(name)
        else:
            kept[name] = stage
    return kept, [
        f"no truth: no true masks of the {env.split(split).name} photographs are known, so the quality of their masks "
        f"could not be measured (left out: {', '.join(names)}); look at them."
        for split, names in left_out.items()
    ]


def _check_truth(method: Method, plan: Plan, env: Environment) -> None:
    """Tells that a method trains on masks before anything is computed.

    Raises:
        DataError: a photograph it trains on has none.
    """
    for stage in Plan(plan.model, plan.predictions, {}).stages():
        missing = [sample for sample in stage.samples(env) if sample.mask is None] if "masks" in stage.reads else []
        if missing:
            raise DataError(
                f"{env.dataset.root}: the method {method.name} needs true masks, which {len(missing)} of the "
                f"{stage.split} photographs {plural(len(missing), 'does', 'do')} not have, {missing[0].image.name} "
                "first"
            )


def report(
    run: str | Path,
    *,
    out: str | Path | None = None,
    gallery: int | None = None,
    allow_pickle: bool = False,
    quiet: bool = False,
) -> Path:
    """Writes a finished run's page again, from what is in its workspace; nothing is trained, and nothing locked.

    The run's device need not be there.

    Args:
        run: the run's folder or a file in it, or its name in the folder ``workspace`` or the beginning of that.
        out: the HTML file; ``report.html`` in the run's folder by default.
        gallery: photographs in the gallery, 0 for none; as many as the run's own by default.
        allow_pickle: read the run's `labels_npy`, which can run any code of whoever made it; needed if it has one,
            whatever was allowed when it was made.
        quiet: no progress.

    Returns:
        the page. If nothing has changed, it has the same bytes as the run's own.

    Raises:
        Tag2MaskError: there is no such run, it is not finished, or its data or stages are not there any more or have
            changed.
    """
    folder = find_run_folder(run)
    record = read_record(folder)
    configuration = recorded_configuration(folder, record, allow_pickle=allow_pickle)
    if gallery is not None:
        configuration = dataclasses.replace(configuration, run=dataclasses.replace(configuration.run, gallery=gallery))
    env, plan = prepare(configuration, Reporter(quiet=quiet), device_needed=False)
    check_artifacts(folder, record, plan, env)
    path = Path(out) if out is not None else folder / REPORT_FILE
    if path.is_dir():
        raise SettingsError(f"--out {path}: is a folder; give the name of the HTML file")
    return write_report(path, folder.name, record, plan, env, gallery=configuration.run.gallery)


def demo(
    out: str | Path = "tag2mask-demo", *, config: str = "demo/cam", quiet: bool = False, **settings: Any
) -> RunResult:
    """Draws the demo data, trains `cam` on its tags and the upper bound on its masks.

    Args:
        out: folder for data and workspace.
        config: the preset.
        quiet: no progress.
        settings: any other setting of the method `cam`, two underscores for a dot.
    """
    reporter = Reporter(quiet=quiet)
    data = Path(out) / "data"
    reporter.say(f"drawing the demo data in {data}")
    write_demo_data(data, progress=reporter.callback("demo data"))
    return run(
        "cam", data, workspace=Path(out) / "workspace", config=config, quiet=quiet, **{"bound": True, **settings}
    )


@dataclass(frozen=True)
class Predicted:
    """What `predict` wrote for one photograph."""

    photograph: Path
    mask: Path
    overlay: Path


def predict(
    model: str | Path,
    photographs: Sequence[str | Path] | str | Path,
    out: str | Path,
    *,
    tags: str | Path | None = None,
    use_crf: bool | None = None,
    runtime: Runtime | None = None,
    quiet: bool = False,
) -> list[Predicted]:
    """Masks and overlays of photographs at their own size.

    Args:
        model: a run's ``model.safetensors``.
        photographs: files and folders; folders are searched with their subfolders.
        out: gets ``masks/`` (palette PNG) and ``overlays/`` (JPEG), named like the photographs.
        tags: CSV of image_path,label: masks are restricted to a photograph's tags.
        use_crf: refine with the dense CRF; as the model's run did by default.
        runtime: device, precision and threads.
        quiet: no progress.

    Returns:
        the files written, in the order of the photographs.

    Raises:
        Tag2MaskError: a file is missing or unreadable, or two photographs would give one mask.
    """
    runtime = (runtime or Runtime()).resolved()
    runtime.apply()
    network, header = load_model(Path(model), device=runtime.torch_device)
    if not isinstance(network, Segmenter):
        raise WeightsError(
            f"{model}: a model of kind '{header.kind}' makes no masks; give the model.safetensors of a run"
        )
    # The memory layout of a run's own predictions: another can change bits.
    runtime.place(network)
    try:
        settings = prediction_settings(header)
    except (KeyError, TypeError, ValueError, AttributeError, SettingsError) as error:
        raise WeightsError(f"{model}: its header does not say how masks are made ({error})") from error
    if use_crf is not None:
        settings = dataclasses.replace(settings, use_crf=use_crf)
    if isinstance(photographs, str | Path):
        photographs = [photographs]
    names = find_photographs([Path(path) for path in photographs], out=Path(out))
    known = _known_tags(Path(tags), header.classes) if tags else None

    def make(named: tuple[str, Path]) -> tuple[Predicted, tuple[int, ...]]:
        name, path = named
        class_ids = None if known is None else known(path, name)
        image = read_image(path)
        mask = predict_mask(network, torch.from_numpy(image).permute(2, 0, 1), settings, runtime, class_ids=class_ids)
        mask_path, overlay_path = Path(out) / "masks" / f"{name}.png", Path(out) / "overlays" / f"{name}.jpg"
        write_bytes(mask_path, encode_mask(mask))
        overlay_path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(overlay_path) as aside:
            Image.fromarray(overlay(image, mask)).save(aside, format="JPEG", quality=90)
        return Predicted(path, mask_path, overlay_path), image.shape[:2]

    written = []
    reporter = Reporter(quiet=quiet)
    with reporter.task("predict", len(names)) as task:
        for predicted, (height, width) in map_in_order(make, names.items(), runtime.on_device_at_a_time):
            if height * width > settings.inference.max_pixels:
                reporter.say(
                    f"{predicted.photograph}: {width}x{height} was segmented at {settings.inference.max_pixels} pixels "
                    "and the result upsampled"
                )
            written.append(predicted)
            task.advance()
    return written


def prediction_settings(header: ModelHeader) -> PredictionSettings:
    """How a model file says masks are to be made."""
    content = header.inference
    if "inference" not in content:
        return PredictionSettings(inference=_inference(content))
    return PredictionSettings(
        inference=_inference(content["inference"]), use_crf=content["use_crf"], crf=CRFSettings(**content["crf"])
    )


def _inference(content: dict[str, Any]) -> InferenceSettings:
    return InferenceSettings(**{**content, "scales": tuple(content["scales"])})


def find_photographs(paths: Sequence[Path], *, out: Path | None = None) -> dict[str, Path]:
    """Photographs by the name of their masks: the path below the folder given, or the file's name, without suffix.

    Args:
        paths: files, and folders that are searched with their subfolders.
        out: a folder that is left out of the search: what an earlier call wrote there are no photographs.

    Raises:
        DataError: a path is missing, a folder has no photographs, or two photographs have one name.
    """
    names: dict[str, Path] = {}
    for path in paths:
        if path.is_dir():
            found = sorted(
                file
                for file in path.rglob("*")
                if is_photograph(file) and not (out is not None and file.resolve().is_relative_to(out.resolve()))
            )
            if not found and out is not None and path.resolve().is_relative_to(out.resolve()):
                raise DataError(f"{path}: lies in the folder for results, {out}, where nothing counts as a photograph")
            if not found:
                raise DataError(f"{path}: no photographs in this folder ({', '.join(IMAGE_SUFFIXES)})")
            named = [(file.relative_to(path).with_suffix("").as_posix(), file) for file in found]
        elif path.is_file():
            named = [(path.stem, path)]
        else:
            raise DataError(f"{path}: there is no such file or folder")
        for name, file in named:
            if name in names:
                raise DataError(f"{file} and {names[name]} would both give {name}.png; take them apart")
            names[name] = file
    return names


def _known_tags(table: Path, classes: Sequence[str]) -> Callable[[Path, str], tuple[int, ...]]:
    """Function of (photograph, name) that gives the class ids the table tags it with."""
    rows = {Path(row.image_path).with_suffix("").as_posix(): row for row in read_label_table(table)}
    by_stem: dict[str, list[LabelRow]] = {}
    for name, row in rows.items():
        by_stem.setdefault(Path(name).name, []).append(row)

    def tags(path: Path, name: str) -> tuple[int, ...]:
        found = [rows[name]] if name in rows else by_stem.get(path.stem, [])
        if len(found) != 1:
            lines = ", ".join(row.where for row in found)
            raise DataError(f"{table}: {f'several rows for {path} ({lines})' if found else f'no row for {path}'}")
        return tag_ids(found[0].labels, classes, found[0].where)

    return tags


def evaluate(
    predictions: str | Path,
    truth: str | Path,
    *,
    classes: Sequence[str] | None = None,
    ids: Sequence[str] | None = None,
) -> SegmentationScores:
    """Scores a folder of masks against a folder of true masks, paired by name.

    Args:
        predictions: folder of palette PNGs.
        truth: folder of true masks; 255 is left out.
        classes: names of the foreground classes; numbers by default.
        ids: score these alone; by default every true mask needs a prediction.

    Raises:
        DataError: masks are missing or of different sizes.
    """
    names = ["background", *classes] if classes is not None else None
    return evaluate_folders(predictions, truth, names, ids)


def list_methods() -> list[Method]:
    """The methods there are."""
    return list(METHODS.values())


def list_backbones(pattern: str = "*") -> list[BackboneInfo]:
    """Backbones whose name fits a pattern, those that are tested first."""
    return _list_backbones(pattern)
