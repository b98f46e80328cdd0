"""A run's environment and graph of stages, made up from its settings."""

import dataclasses
from pathlib import Path

from tag2mask.base.text import plural
from tag2mask.engine.environment import Environment, SplitName
from tag2mask.engine.plan import Plan
from tag2mask.engine.progress import Reporter
from tag2mask.engine.stage import Stage
from tag2mask.engine.workspace import Workspace
from tag2mask.errors import DataError
from tag2mask.methods.registry import Method
from tag2mask.methods.supervised import SupervisedSettings, supervised
from tag2mask.runs.settings import Configuration
from tag2mask.stages.evaluate import evaluate_labels
from tag2mask.stages.labels import LabelStage
from tag2mask.stages.segmenter_settings import SegmenterSettings


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
            segmenter = SegmenterSettings.on_whole_masks(settings.segmenter)
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
    """Check for missing masks that a method trains on, before anything is computed.

    Raises:
        DataError: an image it trains on has none.
    """
    for stage in plan.learning():
        missing = [sample for sample in stage.samples(env) if sample.mask is None] if "masks" in stage.reads else []
        if missing:
            raise DataError(
                f"{env.dataset.root}: the method {method.name} needs true masks, which {len(missing)} of the "
                f"{stage.split} photographs {plural(len(missing), 'does', 'do')} not have, {missing[0].image.name} "
                "first"
            )
