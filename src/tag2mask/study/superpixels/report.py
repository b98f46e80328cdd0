"""Output of the study: tables, pictures, figures and the page around them."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from tag2mask.base.files import write_json
from tag2mask.base.settings import canonical
from tag2mask.base.text import duration, plural
from tag2mask.engine.environment import Environment
from tag2mask.engine.stage import Stage
from tag2mask.study.page import StudyResult
from tag2mask.study.superpixels.contenders import NCUT, OURS, Row, Study, comparison
from tag2mask.study.superpixels.figures import draw_figures
from tag2mask.study.superpixels.page import write_page, write_table

_TABLES = {
    "algorithms.csv": "Algorithms (Kim, table 3.5)",
    "features.csv": "Features, at as many superpixels as ours",
    "rules.csv": "Rules, on our features",
}


def write_study(study: Study, stages: Sequence[Stage], env: Environment, out: Path) -> StudyResult:
    """Tables, pictures and the page of a study whose stages are complete.

    Args:
        study: the study.
        stages: all of it, those with the same artifact once.
        env: what they were made in.
        out: the folder.
    """
    rows = study.rows(env)
    pictures = draw_figures(study, rows, env, out / "pictures")
    tables = dict(zip(_TABLES, _split(study, rows, env), strict=True))
    for file, table in tables.items():
        write_table(out / file, table)
    seconds = [(_told(stage, study, env), stage.seconds(env)) for stage in stages]
    compared = comparison(rows)
    photographs = len(env.dataset.train)
    figures = {
        "data": str(env.dataset.root),
        "list": env.dataset.train.name,
        "photographs": photographs,
        "settings": canonical(study.settings),
        "tables": {title: [dataclasses.asdict(row) for row in tables[file]] for file, title in _TABLES.items()},
        "ours_at_as_many": compared,
        "seconds": [{"stage": name, "seconds": spent} for name, spent in seconds],
    }
    write_json(out / "study.json", figures)
    total = sum(spent for _, spent in seconds)
    report = out / "report.html"
    write_page(
        report,
        about={
            "data": f"{env.dataset.root}, list {env.dataset.train.name}",
            "photographs": f"{photographs}, evenly spread over those of the list that have true masks",
            "ours": _described(study),
            "time": f"{duration(total)} in all, on {env.runtime.threads} "
            f"{plural(env.runtime.threads, 'thread')} of {env.runtime.device}",
        },
        notes=_notes(study),
        tables={title: tables[file] for file, title in _TABLES.items()},
        compared=compared,
        figures=pictures,
        stages=seconds,
    )
    return StudyResult(out, report, figures)


def _split(study: Study, rows: Sequence[Row], env: Environment) -> tuple[list[Row], list[Row], list[Row]]:
    """The rows of the three tables; ours is in each."""
    ours = [row for row in rows if row.name == OURS]
    default = [row for row in ours if row.parameter == f"{study.settings.superpixels.tau:g}"]
    return (
        [*(row for row in rows if row.group == "classic"), *ours],
        [*default, *(row for row in rows if row.group == "features")],
        [
            *(row for row in rows if row.group == "rule" and row.name != NCUT),
            *(study.ours_on_ncuts_photographs(env) if study.settings.ncut_photographs else []),
            *(row for row in rows if row.name == NCUT),
        ],
    )


def _described(study: Study) -> str:
    chosen = study.settings.superpixels
    return (
        f"keys of {chosen.backbone.name} ({chosen.backbone.info().name}) on photographs of {chosen.long_side} pixels, "
        f"lowest degree first, dense CRF of {chosen.crf.iterations} {plural(chosen.crf.iterations, 'iteration')}"
    )


def _notes(study: Study) -> list[str]:
    settings = study.settings
    ncut = settings.ncut_photographs
    return [
        "UE: undersegmentation error, lower is better; BP, BR: boundary precision and recall at less than 2 pixels; "
        "ASA: achievable segmentation accuracy (Kim, equations 3.9 to 3.12). Pixels of 255 in the truth belong to no "
        "class.",
        "BP and BR come twice: with boundaries between two labelled pixels alone, which most masks with a rim of 255 "
        'hardly have, and ("255") with labelled pixels beside 255 as boundary too.',
        "SLIC, SEEDS and LSC work on CIELAB colours with OpenCV's other defaults"
        + (
            f"; sizes are meant for photographs of {settings.reference_side} pixels and are scaled with the photograph."
            if settings.reference_side
            else "."
        ),
        "All superpixels that are discovered in features are refined by the same CRF, which can lose some. The other "
        f"features' tau was searched on {settings.match_photographs} photographs at most, by the number of superpixels "
        "before the CRF alone.",
        f"Ncut was run on {ncut} photographs at most, and its table has ours on the same ones."
        if ncut
        else "Ncut was run on all photographs.",
    ]


def _told(stage: Stage, study: Study, env: Environment) -> str:
    """A stage's name with the contenders that it serves."""
    names = [
        name
        for name, scored in study.scores.items()
        for served in (scored, scored.maps, *scored.maps.inputs.values())
        if served.fingerprint(env) == stage.fingerprint(env)
    ]
    return f"{stage.name}: {', '.join(names)}" if names else stage.name
