import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tag2mask.data.neighbours import pair_ends, pair_offsets
from tag2mask.errors import SettingsError


def test_radius_five_has_the_papers_34_offsets() -> None:
    assert len(pair_offsets(5)) == 34


@given(st.integers(1, 9))
def test_offsets_are_half_of_the_disc(radius: int) -> None:
    offsets = pair_offsets(radius)
    both = {*offsets, *((-dy, -dx) for dy, dx in offsets)}
    disc = {
        (dy, dx)
        for dy in range(-radius, radius + 1)
        for dx in range(-radius, radius + 1)
        if 0 < np.hypot(dy, dx) < radius
    }
    assert both == disc
    assert len(both) == 2 * len(offsets)
    assert all(dy > 0 or (dy == 0 and dx > 0) for dy, dx in offsets)


@pytest.mark.parametrize("radius", [0, -3])
def test_a_radius_below_one_is_refused(radius: int) -> None:
    with pytest.raises(SettingsError, match="radius must be 1 or more"):
        pair_offsets(radius)


@pytest.mark.parametrize("offset", [*pair_offsets(4), (5, 0), (0, 9), (2, -8)])
def test_ends_of_pairs_are_those_that_lie_in_the_grid(offset: tuple[int, int]) -> None:
    height, width, (dy, dx) = 5, 7, offset
    places = np.arange(height * width).reshape(height, width)
    here, there = pair_ends(height, width, offset)
    expected = [
        (places[y, x], places[y + dy, x + dx])
        for y in range(height)
        for x in range(width)
        if y + dy < height and 0 <= x + dx < width
    ]
    assert [*zip(places[here].flat, places[there].flat, strict=True)] == expected
