"""`tag2mask study superpixels` as a function."""

import dataclasses
from argparse import ArgumentError
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser

from tag2mask.base.files import write_json
from tag2mask.base.settings import canonical
from tag2mask.base.text import duration, plural
from tag2mask.data.datasets import Layout, open_dataset
from tag2mask.data.samples import Dataset, Split
from tag2mask.engine.environment import Environment, Runtime
from tag2mask.engine.progress import Reporter
from tag2mask.engine.stage import Stage
from tag2mask.engine.workspace import Workspace
from tag2mask.errors import DataError, SettingsError
from tag2mask.evaluation.pictures import evenly_spread
from tag2mask.study.superpixels.contenders import NCUT, OURS, Row, Study, build_study, comparison
from tag2mask.study.superpixels.figures import draw_figures
from tag2mask.study.superpixels.page import write_page, write_table
from tag2mask.study.superpixels.settings import StudySettings

_TABLES = {
    "algorithms.csv": "Algorithms (Kim, table 3.5)",
    "features.csv": "Features, at as many superpixels as ours",
    "rules.csv": "Rules, on our features",
}


@dataclass(frozen=True)
class SuperpixelStudyResult:
    """What a study left.

    Args:
        folder: with everything below.
        report: the page, ``report.html``.
        figures: all figures as they are in ``study.json``.
    """

    folder: Path
    report: Path
    figures: dict[str, Any]


def study_superpixels(
    data: str | Path,
    *,
    workspace: str | Path = "workspace",
    out: str | Path = "superpixel-study",
    photographs: int | None = None,
    tau: Sequence[float] | None = None,
    config: str | Path | None = None,
    settings: StudySettings | None = None,
    layout: Layout = "auto",
    train_list: str = "train",
    runtime: Runtime | None = None,
    quiet: bool = False,
) -> SuperpixelStudyResult:
    """Compares discovered superpixels with other features, other rules and other algorithms.

    Kim, "A Study on Weakly Supervised Semantic Segmentation Using Image Masking and Clustering" (dissertation, Seoul
    National University, 2022), sections 3.4.3 and 3.4.4. Superpixels and scores are kept in the workspace, and a study
    that was killed goes on where it stopped.

    Args:
        data: folder of photographs with true masks; those of the training list are studied.
        workspace: folder that keeps what is computed.
        out: gets ``report.html``, ``study.json``, tables as CSV and ``pictures/``.
        photographs: how many, evenly spread over the list; 0 for all. The settings' own number by default.
        tau: thresholds of ours, of highest degree first and of Ncut, at least 0 and below 1; the settings' by default.
        config: YAML of `StudySettings`.
        settings: the settings, in place of `config`.
        layout: of the data: "auto", "voc", "csv", "folders" or "coco".
        train_list: VOC's and COCO's layout: name or path of the list.
        runtime: device, precision and threads.
        quiet: no progress.

    Returns:
        where everything is, and the figures.

    Raises:
        Tag2MaskError: bad settings or data, no true masks, no weights for ours, or a workspace that is in use.
    """
    if config is not None and settings is not None:
        raise SettingsError("give config or settings, not both")
    chosen = settings or (read_study_settings(config) if config is not None else StudySettings())
    if photographs is not None:
        chosen = dataclasses.replace(chosen, photographs=photographs)
    if tau is not None:
        chosen = dataclasses.replace(chosen, taus=tuple(sorted(set(tau))))
    dataset = _studied(open_dataset(data, layout=layout, train_list=train_list), chosen.photographs)
    env = Environment(dataset, Workspace(Path(workspace)), runtime, Reporter(quiet=quiet))
    env.workspace.check_free()
    study = build_study(chosen, env.runtime)
    with env.workspace.lock():
        stages = _run(study, env)
        return _write(study, stages, env, Path(out))


def read_study_settings(path: str | Path) -> StudySettings:
    """Settings of a YAML file.

    Raises:
        SettingsError: the file cannot be read, or has a key or value that does not fit.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(StudySettings)
    try:
        built = parser.instantiate(parser.parse_path(Path(path)))
        return StudySettings(**{field.name: built[field.name] for field in dataclasses.fields(StudySettings)})
    except (ArgumentError, SettingsError, TypeError, ValueError, OSError, yaml.YAMLError) as error:
        raise SettingsError(f"--config {path}: {' '.join(str(error).split())}") from error


def _studied(dataset: Dataset, photographs: int) -> Dataset:
    """The photographs of the study as the only list of a data set.

    Raises:
        DataError: no training photograph has a true mask.
    """
    masked = [sample for sample in dataset.train if sample.mask is not None]
    if not masked:
        raise DataError(f"{dataset.root}: the study needs true masks, and no photograph of the training list has one")
    chosen = tuple(masked[index] for index in evenly_spread(photographs or len(masked), len(masked)))
    return dataclasses.replace(dataset, train=Split(dataset.train.name, chosen), val=None)


def _run(study: Study, env: Environment) -> list[Stage]:
    """Makes what is missing; returns all stages, those with the same artifact once."""
    env.runtime.apply()
    distinct: dict[str, Stage] = {}
    for stage in study.stages():
        distinct.setdefault(stage.fingerprint(env), stage)
    env.workspace.save_digests()
    for stage in distinct.values():
        if stage.complete(env):
            env.reporter.say(f"{stage.name}: already there ({stage.folder(env).name})")
        else:
            stage.run(env)
    return list(distinct.values())


def _write(study: Study, stages: Sequence[Stage], env: Environment, out: Path) -> SuperpixelStudyResult:
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
    return SuperpixelStudyResult(out, report, figures)


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
