import torch

from tag2mask.losses.cross_entropy import cross_entropy, foreground_background_cross_entropy


def test_equals_a_plain_loop() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 4, 5, 6), torch.randint(0, 4, (2, 5, 6))
    labels[0, :2] = 255
    total = 0.0
    for image in range(2):
        for y in range(5):
            for x in range(6):
                label = int(labels[image, y, x])
                if label != 255:
                    total -= float(logits[image, :, y, x].log_softmax(0)[label])
    value, count = cross_entropy(logits, labels.to(torch.uint8))
    assert abs(float(value) - total) < 1e-3
    assert int(count) == int((labels != 255).sum())


def test_nothing_labelled_is_zero_with_zero_gradient() -> None:
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    value, count = cross_entropy(logits, torch.full((1, 4, 4), 255, dtype=torch.uint8))
    (value / count.clamp(min=1)).backward()
    assert float(value.detach()) == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_background_and_foreground_by_themselves() -> None:
    """Sums and counts of a plain loop; weights change sums, not counts."""
    torch.manual_seed(1)
    scores, labels, weights = torch.randn(2, 4, 5, 6), torch.randint(0, 4, (2, 5, 6)), torch.rand(2, 5, 6)
    labels[0, :2] = 255
    sums = {"background": [0.0, 0.0, 0], "foreground": [0.0, 0.0, 0]}
    for n, y, x in torch.cartesian_prod(torch.arange(2), torch.arange(5), torch.arange(6)).tolist():
        label = int(labels[n, y, x])
        if label != 255:
            value = -float(scores[n, :, y, x].log_softmax(0)[label])
            entry = sums["foreground" if label else "background"]
            entry[0] += value
            entry[1] += value * float(weights[n, y, x])
            entry[2] += 1
    plain = foreground_background_cross_entropy(scores, labels.to(torch.uint8))
    weighted = foreground_background_cross_entropy(scores, labels, weights)
    for name, (unweighted_sum, weighted_sum, count) in sums.items():
        assert abs(float(plain[name][0]) - unweighted_sum) < 1e-3
        assert abs(float(weighted[name][0]) - weighted_sum) < 1e-3
        assert int(plain[name][1]) == int(weighted[name][1]) == count


def test_a_term_without_pixels_is_zero_and_weights_have_no_gradient() -> None:
    scores = torch.randn(1, 3, 4, 4, requires_grad=True)
    weights = torch.ones(1, 4, 4, requires_grad=True)
    for label, empty in ((0, "foreground"), (2, "background"), (255, "background"), (255, "foreground")):
        scores.grad = None
        terms = foreground_background_cross_entropy(scores, torch.full((1, 4, 4), label), weights)
        value, count = terms[empty]
        assert float(value.detach()) == int(count) == 0
        value.backward(retain_graph=True)
        assert scores.grad is not None
        assert not scores.grad.any()
        torch.stack([value for value, _ in terms.values()]).sum().backward()
        assert bool(scores.grad.any()) == (label != 255)
    assert weights.grad is None


def test_in_float32_under_autocast() -> None:
    torch.manual_seed(2)
    scores, labels = torch.randn(1, 3, 4, 4), torch.randint(0, 3, (1, 4, 4))
    for dtype in (torch.float16, torch.bfloat16):
        half = scores.to(dtype)
        with torch.autocast("cpu", dtype):
            terms = foreground_background_cross_entropy(half, labels, torch.ones(1, 4, 4, dtype=dtype))
        for name, (value, count) in foreground_background_cross_entropy(half.float(), labels).items():
            assert terms[name][0].dtype == terms[name][1].dtype == torch.float32
            assert torch.equal(terms[name][0], value)
            assert torch.equal(terms[name][1], count)
