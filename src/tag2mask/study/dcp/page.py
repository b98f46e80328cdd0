"""Writes the study's page and its figures as JSON."""

from collections.abc import Sequence
from pathlib import Path

from tag2mask.base.files import write_json
from tag2mask.base.settings import canonical
from tag2mask.base.text import duration, percent, plural
from tag2mask.engine.environment import Environment
from tag2mask.engine.graph import StageRun
from tag2mask.study.dcp.figures import draw_figures
from tag2mask.study.dcp.graph import DcpStudy
from tag2mask.study.page import StudyResult, write_study_page


def write_study(
    study: DcpStudy,
    runs: Sequence[StageRun],
    photographs: int,
    env: Environment,
    out: Path,
) -> StudyResult:
    """Draws all figures and writes page and figures of a study whose stages are complete.

    Args:
        study: the graph.
        runs: of its stages.
        photographs: number in the figure of masks.
        env: where the stages are.
        out: folder that gets all.
    """
    rows = study.rows(env)
    pictures = draw_figures(study, rows, photographs, env, out / "pictures")
    seconds = [(run.stage.name, run.seconds) for run in runs]
    patterns = study.patterns.metrics(env)["blocks"]
    train = env.split("train")
    masked = sum(sample.mask is not None for sample in train)
    figures = {
        "data": str(env.dataset.root),
        "list": train.name,
        "photographs": len(train),
        "true_masks": masked,
        "settings": canonical(study.settings),
        "masks": rows,
        "patterns": patterns,
        "pixels_of": [env.dataset.label_names[class_id] for class_id in study.pixels.settings.class_ids],
        "seconds": [{"stage": name, "seconds": spent} for name, spent in seconds],
    }
    write_json(out / "study.json", figures)
    report = out / "report.html"
    backbone = study.settings.classifier.backbone
    total = sum(spent for _, spent in seconds)
    write_study_page(
        report,
        "dcp/page.html.jinja",
        title="Class pattern study",
        about={
            "data": f"{env.dataset.root}, list {train.name}",
            "photographs": f"{len(train)}, {masked} of them with a true mask",
            "classifier": f"{backbone.name} ({backbone.info().name}), trained on these photographs' tags",
            "features": f"{', '.join(study.blocks)} at stride {study.patterns.output_stride}, photographs of "
            f"{study.settings.patterns.long_side or 'their own'} pixels",
            "time": f"{duration(total)} in all, on {env.runtime.threads} "
            f"{plural(env.runtime.threads, 'thread')} of {env.runtime.device}",
        },
        notes=_notes(study, masked, env),
        figures=pictures,
        stages=seconds,
        filters={"percent": percent},
        rows=rows,
        patterns=patterns,
    )
    return StudyResult(out, report, figures)


def _notes(study: DcpStudy, masked: int, env: Environment) -> list[str]:
    most = study.patterns.settings.photographs_per_class
    taken = f"{most} photographs of each class at most" if most else "all photographs"
    notes = [
        f"Patterns are taken from {taken}; those of several classes count in each of them.",
        *study.patterns.notes(env),
    ]
    if study.curve is None:
        return [*notes, "No training photograph has a true mask: masks have no score, and pixels no colour."]
    return [*notes, *study.curve.notes(env)]
