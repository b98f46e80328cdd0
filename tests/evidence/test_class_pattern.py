"""Class patterns against NumPy and scikit-learn on stacked features."""

import importlib
import os
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tag2mask.errors import DataError, SettingsError
from tag2mask.evidence.class_pattern import ClassStatistics, orient, pattern_labels, principal_components, project

CLASSES, DIMENSIONS = 5, 12
Floats = npt.NDArray[np.floating[Any]]
Photograph = tuple[Floats, list[int], Floats]


def needed(module: str) -> ModuleType:
    """A package of the bench extra: these tests may be skipped without it, but not on CI."""
    return importlib.import_module(module) if os.environ.get("CI") == "true" else pytest.importorskip(module)


def photographs(count: int = 9, *, seed: int = 0, mean: float = 1.0, dtype: type = np.float64) -> list[Photograph]:
    """Features with one strong direction, one to three classes and CAMs that follow that direction."""
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=DIMENSIONS)
    drawn = []
    for _ in range(count):
        pixels = int(rng.integers(1, 60))
        strength = rng.normal(size=pixels) * 3 + rng.normal()
        features = mean + strength[:, None] * direction + rng.normal(size=(pixels, DIMENSIONS)) * rng.random(DIMENSIONS)
        classes = rng.choice(np.arange(1, CLASSES), int(rng.integers(1, 4)), replace=False).tolist()
        cams = 1 / (1 + np.exp(-strength + rng.normal(size=(len(classes), pixels))))
        drawn.append((features.astype(dtype), classes, cams))
    return drawn


def counted(drawn: list[Photograph], *, cams: bool = True) -> ClassStatistics:
    statistics = ClassStatistics(CLASSES, DIMENSIONS)
    for features, classes, heights in drawn:
        statistics.add(features, classes, heights if cams else None)
    return statistics


def stacked(drawn: list[Photograph], class_id: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """All features and CAM values of a class, float64."""
    features = [f for f, classes, _ in drawn if class_id in classes]
    cams = [heights[classes.index(class_id)] for _, classes, heights in drawn if class_id in classes]
    return np.concatenate(features).astype(np.float64), np.concatenate(cams)


def assert_equals_stacked(statistics: ClassStatistics, drawn: list[Photograph], tolerance: float = 1e-12) -> None:
    """Against NumPy; tolerance relative to the largest eigenvalue."""
    for class_id in statistics.seen:
        features, cams = stacked(drawn, class_id)
        covariance = np.cov(features, rowvar=False, bias=True)
        scale = max(np.linalg.eigvalsh(covariance)[-1], 1e-12)
        assert statistics.count(class_id) == len(features)
        np.testing.assert_allclose(
            statistics.mean(class_id), features.mean(0), rtol=1e-14, atol=tolerance * np.sqrt(scale)
        )
        np.testing.assert_allclose(statistics.covariance(class_id), covariance, rtol=0, atol=tolerance * scale)
        together = ((features - features.mean(0)) * (cams - cams.mean())[:, None]).mean(0)
        np.testing.assert_allclose(
            statistics.cam_covariance(class_id), together, rtol=0, atol=tolerance * max(np.sqrt(scale), 1)
        )


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 12), st.integers(0, 999))
def test_streaming_equals_numpy_on_stacked_features(count: int, seed: int) -> None:
    drawn = photographs(count, seed=seed)
    statistics = counted(drawn)
    assert statistics.seen == sorted({class_id for _, classes, _ in drawn for class_id in classes})
    assert_equals_stacked(statistics, drawn)


def test_float32_features_keep_seven_digits() -> None:
    drawn = photographs(40, dtype=np.float32)
    assert_equals_stacked(counted(drawn), drawn, 3e-7)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-9), (np.float32, 1e-6)])
def test_means_far_from_zero_cost_no_precision(dtype: type, tolerance: float) -> None:
    # in float32, sums of squares of values near 1e4 would have lost everything below 6 or so
    drawn = photographs(30, mean=1e4, dtype=dtype)
    assert_equals_stacked(counted(drawn), drawn, tolerance)


def test_half_precision_is_computed_in_float32() -> None:
    drawn = photographs(6)
    halves = [(torch.from_numpy(features).to(torch.bfloat16), classes, cams) for features, classes, cams in drawn]
    statistics = ClassStatistics(CLASSES, DIMENSIONS)
    for features, classes, cams in halves:
        statistics.add(features, classes, torch.from_numpy(cams).half())
    assert_equals_stacked(statistics, [(f.float().numpy(), c, np.float64(np.float16(h))) for f, c, h in halves], 3e-7)


def test_a_photograph_counts_in_each_of_its_classes() -> None:
    (features, _, _), (more, _, _) = photographs(2)
    statistics = ClassStatistics(CLASSES, DIMENSIONS)
    statistics.add(features, [1, 3])
    statistics.add(more, [3])
    assert statistics.seen == [1, 3]
    assert [statistics.count(class_id) for class_id in range(5)] == [
        0,
        len(features),
        0,
        len(features) + len(more),
        0,
    ]
    np.testing.assert_allclose(statistics.covariance(1), np.cov(features, rowvar=False, bias=True), atol=1e-12)


def test_the_covariance_is_symmetric() -> None:
    covariance = counted(photographs()).covariance(1)
    assert torch.equal(covariance, covariance.T)


def test_without_pixels_or_classes_nothing_is_counted() -> None:
    statistics = ClassStatistics(CLASSES, DIMENSIONS)
    statistics.add(np.zeros((0, DIMENSIONS)), [1])
    statistics.add(np.zeros((3, DIMENSIONS)), [])
    assert statistics.seen == []


def test_one_pixel_has_no_covariance() -> None:
    statistics = ClassStatistics(2, 3)
    statistics.add(np.array([[1.0, 2.0, 3.0]], np.float32), [1], np.ones((1, 1)))
    np.testing.assert_array_equal(statistics.mean(1), [1, 2, 3])
    np.testing.assert_array_equal(statistics.covariance(1), np.zeros((3, 3)))
    assert statistics.cam_correlation(1, np.array([1.0, 0.0, 0.0])) == 0


def test_features_are_neither_kept_nor_changed() -> None:
    (features, classes, cams) = photographs(1)[0]
    tensor, before = torch.from_numpy(features).requires_grad_(), features.copy()
    statistics = ClassStatistics(CLASSES, DIMENSIONS)
    statistics.add(tensor, classes, cams)
    np.testing.assert_array_equal(features, before)
    assert not statistics.mean(classes[0]).requires_grad
    statistics.mean(classes[0]).zero_()  # a copy
    np.testing.assert_allclose(statistics.mean(classes[0]), before.mean(0))


@pytest.mark.parametrize("cut", [0, 1, 7, 20])
def test_two_shards_merged_equal_one_pass(cut: int) -> None:
    drawn = photographs(20)
    merged = counted(drawn[:cut])
    merged.merge(counted(drawn[cut:]))
    assert_equals_stacked(merged, drawn)
    again = counted(drawn[:cut])
    again.merge(counted(drawn[cut:]))
    assert [array.tobytes() for array in merged.state().values()] == [a.tobytes() for a in again.state().values()]


def test_merging_leaves_the_other_as_it_is() -> None:
    drawn = photographs(8)
    first, second = ClassStatistics(CLASSES, DIMENSIONS), counted(drawn)
    first.merge(second)
    first.merge(second)
    assert_equals_stacked(second, drawn)
    assert_equals_stacked(first, drawn * 2)


def test_statistics_of_other_sizes_are_not_merged() -> None:
    with pytest.raises(DataError, match="4 classes and 12 dimensions cannot be merged into those of 5 classes"):
        ClassStatistics(5, 12).merge(ClassStatistics(4, 12))


def test_state_goes_through_a_file_and_counts_on(tmp_path: Any) -> None:
    drawn = photographs(10)
    statistics = counted(drawn[:6])
    np.savez(tmp_path / "statistics.npz", **statistics.state())
    with np.load(tmp_path / "statistics.npz", allow_pickle=False) as state:
        restored = ClassStatistics.from_state(state)
    for features, classes, cams in drawn[6:]:
        restored.add(features, classes, cams)
        statistics.add(features, classes, cams)
    ours, theirs = restored.state(), statistics.state()
    assert list(ours) == list(theirs)
    assert all(ours[key].tobytes() == theirs[key].tobytes() for key in ours)
    assert_equals_stacked(restored, drawn)


def test_an_incomplete_state_is_refused() -> None:
    state = counted(photographs(3)).state()
    del state[next(key for key in state if key.endswith(".mean"))]
    with pytest.raises(DataError, match=r"class statistics lack the array '\d\.mean'"):
        ClassStatistics.from_state(state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"junk": np.zeros(1)}, r"hold the array 'junk', which is neither 'sizes' nor a class's id and one of count, "),
        ({"1.median": np.zeros(3)}, r"hold the array '1\.median'"),
        ({"-1.mean": np.zeros(3)}, r"hold the array '-1\.mean'"),
        ({"sizes": np.array([1, 3])}, r"class 1 is none of the classes 0\.\.0"),
        ({"sizes": np.array([2])}, r"sizes of class statistics must have shape \(2,\), not \(1,\)"),
        ({"1.mean": np.zeros(4)}, r"1\.mean of class statistics has shape \(4,\), not \(3,\)"),
        ({"1.count": np.zeros(2)}, r"1\.count of class statistics has shape \(2,\), not \(\)"),
    ],
)
def test_a_state_of_something_else_is_refused(change: dict[str, Any], message: str) -> None:
    statistics = ClassStatistics(2, 3)
    statistics.add(np.eye(3), [1])
    with pytest.raises(DataError, match=message):
        ClassStatistics.from_state({**statistics.state(), **change})


@pytest.mark.parametrize("count", [1, 3, DIMENSIONS])
def test_components_are_scikit_learns(count: int) -> None:
    decomposition = needed("sklearn.decomposition")
    drawn = photographs(20)
    features, _ = stacked(drawn, 1)
    expected = decomposition.PCA(n_components=count, svd_solver="full").fit(features)
    covariance = counted(drawn).covariance(1)
    values, vectors = principal_components(covariance, count)
    assert values.shape == (count,)
    assert vectors.shape == (count, DIMENSIONS)
    # scikit-learn divides by one less
    np.testing.assert_allclose(values * len(features) / (len(features) - 1), expected.explained_variance_, rtol=1e-9)
    np.testing.assert_allclose(values / covariance.trace(), expected.explained_variance_ratio_, rtol=1e-9)
    alike = np.abs((vectors.numpy() * expected.components_).sum(1))  # the sign is free
    np.testing.assert_allclose(alike, 1, atol=1e-7)


def test_float32_features_have_the_same_first_component() -> None:
    exact, rounded = (counted(photographs(30, dtype=dtype)).covariance(2).numpy() for dtype in (np.float64, np.float32))
    first, second = (principal_components(covariance)[1][0] for covariance in (exact, rounded))
    assert isinstance(first, np.ndarray)
    assert 1 - abs(first @ second) < 1e-12


@pytest.mark.parametrize("sign", [1, -1])
def test_the_sign_follows_the_cam_whatever_it_was(sign: int) -> None:
    drawn = photographs(20)
    statistics = counted(drawn)
    for class_id in statistics.seen:
        component = principal_components(statistics.covariance(class_id))[1][0]
        chosen = orient(sign * component, statistics.cam_covariance(class_id))
        assert torch.equal(chosen, orient(component, statistics.cam_covariance(class_id)))
        features, cams = stacked(drawn, class_id)
        heights = project(features, statistics.mean(class_id), chosen)
        correlation = np.corrcoef(heights, cams)[0, 1]
        assert correlation > 0.3
        assert statistics.cam_correlation(class_id, chosen) == pytest.approx(correlation, abs=1e-6)
        assert statistics.cam_correlation(class_id, -chosen) == pytest.approx(-correlation, abs=1e-6)


def test_without_evidence_the_sign_hangs_on_the_component_alone() -> None:
    component = np.array([0.1, -0.9, 0.3])
    nothing = np.zeros(3)
    np.testing.assert_array_equal(orient(component, nothing), -component)
    np.testing.assert_array_equal(orient(-component, nothing), -component)


def test_a_projection_is_the_centred_product() -> None:
    rng = np.random.default_rng(0)
    features, mean, component = rng.normal(size=(4, 5, 8)) + 1e4, np.full(8, 1e4), rng.normal(size=8)
    expected = (features - mean) @ component
    np.testing.assert_allclose(project(features, mean, component), expected, atol=1e-6)
    as_tensor = project(torch.from_numpy(features.astype(np.float32)), torch.from_numpy(mean), component)
    assert as_tensor.dtype == torch.float32
    np.testing.assert_allclose(as_tensor, (features.astype(np.float32) - mean) @ component, atol=1e-5)


def test_cam_values_must_have_come_for_all_pixels() -> None:
    drawn = photographs(2)
    statistics = counted(drawn[:1])
    class_id = drawn[0][1][0]
    statistics.add(drawn[1][0], [class_id])
    total, some = statistics.count(class_id), len(drawn[0][0])
    with pytest.raises(DataError, match=f"CAM values for {some} of its {total} pixels"):
        statistics.cam_covariance(class_id)
    with pytest.raises(DataError, match="all need one"):
        statistics.cam_correlation(class_id, np.ones(DIMENSIONS))


def add(features: Any, class_ids: list[int], cams: Any = None) -> Callable[[], object]:
    return lambda: ClassStatistics(3, 4).add(features, class_ids, cams)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (add(np.zeros((2, 3)), [1]), r"features must have shape \(N, 4\), not \(2, 3\)"),
        (add(np.zeros(4), [1]), "features must have shape"),
        (add(np.zeros((2, 4), np.int64), [1]), "features must be floats"),
        (add(np.full((2, 4), np.nan), [1]), "features must be finite"),
        (add(np.full((2, 4), np.inf, np.float32), [1]), "features must be finite"),
        (add(np.eye(4, dtype=np.float32) * 1e25, [1]), r"features up to 1\.0e\+25 overflow when squares are added up"),
        (add(np.full((9, 4), 3e38, np.float32), [1]), r"features up to 3\.0e\+38 overflow"),
        (add(np.eye(4) * 1e200, [1]), r"features up to 1\.0e\+200 overflow"),
        (add(np.zeros((2, 4)), [3]), r"class 3 is none of the classes 0\.\.2"),
        (add(np.zeros((2, 4)), [-1]), "class -1 is none"),
        (add(np.zeros((2, 4)), [1, 1]), "name a class twice"),
        (add(np.zeros((2, 4)), [1], np.zeros((2, 2))), r"cams must have shape \(1, 2\), not \(2, 2\)"),
        (add(np.zeros((2, 4)), [1], np.full((1, 2), np.nan)), "cams must be finite"),
        (
            add(np.eye(4), [1], np.array([[0, 0, 0, 1e200]])),
            r"cams up to 1\.0e\+200 overflow when squares are added up",
        ),
        (add(np.eye(4, dtype=np.float32), [1], np.array([[0, 0, 0, 1e100]])), r"cams up to 1\.0e\+100 overflow"),
        (lambda: ClassStatistics(3, 4).mean(1), r"class 1 has no pixels; classes with some: \[\]"),
        (lambda: ClassStatistics(3, 4).covariance(7), "class 7 is none"),
        (lambda: principal_components(np.zeros((3, 4))), r"covariance must have shape \(d, d\)"),
        (lambda: principal_components(np.full((3, 3), np.nan)), "covariance must be finite"),
        (lambda: orient(np.zeros(3), np.zeros(4)), "must have one shape"),
        (lambda: project(np.zeros((2, 3)), np.zeros(3), np.zeros(4)), "features must have shape"),
        (lambda: project(np.zeros((2, 4)), np.zeros(3), np.zeros(3)), "features must have shape"),
    ],
)
def test_unusable_data_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ClassStatistics(0, 4), "classes and dimensions must be 1 or more"),
        (lambda: ClassStatistics(4, 0), "classes and dimensions must be 1 or more"),
        (lambda: principal_components(np.eye(3), 0), "count must be 1 to 3"),
        (lambda: principal_components(np.eye(3), 4), "count must be 1 to 3"),
    ],
)
def test_settings_out_of_range_are_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        call()


def test_the_product_of_other_devices_is_the_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    import tag2mask.evidence.class_pattern as module

    drawn = photographs(10, dtype=np.float32)
    monkeypatch.setattr(module, "_product", module._product_by_torch)
    assert_equals_stacked(counted(drawn), drawn, 3e-7)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_counts_what_the_cpu_counts() -> None:
    drawn = photographs(10, dtype=np.float32)
    statistics = ClassStatistics(CLASSES, DIMENSIONS, device="cuda")
    for features, classes, cams in drawn:
        statistics.add(torch.from_numpy(features).to("cuda"), classes, torch.from_numpy(cams).to("cuda"))
    merged = ClassStatistics(CLASSES, DIMENSIONS)
    merged.merge(statistics)
    assert_equals_stacked(merged, drawn, 3e-7)
    components = principal_components(statistics.covariance(1))[1]
    assert components.is_cuda
    assert orient(components[0], statistics.cam_covariance(1)).is_cuda


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_algorithm_1(kind: str) -> None:
    #                        none  first  second  both  zero counts as none
    maps = np.array([[[-1.0, 2.0, -0.5, 1e-9, 0.0]], [[-2.0, -3.0, 4.0, 5.0, 0.0]]])
    given = maps if kind == "numpy" else torch.from_numpy(maps).requires_grad_()
    labels = pattern_labels(given, (3, 17))
    assert type(labels) is (np.ndarray if kind == "numpy" else torch.Tensor)
    assert np.asarray(labels).dtype == np.uint8
    assert np.asarray(labels).tolist() == [[0, 3, 17, 255, 0]]


def test_algorithm_1_without_classes_is_background_and_three_claims_are_uncertain() -> None:
    assert pattern_labels(np.zeros((0, 2, 3)), ()).tolist() == [[0, 0, 0], [0, 0, 0]]
    assert pattern_labels(np.ones((3, 1, 1)), (100, 200, 254)).tolist() == [[255]]
    assert pattern_labels(np.ones((1, 1, 1)), (254,)).tolist() == [[254]]


@pytest.mark.parametrize(
    ("maps", "class_ids", "message"),
    [
        (np.zeros((2, 3, 3)), [1], r"maps must have shape \(1, H, W\), not \(2, 3, 3\)"),
        (np.zeros((3, 3)), [1, 2, 3], r"maps must have shape \(3, H, W\), not \(3, 3\)"),
        (np.zeros((1, 3, 3)), [0], "must lie between 0 and 255"),
        (np.zeros((1, 3, 3)), [255], "must lie between 0 and 255"),
    ],
)
def test_maps_of_other_shapes_are_refused(maps: Floats, class_ids: list[int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        pattern_labels(maps, class_ids)
