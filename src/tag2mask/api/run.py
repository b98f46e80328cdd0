"""Running a method on tagged photographs."""

from pathlib import Path
from typing import Any

from tag2mask.engine.environment import Environment
from tag2mask.engine.graph import StageForecast, forecast, run_stages
from tag2mask.engine.progress import Reporter
from tag2mask.runs.folder import RunResult, write_run
from tag2mask.runs.input_check import check_input
from tag2mask.runs.prepare import prepare
from tag2mask.runs.presets import choose
from tag2mask.runs.record import begin_run
from tag2mask.runs.settings import Configuration, as_arguments, parse_arguments


def run(
    method: str | None = None,
    data: str | Path | None = None,
    *,
    workspace: str | Path = "workspace",
    config: str | Path | None = None,
    quiet: bool = False,
    **settings: Any,
) -> RunResult:
    """Trains a method on a folder of tagged photographs, predicts masks and scores them where there is truth.

    What an earlier run has made already is used again; a run that was killed goes on where it stopped.

    Args:
        method: one of `list_methods`; by default that of the preset in `config`, or else the default method, with its
            preset for this machine where there is no `config`. What was taken is told in a line.
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
        >>> result = tag2mask.run(data="photos")  # doctest: +SKIP
        >>> result = tag2mask.run("cam", "photos", config="small/cam")  # doctest: +SKIP
        >>> result.metrics["val"]["mean_iou"]  # doctest: +SKIP
    """
    given = {**({} if data is None else {"data": str(data)}), "workspace": str(workspace), **settings}
    choice = choose(method, [*(["--config", str(config)] if config else []), *as_arguments(given)])
    reporter = Reporter(quiet=quiet)
    if choice.note:
        reporter.say(choice.note)
    return run_configuration(parse_arguments(choice.method, choice.arguments), reporter)


def run_configuration(configuration: Configuration, reporter: Reporter) -> RunResult:
    """Runs a method with its settings made up.

    A run that cannot start leaves no trace: its record is written when settings, images and masks have been
    checked. A workspace that was there keeps what of them was found sound.

    Raises:
        Tag2MaskError: bad settings or data, or the workspace is in use or cannot be written.
        OSError: the disk became full or cannot be written; it names the file.
    """
    env, plan = prepare(configuration, reporter)
    # Told before images are read, which takes minutes the first time.
    env.workspace.check_free()
    check_input(plan.stages(), env)
    with env.workspace.lock():
        started = begin_run(plan, configuration, env).started
        return write_run(plan, run_stages(plan.stages(), env), configuration, env, started=started)


def dry_run(configuration: Configuration, reporter: Reporter) -> tuple[list[StageForecast], Environment]:
    """Forecast of a run: its stages, those there already, an estimate of time and disk. Nothing is written."""
    env, plan = prepare(configuration, reporter)
    return forecast(plan.stages(), env), env
