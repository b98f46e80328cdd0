"""Labels refined at every step by difference detection: the dynamic part of SSDD.

Shimoda and Yanai, "Self-Supervised Difference Detection for Weakly-Supervised Semantic Segmentation" (ICCV 2019),
section 4, equations 8 to 12.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from tag2mask.base.versions import Code
from tag2mask.data.classes import UNLABELLED
from tag2mask.engine.system import Losses
from tag2mask.errors import SettingsError, unknown_choice
from tag2mask.losses.cross_entropy import cross_entropy
from tag2mask.losses.difference import difference_loss
from tag2mask.networks.difference_net import DifferenceNet
from tag2mask.refine.difference import difference_map, missing_classes, refine_pair
from tag2mask.supervision.growing import SoftmaxCRF

CODE = Code("dynamic refinement")

SECOND_PAIRS = ("ssdd1", "ssdd2")
"""The mask beside the seeds that DD-Net 2 learns on."""


class Branch(NamedTuple):
    """Outputs of one segmentation head, on the label grid.

    Args:
        scores: logits (N, C, h, w).
        hidden: what they are made of, (N, channels, h, w); the high-level features of a DD-Net.
    """

    scores: Tensor
    hidden: Tensor


class DynamicStep(NamedTuple):
    """Masks and difference maps of one step. Masks are class ids (N, h, w) of the seeds' type, 255 outside photographs.

    Args:
        ssdd0: the seeds.
        seg: of the main branch's scores.
        crf: of those after the CRF.
        ssdd1: the first refinement, of seg and crf.
        ssdd2: the second, of ssdd0 and ssdd1: what the main branch learns from.
        sub: of the sub branch's scores.
        d_seg: DD-Net 1's logits told from seg, (N, h, w); this and the next three carry gradient.
        d_crf: the same from crf.
        d_ssdd0: DD-Net 2's logits told from ssdd0.
        d_second: the same from `second`.
        second: the other mask DD-Net 2 learns on: ssdd1, or ssdd2.
        good: which images DD-Net 1 learns on, bool (N,): those of which the CRF loses no tagged class.
        inside: where there is a photograph, bool (N, h, w).
    """

    ssdd0: Tensor
    seg: Tensor
    crf: Tensor
    ssdd1: Tensor
    ssdd2: Tensor
    sub: Tensor
    d_seg: Tensor
    d_crf: Tensor
    d_ssdd0: Tensor
    d_second: Tensor
    second: Tensor
    good: Tensor
    inside: Tensor


class DynamicRefinement(nn.Module):
    """Two difference detections at every training step, and the four losses of SSDD's equation 12.

    m_seg, the main branch's mask, and m_crf1, the same after a CRF, are refined to m_ssdd1 by DD-Net 1, which sees the
    main branch's features; the seeds m_ssdd0 and m_ssdd1 to m_ssdd2 by DD-Net 2, which sees the sub branch's. All masks
    are restricted to background and tagged classes, and only these take part in the CRF. A pair's masks go through
    their DD-Net together, so that a batch norm that learns treats what is compared alike.

    Args:
        difference_crf: DD-Net 1.
        difference_seed: DD-Net 2.
        crf: of the main branch's softmax.
        bias: of both pairs, in favour of the later mask; 0.4 in the paper.
        background_bias: in favour of background; 0 in the paper.
        class_bias: in favour of tagged classes that a refinement loses; 0 leaves them to the rest.
        share: a class is lost if less than this share of it remains.
        alpha: share of the seeds in what the sub branch learns from (eq. 11).
        second_pair: the mask beside the seeds that DD-Net 2 learns on: "ssdd1" (eq. 10), or "ssdd2", as the authors'
            code has it.

    Raises:
        SettingsError: `alpha` is outside 0..1, or `second_pair` is unknown.
    """

    needs: frozenset[str] = frozenset({"present", "inside", "image_on_grid"})

    def __init__(
        self,
        difference_crf: DifferenceNet,
        difference_seed: DifferenceNet,
        crf: SoftmaxCRF,
        *,
        bias: float = 0.4,
        background_bias: float = 0.0,
        class_bias: float = 1.0,
        share: float = 0.5,
        alpha: float = 0.5,
        second_pair: Literal["ssdd1", "ssdd2"] = "ssdd1",
    ) -> None:
        super().__init__()
        if not 0 <= alpha <= 1:
            raise SettingsError(f"alpha must lie between 0 and 1, not {alpha}")
        if second_pair not in SECOND_PAIRS:
            raise SettingsError(unknown_choice("second_pair", second_pair, SECOND_PAIRS))
        self.difference_crf = difference_crf
        self.difference_seed = difference_seed
        self.crf = crf
        self.bias, self.background_bias, self.class_bias, self.share = bias, background_bias, class_bias, share
        self.alpha = alpha
        self.second_pair = second_pair

    def forward(
        self,
        main: Branch,
        sub: Branch,
        early: Tensor | None,
        seeds: Tensor,
        present: Tensor,
        inside: Tensor,
        image_on_grid: Tensor,
    ) -> DynamicStep:
        """Masks and difference maps of a step; no gradient goes back into the branches.

        Args:
            main: the branch that is kept in the end.
            sub: the branch trained on the seeds as well.
            early: low-level features (N, channels, h, w); None if the DD-Nets take none.
            seeds: m_ssdd0, class ids (N, h, w), 255 unlabelled and outside photographs.
            present: the classes that tags name, bool (N, C), background, which is always there, first.
            inside: where there is a photograph, bool (N, h, w), a rectangle each.
            image_on_grid: images on the label grid, uint8 RGB (N, 3, h, w).

        Raises:
            FloatingPointError: the main branch's scores are not finite.
            DataError, SettingsError: see `SoftmaxCRF`, `DifferenceNet` and `refine_pair`.
        """

        def mask(scores: Tensor) -> Tensor:
            return scores.argmax(1).to(seeds.dtype).masked_fill(~inside, UNLABELLED)

        with torch.no_grad():
            scores = _tagged(main.scores, present)
            m_seg = mask(scores)
            m_crf = mask(self.crf.of_tagged(image_on_grid, scores.softmax(1), present, inside))
            m_sub = mask(_tagged(sub.scores, present))
        d_seg, d_crf = self.difference_crf.pair(self.difference_crf.shared(main.hidden, early), m_seg, m_crf)
        ssdd1 = self._refine(m_seg, m_crf, d_seg, d_crf, present)
        shared = self.difference_seed.shared(sub.hidden, early)
        d_ssdd0, d_second = self.difference_seed.pair(shared, seeds, ssdd1)
        ssdd2, second = self._refine(seeds, ssdd1, d_ssdd0, d_second, present), ssdd1
        if self.second_pair == "ssdd2":
            d_second, second = self.difference_seed(shared, ssdd2), ssdd2
        good = ~missing_classes(m_seg, m_crf, present, share=self.share).any(1)
        return DynamicStep(
            ssdd0=seeds,
            seg=m_seg,
            crf=m_crf,
            ssdd1=ssdd1,
            ssdd2=ssdd2,
            sub=m_sub,
            d_seg=d_seg,
            d_crf=d_crf,
            d_ssdd0=d_ssdd0,
            d_second=d_second,
            second=second,
            good=good,
            inside=inside,
        )

    def losses(self, step: DynamicStep, main: Branch, sub: Branch) -> Losses:
        """The four losses of eq. 12 as (sum, count), by name.

        ``segmentation_main`` is the main branch's cross-entropy on m_ssdd2 (eq. 8), ``segmentation_sub`` the sub
        branch's on seeds and m_ssdd2 (eq. 11). ``difference_crf`` is DD-Net 1's on the pair (m_seg, m_crf1), bad
        samples left out (eq. 9); ``difference_seed`` is DD-Net 2's, no sample left out (eq. 10): from m_ssdd0 it
        predicts where m_sub differs from that, from m_ssdd1 where m_sub differs from this. Pixels of the seeds that
        have no label say nothing of differences and are left out of the former.

        The paper prints the terms J of both as sums. The authors' code takes the mean of all four, as the static part
        takes the mean of its two: every term has a weight of 1/4 here, so that each of the two losses is half the mean
        of its own terms, and the two add up to the mean of the four.
        """
        of_crf = difference_map(step.seg, step.crf)
        crf_terms = [
            difference_loss(d, of_crf, inside=step.inside, samples=step.good) for d in (step.d_seg, step.d_crf)
        ]
        seed_terms = [
            difference_loss(d, difference_map(mask, step.sub), inside=step.inside & (mask != UNLABELLED))
            for d, mask in ((step.d_ssdd0, step.ssdd0), (step.d_second, step.second))
        ]
        on_seeds, on_refined = (_mean(cross_entropy(sub.scores, mask)) for mask in (step.ssdd0, step.ssdd2))
        # Seeds may have fewer labelled pixels than what became of them, so the means are taken before they are mixed.
        mixed = self.alpha * on_seeds + (1 - self.alpha) * on_refined
        return {
            "segmentation_main": cross_entropy(main.scores, step.ssdd2),
            "segmentation_sub": (mixed, torch.ones_like(mixed)),
            "difference_crf": _quarter(crf_terms),
            "difference_seed": _quarter(seed_terms),
        }

    def _refine(self, before: Tensor, after: Tensor, d_before: Tensor, d_after: Tensor, present: Tensor) -> Tensor:
        return refine_pair(
            before,
            after,
            d_before,
            d_after,
            present,
            bias=self.bias,
            background_bias=self.background_bias,
            class_bias=self.class_bias,
            share=self.share,
        )


def _tagged(scores: Tensor, present: Tensor) -> Tensor:
    """Scores in float32, those of absent classes minus infinity.

    Raises:
        FloatingPointError: they are not finite.
    """
    scores = scores.detach().float()
    if not scores.isfinite().all():
        # Before the loss can tell so; the CRF would only say that these are no probabilities.
        raise FloatingPointError("the network's scores are not finite; a lower learning rate usually helps")
    return scores.masked_fill(~present[:, :, None, None], -torch.inf)


def _mean(loss: tuple[Tensor, Tensor]) -> Tensor:
    total, count = loss
    return total / count.clamp(min=1)


def _quarter(terms: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Terms of one count, a quarter of each."""
    return torch.stack([total for total, _ in terms]).sum() / 4, terms[0][1]
