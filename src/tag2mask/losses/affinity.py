"""The losses of AffinityNet: pairs of one label are drawn together, pairs of two labels apart."""

from torch import Tensor

from tag2mask.evidence.affinity import BACKGROUND_PAIR, DIFFERENT, FOREGROUND_PAIR

LEAST_AFFINITY = 1e-5
"""Added within the logarithm, as in the published code."""

BACKGROUND_WEIGHT, FOREGROUND_WEIGHT, DIFFERENT_WEIGHT = 0.25, 0.25, 0.5


def affinity_losses(affinities: Tensor, pairs: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """1/4 L_bg+ + 1/4 L_fg+ + 1/2 L_- (Ahn & Kwak, CVPR 2018).

    L_bg+ and L_fg+ are means of -log(W + 1e-5) over the pairs of background and of one foreground class, L_- that of
    -log(1 + 1e-5 - W) over the pairs of two classes: each a mean over its own pairs, of the whole batch, so that the
    many pairs of background do not drown the others.

    Args:
        affinities: W, floats (N, offsets, h, w) in 0..1, of `pair_affinities`.
        pairs: uint8 (N, offsets, h, w), of `pair_labels`.

    Returns:
        "affinity_background", "affinity_foreground" and "affinity_different", each (weighted sum over its pairs, number
        of its pairs), float32 or finer. A loss without a pair is 0 with zero gradient.
    """
    w = affinities if affinities.element_size() >= 4 else affinities.float()
    alike, apart = -(w + LEAST_AFFINITY).log(), -(1 + LEAST_AFFINITY - w).log()
    terms = {
        "affinity_background": (alike, BACKGROUND_PAIR, BACKGROUND_WEIGHT),
        "affinity_foreground": (alike, FOREGROUND_PAIR, FOREGROUND_WEIGHT),
        "affinity_different": (apart, DIFFERENT, DIFFERENT_WEIGHT),
    }
    losses = {}
    for name, (value, kind, weight) in terms.items():
        inside = pairs == kind
        losses[name] = (weight * (value * inside).sum(), inside.sum().to(w.dtype))
    return losses
