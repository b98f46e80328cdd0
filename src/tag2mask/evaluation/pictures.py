"""Pictures for people: contact sheets, curves."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont
from PIL import Image, ImageDraw, ImageFont

from tag2mask.base.files import atomic_path
from tag2mask.data.layers import RGB


def evenly_spread(count: int, total: int) -> list[int]:
    """Positions of at most `count` things out of `total`, evenly spaced: no choosing by how they look."""
    count = min(count, total)
    return [(2 * position + 1) * total // (2 * count) for position in range(count)]


def contact_sheet(
    titles: Sequence[str], rows: Sequence[Sequence[RGB]], captions: Sequence[str], *, cell: int = 200
) -> Image.Image:
    """Pictures in rows under column titles, each row with a caption.

    Args:
        titles: one per column.
        rows: the pictures of each row, of any size; they are shrunk to fit a cell.
        captions: one per row.
        cell: side of a cell in pixels.
    """
    margin, line = 6, 18
    # Pillow's own font knows no letter beyond ASCII; the one that matplotlib brings knows most.
    font = ImageFont.truetype(findfont(FontProperties()), size=13)
    height = line + margin + len(rows) * (cell + line + margin)
    sheet = Image.new("RGB", (margin + len(titles) * (cell + margin), height), "white")
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(titles):
        draw.text((margin + column * (cell + margin), 2), title, fill="black", font=font)
    top = line + margin
    for pictures, caption in zip(rows, captions, strict=True):
        draw.text((margin, top), caption, fill="dimgray", font=font)
        for column, picture in enumerate(pictures):
            small = Image.fromarray(picture)
            small.thumbnail((cell, cell), Image.Resampling.LANCZOS)
            sheet.paste(small, (margin + column * (cell + margin), top + line))
        top += cell + line + margin
    return sheet


def save_sheet(path: Path, sheet: Image.Image) -> None:
    """Writes a contact sheet as JPEG, atomically."""
    with atomic_path(path) as aside:
        sheet.save(aside, format="JPEG", quality=88)


def plot_lines(
    path: Path, lines: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, x: str, y: str, title: str
) -> None:
    """Writes a line chart as PNG, atomically.

    Args:
        path: the file.
        lines: (x values, y values) by name.
        x: what the x axis shows.
        y: what the y axis shows.
        title: above the chart.
    """
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for name, (xs, ys) in lines.items():
        axes.plot(xs, ys, marker=".", label=name)
    axes.set(xlabel=x, ylabel=y, title=title)
    axes.grid(alpha=0.3)
    if len(lines) > 1:
        axes.legend()
    with atomic_path(path) as aside:
        figure.savefig(aside, format="png", dpi=110)
