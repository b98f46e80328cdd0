"""Class patterns against NumPy and scikit-learn on stacked features."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from tag2mask.errors import DataError, SettingsError
from tag2mask.evidence.class_pattern import orient, pattern_labels, principal_components, project
from tests.evidence.class_features import DIMENSIONS, Floats, counted, needed, photographs, stacked


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


@pytest.mark.parametrize(
    ("call", "message"),
    [
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


@pytest.mark.parametrize("count", [0, 4])
def test_settings_out_of_range_are_refused(count: int) -> None:
    with pytest.raises(SettingsError, match="count must be 1 to 3"):
        principal_components(np.eye(3), count)


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
