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
    assert set(given) == set(vars(CRFSettings()))
    found = CRFSettings(**given).apply(image, probabilities)  # type: ignore[arg-type]
    assert np.array_equal(found, dense_crf(image, probabilities, **given))  # type: ignore[arg-type]
    for name, value in given.items():
        changed = CRFSettings(**{**given, name: value + 1}).apply(image, probabilities)  # type: ignore[arg-type]
        assert not np.array_equal(changed, found), name


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
    ],
)
def test_impossible_values_are_named(wrong: dict) -> None:
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        CRFSettings(**wrong)


def test_more_iterations_take_longer(finished: Finished) -> None:
    few, many = (CRFSettings(iterations=count).seconds(finished.env, classes=3) for count in (1, 200))
    assert 0 < few < many
