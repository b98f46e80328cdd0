"""The boundary loss: scores are drawn to what a dense CRF makes of them."""

from torch import Tensor

LEAST_PROBABILITY = 1e-4
LEAST_RATIO, LARGEST_RATIO = 0.05, 20.0


def boundary_loss(scores: Tensor, refined: Tensor, inside: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Kullback-Leibler divergence of the scores from their CRF, mean over an image's pixels.

    Constrain-to-boundary of Kolesnikov & Lampert, "Seed, Expand and Constrain" (ECCV 2016, eq. 6), and of DSRG (Huang
    et al., CVPR 2018): the mean over pixels of sum_c Q_c log(Q_c / H_c).

    Q is a constant, as in SEC (DSRG's code lets some gradient through). H is floored at 1e-4, then the ratio Q / H
    clipped to 0.05..20, both as plain clamps: a class whose H is below the floor or whose ratio is outside the range
    takes part at the limit's value and adds no gradient in that pixel; its score still moves with the other classes',
    through the softmax. Where nothing is clipped the gradient is (H - Q) / (number of pixels). Because of the clipping
    the loss can be below 0.

    Args:
        scores: logits (N, C, h, w); their softmax is H.
        refined: Q, the CRF's probabilities (N, C, h, w).
        inside: where there is an image, bool (N, h, w): the mean is over these pixels; None takes all.

    Returns:
        (sum over images, N), float32. A map without pixels adds 0.
    """
    h = scores.float().softmax(1).clamp(min=LEAST_PROBABILITY)
    q = refined.detach().float()
    divergence = (q * (q / h).clamp(LEAST_RATIO, LARGEST_RATIO).log()).sum(1)
    if inside is None:
        total = divergence.sum() / max(divergence.shape[1:].numel(), 1)
    else:
        total = ((divergence * inside).sum((1, 2)) / inside.sum((1, 2)).clamp(min=1)).sum()
    return total, total.new_full((), len(scores))
