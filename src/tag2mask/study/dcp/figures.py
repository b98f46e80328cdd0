"""The study's figures: shares of variance, planes of components, and masks block by block."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Chart
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from tag2mask.base.files import atomic_path
from tag2mask.base.text import percent
from tag2mask.data.classes import BACKGROUND, UNLABELLED
from tag2mask.data.layers import RGB
from tag2mask.data.masks import overlay
from tag2mask.data.samples import Sample
from tag2mask.engine.environment import Environment
from tag2mask.evaluation.pictures import evenly_spread
from tag2mask.stages.labels import read_truth
from tag2mask.study.dcp.graph import DcpStudy
from tag2mask.study.dcp.stages import PixelPlane
from tag2mask.study.figures import Figure, draw_sheet

# Okabe & Ito's colours, which people with any kind of colour vision tell apart; yellow is too pale for lines.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES = ("solid", (0, (5, 2)), (0, (1, 1.3)), (0, (6, 1.5, 1, 1.5)))
_NAMED = len(_COLOURS) * len(_DASHES)
_REST = "#bbbbbb"
_COLUMNS = 2  # of charts with a panel per block
_NAME_HEIGHT = 0.21  # of a line in a legend, in inches

# Kinds of pixels in the order they are drawn, the most numerous below: label, colour, marker.
_UNKNOWN, _GROUND, _OTHER, _OBJECT = range(4)
_KINDS = (
    ("no true mask", "#555555", "o"),
    ("background", "#999999", "."),
    ("other object", "#E69F00", "^"),
    ("object of the class", "#0072B2", "o"),
)


def draw_figures(
    study: DcpStudy, rows: Sequence[Mapping[str, Any]], photographs: int, env: Environment, folder: Path
) -> list[Figure]:
    """Draws all figures into a folder, from complete stages.

    Args:
        study: whose stages are complete.
        rows: of the table of masks.
        photographs: number in the figure of masks, evenly spread.
        env: where the stages are.
        folder: gets the pictures.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return [
        *_variances(study, env, folder),
        *_planes(study, env, folder),
        _masks(study, rows, photographs, env, folder),
    ]


def _file(kind: str, name: str) -> str:
    """Name of a picture; blocks have dots and classes may have anything in theirs."""
    return f"{kind}-{''.join(letter if letter.isalnum() else '-' for letter in name)}.png"


def _save(chart: Chart, path: Path) -> None:
    with atomic_path(path) as aside:
        chart.savefig(aside, format="png", dpi=110)


def _variances(study: DcpStudy, env: Environment, folder: Path) -> Iterator[Figure]:
    chosen = {env.dataset.label_names[class_id] for class_id in study.pixels.settings.class_ids}
    for block, classes in study.patterns.metrics(env)["blocks"].items():
        lines = {name: found["shares"] for name, found in classes.items() if found["pixels"]}
        # Lines that no style is left for stay grey.
        named = sorted((lines if len(lines) <= _NAMED else chosen), key=lambda name: -lines[name][0])
        path = folder / _file("variance", block)
        plot_variance(path, lines, named[:_NAMED], title=f"Share of the variance at {block}")
        count = max(map(len, lines.values()))
        yield Figure(
            f"Share of the variance of the first {count} components at {block}",
            "Luo & Yang's figure 3, a line per class; the legend is in the order of the first component's share.",
            path,
        )


def plot_variance(path: Path, lines: Mapping[str, Sequence[float]], named: Sequence[str], *, title: str) -> None:
    """Writes the shares of variance of components as PNG, atomically.

    Args:
        path: the file.
        lines: shares within 0..1 of the components, largest first, by class.
        named: classes that have a line of their own and a place in the legend, in its order; the rest are grey.
        title: above the chart.
    """
    styles = dict(zip(named, product(_DASHES, _COLOURS), strict=False))
    rest = [name for name in lines if name not in styles]
    chart = Chart(figsize=(9, max(5, 0.5 + _NAME_HEIGHT * (len(styles) + bool(rest)))), layout="constrained")
    axes = chart.subplots()
    for name in (*rest, *styles):
        components = np.arange(1, len(lines[name]) + 1)
        shares = 100 * np.array(lines[name])
        shares[shares <= 0] = np.nan  # features of fewer pixels than dimensions; a logarithm has no place for it
        if name in styles:
            dashes, colour = styles[name]
            axes.plot(components, shares, color=colour, linestyle=dashes, linewidth=1.6, label=name)
        else:
            axes.plot(
                components, shares, color=_REST, linewidth=0.8, label=None if name != rest[0] else "other classes"
            )
    axes.set(xlabel="component", ylabel="share of the variance, %", title=title, xscale="log", yscale="log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3, which="both")
    chart.legend(loc="outside right upper", fontsize="small", handlelength=3.2)
    _save(chart, path)


def _planes(study: DcpStudy, env: Environment, folder: Path) -> Iterator[Figure]:
    figures = study.patterns.metrics(env)["blocks"]
    for class_id in study.pixels.settings.class_ids:
        name = env.dataset.label_names[class_id]
        plane = study.pixels.of_class(env, class_id)
        titles = []
        for block in study.blocks:
            first, second = figures[block][name]["shares"][:2]
            titles.append(f"{block}: {percent(first)} % and {percent(second)} % of the variance")
        path = folder / _file("plane", name)
        plot_planes(path, plane, class_id, titles, title=f"Pixels of photographs tagged {name}")
        coloured = bool((plane.truth != UNLABELLED).any())
        yield Figure(
            f"Pixels of '{name}' on the first two components",
            f"Luo & Yang's figure 1 (e) to (g), {len(plane.truth)} pixels; those right of the line are foreground by "
            f"the class pattern. {'Colours are the truth' if coloured else 'Without true masks there are no colours'}.",
            path,
        )


def plot_planes(path: Path, plane: PixelPlane, class_id: int, titles: Sequence[str], *, title: str) -> None:
    """Writes pixels on the plane of two components as PNG, atomically, a panel per block.

    Args:
        path: the file.
        plane: pixels of one class.
        class_id: that class.
        titles: of the panels.
        title: above all.
    """
    columns = min(_COLUMNS, len(titles))
    rows = -(-len(titles) // columns)
    chart = Chart(figsize=(4.6 * columns, 4 * rows + 0.6), layout="constrained")
    panels: list[Axes] = list(chart.subplots(rows, columns, squeeze=False).flat)
    kinds = kinds_of_pixels(plane.truth, class_id)
    for panel, points, text in zip(panels, plane.points[:, 0], titles, strict=False):
        for kind, (label, colour, marker) in enumerate(_KINDS):
            xs, ys = points[kinds == kind].T
            if len(xs):
                panel.scatter(
                    xs, ys, s=14, c=colour, marker=marker, alpha=0.6, linewidths=0, label=label, rasterized=True
                )
        panel.axvline(0, color="black", linewidth=0.8)
        panel.set_title(text, fontsize="medium")
        panel.set(xlabel="first component", ylabel="second component")
        panel.grid(alpha=0.3)
    for empty in panels[len(titles) :]:
        empty.remove()
    handles, labels = panels[0].get_legend_handles_labels()
    legend = chart.legend(handles[::-1], labels[::-1], loc="outside lower center", ncols=len(labels), markerscale=2)
    for handle in legend.legend_handles:
        if handle is not None:
            handle.set_alpha(1)
    chart.suptitle(title)
    _save(chart, path)


def kinds_of_pixels(truth: np.ndarray[Any, np.dtype[np.uint8]], class_id: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Kinds of pixels for a class, as positions in the legend from below: unknown, background, other, of the class."""
    known = np.where(truth == BACKGROUND, _GROUND, np.where(truth == class_id, _OBJECT, _OTHER))
    return np.where(truth == UNLABELLED, _UNKNOWN, known)


def _masks(
    study: DcpStudy, rows: Sequence[Mapping[str, Any]], photographs: int, env: Environment, folder: Path
) -> Figure:
    samples = env.split("train").samples
    masked = [sample for sample in samples if sample.mask is not None]
    available = masked or samples
    shown = [available[index] for index in evenly_spread(photographs, len(available))]
    scores = {row["masks"]: row["mean_iou"] for row in rows}

    def cells(sample: Sample, image: RGB) -> tuple[list[RGB], str]:
        tags = ", ".join(env.dataset.label_names[tag] for tag in sample.tags) or "no tag"
        truth = [overlay(image, read_truth(sample, env.dataset.num_classes))] if masked else []
        found = [overlay(image, each.labels.load(env, sample.id)) for each in study.masks]
        return [*truth, *found], f"{sample.id}: {tags}"

    titles = [f"{block}: mIoU {percent(scores[block])}" if block in scores else block for block in study.blocks]
    path = folder / "masks.jpg"
    draw_sheet(path, [*(["truth"] if masked else []), *titles], shown, cells)
    of_all = f"mIoU is that of all {len(masked)} training photographs with a true mask. " if masked else ""
    return Figure(
        "Masks block by block",
        f"Luo & Yang's figure 4, before the CRF. {of_all}Where several classes claim a pixel, it is left open (pale).",
        path,
    )
