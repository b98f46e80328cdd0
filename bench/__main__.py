"""Runs benchmarks and writes their sections of RESULTS.md.

python -m bench                                     all of them, with one thread and with two
python -m bench dense_crf --threads 1 --repeats 15  one of them
"""

import argparse
import importlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.harness import (
    LEAST_REPEATS,
    ROOT,
    Setting,
    machine,
    pin,
    read_rows,
    table,
    versions,
    write_rows,
    write_section,
)
from tag2mask.base.processors import cpu_count

BENCHMARKS = (
    "dense_crf",
    "superpixels",
    "superpixel_metrics",
    "region_growing",
    "random_walk",
    "class_patterns",
    "adaptive_affinity",
    "training",
    "growing_steps",
    "dynamic_step",
    "inference",
)
NUMBERS = {1: "One thread", 2: "Two threads"}


def measure(name: str, setting: Setting, keep: Path) -> None:
    """Runs one benchmark in this process."""
    pin(setting.threads)
    rows = []
    for row in importlib.import_module(f"bench.{name}").rows(setting):
        print(row, flush=True)
        rows.append(row)
    write_rows(keep, rows)


def publish(name: str, threads: list[int], repeats: int) -> None:
    """Runs one benchmark once for each number of threads, each in a process of its own, and writes its section."""
    module = importlib.import_module(f"bench.{name}")
    command = f"python -m bench {name}"
    about = (module.__doc__ or "").strip().split("\n\n")[0].replace("\n", " ")
    parts = [
        about,
        f"`{command}`: in turn in one process, medians of {repeats}. {machine()}; {versions(module.PACKAGES)}.",
    ]
    for count in threads:
        parts.append(f"### {NUMBERS.get(count, f'{count} threads')}")
        print(f"{module.TITLE}, {NUMBERS.get(count, f'{count} threads').lower()}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            keep = Path(folder) / "rows.json"
            limits = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(count))
            arguments = [name, "--threads", str(count), "--repeats", str(repeats), "--keep", str(keep)]
            done = subprocess.run(
                [sys.executable, "-m", "bench", *arguments], cwd=ROOT, env={**os.environ, **limits}, check=False
            )
            if done.returncode:
                sys.exit(f"bench {name} with {count} threads failed; the results are as they were")
            parts.append(table(read_rows(keep)))
    write_section(module.TITLE, "\n\n".join(parts))


def main() -> None:
    processors = cpu_count()
    parser = argparse.ArgumentParser(prog="python -m bench", description="Timings beside the libraries in use today.")
    parser.add_argument("names", nargs="*", help=f"which (default: all): {', '.join(BENCHMARKS)}")
    threads = [count for count in NUMBERS if count <= processors]
    default = " ".join(map(str, threads))
    parser.add_argument(
        "--threads", type=int, nargs="+", default=threads, help=f"numbers of threads (default: {default})"
    )
    parser.add_argument(
        "--repeats", type=int, default=LEAST_REPEATS, help=f"timed calls (default: {LEAST_REPEATS}, the least)"
    )
    parser.add_argument("--keep", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no benchmark {unknown[0]!r}; choices: {', '.join(BENCHMARKS)}")
    if arguments.repeats < LEAST_REPEATS:
        parser.error(f"--repeats must be {LEAST_REPEATS} or more: the median of fewer says little")
    for count in arguments.threads:
        if not 1 <= count <= processors:
            parser.error(f"--threads must be between 1 and {processors}, the processors there are, not {count}")
    if arguments.keep:
        measure(arguments.names[0], Setting(arguments.threads[0], arguments.repeats), arguments.keep)
        return
    for name in arguments.names or BENCHMARKS:
        publish(name, arguments.threads, arguments.repeats)


if __name__ == "__main__":
    main()
