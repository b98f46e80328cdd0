import math

import pytest
import torch
from torch import Tensor, nn

from tag2mask.errors import DataError, SettingsError
from tag2mask.losses.cross_entropy import foreground_background_cross_entropy
from tag2mask.losses.label_reassign import Reassigned, label_reassign


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


def plain(
    hidden: Tensor, labels: Tensor, r: Tensor, present: Tensor, temperature: float
) -> tuple[float, int, Tensor, Tensor]:
    """Image by image, class by class, pixel by pixel."""
    images, _, height, width = hidden.shape
    weights, reassigned = torch.ones(labels.shape, dtype=torch.float64), torch.full_like(labels, 255)
    total, count = 0.0, 0
    for n in range(images):
        centres = {}
        for c in range(present.shape[1]):
            own = [(y, x) for y in range(height) for x in range(width) if labels[n, y, x] == c and r[n, y, x] > 0]
            if own and (c == 0 or present[n, c]):
                rows = [r[n, y, x] * hidden[n, :, y, x] / hidden[n, :, y, x].norm() for y, x in own]
                centres[c] = torch.stack(rows).sum(0) / sum(float(r[n, y, x]) for y, x in own)
        for y in range(height):
            for x in range(width):
                label = int(labels[n, y, x])
                if label == 255:
                    continue
                scores = {c: math.exp(cosine(hidden[n, :, y, x], mu) / temperature) for c, mu in centres.items()}
                weights[n, y, x] = scores[label] / sum(scores.values()) if label in scores else 0
                if scores:
                    best = max(scores, key=lambda c: scores[c])
                    reassigned[n, y, x] = best
                    total -= math.log(scores[best] / sum(scores.values()))
                    count += 1
    return total, count, weights, reassigned


def example(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Classes 0 to 4: of the first image 3 is absent though labelled, of the second 4 has no confidence."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(2, 6, 5, 7, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 5, (2, 5, 7), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.2] = 255
    r = torch.rand(labels.shape, generator=generator, dtype=torch.float64)
    r[1][labels[1] == 4] = 0
    present = torch.ones(2, 5, dtype=torch.bool)
    present[0, 3] = present[:, 0] = False
    return hidden, labels.to(torch.uint8), r, present


@pytest.mark.parametrize("temperature", [0.1, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_equals_plain_loops(seed: int, temperature: float) -> None:
    hidden, labels, r, present = example(seed)
    (value, count), weights, reassigned = label_reassign(hidden, labels, r, present, temperature=temperature)
    total, number, supports, classes = plain(hidden, labels, r, present, temperature)
    assert float(value) == pytest.approx(total)
    assert int(count) == number == int((labels != 255).sum())
    assert torch.allclose(weights, supports)
    assert torch.equal(reassigned, classes)
    assert reassigned.dtype == torch.uint8
    assert (weights[0][labels[0] == 3] == 0).all()
    assert (weights[1][labels[1] == 4] == 0).all()


def test_gradient_equals_differences_with_constant_centres() -> None:
    """The means have no gradient: differences are taken with another copy of the embeddings held still."""
    hidden, labels, r, present = example(3)
    leaf = hidden.clone().requires_grad_()
    label_reassign(leaf, labels, r, present, temperature=0.5).loss[0].backward()
    assert leaf.grad is not None
    unit = hidden / hidden.norm(dim=1, keepdim=True)

    def value(f: Tensor) -> Tensor:
        total = f.new_zeros(())
        for n in range(2):
            members = {c: (labels[n] == c) for c in range(5) if c == 0 or present[n, c]}
            centres = [(unit[n] * (r[n] * own)).sum((1, 2)) for own in members.values() if (r[n] * own).any()]
            cosines = torch.stack([torch.cosine_similarity(f[n], mu[:, None, None], dim=0) for mu in centres])
            total = total - (cosines / 0.5).log_softmax(0).amax(0)[labels[n] != 255].sum()
        return total

    other = hidden.clone().requires_grad_()
    assert torch.autograd.gradcheck(value, (other,))
    value(other).backward()
    assert other.grad is not None
    assert torch.allclose(leaf.grad, other.grad)


def test_nothing_labelled_and_no_class() -> None:
    """Unlabelled images, and one whose only labels are of an absent class: 0 with zero gradient, never NaN."""
    hidden = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    labels = torch.full((2, 3, 3), 255, dtype=torch.uint8)
    labels[1, 0] = 2
    (value, count), weights, reassigned = label_reassign(
        hidden, labels, torch.ones(2, 3, 3), torch.tensor([[True, True, True], [True, True, False]])
    )
    value.backward()
    assert float(value.detach()) == int(count) == 0
    assert hidden.grad is not None
    assert not hidden.grad.any()
    assert (reassigned == 255).all()
    assert torch.equal(weights, (labels == 255).float())


def test_only_labelled_pixels_learn_and_an_embedding_of_zero_does_not() -> None:
    hidden, labels, r, present = example(4)
    hidden[0, :, 0, 0] = 0
    labels[0, 0, 0] = 1
    labels[0, 0, 1] = 255
    leaf, confidence = hidden.float().requires_grad_(), r.float().requires_grad_()
    result = label_reassign(leaf, labels, confidence, present)
    result.loss[0].backward()
    assert leaf.grad is not None
    assert leaf.grad.isfinite().all()
    assert not leaf.grad[0, :, 0, :2].any()
    assert leaf.grad[0, :, 1:].any()
    assert confidence.grad is None
    assert not result.weights.requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_in_float32_under_autocast(dtype: torch.dtype) -> None:
    hidden, labels, r, present = example(5)
    half, sure = hidden.to(dtype), r.to(dtype)
    with torch.autocast("cpu", dtype):
        result = label_reassign(half, labels, sure, present)
    expected = label_reassign(half.float(), labels, sure.float(), present)
    assert result.loss[0].dtype == result.loss[1].dtype == result.weights.dtype == torch.float32
    assert torch.equal(result.loss[0], expected.loss[0])
    assert torch.equal(result.weights, expected.weights)


def learnt(seed: int, weight: float) -> tuple[float, float]:
    """Shares of the pixels whose labels were flipped, and of all others, that a small network gets right.

    Three regions of noisy features, 20 % of the labels flipped, features of enough channels to fit every flip.
    """
    generator = torch.Generator().manual_seed(seed)
    truth = torch.zeros(1, 16, 16, dtype=torch.long)
    truth[:, 3:11, 2:8] = 1
    truth[:, 6:14, 9:15] = 2
    prototypes = torch.randn(3, 16, generator=generator)
    features = (prototypes[truth] + torch.randn(1, 16, 16, 16, generator=generator)).movedim(-1, 1)
    flipped = torch.rand(truth.shape, generator=generator) < 0.2
    labels = torch.where(flipped, (truth + torch.randint(1, 3, truth.shape, generator=generator)) % 3, truth)

    trunk = nn.Sequential(nn.Conv2d(16, 64, 1), nn.ReLU())
    head = nn.Conv2d(64, 3, 1)
    for parameter in (*trunk.parameters(), *head.parameters()):
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    optimizer = torch.optim.Adam([*trunk.parameters(), *head.parameters()], lr=0.01)
    present, confidence = torch.ones(1, 3, dtype=torch.bool), torch.ones(1, 16, 16)
    for _ in range(150):
        hidden = trunk(features)
        loss = hidden.new_zeros(())
        weights = None
        if weight:
            reassigned: Reassigned = label_reassign(hidden, labels, confidence, present)
            loss, weights = weight * reassigned.loss[0] / reassigned.loss[1], reassigned.weights
        for value, count in foreground_background_cross_entropy(head(hidden), labels, weights).values():
            loss = loss + value / count
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    right = head(trunk(features)).argmax(1) == truth
    return float(right[flipped].float().mean()), float(right[~flipped].float().mean())


@pytest.mark.parametrize("seed", range(3))
def test_training_recovers_flipped_labels(seed: int) -> None:
    """Without, every flip is fitted; the loss and its weights recover many, the weights alone fewer."""
    without, weights_alone = learnt(seed, 0)[0], learnt(seed, 1e-9)[0]
    recovered, others = learnt(seed, 0.1)
    assert without < 0.05
    assert recovered > without + 0.3
    assert recovered > weights_alone
    assert others > 0.97


def test_bad_arguments() -> None:
    hidden, labels, r, present = example(0)
    with pytest.raises(DataError, match=r"labels \(2, 5, 6\).*must be \(N, K, h, w\)"):
        label_reassign(hidden, labels[..., 1:], r, present)
    with pytest.raises(SettingsError, match="temperature must be above 0, not 0"):
        label_reassign(hidden, labels, r, present, temperature=0)
