"""Scores of superpixel seeds at every threshold, and of CAMs averaged over superpixels: reported, never used."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tag2mask.base.text import percent
from tag2mask.data.classes import BACKGROUND
from tag2mask.data.samples import Sample
from tag2mask.engine.environment import Environment
from tag2mask.engine.stage import Accumulator, Estimate, ReduceStage
from tag2mask.errors import SettingsError
from tag2mask.evaluation.pictures import plot_lines
from tag2mask.evaluation.segmentation import ConfusionMatrix, ThresholdCurve
from tag2mask.evidence.seeds import superpixel_average, superpixel_seeds
from tag2mask.stages.activation_maps import MakeActivationMaps
from tag2mask.stages.labels import read_truth
from tag2mask.stages.superpixel.superpixels import MakeSuperpixels

_STEPS = 19  # thresholds of the averaged CAMs, as many as the plain CAMs are scored at


@dataclass(frozen=True)
class SeedCurveSettings:
    """Thresholds that seeds are scored at.

    Args:
        alphas: foreground thresholds (Kim, table 3.7).
    """

    alphas: tuple[float, ...] = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)

    def __post_init__(self) -> None:
        if not self.alphas or not all(0 <= alpha <= 1 for alpha in self.alphas):
            raise SettingsError(f"seed_curve.alphas: {list(self.alphas)} must be numbers between 0 and 1")


class _Seeds:
    def __init__(self, stage: "EvaluateSuperpixelSeeds", env: Environment) -> None:
        names = ("background", *env.dataset.classes)
        self._stage, self._env = stage, env
        self._matrices = {alpha: ConfusionMatrix(names) for alpha in stage.settings.alphas}
        self._averaged = ThresholdCurve(names, [(step + 1) / (_STEPS + 1) for step in range(_STEPS)])

    def add(self, sample: Sample) -> None:
        if sample.mask is None:
            return
        truth = read_truth(sample, self._env.dataset.num_classes)
        cams = self._stage.cams.load(self._env, sample.id)
        superpixels = self._stage.superpixels.load(self._env, sample.id)
        maps = cams.at_size((truth.shape[0], truth.shape[1]))
        for alpha, matrix in self._matrices.items():
            matrix.add(truth, superpixel_seeds(maps, cams.class_ids, superpixels, alpha).numpy())
        self._averaged.add(truth, superpixel_average(maps, superpixels).numpy(), cams.class_ids)

    def merge(self, other: "_Seeds") -> None:
        for alpha, matrix in self._matrices.items():
            matrix.merge(other._matrices[alpha])
        self._averaged.merge(other._averaged)

    def result(self) -> dict[str, Any]:
        averaged = self._averaged.scores()
        best = max(averaged, key=lambda point: point[1])
        return {
            "curve": [{"alpha": alpha, **_figures(matrix)} for alpha, matrix in self._matrices.items()],
            "averaged_cam": [{"threshold": threshold, "mean_iou": value} for threshold, value in averaged],
            "averaged_cam_best_threshold": best[0],
            "averaged_cam_best_mean_iou": best[1],
        }


def _figures(matrix: ConfusionMatrix) -> dict[str, float | None]:
    """Precision and coverage of foreground and of background seeds."""
    counts = matrix.counts
    # The matrix's last column counts what is unlabelled.
    right, given = counts.diagonal(), counts[:, :-1].sum(axis=0)
    pixels = int(counts.sum())
    foreground = slice(BACKGROUND + 1, None)

    def precision(part: slice) -> float | None:
        return float(right[part].sum() / given[part].sum()) if given[part].sum() else None

    background = slice(BACKGROUND, BACKGROUND + 1)
    return {
        "foreground_precision": precision(foreground),
        "foreground_share": float(given[foreground].sum() / pixels),
        "background_precision": precision(background),
        "background_share": float(given[background].sum() / pixels),
        "labelled_share": float(given.sum() / pixels),
        "labelled_precision": precision(slice(None)),
    }


class EvaluateSuperpixelSeeds(ReduceStage):
    """Precision and coverage of superpixel seeds at several alpha, and mIoU of superpixel-averaged CAMs."""

    name = "seed_curve"
    reads = frozenset({"masks"})
    settings: SeedCurveSettings

    def __init__(self, cams: MakeActivationMaps, superpixels: MakeSuperpixels, settings: SeedCurveSettings) -> None:
        super().__init__(settings, cams.split, cams=cams, superpixels=superpixels)
        self.cams, self.superpixels = cams, superpixels

    def open(self, env: Environment) -> Callable[[], Accumulator]:
        return lambda: _Seeds(self, env)

    def headline(self, env: Environment) -> str:
        figures = self.metrics(env)
        return (
            f"best mIoU {percent(figures['averaged_cam_best_mean_iou'])} of CAMs averaged over superpixels, at "
            f"threshold {figures['averaged_cam_best_threshold']:.2f} (chosen on the truth: reported, not used)"
        )

    def details(self, env: Environment) -> list[str]:
        return [
            f"alpha {point['alpha']:g}: foreground seeds on {percent(point['foreground_share'])} % of the pixels, "
            f"{percent(point['foreground_precision'])} % of them right; background seeds on "
            f"{percent(point['background_share'])} %, {percent(point['background_precision'])} % of them right"
            for point in self.metrics(env)["curve"]
        ]

    def draw(self, env: Environment, folder: Path) -> list[Path]:
        points = self.metrics(env)["curve"]
        alphas = [point["alpha"] for point in points]
        named = {
            "precision of foreground seeds": "foreground_precision",
            "coverage of all seeds": "labelled_share",
        }
        lines = {
            title: (alphas, [100 * (point[name] if point[name] is not None else float("nan")) for point in points])
            for title, name in named.items()
        }
        path = folder / "seed_curve.png"
        plot_lines(path, lines, x="alpha", y="%", title=f"Superpixel seeds against the true masks of {self.split}")
        return [path]

    def estimate(self, env: Environment) -> Estimate:
        return Estimate(0.05 * len(self.samples(env)), 1e4)


def evaluate_superpixel_seeds(cams: MakeActivationMaps, superpixels: MakeSuperpixels) -> EvaluateSuperpixelSeeds:
    """Seeds at several alpha."""
    return EvaluateSuperpixelSeeds(cams, superpixels, SeedCurveSettings())
