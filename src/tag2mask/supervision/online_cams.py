"""Labels that a network's own CAMs give at every training step: the reliable regions of RRM's single stage."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tag2mask.base.versions import Code
from tag2mask.errors import SettingsError
from tag2mask.evidence.cam import background_power, by_maximum, merge_score_maps
from tag2mask.evidence.reliable_labels import reliable_labels
from tag2mask.supervision.growing import SoftmaxCRF
from tag2mask.supervision.targets import Targets

CODE = Code("online CAMs")


class OnlineCams(nn.Module):
    """CAMs, two dense CRFs, and the pixels that both are sure of (Zhang et al., RRM, AAAI 2020).

    Beside the CAMs stands background as (1 - max CAM)^alpha, once with a low alpha, which makes it strong, and once
    with a high one. Both go through the CRF, of background and tagged classes alone; `reliable_labels` has the rule by
    which their results become labels. The power map it looks at is that of the high alpha.

    Args:
        crf: on the label grid.
        low_alpha: 4 in the paper: foreground that is left beside this background.
        high_alpha: 32 in the paper: background that is left even so.
        share: of a class's pixels, those with the highest CAM that may be labelled.
        cam_above: a CAM must be above it.
        background_above: the power map must be above it for background.
        probability_above: the CRF's probability must reach it.

    Raises:
        SettingsError: the alphas are not above 0, or the low one is above the high one.
    """

    def __init__(
        self,
        crf: SoftmaxCRF,
        *,
        low_alpha: float = 4.0,
        high_alpha: float = 32.0,
        share: float = 0.4,
        cam_above: float = 0.1,
        background_above: float = 0.8,
        probability_above: float = 0.8,
    ) -> None:
        super().__init__()
        if not 0 < low_alpha <= high_alpha:
            raise SettingsError(f"0 < low_alpha <= high_alpha is needed, not {low_alpha} and {high_alpha}")
        self.crf = crf
        self.low_alpha, self.high_alpha = low_alpha, high_alpha
        self.rule = {
            "share": share,
            "cam_above": cam_above,
            "background_above": background_above,
            "probability_above": probability_above,
        }

    @torch.no_grad()
    def forward(self, maps: Sequence[Tensor], present: Tensor, inside: Tensor, image_on_grid: Tensor) -> Targets:
        """Labels of a batch and how sure they are, without gradient.

        Args:
            maps: score maps (N, C, h', w'), one tensor per scale, of any sizes.
            present: the classes that tags name, bool (N, C + 1), background, which is always there, first.
            inside: where there is a photograph, bool (N, h, w), a rectangle each; nothing beside it takes part.
            image_on_grid: images on the label grid, uint8 RGB (N, 3, h, w).

        Returns:
            labels, uint8 (N, h, w), 255 where not reliable, and their confidence.

        Raises:
            FloatingPointError: score maps are not finite.
            DataError, SettingsError: see `SoftmaxCRF` and `reliable_labels`.
        """
        cams = tagged_cams(maps, present, inside)
        # `background_power` takes the classes' axis first.
        powers = [background_power(cams.transpose(0, 1), alpha) for alpha in (self.low_alpha, self.high_alpha)]
        scores = torch.cat([torch.cat([power[:, None], cams], 1) for power in powers])
        # Both CRFs as one batch, so that its images are shared among all threads.
        solved = self.crf.of_tagged(
            image_on_grid.repeat(2, 1, 1, 1),
            scores / scores.sum(1, keepdim=True),
            present.repeat(2, 1),
            inside.repeat(2, 1, 1),
        )
        low, high = solved.chunk(2)
        labels, confidence = reliable_labels(cams, powers[1], low, high, present, inside, **self.rule)
        return Targets(labels, confidence=confidence)


def tagged_cams(maps: Sequence[Tensor], present: Tensor, inside: Tensor) -> Tensor:
    """CAMs of a batch's tagged classes on its label grid, each divided by its maximum within the photograph.

    Args:
        maps, present, inside: as for `OnlineCams`.

    Returns:
        float32 (N, C, h, w) in [0, 1]; 0 of absent classes and beside photographs.

    Raises:
        FloatingPointError: score maps are not finite.
    """
    if not all(one.isfinite().all() for one in maps):
        raise FloatingPointError("the score maps are not finite; a lower learning rate usually helps")
    images, classes = maps[0].shape[:2]
    height, width = inside.shape[1:]
    # The mean over scales is their sum: both are divided by the maximum.
    merged = merge_score_maps([one.flatten(0, 1)[None] for one in maps], (height, width))
    shown = present[:, 1:, None, None] & inside[:, None]
    return by_maximum(merged.view(images, classes, height, width).masked_fill(~shown, 0))
