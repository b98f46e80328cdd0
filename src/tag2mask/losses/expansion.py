"""The expansion loss of SEC: tagged classes shall be somewhere and of some size, the others nowhere."""

import torch
from torch import Tensor

from tag2mask.data.classes import BACKGROUND
from tag2mask.errors import SettingsError

_LEAST_LIKELIHOOD = 1e-30  # far above what float32 can hold, so that neither logarithm nor gradient overflows
_PRESENT, _ABSENT, _BACKGROUND = range(3)


def check_decays(present_decay: float, background_decay: float, absent_decay: float) -> None:
    """Refuses decays that are no decays.

    Raises:
        SettingsError: one is outside 0..1.
    """
    for name, decay in (
        ("present_decay", present_decay),
        ("background_decay", background_decay),
        ("absent_decay", absent_decay),
    ):
        if not 0 <= decay <= 1:
            raise SettingsError(f"{name} must lie between 0 and 1, not {decay}")


def expansion_loss(
    scores: Tensor,
    present: Tensor,
    *,
    present_decay: float = 0.996,
    background_decay: float = 0.999,
    absent_decay: float = 0.0,
    inside: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Global weighted rank pooling (Kolesnikov & Lampert, "Seed, Expand and Constrain", ECCV 2016, eq. 4 and 5).

    G_c is the mean of a class's probabilities with weights d^(j-1), j the rank in descending order: d = 0 is their
    maximum (0^0 = 1), d = 1 their mean. An image's loss is the mean of -log G_c over its present classes, plus the mean
    of -log(1 - G_c) over the absent ones, minus log G_0 of background. A mean over no class is 0.

    1 - H_c of a pixel's most probable class is taken as the sum of the other classes, so that an absent class the
    network is entirely sure of is still pushed down. Likelihoods are floored at 1e-30; below it there is no gradient.

    Args:
        scores: logits (N, C, h, w), class 0 background; their softmax is H.
        present: the classes that an image's tags name, bool (N, C); what stands there for background is ignored.
        present_decay: d of present classes; it sets the size they are expected to have.
        background_decay: d of background.
        absent_decay: d of the other classes.
        inside: where there is an image, bool (N, h, w): ranks and weights are of these pixels; None takes all.

    Returns:
        (sum over images, N), float32. An image without pixels adds 0.

    Raises:
        SettingsError: a decay is outside 0..1.
    """
    check_decays(present_decay, background_decay, absent_decay)
    h = scores.float().softmax(1).flatten(2)
    # 1 - H of a class close to 1 would be 0 in float32 long before the others are.
    largest = h.max(1, keepdim=True).indices
    complement = (1 - h).scatter(1, largest, h.scatter(1, largest, 0).sum(1, keepdim=True))

    kind = torch.where(present, _PRESENT, _ABSENT)
    kind[:, BACKGROUND] = _BACKGROUND
    decays = h.new_tensor([present_decay, absent_decay, background_decay], dtype=torch.float64)
    ranks = torch.arange(h.shape[2], device=h.device)
    counted = inside.flatten(1) if inside is not None else torch.ones_like(h[:, 0], dtype=torch.bool)
    # (N, kinds, pixels): the pixels beside an image are sorted to the end, and weigh nothing there.
    weights = (decays[:, None] ** ranks) * (ranks < counted.sum(1)[:, None, None])
    weights = (weights / weights.sum(2, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)).float()

    order = h.masked_fill(~counted[:, None], -1).sort(dim=2, descending=True, stable=True).indices
    ordered = h.gather(2, order)
    likelihood = torch.where((kind == _ABSENT)[..., None], complement.gather(2, order), ordered)
    of_kind = weights.gather(1, kind[..., None].expand(-1, -1, h.shape[2]))
    pooled = (likelihood * of_kind).sum(2).clamp(min=_LEAST_LIKELIHOOD)
    pooled = torch.where(counted.any(1, keepdim=True), pooled, 1)
    alike = torch.stack([(kind == one).sum(1) for one in range(3)], dim=1)  # classes that share a mean
    total = -(pooled.log() / alike.gather(1, kind)).sum()
    return total, total.new_full((), len(scores))
