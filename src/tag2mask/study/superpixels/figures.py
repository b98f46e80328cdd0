"""The study's figures: curves of the scores, and superpixels of a few images."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tag2mask.data.label_maps import draw_label_map
from tag2mask.data.layers import RGB, HeatMap
from tag2mask.data.samples import Sample
from tag2mask.engine.environment import Environment
from tag2mask.evaluation.pictures import evenly_spread, plot_lines
from tag2mask.study.figures import Figure, draw_sheet
from tag2mask.study.superpixels.contenders import HIGHEST, NCUT, OURS, Row, Study, nearest_parameter
from tag2mask.study.superpixels.stages import MATCHED, Maps, SuperpixelMaps

FEW, MANY = (10, 15), (50, 80)
"""Numbers of superpixels in the examples (Kim, figures 3.8 and 3.9)."""

_TAUS_OF_RULES, _TAUS_ALONE = 3, 5  # columns of figures with two rules and with one
_DARKEST, _BRIGHTEST = 40, 255  # grey of the superpixels found last and first
_UE, _ASA = "undersegmentation_error", "achievable_accuracy"


def draw_figures(study: Study, rows: Sequence[Row], env: Environment, folder: Path) -> list[Figure]:
    """Draws all figures into a folder, from complete stages."""
    folder.mkdir(parents=True, exist_ok=True)
    return [*_curves(study, rows, env, folder), *_sheets(study, env, folder)]


def _line(rows: Sequence[Row], name: str, x: Callable[[Row], float | None], y: str) -> tuple[list[float], list[float]]:
    points = [(x(row), row.score(y)) for row in rows if row.name == name]
    known = [(x, y) for x, y in points if x is not None and y is not None]
    return [x for x, _ in known], [y for _, y in known]


def _curves(study: Study, rows: Sequence[Row], env: Environment, folder: Path) -> Iterator[Figure]:
    part = study.settings.ncut_photographs  # a curve on other images than the others' would mislead
    names = [
        each.name
        for each in study.contenders
        if each.group != "features" and each.maps is not None and not (part and each.name == NCUT)
    ]
    against = {
        "undersegmentation-error.png": (_UE, "undersegmentation error", "Figure 3.5"),
        "achievable-accuracy.png": (_ASA, "achievable segmentation accuracy", "Figure 3.7"),
    }
    for file, (score, label, number) in against.items():
        lines = {name: _line(rows, name, lambda row: row.score("superpixels"), score) for name in names}
        path = folder / file
        plot_lines(path, lines, x="superpixels per photograph", y=label, title=f"{label.capitalize()} ({number})")
        yield Figure(f"{label.capitalize()} against number of superpixels", f"Kim's {number.lower()}.", path)
    lines = {name: _line(rows, name, lambda row: row.score("boundary_recall"), "boundary_precision") for name in names}
    path = folder / "precision-recall.png"
    plot_lines(path, lines, x="boundary recall", y="boundary precision", title="Boundaries (Figure 3.6)")
    yield Figure("Boundary precision and recall", "Kim's figure 3.6; a point per setting.", path)

    same = [*study.ours_on_ncuts_photographs(env), *(row for row in rows if row.name in (NCUT, HIGHEST))]
    names = [OURS, NCUT] if part else [OURS, NCUT, HIGHEST]
    for file, score, label in (
        ("rules-undersegmentation-error.png", _UE, "undersegmentation error"),
        ("rules-achievable-accuracy.png", _ASA, "achievable segmentation accuracy"),
    ):
        path = folder / file
        lines = {name: _line(same, name, lambda row: float(row.parameter), score) for name in names}
        plot_lines(path, lines, x="tau", y=label, title=f"{label.capitalize()} by rule (Figure 3.12)")
        yield Figure(f"{label.capitalize()} against tau", "Kim's figure 3.12, all rules on the same photographs.", path)


def _sheets(study: Study, env: Environment, folder: Path) -> Iterator[Figure]:
    # Out of Ncut's images, which are part of everybody's.
    samples = study.ours_beside_ncut.samples(env)
    samples = tuple(samples[index] for index in evenly_spread(study.settings.pictures, len(samples)))
    ours = study.maps(OURS)
    assert ours is not None
    taus = ours.parameters()
    some = [taus[index] for index in evenly_spread(_TAUS_OF_RULES, len(taus))]
    more = [taus[index] for index in evenly_spread(_TAUS_ALONE, len(taus))]

    def sheet(file: str, titles: Sequence[str], pictures: Callable[[Sample, RGB], list[tuple[RGB, str]]]) -> Path:
        def cells(sample: Sample, image: RGB) -> tuple[list[RGB], str]:
            drawn = pictures(sample, image)
            told = ", ".join(text for _, text in drawn if text)
            return [picture for picture, _ in drawn], f"{sample.id}{f': {told} superpixels' if told else ''}"

        draw_sheet(folder / file, titles, samples, cells)
        return folder / file

    compared = [each for each in study.contenders if each.group == "classic" or each.name == OURS]
    available = {each.name: each.maps for each in compared if each.maps is not None}
    for (low, high), file, number in ((FEW, "examples-few.jpg", "3.8"), (MANY, "examples-many.jpg", "3.9")):

        def examples(sample: Sample, image: RGB, wanted: float = (low + high) / 2) -> list[tuple[RGB, str]]:
            cells = []
            for maps in available.values():
                loaded = maps.load(env, sample.id)
                counts = {key: len(np.unique(labels)) for key, labels in loaded.items()}
                key = nearest_parameter(counts, wanted)
                cells.append((draw_label_map(image, loaded[key]), str(counts[key])))
            return cells

        yield Figure(
            f"Examples with {low} to {high} superpixels",
            f"Kim's figure {number}: of each contender the setting that comes closest on the photograph.",
            sheet(file, list(available), examples),
        )

    others = {each.name: each.maps for each in study.contenders if each.group == "features" and each.maps is not None}
    if others:
        tau = f"{study.settings.superpixels.tau:g}"

        def features(sample: Sample, image: RGB) -> list[tuple[RGB, str]]:
            shown = [ours.load(env, sample.id)[tau], *(maps.load(env, sample.id)[MATCHED] for maps in others.values())]
            return [(draw_label_map(image, labels), str(len(np.unique(labels)))) for labels in shown]

        yield Figure(
            "Superpixels from different features",
            "Kim's figure 3.10: the other features' tau gives as many superpixels on average as ours.",
            sheet("features.jpg", ["ours", *(name.rpartition(": ")[2] for name in others)], features),
        )

    for name, file, title, text in (
        (HIGHEST, "rules-order.jpg", "Lowest (LF) and highest (HF) degree first", "Kim's figure 3.11"),
        (NCUT, "rules-ncut.jpg", "Ours and normalised cuts", "Kim's figure 3.13"),
    ):
        rival = study.maps(name)
        assert rival is not None
        short = {HIGHEST: ("LF", "HF"), NCUT: ("ours", "Ncut")}[name]

        def both(sample: Sample, image: RGB, rival: SuperpixelMaps = rival) -> list[tuple[RGB, str]]:
            pair = ours.load(env, sample.id), rival.load(env, sample.id)
            return [_ordered(loaded, key) for key in some for loaded in pair]

        yield Figure(
            title,
            f"{text}: superpixels found first are bright, those found last dark.",
            sheet(file, [f"{rule} {key}" for key in some for rule in short], both),
        )

    def alone(sample: Sample, image: RGB) -> list[tuple[RGB, str]]:
        loaded = ours.load(env, sample.id)
        return [_ordered(loaded, key) for key in more]

    yield Figure(
        "Superpixels at different thresholds",
        "Kim's figure 3.16: superpixels found first are bright, those found last dark.",
        sheet("thresholds.jpg", [f"tau {key}" for key in more], alone),
    )

    samples = study.positiveness.samples(env)

    def shares(sample: Sample, image: RGB) -> list[tuple[RGB, str]]:
        found = study.positiveness.load(env, sample.id)
        return [(HeatMap(found[which]).over(image), "") for which in ("positive", "negative")]

    yield Figure(
        "Positiveness and negativeness",
        "Kim's figure 3.14: to how many of its object's patches a patch is similar, and to how many it is not.",
        sheet("positiveness.jpg", ["positiveness", "negativeness"], shares),
    )


def _ordered(maps: Maps, parameter: str) -> tuple[RGB, str]:
    """A label map in the order of discovery, bright to dark, and the number of superpixels."""
    labels: npt.NDArray[np.int32] = maps[parameter]
    count = int(labels.max()) + 1
    greys = np.linspace(_BRIGHTEST, _DARKEST, count).round().astype(np.uint8)
    return np.repeat(greys[labels][..., None], 3, axis=2), str(count)
