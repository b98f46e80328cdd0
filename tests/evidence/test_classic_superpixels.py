import builtins
from importlib import metadata
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from tag2mask.errors import DataError, SettingsError
from tag2mask.evidence.classic_superpixels import ClassicAlgorithm, classic_superpixels, find_ximgproc

ALGORITHMS: tuple[ClassicAlgorithm, ...] = ("SLIC", "SEEDS", "LSC")
needs_ximgproc = pytest.mark.skipif(not hasattr(cv2, "ximgproc"), reason="OpenCV has no contributed modules")


@pytest.fixture(scope="module")
def photograph() -> npt.NDArray[np.uint8]:
    """A blue and a yellow half that meet at an oblique edge, with some noise; 96 x 120."""
    rng = np.random.default_rng(0)
    ys, xs = np.mgrid[:96, :120]
    image = np.where((xs > 50 + ys // 4)[..., None], (230, 200, 40), (30, 60, 200)) + rng.integers(-8, 9, (96, 120, 3))
    return image.astype(np.uint8)


@needs_ximgproc
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_superpixels_partition_and_keep_to_the_edge(
    algorithm: ClassicAlgorithm, photograph: npt.NDArray[np.uint8]
) -> None:
    labels = classic_superpixels(photograph, algorithm, 30)
    assert labels.shape == (96, 120)
    assert labels.dtype == np.int32
    count = labels.max() + 1
    assert sorted(np.unique(labels)) == list(range(count))
    assert 4 <= count <= 40
    right = photograph[..., 0] > 128
    share = np.array([right[labels == label].mean() for label in range(count)])
    assert np.minimum(share, 1 - share).max() < 0.2


@needs_ximgproc
@pytest.mark.parametrize("algorithm", ["SLIC", "LSC"])
def test_larger_superpixels_are_fewer(algorithm: ClassicAlgorithm, photograph: npt.NDArray[np.uint8]) -> None:
    counts = [classic_superpixels(photograph, algorithm, side).max() for side in (12, 24, 48)]
    assert counts[0] > counts[1] > counts[2]


@needs_ximgproc
def test_channels_are_red_green_blue(photograph: npt.NDArray[np.uint8]) -> None:
    swapped = np.ascontiguousarray(photograph[..., ::-1])
    assert (classic_superpixels(photograph, "SLIC", 20) != classic_superpixels(swapped, "SLIC", 20)).any()


@needs_ximgproc
def test_what_cannot_be_is_refused(photograph: npt.NDArray[np.uint8]) -> None:
    with pytest.raises(SettingsError, match="choices: SLIC, SEEDS, LSC"):
        classic_superpixels(photograph, "QUICK", 20)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="1 or more"):
        classic_superpixels(photograph, "SLIC", 0)
    with pytest.raises(SettingsError, match="1 or more"):
        classic_superpixels(photograph, "SLIC", 20, iterations=0)
    with pytest.raises(DataError, match="uint8"):
        classic_superpixels(photograph[..., 0], "SLIC", 20)


def test_without_contributed_modules_the_error_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(cv2, "ximgproc", raising=False)
    monkeypatch.setattr(metadata, "version", lambda name: "4.99")
    with pytest.raises(SettingsError, match=r"--no-deps --force-reinstall opencv-contrib-python-headless==4\.99$"):
        find_ximgproc()


def test_without_opencv_the_error_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "cv2":
            raise ImportError(name)
        return genuine(name, *rest)

    def unknown(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.setattr(metadata, "version", unknown)
    with pytest.raises(SettingsError, match=r"pip install opencv-contrib-python-headless$"):
        find_ximgproc()
