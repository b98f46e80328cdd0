import json

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tag2mask.evaluation.classification import average_precision, classification_scores


def by_loop(scores: list[float], targets: list[int]) -> float:
    area, recall_before = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        taken = [target for score, target in zip(scores, targets, strict=True) if score >= threshold]
        recall = sum(taken) / sum(targets)
        area += (recall - recall_before) * sum(taken) / len(taken)
        recall_before = recall
    return area


@settings(deadline=None, max_examples=200)
@given(data=st.data(), count=st.integers(1, 12))
def test_average_precision_equals_a_plain_loop(data: st.DataObject, count: int) -> None:
    # Few levels, so that ties are frequent.
    scores = data.draw(hnp.arrays(np.float32, count, elements=st.sampled_from([-2.0, 0.0, 0.5, 1.0, 3.0])))
    targets = data.draw(hnp.arrays(np.int64, count, elements=st.integers(0, 1)))
    found = average_precision(scores, targets)
    if targets.any():
        assert found == pytest.approx(by_loop(scores.tolist(), targets.tolist()))
    else:
        assert found is None


@pytest.mark.parametrize(
    ("scores", "targets", "expected"),
    [
        ([3, 2, 1], [1, 1, 0], 1.0),
        ([1, 2, 3], [1, 0, 0], 1 / 3),
        ([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1], (1 + 2 / 3) / 2),
        ([5, 5, 5, 5], [1, 0, 0, 0], 1 / 4),
        ([1, 2], [1, 1], 1.0),
    ],
)
def test_known_values(scores: list[float], targets: list[int], expected: float) -> None:
    assert average_precision(scores, targets) == pytest.approx(expected)


def test_only_the_order_of_scores_matters() -> None:
    rng = np.random.default_rng(0)
    scores, targets = rng.normal(size=50), rng.integers(0, 2, 50)
    shuffled = rng.permutation(50)
    first = average_precision(scores, targets)
    assert average_precision(np.exp(scores), targets) == pytest.approx(first)
    assert average_precision(scores[shuffled], targets[shuffled]) == pytest.approx(first)


def test_classes_without_positives_are_left_out() -> None:
    scores = np.array([[3.0, 0.0, 1.0], [1.0, 0.0, 2.0], [2.0, 0.0, 3.0]], dtype=np.float32)
    targets = np.array([[1, 0, 1], [0, 0, 0], [0, 0, 0]], dtype=np.float32)
    found = classification_scores(scores, targets, ("cat", "dog", "eel"))
    assert found.average_precision == (1.0, None, pytest.approx(1 / 3))
    assert found.mean_average_precision == pytest.approx(2 / 3)
    stored = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert stored["average_precision"]["dog"] is None
    assert stored["average_precision"]["cat"] == 1
    assert classification_scores(scores, 0 * targets, ("cat", "dog", "eel")).mean_average_precision is None


@pytest.mark.parametrize(
    ("scores", "targets", "message"),
    [
        ([[1.0, 2.0]], [[1, 0]], "for 1 classes"),
        ([[1.0], [2.0]], [[1]], "for 1 classes"),
        ([[np.nan], [2.0]], [[1], [0]], "NaN"),
        ([[1.0], [2.0]], [[1], [2]], "neither 0 nor 1"),
    ],
)
def test_arguments_are_checked(scores: npt.ArrayLike, targets: npt.ArrayLike, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        classification_scores(scores, targets, ("cat",))


def test_one_class_needs_vectors() -> None:
    with pytest.raises(ValueError, match="shape"):
        average_precision([[1.0]], [[1]])
