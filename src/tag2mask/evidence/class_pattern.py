"""Class patterns: the direction in which a network's features vary most over the images of one class (DCP).

Luo & Yang, "Learning Saliency-Free Model with Generic Features for Weakly-Supervised Semantic Segmentation" (AAAI
2020). `tag2mask.evidence.class_statistics` gathers means and covariances; `principal_components`, `orient` and
`project` make patterns and maps of them, `pattern_labels` masks of the maps.
"""

from collections.abc import Sequence
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch
from scipy.linalg import eigh
from torch import Tensor

from tag2mask.base.versions import Code
from tag2mask.data.classes import BACKGROUND, UNLABELLED
from tag2mask.errors import DataError, SettingsError
from tag2mask.evidence.class_statistics import Array, as_tensor

CODE = Code("class patterns")

ArrayT = TypeVar("ArrayT", npt.NDArray[Any], Tensor)


def principal_components(covariance: ArrayT, count: int = 1) -> tuple[ArrayT, ArrayT]:
    """Eigenvectors of the largest eigenvalues; only these are computed (LAPACK's syevr).

    An eigenvector's sign is free: see `orient`. An eigenvalue by the covariance's trace is its share of the variance.

    Args:
        covariance: symmetric floats (d, d); only the lower triangle is read.
        count: how many, 1 to d.

    Returns:
        eigenvalues (count,), largest first, and unit eigenvectors as rows (count, d); float64, the kind and device of
        `covariance`.

    Raises:
        DataError: covariance is not square, or holds NaN or infinite values.
        SettingsError: count is not in 1..d.
    """
    matrix = as_tensor(covariance).cpu().double().numpy()
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise DataError(f"covariance must have shape (d, d), not {matrix.shape}")
    if not np.isfinite(matrix).all():
        raise DataError("covariance must be finite; found NaN or infinite values")
    dimensions = len(matrix)
    if not 1 <= count <= dimensions:
        raise SettingsError(f"count must be 1 to {dimensions}, not {count}")
    values, vectors = eigh(matrix, subset_by_index=(dimensions - count, dimensions - 1), check_finite=False)
    largest_first = values[::-1].copy(), vectors.T[::-1].copy()
    if isinstance(covariance, Tensor):
        return cast(tuple[ArrayT, ArrayT], tuple(torch.from_numpy(a).to(covariance.device) for a in largest_first))
    return cast(tuple[ArrayT, ArrayT], largest_first)


def orient(component: ArrayT, cam_covariance: Array) -> ArrayT:
    """A component or its opposite: the one whose projection is larger where the class's CAM is larger.

    The projection on xi covaries with the CAM by cov(f, CAM) . xi, so no second pass over the features is needed. The
    paper wants positive to mean foreground and does not say how the sign is found; this is our rule. Without any
    evidence the entry of the largest magnitude becomes positive, so that the answer never hangs on the sign given.

    Args:
        component: (d,).
        cam_covariance: (d,), as `ClassStatistics.cam_covariance` gives it.

    Returns:
        (d,), the kind and device of `component`.

    Raises:
        DataError: shapes are not as above.
    """
    direction, evidence = (as_tensor(array).cpu().double() for array in (component, cam_covariance))
    if direction.ndim != 1 or direction.shape != evidence.shape:
        raise DataError(
            f"component and cam_covariance must have one shape (d,), not {tuple(direction.shape)} and "
            f"{tuple(evidence.shape)}"
        )
    along = float(direction @ evidence) or float(direction[direction.abs().argmax()])
    return -component if along < 0 else component


def project(features: ArrayT, mean: Array, component: Array) -> ArrayT:
    """Map of a class: q = (f - mean)^T component, positive where the class is (Luo & Yang, section 3.2).

    Args:
        features: floats (..., d), on any device.
        mean: (d,), of the class's features.
        component: (d,), its oriented first principal component.

    Returns:
        float32 (...), the kind and device of `features`.

    Raises:
        DataError: sizes differ.
    """
    values = as_tensor(features)
    centre, direction = (as_tensor(array).to(values.device, torch.float64) for array in (mean, component))
    if centre.shape != direction.shape or values.shape[-1:] != direction.shape:
        raise DataError(
            f"features must have shape (..., d), mean and component (d,), not {tuple(values.shape)}, "
            f"{tuple(centre.shape)} and {tuple(direction.shape)}"
        )
    heights = (values.double() @ direction - centre @ direction).float()
    return heights if isinstance(features, Tensor) else heights.numpy()


def pattern_labels(maps: ArrayT, class_ids: Sequence[int]) -> ArrayT:
    """Masks from the maps of an image's tagged classes (Luo & Yang, algorithm 1).

    A pixel where no map is positive is background, one where exactly one is belongs to that class, and one where
    several are is uncertain, which is left unlabelled.

    Args:
        maps: floats (P, H, W), q of each tagged class as `project` gives it, at the size of the mask.
        class_ids: the P classes, each from 1 to 254.

    Returns:
        uint8 (H, W): 0, a class id or 255; the kind and device of `maps`. Without maps all is background.

    Raises:
        DataError: the maps are not (P, H, W) of P classes, or an id is none of a class.
    """
    if maps.ndim != 3 or len(maps) != len(class_ids):
        raise DataError(f"maps must have shape ({len(class_ids)}, H, W), not {tuple(maps.shape)}")
    if any(not BACKGROUND < class_id < UNLABELLED for class_id in class_ids):
        raise DataError(f"class_ids {list(class_ids)} must lie between {BACKGROUND} and {UNLABELLED}")
    positive = as_tensor(maps) > 0
    ids = torch.tensor(list(class_ids), dtype=torch.long, device=positive.device)
    # Where one map alone is positive, the sum is its class; elsewhere it is not used.
    labels = (positive * ids[:, None, None]).sum(0).masked_fill(positive.sum(0) > 1, UNLABELLED).to(torch.uint8)
    return labels if isinstance(maps, Tensor) else labels.numpy()
