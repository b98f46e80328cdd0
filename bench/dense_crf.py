"""Dense CRF side by side with pydensecrf2: `python bench/dense_crf.py [classes ...]`.

One process, one thread, the two libraries in turn on photographs of 500x375 pixels, from probabilities to refined
probabilities, lattices included. Prints medians, spread, ratio, agreement and versions, and writes them to its section
of bench/RESULTS.md. Needs the `bench` extra.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before anything loads an OpenMP runtime

import argparse
import platform
import re
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import skimage.data
import torch
import torch.nn.functional as F
from pydensecrf.densecrf import DenseCRF2D
from pydensecrf.utils import unary_from_softmax

from tag2mask.refine.dense_crf import dense_crf

RESULTS = Path(__file__).with_name("RESULTS.md")
SECTION = "## Dense CRF"
HEIGHT, WIDTH = 375, 500
PHOTOS = ("astronaut", "coffee")

Floats = npt.NDArray[np.float32]
Photo = npt.NDArray[np.uint8]


def smooth_probabilities(classes: int) -> Floats:
    """Softmax of smooth random scores: regions of about 40 pixels, (classes, HEIGHT, WIDTH)."""
    generator = torch.Generator().manual_seed(classes)
    scores = torch.randn((1, classes, HEIGHT // 40, WIDTH // 40), generator=generator) * 2
    return F.interpolate(scores, size=(HEIGHT, WIDTH), mode="bicubic").softmax(1)[0].numpy()


def pydensecrf(photo: Photo, probabilities: Floats) -> Floats:
    """The same CRF by pydensecrf2, called as its users do."""
    classes, height, width = probabilities.shape
    crf = DenseCRF2D(width, height, classes)
    crf.setUnaryEnergy(np.ascontiguousarray(unary_from_softmax(probabilities)))
    crf.addPairwiseGaussian(sxy=3, compat=3)
    crf.addPairwiseBilateral(sxy=80, srgb=13, rgbim=photo, compat=10)
    return np.array(crf.inference(10)).reshape(probabilities.shape)


def seconds(function: Callable[..., Any], *arguments: Any) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def milliseconds(times: list[float]) -> str:
    """Median and range of times in seconds, as text."""
    return f"{statistics.median(times) * 1e3:.0f} ({min(times) * 1e3:.0f} to {max(times) * 1e3:.0f})"


def compare(name: str, classes: int, repeats: int) -> str:
    """One row of the table: both libraries on one photograph, in turn."""
    photo = np.ascontiguousarray(getattr(skimage.data, name)()[:HEIGHT, :WIDTH])
    probabilities = smooth_probabilities(classes)
    ours, theirs = dense_crf(photo, probabilities), pydensecrf(photo, probabilities)
    our_times, their_times = [], []
    for _ in range(repeats):
        our_times.append(seconds(dense_crf, photo, probabilities))
        their_times.append(seconds(pydensecrf, photo, probabilities))
    cells = [
        name,
        str(classes),
        milliseconds(our_times),
        milliseconds(their_times),
        f"{statistics.median(their_times) / statistics.median(our_times):.2f}",
        f"{np.abs(ours - theirs).max():.1e}",
        f"{(ours.argmax(0) == theirs.argmax(0)).mean():.4%}",
    ]
    return f"| {' | '.join(cells)} |"


def processor() -> str:
    """Name of the processor, where the system tells."""
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def write_section(text: str) -> None:
    """Replace this benchmark's section of RESULTS.md, or add it; other sections stay as they are."""
    old = RESULTS.read_text() if RESULTS.exists() else "# Benchmarks\n"
    head, found, tail = old.partition(f"{SECTION}\n")
    following = re.search(r"^## ", tail, flags=re.MULTILINE) if found else None
    rest = f"\n{tail[following.start() :]}" if following else ""
    RESULTS.write_text(f"{head.rstrip()}\n\n{SECTION}\n\n{text}{rest}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Dense CRF: time and agreement beside pydensecrf2.")
    parser.add_argument("classes", nargs="*", type=int, default=[21, 3], help="class counts (default: 21 3)")
    parser.add_argument("--repeats", type=int, default=9, help="timed calls of each library (default: 9, at least 7)")
    arguments = parser.parse_args()
    if arguments.repeats < 7:
        parser.error("--repeats must be 7 or more: the median of fewer says little")

    versions = ", ".join(f"{name} {version(name)}" for name in ("tag2mask", "pydensecrf2", "numpy", "torch"))
    lines = [
        f"`python bench/dense_crf.py`: {WIDTH}x{HEIGHT} pixels, 10 iterations, default kernels, one thread, calls "
        f"in turn, median of {arguments.repeats} (range).",
        f"{processor()}, Python {platform.python_version()}, {versions}.",
        "",
        "| photograph | classes | tag2mask, ms | pydensecrf2, ms | ratio | max abs difference | equal argmax |",
        "|---|---|---|---|---|---|---|",
    ]
    print("\n".join(lines))
    for classes in arguments.classes:
        for name in PHOTOS:
            lines.append(compare(name, classes, arguments.repeats))
            print(lines[-1], flush=True)
    write_section("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
