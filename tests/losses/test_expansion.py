import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tag2mask.errors import SettingsError
from tag2mask.losses.expansion import expansion_loss

Floats = npt.NDArray[np.float64]
PAPER = (0.996, 0.999, 0.0)


def plain(scores: Floats, present: npt.NDArray[np.bool_], decays: tuple[float, float, float] = PAPER) -> float:
    """Kolesnikov & Lampert, eq. 4 and 5, class by class, summed over images."""
    total = 0.0
    for image, tags in zip(scores, present, strict=True):
        h = np.exp(image - image.max(0))
        h /= h.sum(0)

        def pooled(c: int, decay: float, h: Floats = h) -> float:
            ranked = sorted(h[c].ravel(), reverse=True)
            weights = [decay**j for j in range(len(ranked))]  # 0**0 is 1
            return float(np.dot(ranked, weights) / sum(weights))

        there = [c for c in range(1, len(tags)) if tags[c]]
        not_there = [c for c in range(1, len(tags)) if not tags[c]]
        total -= np.log(pooled(0, decays[1]))
        if there:
            total -= sum(np.log(pooled(c, decays[0])) for c in there) / len(there)
        if not_there:
            total -= sum(np.log(1 - pooled(c, decays[2])) for c in not_there) / len(not_there)
    return total


def example(seed: int, tagged: float, spread: float = 1.0) -> tuple[Floats, npt.NDArray[np.bool_]]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(3, 5, 4, 6)) * spread, rng.random((3, 5)) < tagged


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10_000),
    st.sampled_from([0.0, 0.4, 1.0]),
    st.sampled_from([PAPER, (0.5, 0.9, 0.3), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)]),
    st.sampled_from([0.2, 3.0]),
)
def test_equals_the_formula(seed: int, tagged: float, decays: tuple[float, float, float], spread: float) -> None:
    scores, present = example(seed, tagged, spread)
    value, count = expansion_loss(
        torch.tensor(scores),
        torch.tensor(present),
        present_decay=decays[0],
        background_decay=decays[1],
        absent_decay=decays[2],
    )
    assert float(value) == pytest.approx(plain(scores, present, decays), rel=1e-4)
    assert int(count) == 3


@pytest.mark.parametrize("tagged", [0.0, 0.4, 1.0])
def test_gradient_equals_differences(tagged: float) -> None:
    scores, present = example(4, tagged, 2.0)
    leaf = torch.tensor(scores, dtype=torch.float32, requires_grad=True)
    expansion_loss(leaf, torch.tensor(present))[0].backward()
    assert leaf.grad is not None
    for index in np.ndindex(scores.shape):
        step = np.zeros_like(scores)
        step[index] = 1e-6
        slope = (plain(scores + step, present) - plain(scores - step, present)) / 2e-6
        assert float(leaf.grad[index]) == pytest.approx(slope, abs=1e-5)


def test_the_background_column_is_ignored() -> None:
    scores, present = example(0, 0.5)
    values = []
    for background in (True, False):
        present[:, 0] = background
        tags = torch.tensor(present)
        values.append(expansion_loss(torch.tensor(scores), tags)[0])
        assert torch.equal(tags, torch.tensor(present)), "the argument is left as it was"
    assert torch.equal(*values)


def test_a_sure_absent_class_is_pushed_down_and_a_lost_present_one_up() -> None:
    scores = torch.zeros(1, 3, 2, 2)
    scores[:, 2] = 40  # 1 - H rounds to 0 in float32
    leaf = scores.requires_grad_()
    value, _ = expansion_loss(leaf, torch.tensor([[True, True, False]]))
    value.backward()
    assert leaf.grad is not None
    assert float(value.detach()) == pytest.approx(3 * 40 - np.log(2), rel=1e-5)
    assert float(leaf.grad[0, 2].sum()) > 1
    assert float(leaf.grad[0, 1].sum()) < -1


def test_extremes_stay_finite() -> None:
    leaf = torch.tensor([[[[300.0, 300.0]], [[-300.0, 0.0]], [[0.0, -300.0]]]] * 2, requires_grad=True)
    leaf_absent = (leaf.detach() * -1).requires_grad_()
    for one in (leaf, leaf_absent):
        value, _ = expansion_loss(one, torch.tensor([[True, True, False], [True, False, False]]))
        value.backward()
        assert value.isfinite()
        assert one.grad is not None
        assert one.grad.isfinite().all()


def test_no_images_and_no_foreground_classes() -> None:
    scores = torch.zeros(0, 3, 4, 4, requires_grad=True)
    value, count = expansion_loss(scores, torch.zeros(0, 3, dtype=torch.bool))
    value.backward()
    assert float(value.detach()) == float(count) == 0
    only_background, _ = expansion_loss(torch.zeros(2, 1, 3, 3), torch.zeros(2, 1, dtype=torch.bool))
    assert float(only_background) == pytest.approx(0, abs=1e-6)


def test_in_float32_under_autocast() -> None:
    scores, present = (torch.tensor(array) for array in example(0, 0.5))
    with torch.autocast("cpu", torch.bfloat16):
        value, count = expansion_loss(scores.float(), present)
    assert value.dtype == count.dtype == torch.float32
    assert torch.equal(value, expansion_loss(scores.float(), present)[0])
    assert expansion_loss(scores.bfloat16(), present)[0].dtype == torch.float32


@pytest.mark.parametrize("name", ["present_decay", "background_decay", "absent_decay"])
@pytest.mark.parametrize("decay", [-0.1, 1.1, float("nan")])
def test_a_decay_lies_between_0_and_1(name: str, decay: float) -> None:
    with pytest.raises(SettingsError, match=name):
        expansion_loss(torch.zeros(1, 2, 2, 2), torch.ones(1, 2, dtype=torch.bool), **{name: decay})


def test_pixels_beside_the_image_take_no_part() -> None:
    scores, present = example(3, 0.4)
    inside = torch.zeros(3, 4, 6, dtype=torch.bool)
    inside[0], inside[1, :, :4] = True, True
    decays = {"present_decay": 0.7, "background_decay": 0.9, "absent_decay": 0.4}
    expected = sum(
        plain(scores[i : i + 1, :, :, :width], present[i : i + 1], (0.7, 0.9, 0.4)) for i, width in ((0, 6), (1, 4))
    )
    leaf = torch.tensor(scores, requires_grad=True)
    value, count = expansion_loss(leaf, torch.tensor(present), **decays, inside=inside)
    assert float(value.detach()) == pytest.approx(expected, rel=1e-4)  # the third image has no pixel and adds 0
    assert int(count) == 3
    value.backward()
    assert leaf.grad is not None
    assert not leaf.grad[(~inside)[:, None].expand_as(leaf)].any()
    assert leaf.grad[1, :, :, :4].any()
