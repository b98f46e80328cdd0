"""Pixels of a grid and their neighbours: pairs of them, each once."""

from functools import lru_cache

from tag2mask.base.versions import Code
from tag2mask.errors import SettingsError

CODE = Code("neighbours")


@lru_cache
def pair_offsets(radius: int) -> tuple[tuple[int, int], ...]:
    """Offsets from a pixel to its neighbours, one of each two opposite ones.

    A neighbour is closer than `radius`: its Euclidean distance is strictly below it (Ahn & Kwak, section 3.3.2, with
    the comparison of their published code). Radius 5 gives 34.

    Args:
        radius: in pixels of the grid, 1 or more; 1 leaves a pixel without neighbours.

    Returns:
        pairs (dy, dx), dy >= 0 and dx > 0 where dy is 0, in the order of rows.

    Raises:
        SettingsError: radius is below 1.
    """
    if radius < 1:
        raise SettingsError(f"radius must be 1 or more, not {radius}")
    reach = range(1 - radius, radius)
    near = [(dy, dx) for dy in range(radius) for dx in reach if dy * dy + dx * dx < radius * radius]
    return tuple(offset for offset in near if offset > (0, 0))


def pair_ends(height: int, width: int, offset: tuple[int, int]) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Rows and columns of all pixels whose neighbour lies in the grid, and those of the neighbours.

    Args:
        height, width: of the grid.
        offset: (dy, dx) from a pixel to its neighbour, dy >= 0.

    Returns:
        two (rows, columns) of slices that cut out areas of one size, empty where the offset leaves the grid.
    """
    dy, dx = offset
    rows, columns = max(0, height - dy), max(0, width - abs(dx))
    left, right = max(0, -dx), max(0, dx)
    here = slice(0, rows), slice(left, left + columns)
    there = slice(dy, dy + rows), slice(right, right + columns)
    return here, there
