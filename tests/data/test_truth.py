from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tag2mask.data.classes import UNLABELLED
from tag2mask.data.masks import MaskFile, write_mask
from tag2mask.data.problems import Problem
from tag2mask.data.samples import Sample
from tag2mask.data.truth import read_true_mask
from tag2mask.errors import DataError


@dataclass(frozen=True)
class Declared:
    """A mask that says its size beforehand, and must not be drawn if that is wrong."""

    height: int
    width: int

    def size(self) -> tuple[int, int]:
        return self.height, self.width

    def read(self) -> npt.NDArray[np.uint8]:
        return np.ones((self.height, self.width), np.uint8)

    def digest(self, of_file: Callable[[Path], str]) -> str:
        return ""


def sample(tmp_path: Path, *ids: int) -> Sample:
    path = tmp_path / "mask.png"
    write_mask(path, np.array([ids], dtype=np.uint8))
    return Sample("a", tmp_path / "a.jpg", (1,), MaskFile(path))


def test_a_mask_that_fits(tmp_path: Path) -> None:
    found = read_true_mask(sample(tmp_path, 0, 2, UNLABELLED), (1, 3), 2)
    np.testing.assert_array_equal(found, [[0, 2, UNLABELLED]])


def test_every_fault_of_a_mask_is_told(tmp_path: Path) -> None:
    told: list[Problem] = []
    found = read_true_mask(sample(tmp_path, 0, 3, 4), (3, 1), 2, told.append)
    np.testing.assert_array_equal(found, [[0, 3, 4]])
    assert {problem.kind for problem in told} == {"mask-class", "mask-size"}
    assert all("mask.png" in problem.message for problem in told)
    with pytest.raises(DataError, match="3, 4 among the ids"):
        read_true_mask(sample(tmp_path, 0, 3, 4), (1, 3), 2)


def test_a_mask_that_cannot_be_read(tmp_path: Path) -> None:
    told: list[Problem] = []
    broken = sample(tmp_path, 1)
    (tmp_path / "mask.png").write_bytes(b"")
    assert read_true_mask(broken, (1, 1), 2, told.append) is None
    assert [problem.kind for problem in told] == ["unreadable-mask"]


def test_a_declared_size_is_compared_before_the_mask_is_drawn() -> None:
    told: list[Problem] = []
    huge = Sample("a", Path("a.jpg"), (1,), Declared(10**9, 10**9))
    assert read_true_mask(huge, (2, 2), 2, told.append) is None
    assert [problem.kind for problem in told] == ["mask-size"]
    assert read_true_mask(huge, None, 2, told.append) is None  # nothing to hold it against: it stays undrawn
    fits = Sample("a", Path("a.jpg"), (1,), Declared(2, 3))
    np.testing.assert_array_equal(read_true_mask(fits, (2, 3), 2), np.ones((2, 3)))
