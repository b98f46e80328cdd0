"""The dense CRF as settings."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tag2mask.base.versions import Code
from tag2mask.data.images import image_size
from tag2mask.engine.environment import Environment
from tag2mask.errors import SettingsError
from tag2mask.refine.dense_crf import dense_crf

CODE = Code("CRF of a stage")


@dataclass(frozen=True)
class CRFSettings:
    """Kernels of the fully connected CRF (Kraehenbuehl and Koltun, 2011).

    Args:
        iterations: of mean field.
        gaussian_sxy: width of the position kernel, pixels.
        gaussian_weight: its weight.
        bilateral_sxy: width in position of the kernel on position and colour, pixels.
        bilateral_srgb: its width in colour, steps of 0..255.
        bilateral_weight: its weight.
        reference_side: long side of the photographs that the widths in pixels are meant for: on photographs of another
            size they are scaled alike, so that one constant fits photographs of any size; 0 takes them as they are. The
            constants in use (80, 3) were found on photographs of 500 pixels.
    """

    iterations: int = 10
    gaussian_sxy: float = 3.0
    gaussian_weight: float = 3.0
    bilateral_sxy: float = 80.0
    bilateral_srgb: float = 13.0
    bilateral_weight: float = 10.0
    reference_side: int = 0

    def __post_init__(self) -> None:
        for name in ("gaussian_sxy", "bilateral_sxy", "bilateral_srgb"):
            if getattr(self, name) <= 0:
                raise SettingsError(f"crf.{name}: {getattr(self, name)} must be above 0")
        for name in ("iterations", "gaussian_weight", "bilateral_weight", "reference_side"):
            if getattr(self, name) < 0:
                raise SettingsError(f"crf.{name}: {getattr(self, name)} must not be negative")

    def apply(
        self, image: npt.NDArray[np.uint8], probabilities: npt.NDArray[np.float32], *, shrunk: float = 1.0
    ) -> npt.NDArray[np.float32]:
        """The CRF's probabilities for an image.

        Args:
            image: uint8 (H, W, 3).
            probabilities: float32 (C, H, W).
            shrunk: size of this image as a share of the photograph's own; the widths shrink with it.
        """
        height, width = image.shape[:2]
        refined: npt.NDArray[np.float32] = dense_crf(
            image, probabilities, **self.kernels((height, width), shrunk=shrunk)
        )
        return refined

    def kernels(self, size: tuple[int, int], *, shrunk: float = 1.0) -> dict[str, Any]:
        """The parameters of `tag2mask.dense_crf` for an image of (height, width) `size`, `shrunk` as in `apply`."""
        factor = max(size) / self.reference_side if self.reference_side else shrunk
        return {
            "iterations": self.iterations,
            "gaussian_sxy": self.gaussian_sxy * factor,
            "gaussian_weight": self.gaussian_weight,
            "bilateral_sxy": self.bilateral_sxy * factor,
            "bilateral_srgb": self.bilateral_srgb,
            "bilateral_weight": self.bilateral_weight,
        }

    def seconds(self, env: Environment, *, classes: int) -> float:
        """Seconds of one image of this data set on one thread, timed on noise, which takes longer."""
        height, width = image_size(env.dataset.train.samples[0].image)
        image = np.random.default_rng(0).integers(0, 64, (height, width, 3), dtype=np.uint8)
        start = time.perf_counter()
        self.apply(image, np.full((classes, height, width), 1 / classes, dtype=np.float32))
        return time.perf_counter() - start
