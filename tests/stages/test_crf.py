import numpy as np
import pytest

from tag2mask.errors import SettingsError
from tag2mask.refine.dense_crf import dense_crf
from tag2mask.stages.crf import CRFSettings
from tests.stages.conftest import Finished


def test_every_setting_reaches_the_crf() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (14, 17, 3), dtype=np.uint8)
    probabilities = rng.dirichlet(np.ones(3), (14, 17)).transpose(2, 0, 1).astype(np.float32)
    given = {
        "iterations": 3,
        "gaussian_sxy": 2.0,
        "gaussian_weight": 1.5,
        "bilateral_sxy": 9.0,
        "bilateral_srgb": 40.0,
        "bilateral_weight": 4.0,
    }
    assert {*given, "reference_side"} == set(vars(CRFSettings()))
    found = CRFSettings(**given).apply(image, probabilities)  # type: ignore[arg-type]
    assert np.array_equal(found, dense_crf(image, probabilities, **given))  # type: ignore[arg-type]
    for name, value in given.items():
        changed = CRFSettings(**{**given, name: value + 1}).apply(image, probabilities)  # type: ignore[arg-type]
        assert not np.array_equal(changed, found), name


def test_widths_follow_the_size_of_the_photograph() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (12, 20, 3), dtype=np.uint8)
    probabilities = rng.dirichlet(np.ones(3), (12, 20)).transpose(2, 0, 1).astype(np.float32)
    found = CRFSettings(gaussian_sxy=6, bilateral_sxy=30, reference_side=40).apply(image, probabilities)
    assert np.array_equal(found, dense_crf(image, probabilities, gaussian_sxy=3, bilateral_sxy=15))
    shrunk = CRFSettings(gaussian_sxy=6, bilateral_sxy=30).apply(image, probabilities, shrunk=0.5)
    assert np.array_equal(shrunk, found)


def test_defaults_are_those_of_the_field() -> None:
    image = np.random.default_rng(0).integers(0, 256, (9, 8, 3), dtype=np.uint8)
    probabilities = np.random.default_rng(1).dirichlet(np.ones(2), (9, 8)).transpose(2, 0, 1).astype(np.float32)
    assert np.array_equal(CRFSettings().apply(image, probabilities), dense_crf(image, probabilities))


@pytest.mark.parametrize(
    "wrong",
    [
        {"iterations": -1},
        {"gaussian_sxy": 0.0},
        {"bilateral_sxy": -1.0},
        {"bilateral_srgb": 0.0},
        {"gaussian_weight": -1.0},
        {"bilateral_weight": -0.5},
        {"reference_side": -1},
    ],
)
def test_impossible_values_are_named(wrong: dict) -> None:
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        CRFSettings(**wrong)


def test_a_photograph_can_be_timed(finished: Finished) -> None:
    assert CRFSettings().seconds(finished.env, classes=3) > 0
