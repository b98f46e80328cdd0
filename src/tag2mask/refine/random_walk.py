"""Random walk on pixel affinities: maps that spread over what looks alike (PSA).

Ahn & Kwak, "Learning Pixel-level Semantic Affinity with Image-level Supervision for Weakly Supervised Semantic
Segmentation" (CVPR 2018), section 3.4. The transition matrix is never written out: a pixel has `offsets` neighbours on
either side.
"""

import math
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy.special import gammaln
from torch import Tensor

from tag2mask.base.versions import Code
from tag2mask.data.neighbours import pair_offsets
from tag2mask.errors import DataError, SettingsError
from tag2mask.refine import _random_walk

CODE = Code("random walk")

ArrayT = TypeVar("ArrayT", npt.NDArray[Any], Tensor)

_TOLERANCE = 1e-9  # of the truncated series in the spectral norm; in any pixel it stays below float32's rounding


def random_walk(
    maps: ArrayT, affinities: npt.NDArray[Any] | Tensor, *, radius: int, beta: float = 8.0, steps: int = 256
) -> ArrayT:
    """Maps after a number of steps of a random walk: ``T^steps maps``, T = D^-1 W^(o beta) (Ahn & Kwak, eq. 6 and 7).

    W^(o beta) is the affinities raised to beta one by one, 1 between a pixel and itself; D holds its row sums, so that
    a pixel takes the weighted mean of its neighbours in every step. A constant map stays as it is.

    T is similar to a symmetric matrix with eigenvalues in [-1, 1], where x^steps is a short series of Chebyshev
    polynomials: those whose degree is far above sqrt(steps) have weights next to nothing (Sachdeva & Vishnoi, "Faster
    Algorithms via Approximation Theory", 2014, theorem 3.3). 256 steps take 96 products with T. What is cut off adds
    up to at most 1e-9 in the norm weighted by D, 2e-6 of a map's range in a pixel of a 188x188 grid at worst, with
    affinities up to 1. Float32 rounding adds a few millionths at beta 8 and 256 steps and grows with both: on
    photographs' 62x47 grids the whole error was up to 2.3e-6 after 256 steps and 1e-5 after 4,096, on random 16x16
    grids 2e-5 after 65,536 steps and 3e-5 at beta 100 after 1,000. Small values are as exact as the map's range allows,
    not in proportion to themselves.

    Memory: about ``4 * (4 * offsets + 6 * C)`` bytes per pixel on the CPU and ``70 * offsets`` more on other devices;
    time grows with the square root of steps. On the CPU a call runs in one thread and, but for its ends, without the
    GIL.

    Args:
        maps: floats (C, H, W), finite: background power map and CAMs, or anything else. A NumPy array or a tensor on
            any device; gradients are not followed.
        affinities: floats (offsets, H, W), 0 or more and finite, of pixel u and u + offset in the order of
            `pair_offsets`, as `pair_affinities` gives them. Where u + offset lies outside, any such value will do.
        radius: what the affinities were computed with.
        beta: exponent of the affinities, above 0; large ones forbid steps between pixels that differ a little.
        steps: length of the walk, 1 or more.

    Returns:
        float32 (C, H, W), between a map's least and greatest value; the kind and device of `maps`.

    Raises:
        DataError: shapes, types or values are not as above, or numbers leave float32's range on the way.
        SettingsError: a parameter is out of its range.

    Example:
        >>> walked = random_walk(np.eye(4, dtype=np.float32)[None], np.ones((4, 4, 4)), radius=2, steps=1)
        >>> [round(float(value), 4) for value in walked[0, 0]]
        [0.5, 0.3333, 0.1667, 0.0]
    """
    offsets = pair_offsets(radius)
    if not (beta > 0 and math.isfinite(beta)):
        raise SettingsError(f"beta must be a positive number, not {beta}")
    if steps < 1:
        raise SettingsError(f"steps must be 1 or more, not {steps}")
    start = _tensor(maps)
    weights = _tensor(affinities).to(start.device)
    _check(start, weights, radius, len(offsets))
    walked = _walked(start.float(), weights.float() ** beta, offsets, steps) if start.numel() else start.float()
    return walked if isinstance(maps, Tensor) else walked.numpy()


def _tensor(values: npt.NDArray[Any] | Tensor) -> Tensor:
    # A copy: torch takes no read-only arrays and no steps backwards.
    return values.detach() if isinstance(values, Tensor) else torch.from_numpy(np.array(values, order="C"))


def _check(maps: Tensor, affinities: Tensor, radius: int, offsets: int) -> None:
    """Shapes, types and values of the arguments."""
    if maps.ndim != 3 or not maps.is_floating_point():
        raise DataError(f"maps must be floats of shape (C, H, W), not {maps.dtype} of shape {tuple(maps.shape)}")
    wanted = (offsets, *maps.shape[1:])
    if tuple(affinities.shape) != wanted or not affinities.is_floating_point():
        raise DataError(
            f"affinities must be floats of shape {wanted} for radius {radius} and maps of shape {tuple(maps.shape)}, "
            f"not {affinities.dtype} of shape {tuple(affinities.shape)}"
        )
    # The least and greatest value are NaN if any value is.
    if maps.numel() and not all(bound.isfinite() for bound in maps.aminmax()):
        raise DataError("maps must be finite; found NaN or infinite values")
    if affinities.numel():
        least, greatest = affinities.aminmax()
        if not (least >= 0 and greatest.isfinite()):
            raise DataError("affinities must be 0 or more and finite; found NaN, negative or infinite values")


def _walked(maps: Tensor, weights: Tensor, offsets: tuple[tuple[int, int], ...], steps: int) -> Tensor:
    """The walk with checked arguments; weights are the affinities raised to beta.

    Raises:
        DataError: numbers leave float32's range.
    """
    # Rounding errors are in proportion to the numbers: a constant part, which the walk does not change, stays aside.
    mean = maps.mean((1, 2), keepdim=True)
    centred = maps - mean
    coefficients = power_coefficients(steps)
    polynomial = _walked_by_kernel if maps.device.type == "cpu" else _walked_by_gathering
    walked = polynomial(centred, weights, offsets, coefficients) + mean
    # Whatever overflows on the way makes a NaN or an infinity, which clamping would hide.
    if not walked.isfinite().all():
        if not weights.isfinite().all():
            raise DataError("affinities raised to beta overflow float32; scale them down or choose a smaller beta")
        raise DataError("maps overflow float32, or sums over their pixels do; scale them down")
    # Means never leave the range of what they are means of; the series may, by its rounding.
    return walked.clamp(maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True))


@lru_cache
def power_coefficients(steps: int) -> npt.NDArray[np.float32]:
    """Weights c_k of x^steps = sum of c_k T_k(x) on [-1, 1], T_k the Chebyshev polynomials (Sachdeva & Vishnoi, 3.1).

    c_k is the probability that `steps` throws of a fair coin, heads +1 and tails -1, add up to k or -k. Weights that
    together stay below 1e-9 are left out.
    """
    degrees = np.arange(steps % 2, steps + 1, 2)
    ways = gammaln(steps + 1) - gammaln((steps - degrees) / 2 + 1) - gammaln((steps + degrees) / 2 + 1)
    weights = np.exp(ways - steps * math.log(2)) * np.where(degrees == 0, 1, 2)
    kept = np.cumsum(weights[::-1])[::-1] > _TOLERANCE
    coefficients = np.zeros(degrees[kept][-1] + 1, np.float32)
    coefficients[degrees[kept]] = weights[kept] / weights[kept].sum()
    coefficients.setflags(write=False)
    return coefficients


def _walked_by_kernel(
    maps: Tensor, weights: Tensor, offsets: tuple[tuple[int, int], ...], coefficients: npt.NDArray[np.float32]
) -> Tensor:
    """Sum of c_k T_k(T) maps, (C, H, W), on the CPU."""
    walked = torch.empty(maps.shape)
    _random_walk.walk(
        maps.contiguous().numpy(),
        weights.contiguous().numpy(),
        np.array(offsets, np.int32).reshape(-1, 2),
        coefficients,
        walked.numpy(),
    )
    return walked


def _walked_by_gathering(
    maps: Tensor, weights: Tensor, offsets: tuple[tuple[int, int], ...], coefficients: npt.NDArray[np.float32]
) -> Tensor:
    """The compiled kernel's work in torch's operations, one launch per product with T; nothing goes to the host."""
    count, height, width = maps.shape
    neighbours, changes = _changes(weights, offsets)

    def moved(columns: Tensor) -> Tensor:
        # A bag of embeddings is a weighted sum of gathered rows, without a copy of each.
        return F.embedding_bag(neighbours, columns, mode="sum", per_sample_weights=changes).add_(columns)

    before = maps.flatten(1).T.contiguous()
    now = moved(before)
    total = coefficients[0].item() * before + coefficients[1].item() * now
    for coefficient in coefficients[2:].tolist():
        before, now = now, moved(now).mul_(2).sub_(before)
        if coefficient:
            total.add_(now, alpha=coefficient)
    return total.T.reshape(count, height, width)


def _changes(weights: Tensor, offsets: tuple[tuple[int, int], ...]) -> tuple[Tensor, Tensor]:
    """Columns and entries of T - I, which loses nothing where T is next to the identity (random_walk.cpp says more).

    Shapes: (offsets, H, W) -> two of (H W, 2 offsets + 1), neighbours in both directions and the pixel itself. A
    neighbour outside counts as the pixel itself with entry 0.
    """
    _, height, width = weights.shape
    pairs = weights.flatten(1)
    own = torch.arange(height * width, device=weights.device)
    y, x = own // width, own % width
    moves = torch.tensor(offsets, dtype=torch.long, device=weights.device).reshape(-1, 2, 1)
    columns, entries = [], []
    for sign in (1, -1):
        to_y, to_x = y + sign * moves[:, 0], x + sign * moves[:, 1]
        inside = (to_y >= 0) & (to_y < height) & (to_x >= 0) & (to_x < width)
        to = torch.where(inside, to_y * width + to_x, own)
        # The weight of a pair is kept at its first pixel, which is the neighbour when going backwards.
        at_first = pairs if sign == 1 else pairs.gather(1, to)
        columns.append(to)
        entries.append(torch.where(inside, at_first, 0))
    both = torch.cat(entries).double()
    taken = (both / (1 + both.sum(0))).float()
    given = -taken.sum(0, dtype=torch.float64).float()
    return torch.cat([*columns, own[None]]).T.contiguous(), torch.cat([taken, given[None]]).T.contiguous()
