import numpy as np
import pytest

from tag2mask.data.demo import distractors
from tag2mask.data.demo.canvas import Layer, Light, rgb

LIGHT = Light((-0.5, -0.5, 0.707), rgb(0.8, 0.8, 0.75), rgb(0.3, 0.32, 0.36), 0.4)
SIZE = (100, 120)


def rng() -> np.random.Generator:
    return np.random.default_rng(4)


def layers() -> dict[str, Layer]:
    line = np.stack([np.full(9, 60.0), np.linspace(20, 104, 9)], axis=1)
    return {
        "pebble": distractors.pebble(rng(), SIZE, (60.0, 50.0), 12.0, LIGHT),
        "berry": distractors.berry(rng(), SIZE, (60.0, 50.0), 12.0, LIGHT),
        "twig": distractors.twig(rng(), SIZE, (60.0, 50.0), 70.0, 0.4, LIGHT),
        "blade": distractors.blade(rng(), SIZE, (60.0, 99.0), 70.0, 6.0, 0.1, LIGHT),
        "near blade": distractors.blade(rng(), SIZE, (60.0, 99.0), 70.0, 6.0, 0.1, LIGHT, defocus=4.0),
        "stalk": distractors.stalk(rng(), SIZE, line, 5.0, LIGHT),
    }


@pytest.mark.parametrize("name", list(layers()))
def test_distractor_is_drawn_inside_the_picture(name: str) -> None:
    layer = layers()[name]
    assert np.isfinite(layer.rgb).all()
    assert layer.top + layer.alpha.shape[0] <= SIZE[0]
    assert layer.left + layer.alpha.shape[1] <= SIZE[1]
    assert 30 < layer.alpha.sum() < 1500
    assert layer.rgb[:, layer.alpha > 0.5].mean() > 0.02 if (layer.alpha > 0.5).any() else name == "near blade"


def test_berry_is_round() -> None:
    assert layers()["berry"].alpha.sum() == pytest.approx(np.pi * 12.0**2, rel=0.02)


def test_distractors_far_outside_do_not_fail() -> None:
    for where in ((-500.0, 10.0), (60.0, 900.0)):
        assert distractors.blade(rng(), SIZE, where, 30.0, 3.0, 0.0, LIGHT).alpha.max() == 0
        assert distractors.pebble(rng(), SIZE, where, 5.0, LIGHT).alpha.max() == 0
