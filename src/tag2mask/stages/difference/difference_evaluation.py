"""Accuracy of DD-Net's predictions of where masks differ, and how many of the changes it trusts are for the better."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tag2mask.base.text import percent
from tag2mask.data.classes import UNLABELLED
from tag2mask.data.samples import Sample
from tag2mask.engine.environment import Environment
from tag2mask.engine.stage import Accumulator, Estimate, ReduceStage
from tag2mask.refine.difference import difference_map
from tag2mask.stages.difference.difference_seeds import DifferenceSeeds
from tag2mask.stages.labels import read_truth

_MASKS = ("before", "after")


@dataclass(frozen=True)
class DifferenceScoreSettings:
    """Counting needs no settings: every pixel counts once, those of 255 in the truth left out of verdicts."""


class _Counts:
    def __init__(self, seeds: DifferenceSeeds, env: Environment) -> None:
        self._seeds, self._env = seeds, env
        self._sums: defaultdict[str, float] = defaultdict(float)

    def add(self, sample: Sample) -> None:
        seeds, env = self._seeds, self._env
        before, after, refined = (
            torch.from_numpy(stage.load(env, sample.id)) for stage in (seeds.before, seeds.after, seeds)
        )
        differs = difference_map(before[None], after[None])[0]
        self._sums["pixels"] += differs.numel()
        self._sums["differ"] += int(differs.sum())
        self._sums["after_taken"] += int((differs & (refined == after)).sum())
        d = seeds.maps.at_size(env, sample.id, (before.shape[0], before.shape[1]))
        for name, logits in zip(_MASKS, d, strict=True):
            for half, pixels in (("differ", differs), ("agree", ~differs)):
                said = logits[pixels]
                self._sums[f"{name}_right_{half}"] += int(((said >= 0) == (half == "differ")).sum())
                self._sums[f"{name}_mean_{half}"] += float(said.sigmoid().double().sum())
        if sample.mask is None:
            return
        truth = torch.from_numpy(read_truth(sample, env.dataset.num_classes))
        for name, mask in zip(_MASKS, (before, after), strict=True):
            self._judge(name, mask, refined, truth)

    def _judge(self, name: str, mask: Tensor, refined: Tensor, truth: Tensor) -> None:
        """Counts what was changed from a mask, by what the truth says of it."""
        changed = (refined != mask) & (truth != UNLABELLED)
        self._sums[f"labelled_{name}"] += int((truth != UNLABELLED).sum())
        self._sums[f"changed_{name}"] += int(changed.sum())
        self._sums[f"better_{name}"] += int((changed & (refined == truth)).sum())
        self._sums[f"worse_{name}"] += int((changed & (mask == truth)).sum())

    def merge(self, other: "_Counts") -> None:
        for name, value in other._sums.items():
            self._sums[name] += value

    def result(self) -> dict[str, Any]:
        sums = self._sums
        differ, agree = sums["differ"], sums["pixels"] - sums["differ"]
        return {
            "differing_share": _share(differ, sums["pixels"]),
            "after_taken_share": _share(sums["after_taken"], differ),
            "maps": {name: self._of_map(name, differ, agree) for name in _MASKS},
            "changes": {name: self._of_changes(name) for name in _MASKS},
        }

    def _of_map(self, name: str, differ: float, agree: float) -> dict[str, float | None]:
        right = [_share(self._sums[f"{name}_right_{half}"], of) for half, of in (("differ", differ), ("agree", agree))]
        known = [value for value in right if value is not None]
        return {
            "right_where_differing": right[0],
            "right_where_agreeing": right[1],
            "balanced_accuracy": sum(known) / len(known) if known else None,
            "mean_where_differing": _share(self._sums[f"{name}_mean_differ"], differ),
            "mean_where_agreeing": _share(self._sums[f"{name}_mean_agree"], agree),
        }

    def _of_changes(self, name: str) -> dict[str, float | None]:
        sums = self._sums
        changed, better, worse = sums[f"changed_{name}"], sums[f"better_{name}"], sums[f"worse_{name}"]
        return {
            "changed_share": _share(changed, sums[f"labelled_{name}"]),
            "better": _share(better, changed),
            "worse": _share(worse, changed),
            "neither": _share(changed - better - worse, changed),
        }


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


class DifferenceEvaluation(ReduceStage):
    """Accuracy of the difference maps, and what the refined mask changed of each mask against the truth.

    Everything is reported and nothing used. Images without a true mask have no part in the verdicts.
    """

    name = "difference_scores"
    reads = frozenset({"masks"})

    def __init__(self, seeds: DifferenceSeeds) -> None:
        super().__init__(DifferenceScoreSettings(), seeds.split, seeds=seeds)
        self.seeds = seeds

    def open(self, env: Environment) -> Callable[[], Accumulator]:
        return lambda: _Counts(self.seeds, env)

    def headline(self, env: Environment) -> str:
        figures = self.metrics(env)
        return (
            f"the masks differ on {percent(figures['differing_share'])} % of the pixels, of which the refined mask has "
            f"{percent(figures['after_taken_share'])} % from the mask after; difference maps are right on "
            + " and ".join(f"{percent(figures['maps'][name]['balanced_accuracy'])} % ({name})" for name in _MASKS)
            + ", both kinds of pixels counting the same"
        )

    def details(self, env: Environment) -> list[str]:
        figures = self.metrics(env)
        lines = []
        for name, map_ in figures["maps"].items():
            lines.append(
                f"d told from the mask {name}: right on {percent(map_['right_where_differing'])} % of the pixels that "
                f"differ and {percent(map_['right_where_agreeing'])} % of the others; its mean probability is "
                f"{percent(map_['mean_where_differing'])} % and {percent(map_['mean_where_agreeing'])} %"
            )
        for name, change in figures["changes"].items():
            lines.append(
                f"changed from the mask {name}: {percent(change['changed_share'])} % of the pixels, "
                f"{percent(change['better'])} % of these for the better, {percent(change['worse'])} % for the worse, "
                f"{percent(change['neither'])} % from wrong to wrong"
            )
        return lines

    def estimate(self, env: Environment) -> Estimate:
        return Estimate(0.05 * len(self.samples(env)), 1e4)
