import torch

from tag2mask.losses.cross_entropy import cross_entropy


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
