"""Random walk: 256 steps on affinities of radius 5, beta 8, from affinities to float32 maps.
Affinities of EfficientNet-Lite0's features (blocks.2) of photographs at stride 8: a 62x47 grid for 496x376 pixels. Maps
are channels of the same features. Ours starts from the affinities, also by the path of other devices; all other peers
are given the transition matrix, whose making is not timed, and dense squaring has denormal numbers flushed to zero,
without which it is several times slower.
Errors are against sparse products in float64. With two threads every contender walks on two photographs: those that use
one thread side by side, the others one after the other, and dense squaring is left out.
"""

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
import scipy.sparse
import torch
from torch import Tensor

from bench.harness import Contender, Photo, Row, Setting, largest_difference, photographs, side_by_side
from tag2mask.data.neighbours import pair_offsets
from tag2mask.evidence.affinity import pair_affinities
from tag2mask.networks.backbones import Backbone, create_backbone
from tag2mask.refine import random_walk as module
from tag2mask.refine.random_walk import power_coefficients, random_walk

TITLE = "Random walk"
PACKAGES = ("scipy", "torch", "numpy")
SIZE = (376, 496)
LARGE = (1500, 1500)
RADIUS = 5
BETA = 8.0
STEPS = 256  # a power of two: dense squaring needs one


@dataclass(frozen=True)
class Walk:
    """One photograph's maps and its transition matrix in every contender's layout.

    Attributes:
        maps: float32 (C, H, W).
        columns: the same, (H W, C).
        affinities: float32 (offsets, H, W).
        rows: T, (H W, H W), float32.
        torch_rows: the same.
        exact: the same in float64.
        shifts: moves (dy, dx), the pixel itself last.
        planes: entries of T for each move, (moves, H, W).
    """

    maps: npt.NDArray[np.float32]
    columns: npt.NDArray[np.float32]
    affinities: npt.NDArray[np.float32]
    rows: scipy.sparse.csr_array
    torch_rows: Tensor
    exact: scipy.sparse.csr_array
    shifts: list[tuple[int, int]]
    planes: Tensor


def load_backbone() -> Backbone:
    """The network whose features are walked on."""
    backbone = create_backbone("tf_efficientnet_lite0", output_stride=8, block="blocks.2").eval()
    assert backbone.stride == 8
    return backbone


@torch.no_grad()
def prepare(backbone: Backbone, photo: Photo, classes: int) -> Walk:
    """A photograph's walk; maps are features scaled to 0..1, as CAMs are."""
    image = torch.from_numpy(photo).permute(2, 0, 1)[None] / 255
    features = backbone((image - 0.5) / 0.5)[0].float()
    features = (features - features.mean((1, 2), keepdim=True)) / features.std((1, 2), keepdim=True)
    affinities = pair_affinities(features, RADIUS)
    maps = features[:classes]
    maps = (maps - maps.amin((1, 2), keepdim=True)) / (
        maps.amax((1, 2), keepdim=True) - maps.amin((1, 2), keepdim=True)
    )

    shifts, planes = transition_planes(affinities.numpy())
    exact = sparse_matrix(shifts, planes)
    matrix = exact.astype(np.float32)
    return Walk(
        maps=maps.numpy(),
        columns=np.ascontiguousarray(maps.flatten(1).T.numpy()),
        affinities=affinities.numpy(),
        rows=matrix,
        torch_rows=torch.sparse_csr_tensor(*map(torch.from_numpy, (matrix.indptr, matrix.indices, matrix.data))),
        exact=exact,
        shifts=shifts,
        planes=torch.from_numpy(planes.astype(np.float32)),
    )


def transition_planes(affinities: npt.NDArray[np.float32]) -> tuple[list[tuple[int, int]], npt.NDArray[np.float64]]:
    """Moves (dy, dx) and T's entries for each, (moves, H, W)."""
    offsets = pair_offsets(RADIUS)
    forward = affinities.astype(np.float64) ** BETA
    # Affinities are 0 where a pair leaves the grid: what comes round the edge is nothing.
    backward = [np.roll(plane, offset, axis=(0, 1)) for plane, offset in zip(forward, offsets, strict=True)]
    planes = np.concatenate([forward, backward, np.ones((1, *forward.shape[1:]))])
    return [*offsets, *((-dy, -dx) for dy, dx in offsets), (0, 0)], planes / planes.sum(axis=0)


def sparse_matrix(shifts: list[tuple[int, int]], planes: npt.NDArray[np.float64]) -> scipy.sparse.csr_array:
    """T, (H W, H W)."""
    _, height, width = planes.shape
    move, y, x = planes.nonzero()
    dy, dx = np.array(shifts)[move].T
    places = y * width + x, (y + dy) * width + x + dx
    return scipy.sparse.csr_array((planes[move, y, x], places), shape=(height * width, height * width))


def ours(walk: Walk) -> npt.NDArray[Any]:
    return random_walk(walk.maps, walk.affinities, radius=RADIUS, beta=BETA, steps=STEPS)


def ours_by_gathering(walk: Walk) -> npt.NDArray[Any]:
    """The path that other devices take, with all that goes before and after it."""
    with mock.patch.object(module, "_walked_by_kernel", module._walked_by_gathering):
        return ours(walk)


def dense_squaring(walk: Walk) -> npt.NDArray[Any]:
    """What PSA's published code does: T squared eight times."""
    power = walk.torch_rows.to_dense()
    torch.set_flush_denormal(True)
    for _ in range(STEPS.bit_length() - 1):
        power = power @ power
    torch.set_flush_denormal(False)
    return (power @ torch.from_numpy(walk.columns)).T.reshape(walk.maps.shape).numpy()


def scipy_sparse(walk: Walk) -> npt.NDArray[Any]:
    columns = walk.columns
    for _ in range(STEPS):
        columns = walk.rows @ columns
    return columns.T.reshape(walk.maps.shape)


def scipy_series(walk: Walk) -> npt.NDArray[Any]:
    """Our series with SciPy's products: what is left of the difference is the kernel's."""
    coefficients = power_coefficients(STEPS)
    before, now = walk.columns, walk.rows @ walk.columns
    total = coefficients[0] * before + coefficients[1] * now
    for coefficient in coefficients[2:]:
        before, now = now, 2 * (walk.rows @ now) - before
        if coefficient:
            total += coefficient * now
    return total.T.reshape(walk.maps.shape)


def torch_sparse(walk: Walk) -> npt.NDArray[Any]:
    columns = torch.from_numpy(walk.columns)
    for _ in range(STEPS):
        columns = walk.torch_rows @ columns
    return columns.T.reshape(walk.maps.shape).numpy()


def torch_shifts(walk: Walk) -> npt.NDArray[Any]:
    """One multiply-add of shifted maps for each move."""
    classes, height, width = walk.maps.shape
    margin = RADIUS - 1
    padded = torch.zeros(classes, height + 2 * margin, width + 2 * margin)
    inner = padded[:, margin : margin + height, margin : margin + width]
    inner.copy_(torch.from_numpy(walk.maps))
    total = torch.empty(classes, height, width)
    for _ in range(STEPS):
        total.zero_()
        for (dy, dx), plane in zip(walk.shifts, walk.planes, strict=True):
            top, left = margin + dy, margin + dx
            total.addcmul_(padded[:, top : top + height, left : left + width], plane)
        inner.copy_(total)
    return total.numpy()


def in_turn(walk: Callable[[Walk], npt.NDArray[Any]], walks: Sequence[Walk]) -> list[npt.NDArray[Any]]:
    return [walk(one) for one in walks]


def at_once(walk: Callable[[Walk], npt.NDArray[Any]], walks: Sequence[Walk]) -> list[npt.NDArray[Any]]:
    with ThreadPoolExecutor(len(walks)) as pool:
        return list(pool.map(walk, walks))


def peak_memory(classes: int) -> float:
    """MB that a walk on the large photograph's grid adds to a process that holds its inputs."""
    height, width = -(-LARGE[0] // 8), -(-LARGE[1] // 8)
    code = f"from bench.random_walk import print_added_memory; print_added_memory({classes}, {height}, {width})"
    return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


def print_added_memory(classes: int, height: int, width: int) -> None:
    """MB by which the process grows in a walk; in a process of its own."""
    rng = np.random.default_rng(0)
    affinities = rng.random((len(pair_offsets(RADIUS)), height, width), dtype=np.float32)
    maps = rng.random((classes, height, width), dtype=np.float32)
    random_walk(maps[:, :8, :8], affinities[:, :8, :8], radius=RADIUS)
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = peak_kilobytes()
    random_walk(maps, affinities, radius=RADIUS)
    print((peak_kilobytes() - before) / 1024)


def peak_kilobytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def off_exact(walks: Sequence[Walk]) -> Callable[[Any, Any], str]:
    """Compares results with ours and with float64's."""
    exact = []
    for walk in walks:
        columns = walk.columns.astype(np.float64)
        for _ in range(STEPS):
            columns = walk.exact @ columns
        exact.append(columns.T.reshape(walk.maps.shape))

    def agreement(ours: Any, theirs: Any) -> str:
        error = largest_difference(exact, theirs).replace("difference", "error")
        return error if ours is theirs else f"{largest_difference(ours, theirs)}, {error}"

    return agreement


def rows(setting: Setting) -> Iterator[Row]:
    backbone = load_backbone()
    photos = photographs(2 * setting.threads, SIZE)
    cases = [
        (photos[: setting.threads], 21, setting.threads == 1),
        (photos[setting.threads :], 21, False),
        (photos, 4, False),
    ]
    for number, (chosen, classes, with_dense) in enumerate(cases):
        walks = [prepare(backbone, photo, classes) for photo in chosen[: setting.threads]]
        agreement = off_exact(walks)
        side = in_turn if setting.threads == 1 else at_once
        peers = [
            Contender("torch.sparse CSR @ maps, 256 times", partial(in_turn, torch_sparse, walks), agreement),
            Contender("scipy.sparse CSR @ maps, 256 times", partial(side, scipy_sparse, walks), agreement),
            Contender("scipy.sparse CSR, our series", partial(side, scipy_series, walks), agreement),
            Contender("torch, 69 shifted multiply-adds", partial(in_turn, torch_shifts, walks), agreement),
            Contender("ours for other devices", partial(in_turn, ours_by_gathering, walks), agreement),
        ]
        if with_dense:
            peers.append(Contender("torch, dense squaring", partial(in_turn, dense_squaring, walks), agreement))
        _, height, width = walks[0].maps.shape
        which = f"{setting.threads} photographs" if setting.threads > 1 else f"photograph {number % 2 + 1}"
        case = f"{which}, {width}x{height}, {classes} maps"
        yield from side_by_side(case, Contender("tag2mask", partial(side, ours, walks), agreement), peers, setting)

    if setting.threads == 1:
        walk = prepare(backbone, photographs(1, LARGE)[0], 21)
        _, height, width = walk.maps.shape
        squared = (height * width) ** 2 * 4 / 1e9
        memory = f"{peak_memory(21):.0f} MB more at its peak; a dense matrix is {squared:.1f} GB, squaring needs two"
        contender = Contender("tag2mask", partial(ours, walk), lambda _ours, _theirs: memory)
        peer = Contender("scipy.sparse CSR, our series", partial(scipy_series, walk), largest_difference)
        yield from side_by_side(f"1500x1500 pixels, {width}x{height}, 21 maps", contender, [peer], setting)
