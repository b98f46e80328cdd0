"""The random walk against powers of the dense transition matrix."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tag2mask.data.neighbours import pair_offsets
from tag2mask.errors import DataError, SettingsError
from tag2mask.evidence.affinity import pair_affinities
from tag2mask.refine import _random_walk
from tag2mask.refine import random_walk as module
from tag2mask.refine.random_walk import power_coefficients, random_walk

Floats = npt.NDArray[np.floating[Any]]


def weight_matrix(affinities: Floats, radius: int) -> npt.NDArray[np.float64]:
    """W with 1 on its diagonal, one entry after the other, (H W, H W)."""
    _, height, width = affinities.shape
    weights = np.eye(height * width)
    for plane, (dy, dx) in zip(affinities, pair_offsets(radius), strict=True):
        for y in range(height):
            for x in range(width):
                if 0 <= y + dy < height and 0 <= x + dx < width:
                    here, there = y * width + x, (y + dy) * width + x + dx
                    weights[here, there] = weights[there, here] = plane[y, x]
    return weights


def transition_matrix(affinities: Floats, radius: int, beta: float) -> npt.NDArray[np.float64]:
    """T = D^-1 W^(o beta)."""
    powers = weight_matrix(affinities.astype(np.float64), radius) ** beta
    return powers / powers.sum(axis=1, keepdims=True)


def by_definition(maps: Floats, affinities: Floats, radius: int, beta: float, steps: int) -> npt.NDArray[np.float64]:
    """T^steps maps in float64, by a power of the dense matrix."""
    power = np.linalg.matrix_power(transition_matrix(affinities, radius, beta), steps)
    return (maps.reshape(len(maps), -1).astype(np.float64) @ power.T).reshape(maps.shape)


def random_inputs(
    classes: int, height: int, width: int, radius: int, seed: int = 0
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Maps and affinities; the latter anything between 0 and 1, some exactly that, and nonsense outside."""
    rng = np.random.default_rng(seed)
    affinities = rng.random((len(pair_offsets(radius)), height, width), dtype=np.float32) ** 0.2
    affinities[rng.random(affinities.shape) < 0.2] = 1
    affinities[rng.random(affinities.shape) < 0.2] = 0
    return rng.random((classes, height, width), dtype=np.float32), affinities


def by_gathering(maps: Floats, affinities: Floats, radius: int, beta: float, steps: int) -> Floats:
    """The path of other devices, on the CPU."""
    with mock.patch.object(module, "_walked_by_kernel", module._walked_by_gathering):
        return compiled(maps, affinities, radius, beta, steps)


def compiled(maps: Floats, affinities: Floats, radius: int, beta: float, steps: int) -> Floats:
    return random_walk(maps, affinities, radius=radius, beta=beta, steps=steps)


PATHS = pytest.mark.parametrize("path", [compiled, by_gathering])
Walk = Callable[[Floats, Floats, int, float, int], Floats]


@PATHS
@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 14),
    st.integers(1, 9),
    st.integers(1, 19),
    st.integers(1, 5),
    st.sampled_from([0.5, 1.0, 8.0]),
    st.sampled_from([1, 2, 3, 4, 7, 32, 101, 256]),
    st.integers(0, 999),
)
def test_equals_the_dense_power(
    path: Walk, classes: int, height: int, width: int, radius: int, beta: float, steps: int, seed: int
) -> None:
    maps, affinities = random_inputs(classes, height, width, radius, seed)
    expected = by_definition(maps, affinities, radius, beta, steps)
    np.testing.assert_allclose(path(maps, affinities, radius, beta, steps), expected, rtol=0, atol=1e-5)


@PATHS
def test_a_long_walk_on_a_larger_grid(path: Walk) -> None:
    maps, affinities = random_inputs(5, 23, 31, 5)
    expected = by_definition(maps, affinities, 5, 8.0, 1000)
    np.testing.assert_allclose(path(maps, affinities, 5, 8.0, 1000), expected, rtol=0, atol=2e-5)


@PATHS
@pytest.mark.parametrize(
    ("radius", "beta", "steps", "bound"), [(5, 8.0, 256, 1e-6), (5, 8.0, 4096, 5e-6), (2, 100.0, 1000, 5e-5)]
)
def test_rounding_is_what_the_documentation_says(
    path: Walk, radius: int, beta: float, steps: int, bound: float
) -> None:
    rng = np.random.default_rng(0)
    maps = rng.random((3, 16, 16), dtype=np.float32)
    affinities = rng.random((len(pair_offsets(radius)), 16, 16), dtype=np.float32)
    expected = by_definition(maps, affinities, radius, beta, steps)
    assert np.abs(path(maps, affinities, radius, beta, steps) - expected).max() < bound


@PATHS
def test_affinities_outside_do_not_count_while_they_are_finite(path: Walk) -> None:
    maps, affinities = random_inputs(2, 4, 5, 2)
    expected = path(maps, affinities, 2, 8.0, 16)
    for plane, (dy, dx) in zip(affinities, pair_offsets(2), strict=True):
        y, x = np.mgrid[:4, :5]
        plane[(y + dy >= 4) | (x + dx < 0) | (x + dx >= 5)] = 1e4
    np.testing.assert_array_equal(path(maps, affinities, 2, 8.0, 16), expected)


@PATHS
@pytest.mark.parametrize(
    ("maps", "scale", "message"),
    [
        (np.full((1, 4, 5), 1e300), 1.0, "maps overflow float32"),
        (np.full((1, 4, 5), 3e38, np.float32), 1.0, "maps overflow float32"),
        (np.tile(np.array([3e38, -3e38], np.float32), 10).reshape(1, 4, 5), 1.0, "maps overflow float32"),
        (np.zeros((1, 4, 5), np.float32), 1e6, "affinities raised to beta overflow float32"),
        (np.zeros((1, 4, 5), np.float32), 1e200, "affinities raised to beta overflow float32"),
    ],
)
def test_numbers_that_overflow_are_refused(path: Walk, maps: Floats, scale: float, message: str) -> None:
    with pytest.raises(DataError, match=message):
        path(maps, np.full((4, 4, 5), scale), 2, 8.0, 4)


def test_w_is_symmetric_and_t_row_stochastic() -> None:
    # one step of maps that are 1 in a single pixel each are the columns of T
    height, width = 5, 7
    features = torch.randn((4, height, width), generator=torch.Generator().manual_seed(0))
    affinities = pair_affinities(features, 3).numpy()
    weights = weight_matrix(affinities, 3)
    np.testing.assert_array_equal(weights, weights.T)
    basis = np.eye(height * width, dtype=np.float32).reshape(-1, height, width)
    transitions = random_walk(basis, affinities, radius=3, steps=1).reshape(height * width, -1).T
    np.testing.assert_allclose(transitions.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(transitions, transition_matrix(affinities, 3, 8.0), atol=1e-7)
    sums = (weights**8).sum(axis=1)
    np.testing.assert_allclose(transitions * sums[:, None], (transitions * sums[:, None]).T, atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, -1e6])
def test_a_constant_map_is_a_fixed_point(value: float) -> None:
    _, affinities = random_inputs(1, 13, 17, 5)
    constant = np.full((2, 13, 17), value, np.float32)
    np.testing.assert_array_equal(random_walk(constant, affinities, radius=5), constant)


def test_values_stay_between_the_least_and_the_greatest() -> None:
    maps, affinities = random_inputs(4, 12, 15, 4)
    maps[:, :6] = 0
    maps[:, 6:] = 1
    affinities[:] = 0  # nobody moves: the series must give back zeros and ones
    for steps in (1, 5, 256):
        np.testing.assert_array_equal(random_walk(maps, affinities, radius=4, steps=steps), maps)


def test_nothing_crosses_a_border_without_affinity() -> None:
    maps, affinities = np.zeros((1, 6, 10), np.float32), np.ones((len(pair_offsets(3)), 6, 10), np.float32)
    maps[0, 2, 2] = 1
    for plane, (_, dx) in zip(affinities, pair_offsets(3), strict=True):
        columns = np.arange(10)
        plane[:, (columns < 5) != (columns + dx < 5)] = 0
    walked = random_walk(maps, affinities, radius=3)
    assert walked[0, :, 5:].max() < 1e-6
    assert walked[0, :, :5].min() > 0.01


def test_the_float32_error_stays_near_rounding_on_a_photograph(shared_data: Path) -> None:
    photo = Image.open(next(iter(sorted((shared_data / "voc12-small").rglob("*.jpg"))))).convert("RGB").resize((31, 24))
    features = torch.from_numpy(np.asarray(photo, np.float32).transpose(2, 0, 1) / 64)
    affinities = pair_affinities(features, 5).numpy()
    maps = np.asarray(photo, np.float32).transpose(2, 0, 1) / 255
    expected = by_definition(maps, affinities, 5, 8.0, 256)
    assert np.abs(compiled(maps, affinities, 5, 8.0, 256) - expected).max() < 3e-6


@given(st.integers(1, 600))
@settings(max_examples=40, deadline=None)
def test_the_series_is_the_power(steps: int) -> None:
    coefficients = power_coefficients(steps)
    x = np.linspace(-1, 1, 301)
    np.testing.assert_allclose(
        np.polynomial.chebyshev.chebval(x, coefficients.astype(np.float64)), x**steps, rtol=0, atol=3e-7
    )
    assert len(coefficients) <= min(steps, math.ceil(math.sqrt(2 * steps * math.log(2e9)))) + 1


def test_a_hundred_products_stand_for_256_steps() -> None:
    assert len(power_coefficients(256)) - 1 == 96


def test_same_input_same_bits() -> None:
    maps, affinities = random_inputs(7, 19, 33, 5)
    first, second = (random_walk(maps, affinities, radius=5).tobytes() for _ in range(2))
    assert first == second


def test_classes_do_not_know_of_each_other() -> None:
    maps, affinities = random_inputs(13, 9, 18, 4)
    together = random_walk(maps, affinities, radius=4)
    for index in range(13):
        np.testing.assert_array_equal(together[index], random_walk(maps[index : index + 1], affinities, radius=4)[0])


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_kinds_of_numbers_and_arrays(kind: type) -> None:
    maps, affinities = random_inputs(3, 8, 9, 3)
    maps, affinities = maps.astype(kind), affinities.astype(kind)
    kept = maps.copy()
    maps.setflags(write=False)
    walked = random_walk(maps, affinities, radius=3)
    assert walked.dtype == np.float32
    as_tensors = random_walk(torch.from_numpy(kept).requires_grad_(), torch.from_numpy(affinities), radius=3)
    assert isinstance(as_tensors, torch.Tensor)
    assert not as_tensors.requires_grad
    np.testing.assert_array_equal(as_tensors.numpy(), walked)
    np.testing.assert_array_equal(maps, kept)
    backwards = random_walk(maps[::-1], torch.from_numpy(affinities), radius=3)
    np.testing.assert_array_equal(backwards, walked[::-1])


@pytest.mark.parametrize("shape", [(0, 4, 5), (2, 0, 5), (2, 4, 0)])
def test_nothing_walks_nowhere(shape: tuple[int, int, int]) -> None:
    affinities = np.ones((4, *shape[1:]), np.float32)
    assert random_walk(np.zeros(shape, np.float32), affinities, radius=2).shape == shape


def test_radius_one_leaves_maps_as_they_are() -> None:
    maps, _ = random_inputs(2, 3, 4, 1)
    np.testing.assert_allclose(random_walk(maps, np.zeros((0, 3, 4), np.float32), radius=1), maps, atol=1e-7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"maps": np.zeros((4, 5), np.float32)}, r"maps must be floats of shape \(C, H, W\)"),
        ({"maps": np.zeros((1, 4, 5), np.int64)}, "maps must be floats"),
        ({"maps": np.full((1, 4, 5), np.nan, np.float32)}, "maps must be finite"),
        ({"maps": np.full((1, 4, 5), np.inf, np.float32)}, "maps must be finite"),
        ({"affinities": np.zeros((3, 4, 5), np.float32)}, r"affinities must be floats of shape \(4, 4, 5\) for radius"),
        ({"affinities": np.zeros((4, 5, 4), np.float32)}, "affinities must be floats of shape"),
        ({"affinities": np.zeros((4, 4, 5), np.int64)}, "affinities must be floats"),
        ({"affinities": np.full((4, 4, 5), -0.1, np.float32)}, "affinities must be 0 or more"),
        ({"affinities": np.full((4, 4, 5), np.nan, np.float32)}, "affinities must be 0 or more"),
        ({"affinities": np.full((4, 4, 5), np.inf, np.float32)}, "affinities must be 0 or more"),
    ],
)
def test_unusable_data_is_refused(change: dict[str, Any], message: str) -> None:
    arguments = {"maps": np.zeros((1, 4, 5), np.float32), "affinities": np.zeros((4, 4, 5), np.float32), **change}
    with pytest.raises(DataError, match=message):
        random_walk(**arguments, radius=2)


@pytest.mark.parametrize(
    "change", [{"radius": 0}, {"beta": 0.0}, {"beta": -1.0}, {"beta": math.nan}, {"beta": math.inf}, {"steps": 0}]
)
def test_settings_out_of_range_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=f"{next(iter(change))} must be"):
        random_walk(np.zeros((1, 4, 5), np.float32), np.zeros((4, 4, 5), np.float32), **{"radius": 2, **change})


def test_the_compiled_kernel_checks_what_it_would_read() -> None:
    maps, weights = np.zeros((1, 4, 5), np.float32), np.zeros((4, 4, 5), np.float32)
    offsets, coefficients = np.array(pair_offsets(2), np.int32), power_coefficients(4)
    wrong = [
        (maps, weights[:, :3].copy(), offsets, coefficients, maps.copy()),
        (maps, weights, offsets[:1], coefficients, maps.copy()),
        (maps, weights, offsets, coefficients[:0], maps.copy()),
        (maps, weights, offsets, coefficients, maps[:, :3].copy()),
    ]
    for arguments in wrong:
        with pytest.raises(ValueError, match=r"differ|no coefficients"):
            _random_walk.walk(*arguments)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_gives_the_cpus_maps() -> None:
    maps, affinities = random_inputs(21, 47, 62, 5)
    on_device = random_walk(torch.from_numpy(maps).to("cuda"), torch.from_numpy(affinities).to("cuda"), radius=5)
    assert on_device.is_cuda
    np.testing.assert_allclose(on_device.cpu().numpy(), random_walk(maps, affinities, radius=5), rtol=0, atol=1e-5)
