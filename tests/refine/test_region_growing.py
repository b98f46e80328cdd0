"""Region growing against plain queues and loops written from the definitions, on the CPU's path and the devices'."""

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch import Tensor
from torch.overrides import TorchFunctionMode

from tag2mask.data.classes import UNLABELLED
from tag2mask.errors import DataError, SettingsError
from tag2mask.refine import region_growing
from tag2mask.refine.region_growing import (
    _grow_regions_by_torch,
    _grow_superpixels_by_torch,
    grow_regions,
    grow_superpixels,
)

STEPS = 16
"""Random probabilities are multiples of 1 / STEPS: ties are frequent and all sums are exact."""

Grow = Callable[..., Tensor]
Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


def regions_by_torch(
    seeds: Tensor,
    probabilities: Tensor,
    present: Tensor,
    *,
    background_threshold: float = 0.99,
    foreground_threshold: float = 0.85,
) -> Tensor:
    """The devices' path of `grow_regions`."""
    return _grow_regions_by_torch(seeds, probabilities, present, background_threshold, foreground_threshold)


def superpixels_by_torch(
    seeds: Tensor,
    probabilities: Tensor,
    superpixels: Tensor,
    present: Tensor,
    *,
    background_threshold: float = 0.7,
    foreground_threshold: float = 0.7,
    superpixel_count: int = 100,
) -> Tensor:
    """The devices' path of `grow_superpixels`."""
    thresholds = (background_threshold, foreground_threshold)
    return _grow_superpixels_by_torch(seeds, probabilities, superpixels, present, superpixel_count, *thresholds)


REGION_PATHS = pytest.mark.parametrize("grow", [grow_regions, regions_by_torch])
SUPERPIXEL_PATHS = pytest.mark.parametrize("grow", [grow_superpixels, superpixels_by_torch])


def grown_by_queue(seeds: Labels, probabilities: Floats, present: npt.NDArray[np.bool_], *thresholds: float) -> Labels:
    """Seeded region growing of one image: neighbours of labelled pixels are visited until nothing changes."""
    height, width = seeds.shape
    competing = [c for c in range(len(present)) if c == 0 or present[c]]

    def holds(y: int, x: int, c: int) -> bool:
        values = [probabilities[k, y, x] for k in competing]
        return c == competing[int(np.argmax(values))] and max(values) >= np.float32(thresholds[min(c, 1)])

    labels = seeds.copy()
    queue = deque((y, x) for y in range(height) for x in range(width) if seeds[y, x] != UNLABELLED)
    while queue:
        y, x = queue.popleft()
        for v in range(max(0, y - 1), min(height, y + 2)):
            for u in range(max(0, x - 1), min(width, x + 2)):
                if labels[v, u] == UNLABELLED and holds(v, u, labels[y, x]):
                    labels[v, u] = labels[y, x]
                    queue.append((v, u))
    return labels


def grown_by_loop(
    seeds: Labels, probabilities: Floats, superpixels: Labels, present: npt.NDArray[np.bool_], *thresholds: float
) -> Labels:
    """Superpixel-guided growing of one image, superpixel by superpixel."""
    labels = seeds.copy()
    for superpixel in set(superpixels[superpixels >= 0].tolist()):
        rest = (superpixels == superpixel) & (seeds == UNLABELLED)
        if not rest.any():
            continue
        means = {c: probabilities[c][rest].mean() for c in range(len(present)) if c == 0 or present[c]}
        best = max(means, key=lambda c: (means[c], -c))
        if means[best] > np.float32(thresholds[min(best, 1)]):
            labels[rest] = best
    return labels


def of_each_image(reference: Callable[..., Labels], *batch: Tensor, thresholds: tuple[float, float]) -> Tensor:
    """A reference on every image of a batch."""
    return torch.from_numpy(
        np.stack([reference(*image, *thresholds) for image in zip(*map(np.asarray, batch), strict=True)])
    )


def random_batch(draw: Any, *, classes: int, batch: int, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Seeds, probabilities and presence; many pixels are sure, many tie, few are seeds of any class."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    probabilities = random.integers(0, STEPS + 1, (batch, classes, height, width)) / np.float32(STEPS)
    density = draw(st.sampled_from([0.0, 0.05, 0.3, 1.0]))
    seeds = np.where(
        random.random((batch, height, width)) < density,
        random.integers(0, classes, (batch, height, width)),
        UNLABELLED,
    )
    present = random.random((batch, classes)) < draw(st.sampled_from([0.0, 0.5, 1.0]))
    return torch.from_numpy(seeds), torch.from_numpy(probabilities.astype(np.float32)), torch.from_numpy(present)


@st.composite
def batches(draw: Any) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[float, float]]:
    """A batch with odd sizes and thresholds that probabilities meet exactly."""
    sizes = {"classes": st.integers(1, 5), "batch": st.integers(1, 3), "height": st.integers(1, 9)}
    width = draw(st.integers(1, 21))
    batch = random_batch(draw, **{name: draw(size) for name, size in sizes.items()}, width=width)
    thresholds = (draw(st.integers(0, STEPS)) / STEPS, draw(st.integers(0, STEPS)) / STEPS)
    return batch, thresholds


def painted(rows: list[str]) -> tuple[Tensor, Tensor]:
    """Seeds and probabilities of one image drawn with characters.

    A digit is a seed, of which no class is sure; ``a`` is a pixel sure of background, ``b`` of class 1, ``c`` of class
    2; a dot is a pixel nobody is sure of.
    """
    cells = np.array([list(row) for row in rows])
    seeds = np.where(np.char.isdigit(cells), cells, str(UNLABELLED)).astype(np.int64)
    sure = np.stack([cells == letter for letter in "abc"])
    probabilities = np.where(sure, 1.0, np.where(sure.any(0), 0.0, 1 / 3)).astype(np.float32)
    return torch.from_numpy(seeds)[None], torch.from_numpy(probabilities)[None]


def shown(labels: Tensor) -> list[str]:
    """Labels of one image as characters; a dot is unlabelled."""
    return ["".join("." if label == UNLABELLED else str(label) for label in row) for row in labels[0].tolist()]


def everything(classes: int, batch: int = 1) -> Tensor:
    return torch.ones((batch, classes), dtype=torch.bool)


def spiral(size: int) -> npt.NDArray[np.bool_]:
    """One path, a pixel wide, from a corner to the middle."""
    path = np.zeros((size, size), dtype=bool)
    y, x, dy, dx = 0, 0, 0, 1
    path[0, 0] = True

    def free(v: int, u: int) -> bool:
        return 0 <= v < size and 0 <= u < size and not path[v, u]

    while True:
        for _ in range(2):
            ahead = (y + 2 * dy, x + 2 * dx)
            if free(y + dy, x + dx) and (not (0 <= ahead[0] < size and 0 <= ahead[1] < size) or not path[ahead]):
                break
            dy, dx = dx, -dy
        else:
            return path
        y, x = y + dy, x + dx
        path[y, x] = True


def comb(height: int, width: int) -> npt.NDArray[np.bool_]:
    """Teeth in every other column, joined in the last row: runs meet late."""
    path = np.zeros((height, width), dtype=bool)
    path[:, ::2] = True
    path[-1] = True
    return path


def snake(height: int, width: int) -> npt.NDArray[np.bool_]:
    """Columns that are joined in turn above and below."""
    path = np.zeros((height, width), dtype=bool)
    path[:, ::2] = True
    path[0, 1::4] = path[-1, 3::4] = True
    return path


def staircase(size: int) -> npt.NDArray[np.bool_]:
    """A diagonal: pixels touch at corners only."""
    return np.fliplr(np.eye(size, dtype=bool)).copy()


def on_path(path: npt.NDArray[np.bool_]) -> tuple[Tensor, Tensor, Tensor]:
    """Class 1 is sure along a path, whose first pixel is a seed; nobody else is sure of anything."""
    first = np.unravel_index(np.flatnonzero(path)[0], path.shape)
    seeds = torch.full((1, *path.shape), UNLABELLED)
    seeds[0][first] = 1
    inside = torch.from_numpy(path)
    return seeds, torch.stack([0.5 - 0.5 * inside.float(), 0.5 + 0.5 * inside.float()])[None], everything(2)


@settings(max_examples=100, deadline=None)
@given(drawn=batches())
def test_growing_equals_a_queue(drawn: tuple[tuple[Tensor, Tensor, Tensor], tuple[float, float]]) -> None:
    batch, thresholds = drawn
    expected = of_each_image(grown_by_queue, *batch, thresholds=thresholds)
    named: dict[str, Any] = dict(zip(("background_threshold", "foreground_threshold"), thresholds, strict=True))
    for grow in (grow_regions, regions_by_torch):
        assert torch.equal(grow(*batch, **named), expected)


@settings(max_examples=8, deadline=None)
@given(data=st.data(), height=st.integers(20, 40), width=st.integers(30, 50))
def test_growing_equals_a_queue_on_larger_maps(data: Any, height: int, width: int) -> None:
    batch = random_batch(data.draw, classes=3, batch=2, height=height, width=width)
    thresholds = (0.75, 0.5)
    expected = of_each_image(grown_by_queue, *batch, thresholds=thresholds)
    for grow in (grow_regions, regions_by_torch):
        assert torch.equal(grow(*batch, background_threshold=0.75, foreground_threshold=0.5), expected)


@REGION_PATHS
@pytest.mark.parametrize(
    "path",
    [spiral(41), spiral(20), comb(23, 37), comb(2, 64), snake(33, 41), snake(2, 33), staircase(30), comb(37, 23).T]
    + [np.ones(shape, dtype=bool) for shape in ((1, 1), (1, 2), (1, 77), (77, 1), (2, 2), (33, 65))],
    ids=lambda path: f"{path.shape[0]}x{path.shape[1]}",
)
def test_paths_are_followed_to_their_end(grow: Grow, path: npt.NDArray[np.bool_]) -> None:
    grown = grow(*on_path(path))
    assert torch.equal(grown[0] == 1, torch.from_numpy(path))
    assert set(grown.unique().tolist()) <= {1, UNLABELLED}


@REGION_PATHS
@pytest.mark.parametrize("density", [0.3, 0.4, 0.45, 0.5, 0.6, 0.7])
def test_components_of_percolation_equal_scipy(grow: Grow, density: float) -> None:
    path = np.random.default_rng(int(100 * density)).random((67, 91)) < density
    components, _ = ndimage.label(path, np.ones((3, 3)))
    first = components.ravel()[np.flatnonzero(path)[0]]
    grown = grow(*on_path(path))
    assert np.array_equal(grown[0].numpy() == 1, components == first)


@REGION_PATHS
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (["1bb", "..b", "b.."], ["111", "..1", "..."]),  # a pixel away is too far
        (["1..", ".b.", "..b"], ["1..", ".1.", "..1"]),  # diagonal contact
        (["..1", ".b.", "b.."], ["..1", ".1.", "1.."]),
        (["1b2bb"], ["112.."]),  # another class's seed does not conduct, and is not overridden
        (["b12cb"], ["1122."]),
        (["1b2", "bbb"], ["112", "111"]),  # but a way around it does
        (["1.1", "..."], ["1.1", "..."]),  # seeds nobody is sure of stay seeds
        (["1a2", "aaa"], ["1.2", "..."]),  # background without a seed does not spread
        (["0aa", "bb1"], ["000", "111"]),
        (["0bc1", "cccc"], ["0.." + "1", "...."]),
        (["abc"], ["..."]),  # no seeds at all
    ],
    ids=lambda rows: "/".join(rows),
)
def test_small_pictures(grow: Grow, before: list[str], after: list[str]) -> None:
    assert shown(grow(*painted(before), everything(3))) == after


@REGION_PATHS
def test_images_of_a_batch_do_not_touch(grow: Grow) -> None:
    seeds, probabilities = painted(["bbb", "b1b"])
    seeds, probabilities = torch.cat([seeds, torch.full_like(seeds, 255)]), torch.cat([probabilities] * 2)
    assert grow(seeds, probabilities, everything(3, 2)).flatten(1).tolist() == [[1] * 6, [255] * 6]


@REGION_PATHS
def test_absent_classes_do_not_compete(grow: Grow) -> None:
    seeds = torch.tensor([[[1, 255, 2, 255]]])
    probabilities = torch.tensor([0.0, 0.9, 1.0]).view(1, 3, 1, 1).expand(-1, -1, 1, 4)
    both, first, neither = ([[True, True, True]], [[False, True, False]], [[True, False, False]])
    assert grow(seeds, probabilities, torch.tensor(both)).flatten().tolist() == [1, 2, 2, 2]
    assert grow(seeds, probabilities, torch.tensor(first)).flatten().tolist() == [1, 1, 2, 255]
    assert grow(seeds, probabilities, torch.tensor(neither)).flatten().tolist() == [1, 255, 2, 255]


@REGION_PATHS
def test_background_always_competes(grow: Grow) -> None:
    seeds = torch.tensor([[[0, 255, 255]]])
    probabilities = torch.tensor([[[[1.0, 1.0, 0.5]], [[0.0, 0.0, 0.5]]]])
    assert grow(seeds, probabilities, torch.zeros((1, 2), dtype=torch.bool)).flatten().tolist() == [0, 0, 255]


@REGION_PATHS
def test_a_tagged_class_that_is_never_predicted_stays_with_its_seeds(grow: Grow) -> None:
    seeds = torch.tensor([[[2, 255, 1]]])
    probabilities = torch.tensor([0.0, 1.0, 0.0]).view(1, 3, 1, 1).expand(-1, -1, 1, 3)
    assert grow(seeds, probabilities, everything(3)).flatten().tolist() == [2, 1, 1]


@REGION_PATHS
def test_thresholds_are_reached_not_exceeded_and_ties_go_to_the_lowest_class(grow: Grow) -> None:
    seeds = torch.tensor([[[0, 255], [1, 255]]])
    probabilities = torch.tensor([[[[0.5, 0.5], [0.25, 0.25]], [[0.5, 0.5], [0.75, 0.75]]]])
    limits: dict[str, Any] = {"background_threshold": 0.5, "foreground_threshold": 0.75}
    assert grow(seeds, probabilities, everything(2), **limits).flatten().tolist() == [0, 0, 1, 1]
    limits = {"background_threshold": 0.51, "foreground_threshold": 0.5}
    assert grow(seeds, probabilities, everything(2), **limits).flatten().tolist() == [0, 255, 1, 1]


@REGION_PATHS
def test_not_a_number_is_never_sure(grow: Grow) -> None:
    seeds = torch.tensor([[[1, 255, 255, 255]]])
    nan = float("nan")
    probabilities = torch.tensor([[[[0.0, nan, 0.0, nan]], [[1.0, 1.0, nan, nan]]]])
    grown = grow(seeds, probabilities, everything(2), background_threshold=0.0, foreground_threshold=0.5)
    assert grown.flatten().tolist() == [1, 1, 255, 255]


@REGION_PATHS
def test_probabilities_are_compared_as_float32(grow: Grow) -> None:
    seeds = torch.tensor([[[1, 255]]])
    probabilities = torch.tensor([0.1, 0.9]).view(1, 2, 1, 1).expand(-1, -1, 1, 2)
    for kind, last in ((torch.float32, 1), (torch.float64, 1), (torch.bfloat16, 255), (torch.float16, 255)):
        grown = grow(seeds, probabilities.to(kind), everything(2), foreground_threshold=0.9)
        assert grown.flatten().tolist() == [1, last]


def many(classes: int = 4, batch: int = 5, height: int = 29, width: int = 31) -> tuple[Tensor, Tensor, Tensor]:
    """A batch in which some pixels are seeds, many are grown and many are not."""
    generator = torch.Generator().manual_seed(7)
    probabilities = (6 * torch.rand((batch, classes, height, width), generator=generator)).softmax(1)
    seeds = torch.randint(0, classes, (batch, height, width), generator=generator)
    chosen = torch.rand(seeds.shape, generator=generator) < 0.05
    present = torch.rand((batch, classes), generator=generator) < 0.7
    return seeds.where(chosen, UNLABELLED), probabilities, present


LOW: dict[str, Any] = {"background_threshold": 0.6, "foreground_threshold": 0.5}


@REGION_PATHS
@pytest.mark.parametrize("kind", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_labels_are_of_the_seeds_type(grow: Grow, kind: torch.dtype) -> None:
    seeds, probabilities, present = many()
    expected = grow(seeds, probabilities, present, **LOW)
    assert (seeds != UNLABELLED).sum() < (expected != UNLABELLED).sum() < expected.numel()
    grown = grow(seeds.to(kind), probabilities, present, **LOW)
    assert grown.dtype == kind
    assert torch.equal(grown.long(), expected)


@REGION_PATHS
def test_inputs_keep_their_values_and_may_lie_in_memory_in_any_way(grow: Grow) -> None:
    seeds, probabilities, present = many()
    originals = (seeds.clone(), probabilities.clone(), present.clone())
    expected = grow(seeds, probabilities, present, **LOW)
    for kept, original in zip((seeds, probabilities, present), originals, strict=True):
        assert torch.equal(kept, original)
    turned = (
        seeds.mT.contiguous().mT,
        probabilities.to(memory_format=torch.channels_last).requires_grad_(),
        present.mT.contiguous().mT,
    )
    grown = grow(*turned, **LOW)
    assert torch.equal(grown, expected)
    assert not grown.requires_grad


@REGION_PATHS
def test_autocast_changes_nothing(grow: Grow) -> None:
    batch = many()
    expected = grow(*batch, **LOW)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(grow(*batch, **LOW), expected)


@REGION_PATHS
def test_as_many_classes_as_labels_have(grow: Grow) -> None:
    probabilities = torch.zeros((1, 255, 1, 3))
    probabilities[:, 254] = 1
    seeds = torch.tensor([[[254, 255, 255]]], dtype=torch.uint8)
    assert grow(seeds, probabilities, everything(255)).flatten().tolist() == [254] * 3


def test_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(region_growing, "LEAST_PIXELS", 1)
    seeds, probabilities, present = many()
    superpixels = (torch.arange(seeds.numel()) // 7 % 50).view_as(seeds)
    regions = grow_regions(seeds, probabilities, present, **LOW)
    cells = grow_superpixels(seeds, probabilities, superpixels, present, foreground_threshold=0.3)
    for threads in (2, 3, 99):
        assert torch.equal(grow_regions(seeds, probabilities, present, **LOW, threads=threads), regions)
        again = grow_superpixels(seeds, probabilities, superpixels, present, foreground_threshold=0.3, threads=threads)
        assert torch.equal(again, cells)
    seeds[-1, 0, 0] = 99
    with pytest.raises(DataError, match="seed label 99"):
        grow_regions(seeds, probabilities, present, threads=2)


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 3, 0)])
def test_nothing_grows_to_nothing(shape: tuple[int, int, int]) -> None:
    seeds = torch.empty(shape, dtype=torch.uint8)
    probabilities = torch.empty((shape[0], 2, *shape[1:]))
    present = everything(2, shape[0])
    for grown in (grow_regions(seeds, probabilities, present), grow_superpixels(seeds, probabilities, seeds, present)):
        assert grown.shape == shape
        assert grown.dtype == torch.uint8


class NoRoundTrip(TorchFunctionMode):
    """Refuses calls whose result the host has to wait for."""

    REFUSED = (
        "item",
        "tolist",
        "__bool__",
        "__int__",
        "__index__",
        "nonzero",
        "masked_select",
        "unique",
        "equal",
        "cpu",
    )

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func.__name__ not in self.REFUSED
        if func.__name__ in ("__getitem__", "__setitem__"):
            assert getattr(args[1], "dtype", None) != torch.bool
        return func(*args, **(kwargs or {}))


def test_a_device_is_never_asked() -> None:
    seeds, probabilities, present = many()
    with NoRoundTrip():
        regions_by_torch(seeds, probabilities, present)
        superpixels_by_torch(seeds, probabilities, seeds, present, superpixel_count=9)
        with pytest.raises(AssertionError):
            superpixels_by_torch(seeds, probabilities, seeds, present, superpixel_count=int(seeds.max()))


def test_other_devices_take_the_path_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = [tensor.to("meta") for tensor in many()]
    monkeypatch.setattr(region_growing, "_grow_regions_by_torch", lambda *inputs: ("regions", *inputs[3:]))
    monkeypatch.setattr(region_growing, "_grow_superpixels_by_torch", lambda *inputs: ("superpixels", *inputs[4:]))
    limits: dict[str, Any] = {"background_threshold": 0.25, "foreground_threshold": 0.5}
    assert grow_regions(*inputs, **limits) == ("regions", 0.25, 0.5)
    found = grow_superpixels(inputs[0], inputs[1], inputs[0], inputs[2], superpixel_count=9, **limits)
    assert found == ("superpixels", 9, 0.25, 0.5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_equals_the_cpu() -> None:
    batch = many(classes=21, batch=16, height=81, width=81)
    superpixels = (torch.arange(batch[0].numel()) // 7 % 50).view_as(batch[0])
    on_device = [tensor.to("cuda") for tensor in batch]
    grown = grow_regions(*on_device, **LOW)
    assert grown.is_cuda
    assert torch.equal(grown.cpu(), grow_regions(*batch, **LOW))
    limits: dict[str, Any] = {"background_threshold": 0.05, "foreground_threshold": 0.05}
    expected = grow_superpixels(batch[0], batch[1], superpixels, batch[2], **limits)
    grown = grow_superpixels(on_device[0], on_device[1], superpixels.to("cuda"), on_device[2], **limits)
    assert (grown.cpu() == expected).float().mean() > 0.999  # sums in float32, in any order


@pytest.mark.parametrize("label", [2, 77, 254, 256, -1, 2**20 + 1, 255 - 2**16])
def test_strange_seeds_are_named(label: int) -> None:
    seeds = torch.full((2, 3, 40), 255)
    seeds[0, 0, 0] = 1
    seeds[1, 2, 30] = label
    probabilities = torch.full((2, 2, 3, 40), 0.5)
    message = rf"^seed label {label} is none of the classes 0..1 and not 255$"
    with pytest.raises(DataError, match=message):
        grow_regions(seeds, probabilities, everything(2, 2))
    with pytest.raises(DataError, match=message):
        grow_superpixels(seeds, probabilities, torch.zeros_like(seeds), everything(2, 2))


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"probabilities": torch.ones((1, 2, 3))}, r"floats of shape \(B, C, H, W\)"),
        ({"probabilities": torch.ones((1, 2, 3, 4), dtype=torch.int64)}, "floats"),
        ({"probabilities": torch.ones((1, 256, 3, 4))}, "256 classes"),
        ({"probabilities": torch.ones((1, 0, 3, 4))}, "0 classes"),
        ({"seeds": torch.zeros((1, 4, 3), dtype=torch.int64)}, r"seeds must be integers of shape \(1, 3, 4\)"),
        ({"seeds": torch.zeros((1, 3, 4))}, "seeds must be integers"),
        ({"seeds": torch.zeros((1, 3, 4), dtype=torch.bool)}, "seeds must be integers"),
        ({"seeds": torch.zeros((1, 3, 4), dtype=torch.complex64)}, "seeds must be integers .* not torch.complex64"),
        ({"seeds": torch.zeros((1, 3, 4), dtype=torch.uint64)}, "seeds must be integers .* not torch.uint64"),
        ({"seeds": torch.zeros((1, 3, 4), dtype=torch.int8)}, "cannot hold 255"),
        ({"seeds": torch.zeros((1, 3, 4), dtype=torch.int64, device="meta")}, "seeds is on meta"),
        ({"present": torch.ones((1, 3), dtype=torch.bool)}, r"present must be bool of shape \(1, 2\)"),
        ({"present": torch.ones((1, 2))}, "present must be bool"),
        ({"present": torch.ones((1, 2), dtype=torch.bool, device="meta")}, "present is on meta"),
    ],
)
def test_wrong_inputs_are_refused(replaced: dict[str, Tensor], message: str) -> None:
    inputs: dict[str, Any] = {
        "seeds": torch.zeros((1, 3, 4), dtype=torch.int64),
        "probabilities": torch.full((1, 2, 3, 4), 0.5),
        "present": everything(2),
    } | replaced
    with pytest.raises(DataError, match=message):
        grow_regions(**inputs)
    with pytest.raises(DataError, match=message):
        grow_superpixels(**inputs, superpixels=torch.zeros((1, 3, 4), dtype=torch.int64))


@pytest.mark.parametrize(
    "wrong",
    [
        {"background_threshold": 1.01},
        {"background_threshold": float("nan")},
        {"foreground_threshold": -0.1},
        {"threads": 0},
    ],
    ids=str,
)
def test_impossible_settings_are_refused(wrong: dict[str, Any]) -> None:
    seeds, probabilities, present = many()
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        grow_regions(seeds, probabilities, present, **wrong)
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        grow_superpixels(seeds, probabilities, torch.zeros_like(seeds), present, **wrong)


@settings(max_examples=100, deadline=None)
@given(drawn=batches(), data=st.data())
def test_superpixel_growing_equals_a_loop(
    drawn: tuple[tuple[Tensor, Tensor, Tensor], tuple[float, float]], data: Any
) -> None:
    (seeds, probabilities, present), thresholds = drawn
    random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    count = data.draw(st.integers(1, 12))
    superpixels = torch.from_numpy(random.integers(data.draw(st.sampled_from([-1, 0])), count, seeds.shape))
    superpixels = superpixels.sort(-1).values  # runs as well as single pixels
    batch = (seeds, probabilities, superpixels, present)
    expected = of_each_image(grown_by_loop, *batch, thresholds=thresholds)
    named: dict[str, Any] = dict(zip(("background_threshold", "foreground_threshold"), thresholds, strict=True))
    for grow in (grow_superpixels, superpixels_by_torch):
        assert torch.equal(grow(*batch, **named), expected)
        assert torch.equal(grow(*batch, **named, superpixel_count=count), expected)


@SUPERPIXEL_PATHS
def test_only_pixels_without_a_seed_count_and_the_threshold_must_be_exceeded(grow: Grow) -> None:
    seeds = torch.tensor([[[2, 255, 255, 255, 1]]])
    superpixels = torch.tensor([[[0, 0, 0, 3, 7]]])
    probabilities = torch.tensor(
        [[[[0.0, 0.0, 0.5, 0.75, 0.0]], [[0.0, 1.0, 0.5, 0.0, 0.0]], [[1.0, 0.0, 0.0, 0.25, 1.0]]]]
    )
    grown = grow(seeds, probabilities, superpixels, everything(3))
    assert grown.flatten().tolist() == [2, 1, 1, 0, 1]  # 7 has nothing left to grow into
    grown = grow(seeds, probabilities, superpixels, everything(3), background_threshold=0.75)
    assert grown.flatten().tolist() == [2, 1, 1, 255, 1]
    grown = grow(seeds, probabilities, superpixels, everything(3), foreground_threshold=0.75)
    assert grown.flatten().tolist() == [2, 255, 255, 0, 1]


def test_a_mean_on_the_threshold_is_not_above_it() -> None:
    """float32 sums of 0.7 would drift away from multiples of it."""
    probabilities = torch.tensor([0.3, 0.7]).view(1, 2, 1, 1).expand(-1, -1, 57, 63)
    seeds = torch.full((1, 57, 63), UNLABELLED)
    grown = grow_superpixels(seeds, probabilities, torch.zeros_like(seeds), everything(2))
    assert (grown == UNLABELLED).all()
    grown = grow_superpixels(seeds, probabilities, torch.zeros_like(seeds), everything(2), foreground_threshold=0.6999)
    assert (grown == 1).all()


@SUPERPIXEL_PATHS
@pytest.mark.parametrize("kind", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_superpixels_of_any_type(grow: Grow, kind: torch.dtype) -> None:
    seeds, probabilities, present = many()
    superpixels = (torch.arange(seeds.numel()) // 7 % 50).view_as(seeds)
    limits: dict[str, Any] = {"background_threshold": 0.27, "foreground_threshold": 0.3}
    expected = grow(seeds, probabilities, superpixels, present, **limits)
    assert (seeds != UNLABELLED).sum() < (expected != UNLABELLED).sum() < expected.numel()
    for same in (seeds, seeds.to(kind)):
        grown = grow(same, probabilities, superpixels.to(kind), present, **limits)
        assert grown.dtype == same.dtype
        assert torch.equal(grown.long(), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(grow(seeds, probabilities, superpixels, present, **limits), expected)
    halves = grow(seeds, probabilities.half().requires_grad_(), superpixels, present, **limits)
    assert (halves == expected).float().mean() > 0.95
    assert not halves.requires_grad


@pytest.mark.parametrize("kind", [torch.uint16, torch.uint32])
def test_superpixels_of_types_torch_does_not_compute_with(kind: torch.dtype) -> None:
    seeds, probabilities, present = many()
    superpixels = (torch.arange(seeds.numel()) // 7 % 50).view_as(seeds)
    expected = grow_superpixels(seeds, probabilities, superpixels, present)
    assert torch.equal(grow_superpixels(seeds, probabilities, superpixels.to(kind), present), expected)


@SUPERPIXEL_PATHS
def test_not_a_number_keeps_a_class_out_of_a_superpixel(grow: Grow) -> None:
    seeds = torch.full((1, 1, 4), UNLABELLED)
    probabilities = torch.tensor([[[[0.8, 0.8, 0.0, 0.0]], [[float("nan"), 1.0, 1.0, 1.0]]]])
    grown = grow(seeds, probabilities, torch.tensor([[[0, 0, 1, 1]]]), everything(2))
    assert grown.flatten().tolist() == [0, 0, 1, 1]


def test_superpixels_outside_of_the_count() -> None:
    seeds = torch.full((1, 1, 4), UNLABELLED)
    probabilities = torch.tensor([0.0, 1.0]).view(1, 2, 1, 1).expand(-1, -1, 1, 4)
    superpixels = torch.tensor([[[0, 1, 2, 2**40]]])
    with pytest.raises(DataError, match=r"^superpixel 2, but superpixel_count is 2$"):
        grow_superpixels(seeds, probabilities, superpixels, everything(2), superpixel_count=2)
    grown = superpixels_by_torch(seeds, probabilities, superpixels, everything(2), superpixel_count=2)
    assert grown.flatten().tolist() == [1, 1, 255, 255]
    with pytest.raises(SettingsError, match="superpixel_count must be between 1 and 16777216, not 0"):
        grow_superpixels(seeds, probabilities, superpixels, everything(2), superpixel_count=0)
    with pytest.raises(DataError, match="superpixels must be integers"):
        grow_superpixels(seeds, probabilities, superpixels.float(), everything(2))


@pytest.mark.parametrize("kind", [torch.int32, torch.int64])
def test_absurd_numbers_of_superpixels(kind: torch.dtype) -> None:
    seeds = torch.full((1, 1, 4), UNLABELLED)
    superpixels = torch.zeros_like(seeds, dtype=kind)
    probabilities = torch.tensor([0.0, 1.0]).view(1, 2, 1, 1).expand(-1, -1, 1, 4)
    for count in (2**24 + 1, 2**31, 2**33, 2**60, 2**64):
        with pytest.raises(SettingsError, match=f"^superpixel_count must be between 1 and 16777216, not {count}$"):
            grow_superpixels(seeds, probabilities, superpixels, everything(2), superpixel_count=count)
    for highest in (2**24, torch.iinfo(kind).max):
        superpixels[0, 0, 2] = highest
        with pytest.raises(DataError, match=f"^superpixels hold id {highest}; ids below 16777216 are possible$"):
            grow_superpixels(seeds, probabilities, superpixels, everything(2))


def test_the_largest_number_of_superpixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(region_growing, "MAX_SUPERPIXELS", 5)
    seeds = torch.full((1, 1, 4), UNLABELLED)
    probabilities = torch.tensor([0.0, 1.0]).view(1, 2, 1, 1).expand(-1, -1, 1, 4)
    for count in (None, 5):
        grown = grow_superpixels(seeds, probabilities, torch.full_like(seeds, 4), everything(2), superpixel_count=count)
        assert (grown == 1).all()


def test_a_map_without_superpixels_keeps_its_seeds() -> None:
    seeds = torch.tensor([[[1, 255]]])
    probabilities = torch.tensor([0.0, 1.0]).view(1, 2, 1, 1).expand(-1, -1, 1, 2)
    assert torch.equal(grow_superpixels(seeds, probabilities, torch.full_like(seeds, -1), everything(2)), seeds)
