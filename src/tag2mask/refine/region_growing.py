"""Region growing: seeds spread over what the segmenter is sure of, for a whole batch in one call.

`grow_regions` is the deep seeded region growing of Huang et al., "Weakly-Supervised Semantic Segmentation Network with
Deep Seeded Region Growing" (CVPR 2018, eq. 4 to 6); `grow_superpixels` is its superpixel-guided variant of Kim's
dissertation (2022, section 3.3.3). On the CPU a compiled kernel does the work; tensors of other devices take a path of
plain torch operations, which never waits for the device.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tag2mask.base.versions import Code
from tag2mask.data.classes import BACKGROUND, MAX_CLASSES, UNLABELLED
from tag2mask.errors import DataError, SettingsError
from tag2mask.refine import _region_growing

CODE = Code("region growing")

LEAST_PIXELS = 100_000
"""A thread is worth its start, about a tenth of a millisecond, for no fewer pixels than these."""

MAX_SUPERPIXELS = 2**24
"""Largest `superpixel_count`: an id for every pixel of a map of 4096x4096."""

_INTEGERS = (torch.uint8, torch.int8, torch.uint16, torch.int16, torch.uint32, torch.int32, torch.int64)
"""Types of ids: all that fit into int64, the widest type torch computes with."""

_LABELS = (torch.uint8, torch.int32, torch.int64)
_SUPERPIXELS = (torch.int32, torch.int64)
"""Types the compiled kernel takes as they are."""


@torch.no_grad()
def grow_regions(
    seeds: Tensor,
    probabilities: Tensor,
    present: Tensor,
    *,
    background_threshold: float = 0.99,
    foreground_threshold: float = 0.85,
    threads: int = 1,
) -> Tensor:
    """Spread seeds to the neighbours that the segmenter gives the seed's class (Huang et al. 2018, eq. 4 to 6).

    A pixel is *sure* of class c if c is its most probable class (the lowest on ties) among background and the present
    ones, and its probability is at least c's threshold. For every class, each 8-connected component of its seeds and
    sure pixels that holds at least one of its seeds becomes the class. Seeds keep their labels, and a pixel seeded for
    another class does not conduct. This is the fixed point of visiting labelled pixels' neighbours again and again.

    Memory beside the result: on the CPU at most 18 bytes per pixel of one image and thread, and copies of inputs that
    are not contiguous or of another type; elsewhere about 200 bytes per pixel of the batch and a copy or two of the
    probabilities.

    Args:
        seeds: class ids, 255 where unlabelled; integers (B, H, W), not uint64. On the CPU uint8, int32 and int64 are
            not copied.
        probabilities: the segmenter's softmax, floats in [0, 1], shape (B, C, H, W), C at most 255; compared as
            float32. NaN is never sure. Gradients are not followed.
        present: which classes an image's tags name, bool (B, C). Background competes whatever stands there; an absent
            class never does, and spreads over its own seeds alone if it has any.
        background_threshold: least probability of a sure background pixel.
        foreground_threshold: the same of every other class.
        threads: images grown at the same time on the CPU; the result does not depend on it.

    Returns:
        Labels of the type, shape and device of `seeds`, 255 where no seed got.

    Raises:
        DataError: shapes, types or devices are not as above, or a seed is neither a class nor 255. The latter is
            checked on the CPU only: elsewhere it would have to wait for the device.
        SettingsError: a threshold is not within 0 and 1, or `threads` not positive.

    Example:
        >>> seeds = torch.tensor([[[1, 255, 255]]])
        >>> probabilities = torch.tensor([[[[0.3, 0.1, 0.4]], [[0.7, 0.9, 0.6]]]])
        >>> grow_regions(seeds, probabilities, torch.tensor([[True, True]]))
        tensor([[[  1,   1, 255]]])
    """
    thresholds = _checked_thresholds(background_threshold, foreground_threshold)
    _check_inputs(seeds, probabilities, present, threads)
    if seeds.numel() == 0:
        return seeds.clone()
    if probabilities.device.type != "cpu":
        return _grow_regions_by_torch(seeds, probabilities, present, *thresholds)
    own_seeds = _contiguous(seeds, _LABELS)
    labels = torch.empty_like(own_seeds)
    arrays = (own_seeds, probabilities.detach().float().contiguous(), present.contiguous(), labels)
    _run(_region_growing.grow_regions, arrays, thresholds, threads)
    return labels.to(seeds.dtype)


@torch.no_grad()
def grow_superpixels(
    seeds: Tensor,
    probabilities: Tensor,
    superpixels: Tensor,
    present: Tensor,
    *,
    background_threshold: float = 0.7,
    foreground_threshold: float = 0.7,
    superpixel_count: int | None = None,
    threads: int = 1,
) -> Tensor:
    """Give whole superpixels to the class that the segmenter is sure of on average (Kim 2022, section 3.3.3).

    Of every superpixel only the pixels without a seed count. If their mean probability is largest for class c (the
    lowest on ties) among background and the present classes, and above c's threshold, all of them become c. Seeds keep
    their labels.

    Args:
        seeds: as in `grow_regions`.
        probabilities: as in `grow_regions`. A class with a NaN in a superpixel does not compete for it.
        superpixels: ids from 0 of each image's superpixels, below 2^24; types as of `seeds`, (B, H, W). A pixel with a
            negative id belongs to none and keeps its seed's label.
        present: as in `grow_regions`.
        background_threshold: what the mean probability of background must exceed.
        foreground_threshold: the same of every other class.
        superpixel_count: number all ids lie below, at most 2^24; None finds it, which on a CUDA device means waiting
            for it. Memory grows with it: 8 bytes for each superpixel and competing class of one image and thread on
            the CPU, 4 for each superpixel, class and image elsewhere, beside what pixels take.
        threads: images grown at the same time on the CPU; the result does not depend on it.

    Returns:
        Labels of the type, shape and device of `seeds`. On the CPU means are sums in double precision, rounded to
        float32. Elsewhere sums are float32 and their order is the device's: a mean within rounding of a threshold, or
        of another class's, may fall on either side.

    Raises:
        DataError: shapes, types or devices are not as above, or without a `superpixel_count` an id is 2^24 or more; on
            the CPU also if a seed is neither a class nor 255, or an id is `superpixel_count` or more. Elsewhere, pixels
            with such an id belong to no superpixel.
        SettingsError: a threshold is not within 0 and 1, `superpixel_count` not within 1 and 2^24, or `threads` not
            positive.
    """
    thresholds = _checked_thresholds(background_threshold, foreground_threshold)
    _check_inputs(seeds, probabilities, present, threads)
    _check_map("superpixels", superpixels, seeds)
    if superpixel_count is not None and not 1 <= superpixel_count <= MAX_SUPERPIXELS:
        raise SettingsError(f"superpixel_count must be between 1 and {MAX_SUPERPIXELS}, not {superpixel_count}")
    if seeds.numel() == 0:
        return seeds.clone()
    superpixels = _contiguous(superpixels, _SUPERPIXELS)
    count = superpixel_count or _count_of(superpixels)
    if probabilities.device.type != "cpu":
        return _grow_superpixels_by_torch(seeds, probabilities, superpixels, present, count, *thresholds)
    own_seeds = _contiguous(seeds, _LABELS)
    labels = torch.empty_like(own_seeds)
    arrays = (
        own_seeds,
        probabilities.detach().float().contiguous(),
        superpixels,
        present.contiguous(),
        labels,
    )
    _run(_region_growing.grow_superpixels, arrays, (count, *thresholds), threads)
    return labels.to(seeds.dtype)


def _checked_thresholds(background: float, foreground: float) -> tuple[float, float]:
    for name, value in (("background_threshold", background), ("foreground_threshold", foreground)):
        if not 0 <= value <= 1:
            raise SettingsError(f"{name} must lie between 0 and 1, not {value}")
    return background, foreground


def _check_inputs(seeds: Tensor, probabilities: Tensor, present: Tensor, threads: int) -> None:
    """Shapes, types and devices that both ways of growing share."""
    if probabilities.ndim != 4 or not probabilities.is_floating_point():
        raise DataError(
            f"probabilities must be floats of shape (B, C, H, W), not {probabilities.dtype} of shape "
            f"{tuple(probabilities.shape)}"
        )
    batch, classes = probabilities.shape[:2]
    if not 1 <= classes <= MAX_CLASSES:
        raise DataError(f"probabilities have {classes} classes; 1 to {MAX_CLASSES} are possible")
    _check_map("seeds", seeds, probabilities[:, 0])
    if torch.iinfo(seeds.dtype).max < UNLABELLED:
        raise DataError(f"seeds of type {seeds.dtype} cannot hold {UNLABELLED}, which stands for unlabelled")
    if present.dtype != torch.bool or present.shape != (batch, classes):
        raise DataError(
            f"present must be bool of shape {(batch, classes)}, not {present.dtype} of shape {tuple(present.shape)}"
        )
    if present.device != probabilities.device:
        raise DataError(f"present is on {present.device}, probabilities on {probabilities.device}")
    if threads < 1:
        raise SettingsError(f"threads must be 1 or more, not {threads}")


def _check_map(name: str, ids: Tensor, like: Tensor) -> None:
    """A map of integers of the shape and on the device of another."""
    if ids.shape != like.shape or ids.dtype not in _INTEGERS:
        raise DataError(
            f"{name} must be integers of shape {tuple(like.shape)}, not {ids.dtype} of shape {tuple(ids.shape)}"
        )
    if ids.device != like.device:
        raise DataError(f"{name} is on {ids.device}, probabilities on {like.device}")


def _count_of(superpixels: Tensor) -> int:
    """The least number all ids lie below, at least 1."""
    highest = int(superpixels.max())
    if highest >= MAX_SUPERPIXELS:
        raise DataError(f"superpixels hold id {highest}; ids below {MAX_SUPERPIXELS} are possible")
    return max(highest + 1, 1)


def _contiguous(ids: Tensor, kinds: Sequence[torch.dtype]) -> Tensor:
    """Ids of a type that the compiled kernel takes."""
    return (ids if ids.dtype in kinds else ids.long()).contiguous()


def _run(kernel: Callable[..., None], tensors: Sequence[Tensor], settings: Sequence[float | int], threads: int) -> None:
    """Calls a compiled kernel on as many parts of a batch as there are threads."""
    arrays = [tensor.numpy() for tensor in tensors]
    parts = min(threads, len(arrays[0]), arrays[0].size // LEAST_PIXELS)
    try:
        if parts <= 1:
            kernel(*arrays, *settings)
            return
        calls = zip(*(np.array_split(array, parts) for array in arrays), strict=True)
        with ThreadPoolExecutor(parts) as pool:
            for future in [pool.submit(kernel, *call, *settings) for call in calls]:
                future.result()
    except ValueError as error:
        raise DataError(str(error)) from error


def _grow_regions_by_torch(
    seeds: Tensor, probabilities: Tensor, present: Tensor, background_threshold: float, foreground_threshold: float
) -> Tensor:
    """`grow_regions` in torch operations of which none waits for the device."""
    best, label = _most_probable(probabilities.float(), present)
    sure = torch.where(label == BACKGROUND, best >= background_threshold, best >= foreground_threshold)
    seeded = seeds != UNLABELLED
    conducting = torch.where(seeded, seeds.long(), label.masked_fill(~sure, UNLABELLED))
    component = _components(conducting)
    nowhere = component.numel()
    reached = seeds.new_zeros(nowhere + 1, dtype=torch.bool)
    reached.scatter_(0, component.masked_fill(~seeded.flatten(), nowhere), True)
    return conducting.masked_fill(~reached[component].view_as(seeded), UNLABELLED).to(seeds.dtype)


def _most_probable(probabilities: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Largest value (-inf if there is none) and its class (the lowest on ties) among the classes that compete.

    Args:
        probabilities: (B, C, ...); NaN does not compete.
        present: (B, C).
    """
    competing = present.clone()
    competing[:, BACKGROUND] = True
    competing = competing.view(competing.shape + (1,) * (probabilities.ndim - 2))
    best, label = probabilities.masked_fill(~(competing & (probabilities >= 0)), -torch.inf).max(1)
    return best, label


def _components(conducting: Tensor) -> Tensor:
    """8-connected components of equal classes, by Borůvka's algorithm on the runs of equal pixels in the rows.

    In a round every component hooks onto the one across its least crossing edge. Edges have distinct numbers, so the
    hooks hold no cycle but pairs that chose the same edge; of these the lower one stays a root. Pointer jumping then
    brings everybody to its root. As long as n > 1 parts of what is one component are apart, each of them has a crossing
    edge and is joined with another one: at most n / 2 are left after the round. A tree of n parts is at most n - 1
    deep, and j jumps shorten ways of up to 2^j. The numbers of rounds and jumps thus follow from the map's size alone,
    and nothing has to be asked of the device.

    Args:
        conducting: class ids (B, H, W), int64; 255 conducts nothing.

    Returns:
        For every pixel, flattened, the position of its component's root. Pixels of 255 are components of their own.
    """
    _, height, width = conducting.shape
    position = torch.arange(conducting.numel(), device=conducting.device).view_as(conducting)
    surrounded = F.pad(conducting, (1, 1, 1, 0), value=UNLABELLED)
    conducts = conducting != UNLABELLED

    goes_on = conducts & (conducting == surrounded[:, 1:, :-2])
    root = position.masked_fill(goes_on, 0).flatten(1).cummax(1).values.flatten()

    # A diagonal edge beside an equal pixel straight above would join the same two runs once more.
    up = conducts & (conducting == surrounded[:, :-1, 1:-1])
    up_left = conducts & ~up & (conducting == surrounded[:, :-1, :-2])
    up_right = conducts & ~up & (conducting == surrounded[:, :-1, 2:])
    own = position.flatten()
    upward = position - width * (up | up_left).long() - up_left.long()
    partner = torch.cat([upward.flatten(), (position + (1 - width) * up_right.long()).flatten()])
    pixel = own.repeat(2)
    number = torch.arange(len(partner), device=partner.device)
    no_edge = len(partner)

    parts = height * ((width + 1) // 2)  # two runs of one class and row have another pixel between them
    while parts > 1:
        ends = root[pixel], root[partner]
        crossing = ends[0] != ends[1]
        least = torch.full_like(own, no_edge)
        for end in ends:
            # Edges inside a component write "none" to their own pixel: writing it to the root would queue up there.
            least.scatter_reduce_(0, end.where(crossing, pixel), number.masked_fill(~crossing, no_edge), "amin")
        chosen = least.clamp(max=no_edge - 1)
        hook = torch.where(least < no_edge, ends[0][chosen] + ends[1][chosen] - own, own)
        hook = own.where((hook[hook] == own) & (own < hook), hook)
        for _ in range((parts - 1).bit_length()):
            hook = hook[hook]
        root = hook[root]
        parts //= 2
    return root


def _grow_superpixels_by_torch(
    seeds: Tensor,
    probabilities: Tensor,
    superpixels: Tensor,
    present: Tensor,
    count: int,
    background_threshold: float,
    foreground_threshold: float,
) -> Tensor:
    """`grow_superpixels` in torch operations of which none waits for the device."""
    batch, classes = present.shape
    free = seeds == UNLABELLED
    # One more superpixel takes what belongs to none.
    inside = free & (superpixels >= 0) & (superpixels < count)
    member = superpixels.long().masked_fill(~inside, count).flatten(1)
    sums = probabilities.new_zeros((batch, classes, count + 1), dtype=torch.float32)
    sums.scatter_add_(2, member[:, None].expand(-1, classes, -1), probabilities.float().flatten(2))
    sizes = sums.new_zeros((batch, count + 1)).scatter_add_(1, member, sums.new_ones(()).expand_as(member))
    best, label = _most_probable(sums / sizes[:, None], present)
    sure = torch.where(label == BACKGROUND, best > background_threshold, best > foreground_threshold)
    sure[:, count] = False
    winner = label.masked_fill(~sure, UNLABELLED).gather(1, member).view_as(seeds)
    return torch.where(free, winner, seeds.long()).to(seeds.dtype)
