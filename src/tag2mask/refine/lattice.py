"""The dense CRF's mean field in torch operations: what CUDA tensors are solved with.

The model, the lattice and the arithmetic are those of the compiled kernel, permutohedral.cpp: mean field of Krähenbühl
& Koltun (NIPS 2011) on the permutohedral lattice of Adams, Baek & Davis (Eurographics 2010, section 3).
The two differ in how vertices are found, by a stable sort of their keys instead of a hash table, and in the order of
sums.

All images and both kernels live in one lattice: a vertex's key says whose it is. Splat, blur and slice are sums over
bags of rows (`torch.nn.functional.embedding_bag`), each row of the result added up by itself and in a fixed order. So
nothing is added atomically: the same input gives the same bits on one device, alone or in a batch.
"""

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

COLOURS = 256

MOST_PIXELS = np.iinfo(np.int32).max // 12
"""Images have no more pixels, alone or together, as pairs of a pixel and a corner are numbered in int32. The compiled
kernel has the same limit."""

POINTS_AT_ONCE = 2**19
"""Points embedded at a time, so that the temporaries of a large image stay small."""

ENTRIES_AT_ONCE = 2**22
"""Pairs of a point and a corner sorted at a time, for the same reason."""

PIXEL_GROUP = 4
"""The compiled kernel, as pydensecrf, fills the last group of so many pixels up with zero features. Their vertices hold
nothing, but values flow through them in the blur."""

SEGMENT = 64
"""Entries of a vertex that one sum takes at least. A vertex in a clear sky has tens of thousands of them, which one
thread after the other would be slow to add."""


class Kernel(NamedTuple):
    """A Gaussian kernel of the CRF."""

    deviations: tuple[float, ...]
    """Standard deviations of the features: column and row in pixels, then, for a bilateral kernel, red, green, blue."""
    weight: float


class _Keys(NamedTuple):
    """Numbers of the lattice points of one kernel: their first d coordinates as one mixed-radix number."""

    strides: tuple[int, ...]
    """Change of the number by one step of each coordinate; 0 for the last one, which follows from the others."""
    lowest: int
    """Number of the lowest point."""
    capacity: int
    """Numbers of all points are below lowest + capacity."""


class _Lattice(NamedTuple):
    """Vertices are numbered from 1; row 0 of their values is zero and stands for neighbours that do not exist."""

    pixel: Tensor
    """(entries,) int32: pixel of each (pixel, corner), sorted by vertex."""
    share: Tensor
    """(entries,) float32: what the entry's vertex takes of that pixel."""
    segment: Tensor
    """(segments,) int32: first entry of each sum."""
    first_segment: Tensor
    """(vertices + 1,) int32: the vertex's first segment."""
    neighbours: Tensor
    """(directions, vertices + 1, 2) int32."""
    corner: Tensor
    """(pixels, corners) int32: vertices that a pixel takes from."""
    weight: Tensor
    """(pixels, corners) float32: how much of each."""

    def splat(self, values: Tensor) -> Tensor:
        """Values of pixels (pixels, channels) to vertices (vertices + 1, channels)."""
        parts = F.embedding_bag(self.pixel, values, self.segment, mode="sum", per_sample_weights=self.share)
        every = torch.arange(len(parts), dtype=torch.int32, device=parts.device)
        return F.embedding_bag(every, parts, self.first_segment, mode="sum")

    def blur(self, values: Tensor, *, backwards: bool = False) -> Tensor:
        """Values of vertices blurred with (1/2, 1, 1/2) along each direction in turn, the last one first if backwards.

        Where vertices have no neighbour the order matters a little. Backwards is the transposed filter.
        """
        for neighbours in self.neighbours.flip(0) if backwards else self.neighbours:
            values = torch.add(values, F.embedding_bag(neighbours, values, mode="sum"), alpha=0.5)
        return values

    def slice(self, values: Tensor) -> Tensor:
        """Values of vertices back to pixels."""
        return F.embedding_bag(self.corner, values, mode="sum", per_sample_weights=self.weight)


def mean_field(
    images: Sequence[Tensor],
    scores: Sequence[Tensor],
    iterations: int,
    gaussian_sxy: float,
    gaussian_weight: float,
    bilateral_sxy: float,
    bilateral_srgb: float,
    bilateral_weight: float,
) -> list[Tensor]:
    """Class probabilities after mean-field updates, for images that are solved together.

    float32 throughout, under autocast too, without gradients. The host waits for the device a few times while the
    lattice is built and never during the updates. On the CPU the compiled kernel is far faster.

    Memory, measured on CPU tensors: about ``200 + 20 * classes`` bytes per pixel of all images together and
    ``100 + 12 * classes`` bytes per lattice vertex, of which a photograph has 0.1 to 0.5 per pixel; while the lattice
    is built, about 400 per pixel and 250 MB.

    Args:
        images: at least one; RGB, uint8, each (H, W, 3); sizes may differ.
        scores: negative unary energies, float32, each (C, H, W), all of one C and on the images' device.
        iterations: number of updates; 0 gives the softmax of the scores.
        gaussian_sxy: standard deviation of the Gaussian kernel in pixels.
        gaussian_weight: weight of the Gaussian kernel; 0 switches it off.
        bilateral_sxy: standard deviation of the bilateral kernel's position in pixels.
        bilateral_srgb: standard deviation of the bilateral kernel's colour, in units of the 0..255 range.
        bilateral_weight: weight of the bilateral kernel; 0 switches it off.

    Returns:
        Probabilities that sum to 1 over classes, float32, each (C, H, W).

    Raises:
        ValueError: an image and its scores differ in size, or an image fails `check_size`.
    """
    kernels = active_kernels(iterations, gaussian_sxy, gaussian_weight, bilateral_sxy, bilateral_srgb, bilateral_weight)
    sizes = [(image.shape[0], image.shape[1]) for image in images]
    if any(size != tuple(score.shape[1:]) for size, score in zip(sizes, scores, strict=True)):
        raise ValueError("image and scores differ in size")
    for size in sizes:
        check_size(*size, kernels)
    if len(images) > 1 and not _fits(sizes, kernels):
        settings = gaussian_sxy, gaussian_weight, bilateral_sxy, bilateral_srgb, bilateral_weight
        return [mean_field([i], [s], iterations, *settings)[0] for i, s in zip(images, scores, strict=True)]

    with torch.no_grad(), torch.autocast(images[0].device.type, enabled=False):
        lattice = _normalised(_build(images, kernels), kernels) if kernels else None
        unary = torch.cat([score.flatten(1).T for score in scores])
        q = unary.softmax(1)
        if lattice is not None:
            for _ in range(iterations):
                messages = lattice.slice(lattice.blur(lattice.splat(q)))
                torch.softmax(messages.add_(unary), 1, out=q)
        parts = q.split([height * width for height, width in sizes])
        return [part.T.contiguous().view(score.shape) for part, score in zip(parts, scores, strict=True)]


def bilateral_filter(images: Tensor, values: Tensor, *, sxy: float, srgb: float) -> Tensor:
    """Each pixel's sum of all pixels' values, weighted with a Gaussian of position and colour, itself included.

    Not normalised: sum_v exp(-|x_u - x_v|^2 / (2 sxy^2) - |I_u - I_v|^2 / (2 srgb^2)) values_v in Adams, Baek & Davis'
    approximation (Eurographics 2010, section 3), whose sums are 0.45 to 0.6 of those of exact Gaussians on photographs;
    the dense CRF divides that out. Blurred in both orders of directions and averaged, so that the filter is symmetric
    and its own gradient. float32 throughout, under autocast too; no gradient is followed.

    Args:
        images: RGB, uint8 (N, 3, h, w), at least one.
        values: float32 (N, C, h, w), on the images' device.
        sxy: standard deviation in position, pixels, above 0.
        srgb: standard deviation in colour, steps of 0..255, above 0.

    Returns:
        float32 (N, C, h, w).

    Raises:
        ValueError: the images fail `check_size`.
    """
    kernel = Kernel((sxy,) * 2 + (srgb,) * 3, 1.0)
    count, _, height, width = values.shape
    check_size(height, width, [kernel])
    if count > 1 and not _fits([(height, width)] * count, [kernel]):
        alone = [bilateral_filter(i[None], v[None], sxy=sxy, srgb=srgb) for i, v in zip(images, values, strict=True)]
        return torch.cat(alone)
    with torch.no_grad(), torch.autocast(values.device.type, enabled=False):
        lattice = _build(list(images.movedim(1, -1)), [kernel])
        splatted = lattice.splat(values.movedim(1, -1).flatten(0, 2).contiguous())
        blurred = lattice.blur(splatted).add_(lattice.blur(splatted, backwards=True))
        sums = lattice.slice(blurred).mul_(_slice_scale(kernel) / 2)
        return sums.view(count, height, width, -1).movedim(-1, 1).contiguous()


def active_kernels(
    iterations: int,
    gaussian_sxy: float,
    gaussian_weight: float,
    bilateral_sxy: float,
    bilateral_srgb: float,
    bilateral_weight: float,
) -> list[Kernel]:
    """The kernels that take part, of `mean_field`'s parameters."""
    kernels = [
        Kernel((gaussian_sxy,) * 2, gaussian_weight),
        Kernel((bilateral_sxy,) * 2 + (bilateral_srgb,) * 3, bilateral_weight),
    ]
    return [kernel for kernel in kernels if iterations > 0 and kernel.weight > 0]


def check_size(height: int, width: int, kernels: Sequence[Kernel]) -> None:
    """Checks that an image's pixels and lattice cells can be numbered, as the compiled kernel does.

    Raises:
        ValueError: they cannot.
    """
    if height * width > MOST_PIXELS:
        raise ValueError("too many pixels")
    for kernel in kernels:
        _keys(height, width, kernel)


def _fits(sizes: Sequence[tuple[int, int]], kernels: Sequence[Kernel]) -> bool:
    """True if images can be numbered together."""
    try:
        capacity = sum(keys.capacity for keys in _shared_keys(sizes, kernels))
    except ValueError:
        return False
    pixels = sum(height * width for height, width in sizes)
    return pixels <= MOST_PIXELS and capacity * len(sizes) <= np.iinfo(np.int64).max


def _shared_keys(sizes: Sequence[tuple[int, int]], kernels: Sequence[Kernel]) -> list[_Keys]:
    """Keys in which each image has the room of the largest height and width."""
    height, width = (max(side) for side in zip(*sizes, strict=True))
    return [_keys(height, width, kernel) for kernel in kernels]


def _scaled(values: npt.NDArray[np.float32], feature: int, kernel: Kernel) -> npt.NDArray[np.float32]:
    """Feature values in standard deviations and scaled for the embedding (Adams et al. 2010, pp. 5-6).

    Computed on the CPU, operation by operation as the compiled kernel does: which simplex a point on a border belongs
    to hangs on the last bit, and CUDA multiplies by the inverse where it is asked to divide by a number.
    """
    deviation = np.float32(math.sqrt(2 / 3) * (len(kernel.deviations) + 1))  # of the blur, in lattice units
    scale = np.float32(1 / math.sqrt((feature + 2) * (feature + 1)) * float(deviation))
    with np.errstate(all="ignore"):  # _keys refuses what overflows
        return values / np.float32(kernel.deviations[feature]) * scale


def _counts(height: int, width: int, kernel: Kernel) -> list[int]:
    """Number of values of each feature."""
    return [width, height, *[COLOURS] * (len(kernel.deviations) - 2)]


def _keys(height: int, width: int, kernel: Kernel) -> _Keys:
    """Numbers for all points that images up to this size can have as corners or as neighbours of corners."""
    last = [np.array(count - 1, np.float32) for count in _counts(height, width, kernel)]
    largest = [float(_scaled(value, feature, kernel)) for feature, value in enumerate(last)]
    margin = 4.0 * (len(largest) + 1)
    strides, lowest, capacity = [], 0, 1
    for i in range(len(largest)):
        low = float(np.floor(-i * largest[i - 1] if i > 0 else 0.0)) - margin
        cells = float(np.ceil(sum(largest[i:]))) + margin - low + 1
        if not (cells < 2**21 and capacity * cells < 2**62):
            raise ValueError("standard deviation too small: the lattice has too many cells")
        strides.append(capacity)
        lowest += int(low) * capacity
        capacity *= int(cells)
    return _Keys((*strides, 0), lowest, capacity)


def _build(images: Sequence[Tensor], kernels: Sequence[Kernel]) -> _Lattice:
    """The lattice of all kernels of all images, with barycentric weights."""
    device = images[0].device
    sizes = [(image.shape[0], image.shape[1]) for image in images]
    pixels = [height * width for height, width in sizes]
    padded = [index for index, count in enumerate(pixels) if count % PIXEL_GROUP]
    total, points = sum(pixels), sum(pixels) + len(padded)
    owner = torch.tensor([*range(len(images)), *padded], device=device).repeat_interleave(
        torch.tensor([*pixels, *[1] * len(padded)], device=device), output_size=points
    )
    keyed = _shared_keys(sizes, kernels)
    starts = list(accumulate((keys.capacity * len(images) for keys in keyed), initial=0))
    corners = sum(len(keys.strides) for keys in keyed)

    pixel = torch.empty(corners * points, dtype=torch.int32, device=device)
    share = torch.empty(corners * points, dtype=torch.float32, device=device)
    corner = torch.empty((total, corners), dtype=torch.int32, device=device)
    weight = torch.empty((points, corners), dtype=torch.float32, device=device)
    found: list[Tensor] = []
    counts: list[Tensor] = []
    column = vertices = 0
    for kernel, keys, start in zip(kernels, keyed, starts, strict=False):
        own = slice(column, column + len(keys.strides))
        numbers = _embedded(_features(images, kernel, len(padded)), keys, weight[:, own])
        numbers += owner * keys.capacity + (start - keys.lowest)
        weight[total:] = 0
        # A vertex belongs to one row, as each of its coordinates leaves the row's number as remainder modulo d + 1.
        for rows in numbers.split(max(1, ENTRIES_AT_ONCE // points)):
            columns = slice(column, column + len(rows))
            entries = slice(columns.start * points, columns.stop * points)
            # Stable: a vertex adds up its pixels in their order, whatever else is in the batch.
            ascending, order = rows.flatten().sort(stable=True)
            keys_of_vertices, vertex, count = torch.unique_consecutive(
                ascending, return_inverse=True, return_counts=True
            )
            place = torch.empty(len(order), dtype=torch.int32, device=device)
            place[order] = vertex.add_(vertices + 1).int()
            corner[:, columns] = place.view(-1, points)[:, :total].T
            share[entries] = weight[:, columns].T.flatten()[order]
            pixel[entries] = order.remainder_(points).clamp_(max=total - 1)  # points that fill up have the weight 0
            found.append(keys_of_vertices)
            counts.append(count)
            vertices += len(keys_of_vertices)
            column = columns.stop
    segment, first_segment = _segments(torch.cat(counts))
    neighbours = _neighbours(torch.cat(found), starts, keyed)
    return _Lattice(pixel, share, segment, first_segment, neighbours, corner, weight[:total])


def _features(images: Sequence[Tensor], kernel: Kernel, padding: int) -> Tensor:
    """Scaled features (d, points) of all images' pixels, then zeros for so many points more."""
    device = images[0].device
    sizes = [(image.shape[0], image.shape[1]) for image in images]
    height, width = (max(side) for side in zip(*sizes, strict=True))
    values = [np.arange(count, dtype=np.float32) for count in _counts(height, width, kernel)]
    tables = [torch.from_numpy(_scaled(own, feature, kernel)).to(device) for feature, own in enumerate(values)]
    columns, rows, *colours = tables
    pixels = [height * width for height, width in sizes]
    features = torch.zeros((len(kernel.deviations), sum(pixels) + padding), dtype=torch.float32, device=device)
    for image, own in zip(images, features[:, : sum(pixels)].split(pixels, dim=1), strict=True):
        maps = own.view(-1, *image.shape[:2])
        maps[0] = columns[: image.shape[1]]
        maps[1] = rows[: image.shape[0], None]
        for channel, table in enumerate(colours):
            maps[2 + channel] = table[image[..., channel].int()]
    return features


def _embedded(features: Tensor, keys: _Keys, weight: Tensor) -> Tensor:
    """Keys (d + 1, points) of all points' corners; their barycentric weights go into weight (points, d + 1)."""
    numbers = torch.empty((len(keys.strides), features.shape[1]), dtype=torch.int64, device=features.device)
    strides = torch.tensor(keys.strides, device=features.device)
    for begin in range(0, features.shape[1], POINTS_AT_ONCE):
        at = slice(begin, begin + POINTS_AT_ONCE)
        numbers[:, at], weights = _embed(features[:, at], strides)
        weight[at] = weights.T
    return numbers


def _embed(features: Tensor, strides: Tensor) -> tuple[Tensor, Tensor]:
    """The simplices that points lie in (Adams et al. 2010, section 3): elevate, round, rank the differences.

    One operation at a time in float32, in the compiled kernel's order: a fused multiply-add could choose another
    simplex for a point on a border.

    Args:
        features: scaled features (d, points).
        strides: int64 (d + 1,), what one step of each coordinate adds to a key.

    Returns:
        Keys of the d + 1 corners, int64, and barycentric weights, float32, both (d + 1, points).
    """
    corners = len(features) + 1
    inverse = float(np.float32(1) / np.float32(corners))
    elevated = features.new_empty((corners, features.shape[1]))
    tail = torch.zeros_like(features[0])
    for j in range(corners - 1, 0, -1):
        elevated[j] = tail - features[j - 1] * j
        tail = tail + features[j - 1]
    elevated[0] = tail

    # Nearest point whose coordinates are multiples of d + 1. How far it is from the plane moves the ranks round; of
    # equal differences the earlier coordinate's is taken for the larger one.
    multiple = (elevated * inverse).round()
    nearest = multiple * corners
    difference = elevated - nearest
    behind = difference[:, None] < difference
    later = torch.ones((corners, corners), dtype=torch.bool, device=features.device).triu_(1)[..., None]
    rank = (behind & later).sum(1) + (~behind & later).sum(0) + multiple.sum(0).long()
    wrapped = rank.remainder(corners)
    nearest += wrapped - rank
    residual = (elevated - nearest) * inverse

    falling = torch.empty_like(residual).scatter_(0, wrapped, residual)
    falling_strides = torch.empty_like(wrapped).scatter_(0, wrapped, strides[:, None].expand_as(wrapped))
    # Corner k adds k to all coordinates and takes d + 1 from the k of them with the smallest residuals.
    steps = strides.sum() - corners * falling_strides[1:].flip(0)
    keys = torch.cat([(nearest.long() * strides[:, None]).sum(0, keepdim=True), steps]).cumsum_(0)
    weights = torch.cat([falling[-1:] + (1 - falling[:1]), (falling[:-1] - falling[1:]).flip(0)])
    return keys, weights


def _segments(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Cuts each vertex's entries into runs, so that no sum is much longer than the square root of the largest count.

    Returns:
        First entry of each segment, and the first segment of row 0, which has none, and of each vertex; both int32.
    """
    length = counts.float().sqrt().ceil().long().clamp(min=SEGMENT)
    segments = (counts + length - 1) // length
    first_entry, first_segment = counts.cumsum(0) - counts, segments.cumsum(0) - segments
    vertex = torch.arange(len(counts), device=counts.device).repeat_interleave(segments)
    within = torch.arange(len(vertex), device=counts.device) - first_segment[vertex]
    return (first_entry[vertex] + within * length[vertex]).int(), F.pad(first_segment, (1, 0)).int()


def _neighbours(numbers: Tensor, starts: Sequence[int], keyed: Sequence[_Keys]) -> Tensor:
    """Both neighbours of each vertex along each direction, (directions, vertices + 1, 2); 0 where there is none.

    Args:
        numbers: keys of all vertices, the first kernel's first.
        starts: where each kernel's keys begin, and the end of the last one's.
        keyed: the kernels' keys.
    """
    numbers_sorted, place = numbers.sort()
    bounds = torch.searchsorted(numbers_sorted, torch.tensor(starts, device=numbers.device)).tolist()
    directions = max(len(keys.strides) for keys in keyed)
    neighbours = torch.zeros((directions, len(numbers) + 1, 2), dtype=torch.int32, device=numbers.device)
    for keys, begin, end in zip(keyed, bounds, bounds[1:], strict=False):
        own = numbers[begin:end]
        for direction, stride in enumerate(keys.strides):
            step = len(keys.strides) * stride - sum(keys.strides)  # d along the direction, -1 along the others
            sought = torch.stack([own + step, own - step], dim=1)
            at = torch.searchsorted(numbers_sorted, sought).clamp_(max=len(numbers) - 1)
            neighbours[direction, begin + 1 : end + 1] = torch.where(
                numbers_sorted[at] == sought, place[at] + 1, 0
            ).int()
    return neighbours


def _normalised(lattice: _Lattice, kernels: Sequence[Kernel]) -> _Lattice:
    """D K D of Krähenbühl & Koltun with D = diag(1 / sqrt(K 1)), which goes into the weights of both ways.

    Args:
        lattice: with barycentric weights, which are overwritten.
        kernels: the lattice's, in the order of its corners and entries.
    """
    pixels = len(lattice.corner)
    blurred = lattice.blur(lattice.splat(lattice.share.new_ones((pixels, 1))))
    corners = [len(kernel.deviations) + 1 for kernel in kernels]
    points = len(lattice.pixel) // sum(corners)
    entries = [count * points for count in corners]
    for kernel, corner, weight, pixel, share in zip(
        kernels,
        lattice.corner.split(corners, 1),
        lattice.weight.split(corners, 1),
        lattice.pixel.split(entries),
        lattice.share.split(entries),
        strict=True,
    ):
        alpha = np.float32(_slice_scale(kernel))
        total = F.embedding_bag(corner, blurred, mode="sum", per_sample_weights=weight)
        norm = 1 / (total[:, 0] * float(alpha) + 1e-20).sqrt()
        share *= norm[pixel]
        weight *= norm[:, None]
        weight *= float(alpha * np.float32(kernel.weight))
    return lattice


def _slice_scale(kernel: Kernel) -> float:
    """Adams et al.'s scale of the slice."""
    return 1 / (1 + 2.0 ** -len(kernel.deviations))
