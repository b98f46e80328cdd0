"""Graphs of stages: in which order they are made, making them, and what that would take."""

from collections.abc import Iterable
from dataclasses import dataclass

from tag2mask.base.text import duration
from tag2mask.engine.environment import Environment
from tag2mask.engine.stage import Estimate, Stage


def ordered(roots: Iterable[Stage]) -> list[Stage]:
    """Stages and all that they are made of, each after its inputs, each once.

    Args:
        roots: the stages that are wanted, in the order in which they are to be ready.
    """
    found: dict[int, Stage] = {}

    def visit(stage: Stage) -> None:
        if id(stage) not in found:
            for needed in stage.inputs.values():
                visit(needed)
            found[id(stage)] = stage

    for root in roots:
        visit(root)
    return list(found.values())


def distinct(roots: Iterable[Stage], env: Environment) -> list[Stage]:
    """The stages of `ordered`, of those with the same artifact the first."""
    found: dict[str, Stage] = {}
    for stage in ordered(roots):
        found.setdefault(stage.fingerprint(env), stage)
    return list(found.values())


@dataclass(frozen=True)
class StageRun:
    """Cost of making one stage's artifact, in this run or, if it was cached, in earlier ones."""

    stage: Stage
    seconds: float
    cached: bool


@dataclass(frozen=True)
class StageForecast:
    """Forecast of running one stage; no estimate where the artifact is there."""

    stage: Stage
    cached: bool
    estimate: Estimate | None


def run_stages(roots: Iterable[Stage], env: Environment) -> list[StageRun]:
    """Makes the artifacts of stages, and of all that they are made of, that are not there yet.

    Args:
        roots: the stages that are wanted; one is enough.
        env: what they are made in.

    Returns:
        every stage with what it took, each after its inputs; of those with the same artifact one.

    Raises:
        WorkspaceError: another process is writing to the workspace.

    Example:
        >>> run_stages([cams], env)  # the classifier and its activation maps  # doctest: +SKIP
    """
    env.runtime.apply()
    done = []
    with env.workspace.lock():
        stages = distinct(roots, env)
        # Fingerprinting has read every image; a run that is killed later need not do that again.
        env.workspace.save_digests()
        for stage in stages:
            cached = stage.complete(env)
            if cached:
                env.reporter.say(f"{stage.name} ({stage.split}): already there ({stage.folder(env).name})")
            else:
                stage.run(env)
            if headline := stage.headline(env):
                env.reporter.say(f"{stage.name} ({stage.split}): {headline}")
            done.append(StageRun(stage, stage.seconds(env), cached))
    return done


def forecast(roots: Iterable[Stage], env: Environment) -> list[StageForecast]:
    """Forecasts of all stages of `run_stages`, from short measurements; nothing is written."""
    return [
        StageForecast(stage, cached := stage.complete(env), None if cached else stage.estimate(env))
        for stage in distinct(roots, env)
    ]


def forecast_table(forecasts: list[StageForecast], env: Environment) -> str:
    """The forecast as text for a person."""
    rows = [f"{'stage':<44} {'state':<8} {'time':>12} {'disk':>10}"]
    seconds = bytes_ = 0.0
    for item in forecasts:
        name = item.stage.folder(env).name
        if item.estimate is None:
            rows.append(f"{name:<44} {'cached':<8}")
            continue
        seconds += item.estimate.seconds
        bytes_ += item.estimate.bytes
        size = f"{item.estimate.bytes / 1e6:.0f} MB"
        rows.append(f"{name:<44} {'to do':<8} {duration(item.estimate.seconds):>12} {size:>10}")
    rows.append(f"{'in all, roughly':<44} {'':<8} {duration(seconds):>12} {bytes_ / 1e6:>7.0f} MB")
    return "\n".join(rows)
