"""A method's graph of stages, and running it."""

from dataclasses import dataclass, field

from tag2mask.base.text import duration
from tag2mask.engine.environment import Environment, SplitName
from tag2mask.engine.stage import Estimate, PerImageStage, Stage
from tag2mask.engine.training import TrainingStage


@dataclass(frozen=True)
class Plan:
    """What a method wants made, by the name each result goes by in reports.

    Args:
        model: the stage whose model file is the method's product.
        predictions: the stage that makes masks of val photographs with it.
        results: stages to make, in the order they are reported: evaluations, predictions; what they need is made first.
        pictures: per-image stages to show side by side, by split and column: {"train": {"CAM": stage}, "val": {}}.
        notes: what a reader of the results has to know, a sentence each: what could not be measured, and why.
        exports: further trained stages whose weights a run's folder gets, by the folder's name there.
    """

    model: TrainingStage
    predictions: PerImageStage
    results: dict[str, Stage]
    pictures: dict[SplitName, dict[str, PerImageStage]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    exports: dict[str, TrainingStage] = field(default_factory=dict)

    def stages(self) -> list[Stage]:
        """All stages, each after its inputs, each once."""
        ordered: list[Stage] = []

        def visit(stage: Stage) -> None:
            for needed in stage.inputs.values():
                visit(needed)
            if stage not in ordered:
                ordered.append(stage)

        # Results first: what can be measured early is then measured early, before the next training begins.
        for stage in (*self.results.values(), self.predictions, self.model, *self.exports.values()):
            visit(stage)
        # Last what is shown only: without true masks nothing else may need it.
        for columns in self.pictures.values():
            for shown in columns.values():
                visit(shown)
        return ordered

    def distinct(self, env: Environment) -> list[Stage]:
        """All stages, those with the same artifact once."""
        found: dict[str, Stage] = {}
        for stage in self.stages():
            found.setdefault(stage.fingerprint(env), stage)
        return list(found.values())


@dataclass(frozen=True)
class StageRun:
    """What making one stage's artifact took, in this run or, if it was cached, in earlier ones."""

    stage: Stage
    seconds: float
    cached: bool


@dataclass(frozen=True)
class StageForecast:
    """What running one stage would take; no estimate where the artifact is there."""

    stage: Stage
    cached: bool
    estimate: Estimate | None


def run_plan(plan: Plan, env: Environment) -> list[StageRun]:
    """Makes all artifacts of a plan that are not there yet.

    Raises:
        WorkspaceError: another process is writing to the workspace.
    """
    env.runtime.apply()
    done = []
    with env.workspace.lock():
        stages = plan.distinct(env)
        # Fingerprinting has read every photograph; a run that is killed later need not do that again.
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


def forecast(plan: Plan, env: Environment) -> list[StageForecast]:
    """What `run_plan` would do, from short measurements; nothing is written."""
    return [
        StageForecast(stage, cached := stage.complete(env), None if cached else stage.estimate(env))
        for stage in plan.distinct(env)
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
