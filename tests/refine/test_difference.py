from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tag2mask.data.classes import BACKGROUND, UNLABELLED
from tag2mask.errors import DataError
from tag2mask.refine.difference import change_scores, difference_map, missing_classes, refine_pair

ALL = torch.tensor([[True, True, True]])
SURE = 3.0


def row(*ids: int) -> torch.Tensor:
    """One mask of one row."""
    return torch.tensor([[ids]])


def score(before: torch.Tensor, after: torch.Tensor, present: torch.Tensor = ALL, **biases: float) -> list[float]:
    """w where the network tells nothing: what the biases alone make of it."""
    nothing = torch.zeros(before.shape)
    rounded = change_scores(before, after, nothing, nothing, present, **{"bias": 0.0, **biases}).flatten()
    return [round(value, 5) for value in rounded.tolist()]


def refined(before: torch.Tensor, after: torch.Tensor, told: tuple[Any, Any], **biases: float) -> list[int]:
    logits = [torch.tensor(values, dtype=torch.float32).view(before.shape) for values in told]
    found = refine_pair(before, after, *logits, ALL, **{"bias": 0.0, **biases})
    return found.flatten().tolist()


def sigmoid(value: float) -> float:
    return 1 / (1 + float(np.exp(-value)))


def plain(
    before: Any, after: Any, told: Any, present: Any, bias: float, background: float, lost: float, share: float
) -> tuple[Any, Any]:
    """w and the refined mask of one image, class by class and pixel by pixel from the method's text."""
    w = np.zeros(before.shape)
    for u in np.ndindex(before.shape):
        w[u] = sigmoid(told[0][u]) - sigmoid(told[1][u]) + bias
        w[u] -= background if before[u] == BACKGROUND else 0
        w[u] += background if after[u] == BACKGROUND else 0
    for c in range(1, len(present)):
        was, remains = int((before == c).sum()), int((after == c).sum())
        if present[c] and was + remains > 0 and remains / max(was, 1) < share:
            w[before == c] -= lost
            w[after == c] += lost
    return w, np.where(w >= 0, after, before)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.1, 0.4, -0.3]), st.sampled_from([0.0, 0.1]), st.booleans())
def test_equals_the_text(seed: int, bias: float, background_bias: float, terms: bool) -> None:
    rng = np.random.default_rng(seed)
    ids = np.array([0, 1, 2, 3, UNLABELLED])
    before, after = (rng.choice(ids, size=(3, 4, 5), p=rng.dirichlet(np.ones(5))) for _ in range(2))
    told = rng.normal(size=(2, 3, 4, 5))
    present = rng.random((3, 4)) < 0.7
    tensors = [torch.tensor(value) for value in (before, after, *told, present)]
    biases = {"bias": bias, "background_bias": background_bias, "class_bias": float(terms), "share": 0.5}
    w, labels = change_scores(*tensors, **biases), refine_pair(*tensors, **biases)
    for n in range(3):
        expected, mask = plain(before[n], after[n], told[:, n], present[n], bias, background_bias, float(terms), 0.5)
        np.testing.assert_allclose(w[n], expected, atol=1e-6)
        clear = np.abs(expected) > 1e-6
        np.testing.assert_array_equal(labels[n].numpy()[clear], mask[clear])


def test_a_change_that_the_mask_before_tells_of_is_taken() -> None:
    assert refined(row(1, 1, 2), row(2, 1, 1), ([SURE, SURE, SURE], [-SURE, -SURE, -SURE])) == [2, 1, 1]


def test_a_change_that_the_mask_after_tells_of_is_taken_back() -> None:
    assert refined(row(1, 1, 2), row(2, 1, 1), ([-SURE, -SURE, -SURE], [SURE, SURE, SURE])) == [1, 1, 2]


def test_where_the_masks_agree_nothing_changes_whatever_the_scores() -> None:
    agreed = row(0, 1, UNLABELLED)
    for told in ([9, 9, 9], [-9, -9, -9]), ([-9, -9, -9], [9, 9, 9]):
        assert refined(agreed, agreed, told, bias=0.4, background_bias=0.1) == [0, 1, UNLABELLED]


@pytest.mark.parametrize(("bias", "label"), [(1e-3, 2), (0.0, 2), (-1e-3, 1)])
def test_the_bias_is_in_favour_of_after_and_so_is_zero(bias: float, label: int) -> None:
    assert refined(row(1, 2), row(2, 1), ([1, 1], [1, 1]), bias=bias)[0] == label


def test_the_biases_of_the_seeds_cancel_where_background_is_lost() -> None:
    """w is exactly 0 there, and 0 means `after`."""
    assert refined(row(0, 1), row(1, 1), ([0, 0], [0, 0]), bias=0.1, background_bias=0.1) == [1, 1]


def test_background_bias_keeps_background_of_either_mask() -> None:
    assert score(row(0, 1, 1, 0), row(1, 0, 1, 0), background_bias=0.1) == [-0.1, 0.1, 0, 0]


def test_a_lost_class_is_kept_where_before_has_it_and_taken_where_after_has_it() -> None:
    before, after = row(1, 1, 1, 0, 0), row(0, 0, 0, 1, 0)
    assert missing_classes(before, after, ALL).tolist() == [[False, True, False]]
    assert score(before, after) == [-1, -1, -1, 1, 0]
    assert score(before, after, class_bias=0.0) == [0] * 5
    assert refined(before, after, ([0] * 5, [0] * 5)) == [1, 1, 1, 1, 0]
    assert refined(before, after, ([0] * 5, [0] * 5), class_bias=0.0) == [0, 0, 0, 1, 0]


def test_two_lost_classes_that_swap_pixels_cancel() -> None:
    before, after = row(1, 1, 1, 2, 2, 2), row(2, 0, 0, 1, 0, 0)
    assert score(before, after) == [0, -1, -1, 0, -1, -1]


def test_a_gained_class_is_not_missing() -> None:
    before, after = row(0, 0, 2), row(1, 1, 2)
    assert not missing_classes(before, after, ALL).any()
    assert score(before, after) == [0, 0, 0]


def test_a_class_cut_to_exactly_half_is_not_missing_and_one_pixel_less_is() -> None:
    before = row(1, 1, 1, 1)
    assert not missing_classes(before, row(1, 1, 0, 0), ALL).any()
    assert missing_classes(before, row(1, 0, 0, 0), ALL).tolist() == [[False, True, False]]
    assert not missing_classes(before, row(1, 0, 0, 0), ALL, share=0.25).any()


def test_a_present_class_in_neither_mask_is_not_missing() -> None:
    assert not missing_classes(row(1, 0), row(1, 0), ALL).any()


def test_an_absent_class_and_background_are_never_missing() -> None:
    before, after = row(0, 0, 1, 2), row(2, 2, 2, 2)
    tagged = torch.tensor([[True, False, True]])
    assert not missing_classes(before, after, tagged).any()
    assert score(before, after, present=tagged) == [0] * 4


def test_unlabelled_pixels_are_of_no_class() -> None:
    before, after = row(UNLABELLED, UNLABELLED, 1, 0), row(1, UNLABELLED, UNLABELLED, UNLABELLED)
    assert difference_map(before, after).tolist() == [[[True, False, True, True]]]
    assert not missing_classes(before, after, ALL).any()
    assert score(before, after, background_bias=0.1) == [0, 0, 0, -0.1]
    assert missing_classes(row(1, 1, 1), row(UNLABELLED, UNLABELLED, 1), ALL).tolist() == [[False, True, False]]


def test_images_of_a_batch_do_not_know_of_each_other() -> None:
    before, after = torch.cat([row(1, 1, 1), row(1, 1, 1)]), torch.cat([row(0, 0, 0), row(1, 1, 0)])
    present = ALL.expand(2, 3)
    assert missing_classes(before, after, present).tolist() == [[False, True, False], [False, False, False]]
    assert score(before, after, present=present) == [-1, -1, -1, 0, 0, 0]
    tags_of_the_second = torch.tensor([[True, False, True], [True, True, True]])
    assert score(before, after, present=tags_of_the_second) == [0] * 6


def test_types_of_masks_and_logits() -> None:
    before, after = row(1, 0).to(torch.uint8), row(0, 0)
    half = torch.full((1, 1, 2), 0.5, dtype=torch.bfloat16, requires_grad=True)
    w = change_scores(before, after, half, half, ALL, bias=0.1)
    assert w.dtype == torch.float32
    assert not w.requires_grad
    assert refine_pair(before, after, half, half, ALL, bias=0.1).dtype == torch.uint8
    assert refine_pair(after, before, half, half, ALL, bias=0.1).dtype == torch.int64


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"before": torch.zeros(1, 1, 2)}, "masks must be integers"),
        ({"before": torch.zeros(1, 1, 2, dtype=torch.bool)}, "masks must be integers"),
        ({"after": torch.zeros(1, 2, dtype=torch.long)}, "masks must be integers"),
        ({"after": torch.zeros(1, 1, 3, dtype=torch.long)}, r"\(1, 1, 2\) and \(1, 1, 3\)"),
        ({"logits_before": torch.zeros(1, 1, 2, dtype=torch.long)}, "logits of differences"),
        ({"logits_after": torch.zeros(1, 1, 1)}, "logits of differences"),
        ({"present": torch.ones(1, 3)}, "present must be bool"),
        ({"present": torch.ones(2, 3, dtype=torch.bool)}, "present must be bool"),
    ],
)
def test_what_does_not_fit_is_told(changes: dict[str, torch.Tensor], message: str) -> None:
    logits = torch.zeros(1, 1, 2)
    given = {"before": row(0, 1), "after": row(1, 1), "logits_before": logits, "logits_after": logits, "present": ALL}
    with pytest.raises(DataError, match=message):
        refine_pair(**given | changes, bias=0.0)
