"""What writes bench/RESULTS.md: turns, ratios, sections."""

import importlib
from pathlib import Path

import numpy as np
import pytest

from bench import harness
from bench.__main__ import BENCHMARKS, main
from bench.harness import Contender, Row, Setting, side_by_side


class Clock:
    """A clock that only moves when a contender works."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.turns: list[str] = []
        monkeypatch.setattr(harness.time, "perf_counter", lambda: self.now)

    def contender(self, name: str, seconds: list[float], result: object = None) -> Contender:
        """Takes these seconds, call by call; the first call warms up."""
        left = iter(seconds)

        def run() -> object:
            self.turns.append(name)
            self.now += next(left)
            return result

        return Contender(name, run, lambda ours, its: f"{ours} and {its}")


def test_turns_medians_and_ratios(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    ours = clock.contender("ours", [9, 0.001, 0.004, 0.002], "a")
    peer = clock.contender("peer", [9, 0.002, 0.004, 0.010], "b")
    rows = list(side_by_side("a photograph", ours, [peer], Setting(repeats=3)))
    # The first pair warms up; then the order turns, so that nobody always comes second.
    assert clock.turns == ["ours", "peer", "ours", "peer", "peer", "ours", "ours", "peer"]
    assert [row.milliseconds for row in rows] == ["2.00 (1.00 to 4.00)", "4.00 (2.00 to 10.0)"]
    assert [row.ratio for row in rows] == ["", "2.00"]  # of 2, 1 and 5
    assert [row.agreement for row in rows] == ["a and a", "a and b"]
    assert str(rows[1]) == "| a photograph | peer | 4.00 (2.00 to 10.0) | 2.00 | a and b |"


def test_agreement() -> None:
    assert harness.equal_share(np.array([1, 2, 3, 4]), np.array([1, 2, 3, 5])) == "75.0000% equal"
    assert harness.largest_difference(np.array([1.0, 2.0]), np.array([1.0, 1.5])) == "max. difference 5.0e-01"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.001, "0.00100"),
        (0.001234, "0.00123"),
        (0.9996, "1.00"),
        (1.234, "1.23"),
        (9.996, "10.0"),
        (99.94, "99.9"),
        (99.96, "100"),
        (999.6, "1,000"),
        (1234.5, "1,234"),
    ],
)
def test_three_digits(value: float, text: str) -> None:
    assert harness.three_digits(value) == text


def test_sections_of_the_results(tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    harness.write_section("One", "first", path)
    harness.write_section("Two", "second\n", path)
    harness.write_section("One", "changed", path)
    assert path.read_text() == "# Benchmarks\n\n## One\n\nchanged\n\n## Two\n\nsecond\n"
    harness.write_section("Two", "last", path)
    assert path.read_text() == "# Benchmarks\n\n## One\n\nchanged\n\n## Two\n\nlast\n"


def test_rows_are_kept(tmp_path: Path) -> None:
    rows = [Row("a", "b", "1 (1 to 1)", "", "equal")]
    harness.write_rows(tmp_path / "rows.json", rows)
    assert harness.read_rows(tmp_path / "rows.json") == rows
    assert harness.table(rows).splitlines()[1:] == ["|---|---|---|---|---|", "| a | b | 1 (1 to 1) |  | equal |"]


@pytest.mark.parametrize("size", [None, (40, 60)])
@pytest.mark.parametrize("at_hand", [True, False])
def test_photographs(size: tuple[int, int] | None, at_hand: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if at_hand and not harness.PHOTOGRAPHS.is_dir():
        pytest.skip(f"{harness.PHOTOGRAPHS} is not there")
    if not at_hand:
        monkeypatch.setattr(harness, "PHOTOGRAPHS", Path("nowhere"))
    photos = harness.photographs(2, size)
    assert [photo.dtype for photo in photos] == [np.uint8, np.uint8]
    assert all(photo.ndim == 3 and photo.shape[2] == 3 and photo.std() > 5 for photo in photos)
    assert not np.array_equal(photos[0], photos[1])
    if size:
        assert {photo.shape[:2] for photo in photos} == {size}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--threads", "0"], "--threads must be between 1 and 2, the processors there are, not 0"),
        (["--threads", "1", "3"], "--threads must be between 1 and 2, the processors there are, not 3"),
        (["--repeats", "6"], "--repeats must be 7 or more"),
        (["crf"], "no benchmark 'crf'; choices: dense_crf, superpixels"),
    ],
)
def test_impossible_arguments(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("bench.__main__.cpu_count", lambda: 2)
    monkeypatch.setattr("sys.argv", ["bench", *arguments])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("processors", "threads"), [(1, [1]), (2, [1, 2]), (8, [1, 2])])
def test_numbers_of_threads_by_default(processors: int, threads: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    published: list[tuple[str, list[int], int]] = []
    monkeypatch.setattr("bench.__main__.cpu_count", lambda: processors)
    monkeypatch.setattr("bench.__main__.publish", lambda *arguments: published.append(arguments))
    monkeypatch.setattr("sys.argv", ["bench", "superpixels"])
    main()
    assert published == [("superpixels", threads, harness.LEAST_REPEATS)]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_benchmarks_say_what_they_are(name: str) -> None:
    module = importlib.import_module(f"bench.{name}")
    assert module.__doc__
    assert module.TITLE
    assert "not installed" not in harness.versions(module.PACKAGES)
    assert callable(module.rows)
