import numpy as np
import pytest

from tag2mask.data.demo.backgrounds import (
    BACKGROUNDS,
    blade_lines,
    from_image,
    shade_relief,
    soften,
    stalk_line,
    to_image,
)
from tag2mask.data.demo.canvas import Light, rgb

LIGHT = Light((-0.6, 0.0, 0.8), rgb(0.8, 0.8, 0.75), rgb(0.3, 0.32, 0.36), 0.4)


@pytest.mark.parametrize("name", BACKGROUNDS)
@pytest.mark.parametrize("size", [(96, 128), (128, 96), (32, 21)])
def test_background_is_a_varied_picture_that_repeats(name: str, size: tuple[int, int]) -> None:
    picture = BACKGROUNDS[name](np.random.default_rng(1), size, LIGHT)
    assert picture.shape == (3, *size)
    assert np.isfinite(picture).all()
    assert picture.min() > -0.05
    assert picture.max() < 2.0
    assert picture.std() > 0.01
    np.testing.assert_array_equal(picture, BACKGROUNDS[name](np.random.default_rng(1), size, LIGHT))


def test_backgrounds_have_colours_of_their_own() -> None:
    means = {
        name: np.mean(
            [draw(np.random.default_rng(seed), (60, 80), LIGHT).mean(axis=(1, 2)) for seed in range(4)], axis=0
        )
        for name, draw in BACKGROUNDS.items()
    }
    assert means["moss"].argmax() == means["grass"].argmax() == 1
    assert means["sky"].argmax() == 2
    assert means["soil"].argmax() == means["sand"].argmax() == 0


def test_relief_is_lit_from_the_lamps_side() -> None:
    ramp = np.tile(np.arange(20, dtype=np.float32), (10, 1))  # rises to the right, so it faces left, where the lamp is
    towards = shade_relief(rgb(1, 1, 1), ramp, 1.0, LIGHT)
    away = shade_relief(rgb(1, 1, 1), -ramp, 1.0, LIGHT)
    assert towards[:, 5, 10].mean() > away[:, 5, 10].mean() + 0.3


def test_image_round_trip_and_soften() -> None:
    picture = np.random.default_rng(0).uniform(size=(3, 40, 50)).astype(np.float32)
    np.testing.assert_allclose(from_image(to_image(picture)), picture, atol=0.5 / 255 + 1e-6)
    for radius in (1.0, 6.0):
        smooth = soften(picture, radius)
        assert smooth.shape == picture.shape
        assert smooth.std() < 0.5 * picture.std()
        assert smooth.mean() == pytest.approx(picture.mean(), abs=0.02)


def test_blades_grow_upwards_from_their_feet() -> None:
    feet = np.array([(10.0, 50.0), (30.0, 60.0)])
    lines = blade_lines(np.random.default_rng(0), feet, np.array([20.0, 30.0]), np.zeros(2))
    np.testing.assert_allclose(lines[:, 0], feet)
    assert (lines[:, -1, 1] < feet[:, 1] - 10).all()


def test_stalk_runs_from_the_blossom_down() -> None:
    line = stalk_line(np.random.default_rng(0), (20.0, 10.0), 90.0)
    np.testing.assert_allclose(line[0], (20.0, 10.0))
    assert line[-1, 1] == pytest.approx(90.0)
