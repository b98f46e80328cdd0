from typing import Any

import numpy as np
import numpy.typing as npt

def grow_regions(
    seeds: npt.NDArray[Any],
    probabilities: npt.NDArray[np.float32],
    present: npt.NDArray[np.bool_],
    labels: npt.NDArray[Any],
    background_threshold: float,
    foreground_threshold: float,
) -> None: ...
def grow_superpixels(
    seeds: npt.NDArray[Any],
    probabilities: npt.NDArray[np.float32],
    superpixels: npt.NDArray[Any],
    present: npt.NDArray[np.bool_],
    labels: npt.NDArray[Any],
    superpixel_count: int,
    background_threshold: float,
    foreground_threshold: float,
) -> None: ...
