"""SLIC, SEEDS and LSC by OpenCV: the superpixels of colour and position that discovered ones are compared with.

SLIC: Achanta et al., "SLIC Superpixels Compared to State-of-the-Art Superpixel Methods" (PAMI 2012). SEEDS: Van den
Bergh et al., "SEEDS: Superpixels Extracted via Energy-Driven Sampling" (IJCV 2015). LSC: Li and Chen, "Superpixel
Segmentation Using Linear Spectral Clustering" (CVPR 2015). They are in OpenCV's contributed modules alone, which the
extra ``study`` brings.
"""

from importlib import metadata
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from tag2mask.errors import DataError, SettingsError, unknown_choice

ClassicAlgorithm = Literal["SLIC", "SEEDS", "LSC"]
"""Algorithms of `classic_superpixels`."""

ITERATIONS = 30
"""Iterations in Kim's comparison (dissertation 2022, section 3.4.3)."""

_BASE, _CONTRIBUTED = "opencv-python-headless", "opencv-contrib-python-headless"
_SEEDS_LEVELS = 4  # block levels: OpenCV gives no default, this is what its sample program takes


def classic_superpixels(
    image: npt.NDArray[np.uint8], algorithm: ClassicAlgorithm, amount: int, *, iterations: int = ITERATIONS
) -> npt.NDArray[np.int32]:
    """Superpixels of one image, computed on its CIELAB colours without smoothing; other parameters are OpenCV's.

    SLIC and LSC are followed by OpenCV's step that joins fragments to a neighbour. SEEDS starts from a grid of blocks
    that are halved several times, and for small numbers comes out with fewer superpixels than asked for.

    Args:
        image: RGB, uint8 of shape (H, W, 3).
        algorithm: SLIC, SEEDS or LSC.
        amount: mean side of a superpixel in pixels for SLIC and LSC; number of superpixels for SEEDS. At least 1.
        iterations: of the algorithm, at least 1.

    Returns:
        int32 of shape (H, W): superpixels from 0.

    Raises:
        DataError: the image has another shape or type.
        SettingsError: an unknown algorithm or an impossible number, or OpenCV has no module ximgproc; the line says
            what to type.
    """
    if algorithm not in get_args(ClassicAlgorithm):
        raise SettingsError(unknown_choice("superpixel algorithm", algorithm, get_args(ClassicAlgorithm)))
    if amount < 1 or iterations < 1:
        raise SettingsError(f"{algorithm}: amount and iterations must be 1 or more, not {amount} and {iterations}")
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise DataError(f"image must be uint8 of shape (H, W, 3), not {image.dtype} of shape {image.shape}")
    ximgproc = find_ximgproc()
    import cv2

    lab = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2LAB)
    height, width, channels = lab.shape
    if algorithm == "SEEDS":
        seeds = ximgproc.createSuperpixelSEEDS(width, height, channels, amount, _SEEDS_LEVELS)
        seeds.iterate(lab, iterations)
        return np.asarray(seeds.getLabels(), dtype=np.int32)
    if algorithm == "SLIC":
        # The factory's own default is the variant SLICO.
        grown = ximgproc.createSuperpixelSLIC(lab, ximgproc.SLIC, amount)
    else:
        grown = ximgproc.createSuperpixelLSC(lab, amount)
    grown.iterate(iterations)
    grown.enforceLabelConnectivity()
    return np.asarray(grown.getLabels(), dtype=np.int32)


def find_ximgproc() -> Any:
    """OpenCV's module of contributed image processing.

    Raises:
        SettingsError: it is not there; the line says what to type.
    """
    try:
        import cv2

        module = getattr(cv2, "ximgproc", None)
    except ImportError:
        module = None
    if not hasattr(module, "createSuperpixelSLIC"):
        raise SettingsError(f"SLIC, SEEDS and LSC need OpenCV's contributed modules: {_way_out()}")
    return module


def _way_out() -> str:
    """Command to type: both OpenCV packages share the folder cv2, and the one that was installed last is in it."""
    try:
        version = metadata.version(_BASE)
    except metadata.PackageNotFoundError:
        return f"pip install {_CONTRIBUTED}"
    return f"pip install --no-deps --force-reinstall {_CONTRIBUTED}=={version}"
