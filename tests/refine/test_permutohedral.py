"""The compiled mean field: every level of instruction sets, sizes that fill no vector, wide keys, kept lattices."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tag2mask.refine import _permutohedral
from tests.refine.test_dense_crf import DEFAULTS, blotchy_photo, dense_reference, smooth_probabilities

LEVELS = _permutohedral.levels()


def solve(photo: npt.NDArray[np.uint8], p: npt.NDArray[np.float32], level: str, **parameters: Any) -> Any:
    """With every lattice built at the level."""
    _permutohedral.forget()
    return solve_again(photo, p, level, **parameters)


def solve_again(photo: npt.NDArray[np.uint8], p: npt.NDArray[np.float32], level: str = "", **parameters: Any) -> Any:
    """With the lattices that are kept."""
    scores = np.log(np.clip(p, 1e-5, 1))
    _permutohedral.mean_field(photo, scores, *(DEFAULTS | parameters).values(), level)
    return scores


def test_levels() -> None:
    assert LEVELS
    known = ["x86_64_v4", "x86_64_v3", "x86_64_v2", "generic"]
    assert LEVELS in [known[first:] for first in range(len(known))]
    photo, p = blotchy_photo(9, 11), smooth_probabilities(3, 9, 11)
    np.testing.assert_array_equal(solve(photo, p, ""), solve(photo, p, LEVELS[0]))
    with pytest.raises(ValueError, match="no such level on this processor: mmx"):
        solve(photo, p, "mmx")


@pytest.mark.parametrize("level", LEVELS)
def test_every_width_of_rows(level: str) -> None:
    photo = blotchy_photo(6, 7)
    for classes in (1, 4, 5, 8, 9, 16, 17, 24, 25, 32, 33, 48, 49, 300):
        p = smooth_probabilities(classes, 6, 7, seed=classes)
        expected = dense_reference(photo, p, DEFAULTS | {"iterations": 4})
        np.testing.assert_allclose(solve(photo, p, level, iterations=4), expected, atol=2e-5, err_msg=str(classes))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("classes", [3, 21, 40])
@pytest.mark.parametrize("off", ["gaussian_weight", "bilateral_weight"])
def test_one_kernel(level: str, classes: int, off: str) -> None:
    photo, p = blotchy_photo(6, 7), smooth_probabilities(classes, 6, 7)
    expected = dense_reference(photo, p, DEFAULTS | {off: 0.0})
    np.testing.assert_allclose(solve(photo, p, level, **{off: 0.0}), expected, atol=1e-5)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("height", [1, 2, 3])
def test_every_remainder_of_the_pixel_count(level: str, height: int) -> None:
    for width in range(1, 34):  # every remainder modulo 4, 8, 16 and the 32 pixels of a tile
        photo, p = blotchy_photo(height, width, seed=width), smooth_probabilities(3, height, width, seed=width)
        expected = dense_reference(photo, p, DEFAULTS | {"iterations": 3})
        np.testing.assert_allclose(solve(photo, p, level, iterations=3), expected, atol=1e-5, err_msg=str(width))


@pytest.mark.parametrize("classes", [3, 21])
def test_levels_agree(classes: int) -> None:
    photo, p = blotchy_photo(90, 133), smooth_probabilities(classes, 90, 133)
    best = solve(photo, p, LEVELS[0])
    for level in LEVELS[1:]:
        found = solve(photo, p, level)
        np.testing.assert_allclose(found, best, atol=1e-4)
        assert (found.argmax(0) == best.argmax(0)).mean() >= 0.99999


@pytest.mark.parametrize("level", LEVELS)
def test_keys_of_more_than_32_bits(level: str) -> None:
    """So narrow in colour that the lattice has more cells than 32 bits can number."""
    narrow = {"bilateral_srgb": 0.5, "bilateral_sxy": 2.0}
    photo, p = blotchy_photo(8, 9), smooth_probabilities(3, 8, 9)
    photo[1::2] = photo[::2]  # equal pixels, or there would be nothing to say
    expected = dense_reference(photo, p, DEFAULTS | narrow)
    np.testing.assert_allclose(solve(photo, p, level, **narrow), expected, atol=1e-5)


class TestKeptLattices:
    """The position kernel's lattice is kept from call to call."""

    def test_another_width_or_size_is_another_lattice(self) -> None:
        photo, p = blotchy_photo(12, 10), smooth_probabilities(3, 12, 10)
        turned = blotchy_photo(10, 12), smooth_probabilities(3, 10, 12)
        for _ in range(2):
            np.testing.assert_allclose(solve_again(photo, p), dense_reference(photo, p, DEFAULTS), atol=1e-5)
            np.testing.assert_allclose(solve_again(*turned), dense_reference(*turned, DEFAULTS), atol=1e-5)
            narrow = {"gaussian_sxy": 1.0}
            expected = dense_reference(photo, p, DEFAULTS | narrow)
            np.testing.assert_allclose(solve_again(photo, p, **narrow), expected, atol=1e-5)

    def test_more_than_are_kept(self) -> None:
        _permutohedral.forget()
        sizes = [(700, 1000), (1000, 700), (699, 1001), (701, 999)]  # about 20 MB each
        calls = [(np.zeros((*size, 3), np.uint8), smooth_probabilities(2, *size)) for size in sizes]
        position = {"iterations": 1, "bilateral_weight": 0.0}
        first = [solve_again(photo, p, **position) for photo, p in calls]
        assert _permutohedral.kept() == sizes[:0:-1]
        _permutohedral.forget()
        assert _permutohedral.kept() == []
        for (photo, p), before in zip(calls, first, strict=True):
            np.testing.assert_array_equal(solve_again(photo, p, **position), before)

    def test_one_that_is_too_large_drives_out_no_other(self) -> None:
        _permutohedral.forget()
        position = {"iterations": 1, "bilateral_weight": 0.0}
        for size in ((10, 12), (1600, 1600)):
            solve_again(np.zeros((*size, 3), np.uint8), np.full((1, *size), 0.5, np.float32), **position)
        assert _permutohedral.kept() == [(10, 12)]

    def test_several_threads_want_the_same(self) -> None:
        photo, p = blotchy_photo(61, 67), smooth_probabilities(3, 61, 67)
        with ThreadPoolExecutor(4) as pool:
            _permutohedral.forget()
            found = list(pool.map(lambda _: solve_again(photo, p), range(8)))
        assert _permutohedral.kept() == [(61, 67)]
        for other in found[1:]:
            np.testing.assert_array_equal(other, found[0])
