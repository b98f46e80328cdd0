"""Contenders timed in turn in one process, and the tables of RESULTS.md.

A benchmark is a module of this package with a docstring (its first paragraph is printed above the tables), `TITLE`,
`PACKAGES` (distributions whose versions are named) and `rows(setting)`, which yields the rows of its table as they are
measured. `python -m bench NAME` runs it once with one processor and once with two, each in a process of its own.
"""

import json
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).with_name("RESULTS.md")
PHOTOGRAPHS = ROOT.parent / "shared" / "data" / "voc12-small" / "VOCdevkit" / "VOC2012"
LEAST_REPEATS = 7
COLUMNS = ("input", "implementation", "ms: median (least to most)", "times ours", "agreement with ours")

Photo = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Setting:
    """How a benchmark is run.

    Args:
        threads: processors the process may use; libraries are told the same number.
        repeats: timed calls of each contender.
    """

    threads: int = 1
    repeats: int = LEAST_REPEATS


@dataclass(frozen=True)
class Contender:
    """One implementation of a benchmark's job.

    Args:
        name: as the table shows it.
        run: does the job once and returns its result.
        agreement: text that compares (our result, its result); nothing for our own row.
    """

    name: str
    run: Callable[[], Any]
    agreement: Callable[[Any, Any], str] | None = None


@dataclass(frozen=True)
class Row:
    """A line of a table, in the order of `COLUMNS`."""

    case: str
    name: str
    milliseconds: str
    ratio: str
    agreement: str

    def __str__(self) -> str:
        return f"| {' | '.join(asdict(self).values())} |"


def side_by_side(case: str, ours: Contender, peers: Sequence[Contender], setting: Setting) -> Iterator[Row]:
    """Times all contenders in turn, round after round, and compares their results.

    The order of a round is turned by one from round to round. The ratio is the median over rounds of a peer's time by
    ours in that round, so that it holds when the machine's speed drifts.
    """
    contenders = [ours, *peers]
    results = [contender.run() for contender in contenders]  # also warms everybody up
    times: list[list[float]] = [[] for _ in contenders]
    for turn in range(setting.repeats):
        for place in range(len(contenders)):
            index = (turn + place) % len(contenders)
            start = time.perf_counter()
            contenders[index].run()
            times[index].append(time.perf_counter() - start)
    for index, contender in enumerate(contenders):
        ratios = [its / our for our, its in zip(times[0], times[index], strict=True)]
        agreement = contender.agreement(results[0], results[index]) if contender.agreement else ""
        ratio = f"{statistics.median(ratios):.2f}" if index else ""
        yield Row(case, contender.name, milliseconds(times[index]), ratio, agreement)


def milliseconds(seconds: Sequence[float]) -> str:
    """Median and range of times in seconds, as text in milliseconds, each as `three_digits` rounds it."""
    return "{} ({} to {})".format(
        *(three_digits(1e3 * value) for value in (statistics.median(seconds), min(seconds), max(seconds)))
    )


def three_digits(value: float) -> str:
    """A number of 0 or more, rounded to three significant digits, from 1,000 on to whole ones; no exponent."""
    # Rounding comes first: it can bring a number to the next power of ten.
    decimals = max(0, 2 - int(f"{value:.2e}".partition("e")[2])) if value > 0 else 0
    return f"{value:,.{decimals}f}"


def equal_share(ours: Any, theirs: Any) -> str:
    """How many entries of two label maps are equal, as text."""
    return f"{(np.asarray(ours) == np.asarray(theirs)).mean():.4%} equal"


def largest_difference(ours: Any, theirs: Any) -> str:
    """Largest absolute difference of two arrays, as text."""
    return f"max. difference {np.abs(np.asarray(ours, np.float64) - np.asarray(theirs, np.float64)).max():.1e}"


def photographs(count: int, size: tuple[int, int] | None = None) -> list[Photo]:
    """Photographs spread evenly over PASCAL VOC's train_2007 list, or the demo's scenes where they are not at hand.

    Args:
        count: how many.
        size: (height, width) all are brought to, bicubic; None leaves them as they are.

    Returns:
        uint8 arrays (height, width, 3).
    """
    from PIL import Image

    from tag2mask.data.demo.scenes import render_scene
    from tag2mask.data.images import read_image

    if PHOTOGRAPHS.is_dir():
        names = (PHOTOGRAPHS / "ImageSets" / "Segmentation" / "train_2007.txt").read_text().split()
        chosen = [names[index * len(names) // count] for index in range(count)]
        photos = [read_image(PHOTOGRAPHS / "JPEGImages" / f"{name}.jpg") for name in chosen]
    else:
        photos = [render_scene(0, index).image for index in range(count)]
    if size is None:
        return photos
    shape = (size[1], size[0])
    return [np.array(Image.fromarray(photo).resize(shape, Image.Resampling.BICUBIC)) for photo in photos]


def pin(threads: int) -> None:
    """Leaves this process the first processors it may use, as many as threads, and tells torch and OpenCV.

    Libraries that read OMP_NUM_THREADS are told by the environment the process was started in.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    import torch

    torch.set_num_threads(threads)
    try:
        import cv2
    except ImportError:
        return
    cv2.setNumThreads(threads)


def machine() -> str:
    """Processor, Python and our own version, in a line."""
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    name = found[1] if found else platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} processors, Python {platform.python_version()}, tag2mask {version('tag2mask')}"


def versions(packages: Sequence[str]) -> str:
    """Names and versions of distributions, in a line."""

    def described(name: str) -> str:
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            return f"{name} not installed"

    return ", ".join(described(name) for name in packages)


def table(rows: Sequence[Row]) -> str:
    """A Markdown table."""
    return "\n".join([f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|", *map(str, rows)])


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Keeps measured rows for the process that writes the results."""
    path.write_text(json.dumps([asdict(row) for row in rows]))


def read_rows(path: Path) -> list[Row]:
    """Rows that `write_rows` kept."""
    return [Row(**row) for row in json.loads(path.read_text())]


def write_section(title: str, text: str, path: Path = RESULTS) -> None:
    """Replaces a section of the results, or adds it; the others stay as they are."""
    old = path.read_text() if path.exists() else "# Benchmarks\n"
    head, found, tail = old.partition(f"## {title}\n")
    following = re.search(r"^## ", tail, flags=re.MULTILINE) if found else None
    rest = f"\n{tail[following.start() :]}" if following else ""
    path.write_text(f"{head.rstrip()}\n\n## {title}\n\n{text.rstrip()}\n{rest}")
