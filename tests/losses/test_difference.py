import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tag2mask.errors import DataError
from tag2mask.losses.difference import difference_loss


def plain(logits: torch.Tensor, differs: torch.Tensor, inside: torch.Tensor, samples: torch.Tensor) -> float:
    """Half the mean over either half, pixel by pixel, summed over the images that count."""
    total = 0.0
    for n in range(len(logits)):
        halves: dict[bool, list[float]] = {True: [], False: []}
        for y, x in np.ndindex(*logits.shape[1:]):
            if inside[n, y, x]:
                likely = 1 / (1 + np.exp(-float(logits[n, y, x])))
                halves[bool(differs[n, y, x])].append(-np.log(likely if differs[n, y, x] else 1 - likely))
        if samples[n]:
            total += sum(sum(values) / len(values) for values in halves.values() if values) / 2
    return total


def example(seed: int, share: float = 0.3) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    return torch.tensor(rng.normal(size=(3, 3, 4)) * 3), torch.tensor(rng.random((3, 3, 4)) < share)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.1, 0.6, 1.0]))
def test_equals_a_loop(seed: int, share: float) -> None:
    logits, differs = example(seed, share)
    rng = np.random.default_rng(seed)
    inside = torch.tensor(rng.random(differs.shape) < rng.random())
    samples = torch.tensor(rng.random(3) < 0.7)
    value, count = difference_loss(logits.float(), differs, inside=inside, samples=samples)
    assert float(value) == pytest.approx(plain(logits, differs, inside, samples), abs=1e-4)
    assert int(count) == int(samples.sum())
    value, count = difference_loss(logits.float(), differs)
    everything = torch.ones_like(differs)
    assert float(value) == pytest.approx(plain(logits, differs, everything, everything[:, 0, 0]), abs=1e-4)
    assert int(count) == 3


def test_gradient_equals_differences() -> None:
    logits, differs = example(1)
    inside = torch.rand(differs.shape, generator=torch.Generator().manual_seed(0)) < 0.8
    samples = torch.tensor([True, False, True])
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda d: difference_loss(d, differs, inside=inside, samples=samples)[0], (logits,))


def test_an_empty_half_is_zero_and_the_other_stays_a_half() -> None:
    logits = torch.tensor([[[0.7, -0.2]]])
    for half, sign in ((torch.ones(1, 1, 2, dtype=torch.bool), 1), (torch.zeros(1, 1, 2, dtype=torch.bool), -1)):
        value, count = difference_loss(logits, half)
        assert float(value) == pytest.approx(-float((sign * logits).sigmoid().log().mean()) / 2)
        assert int(count) == 1


def test_rare_differences_count_as_much_as_the_rest() -> None:
    logits = torch.zeros(1, 10, 10, requires_grad=True)
    differs = torch.zeros(1, 10, 10, dtype=torch.bool)
    differs[0, 0, 0] = True
    difference_loss(logits, differs)[0].backward()
    assert logits.grad is not None
    assert float(logits.grad[0, 0, 0]) == pytest.approx(-0.25)
    assert float(logits.grad.sum()) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("left", ["no sample", "no pixel", "no map"])
def test_nothing_left_is_zero_with_zero_gradient(left: str) -> None:
    logits = torch.full((2, 0 if left == "no map" else 3, 4), torch.inf, requires_grad=True)
    nothing = torch.zeros(logits.shape, dtype=torch.bool)
    value, count = difference_loss(
        logits,
        nothing,
        inside=nothing if left == "no pixel" else None,
        samples=nothing[:, 0, 0] if left == "no sample" else None,
    )
    value.backward()
    assert float(value.detach()) == 0
    assert int(count) == (0 if left == "no sample" else 2)
    assert logits.grad is not None
    assert not logits.grad.any()


def test_what_is_left_out_may_be_anything() -> None:
    logits = torch.tensor([[[1.0, torch.nan, -torch.inf]]], requires_grad=True)
    differs = torch.tensor([[[True, True, True]]])
    value, _ = difference_loss(logits, differs, inside=torch.tensor([[[True, False, False]]]))
    value.backward()
    assert float(value.detach()) == pytest.approx(-float(torch.tensor(1.0).sigmoid().log()) / 2)
    assert logits.grad is not None
    assert logits.grad.flatten()[1:].tolist() == [0, 0]


def test_certain_and_wrong_is_large_not_infinite_and_half_precision_is_float32() -> None:
    logits = torch.tensor([[[200.0, -200.0]]], dtype=torch.bfloat16)
    value, count = difference_loss(logits, torch.tensor([[[False, True]]]))
    assert value.dtype == count.dtype == torch.float32
    assert float(value) == pytest.approx(200)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logits": torch.zeros(2, 3)}, "logits must be floats"),
        ({"logits": torch.zeros(2, 3, 4, dtype=torch.long)}, "logits must be floats"),
        ({"differs": torch.zeros(2, 3, 4)}, "differs must be bool"),
        ({"inside": torch.zeros(2, 3, 3, dtype=torch.bool)}, "inside must be bool"),
        ({"samples": torch.zeros(3, dtype=torch.bool)}, r"samples must be bool of shape \(2,\)"),
    ],
)
def test_what_does_not_fit_is_told(changes: dict[str, torch.Tensor], message: str) -> None:
    given = {"logits": torch.zeros(2, 3, 4), "differs": torch.zeros(2, 3, 4, dtype=torch.bool)} | changes
    with pytest.raises(DataError, match=message):
        difference_loss(given.pop("logits"), given.pop("differs"), **given)
