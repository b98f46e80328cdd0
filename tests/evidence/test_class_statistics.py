"""Class statistics against NumPy on stacked features."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tag2mask.errors import DataError, SettingsError
from tag2mask.evidence.class_pattern import orient, principal_components
from tag2mask.evidence.class_statistics import ClassStatistics
from tests.evidence.class_features import CLASSES, DIMENSIONS, assert_equals_stacked, counted, photographs


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
    ],
)
def test_settings_out_of_range_are_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        call()


def test_the_product_of_other_devices_is_the_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    import tag2mask.evidence.class_statistics as module

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
