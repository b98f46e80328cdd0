import math

import numpy as np
import pytest

from tag2mask.data.demo.canvas import Light, Patch, mix, rgb, ribbon, spline

LIGHT = Light((0.6, 0.0, 0.8), rgb(0.8, 0.8, 0.8), rgb(0.3, 0.3, 0.3), 0.5)
SQUARE = np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)])


def patch(centre: tuple[float, float] = (40.0, 30.0), **pose: float | bool) -> Patch:
    return Patch(np.random.default_rng(0), (60, 80), centre, 20.0, LIGHT, **pose)


def test_patch_coordinates_turn_with_the_object() -> None:
    upright, turned = patch(), patch(angle=math.pi / 2)
    # clockwise by a quarter turn: the object's v axis (down) points to the left of the picture
    np.testing.assert_allclose(turned.v, -upright.u, atol=1e-5)
    np.testing.assert_allclose(turned.u, upright.v, atol=1e-5)
    mirrored = patch(mirror=True)
    np.testing.assert_allclose(mirrored.u, -upright.u)
    assert mirrored.light[0] == pytest.approx(-upright.light[0])


@pytest.mark.parametrize("pose", [{}, {"angle": 0.7}, {"angle": -1.9, "mirror": True}])
def test_fill_agrees_with_the_coordinates(pose: dict[str, float]) -> None:
    p = patch(**pose)
    off_centre = np.add(SQUARE, (0.3, 0.1))
    inside = (np.abs(p.u - 0.3) < 0.5) & (np.abs(p.v - 0.1) < 0.5)
    cover = p.fill(off_centre)
    assert cover.sum() == pytest.approx(20.0**2, rel=0.05)
    assert ((cover > 0.5) != inside).mean() < 0.01


def test_cover_has_the_area_of_the_disc() -> None:
    p = patch()
    assert p.cover(np.hypot(p.u, p.v) - 0.8).sum() == pytest.approx(math.pi * 16.0**2, rel=0.01)


def test_thin_strokes_fade_instead_of_breaking() -> None:
    p = patch()
    line = np.array([(-0.9, 0.013), (0.9, 0.013)])
    cover = p.strokes([line], 0.01)
    crossed = cover[:, (p.u[0] > -0.8) & (p.u[0] < 0.8)].sum(axis=0)
    assert crossed.min() > 0.1
    assert crossed.mean() == pytest.approx(0.01 * 20.0, rel=0.4)


def test_paint_keeps_premultiplied_colours() -> None:
    p = patch()
    red, blue = rgb(1, 0, 0), rgb(0, 0, 1)
    p.paint(np.full(p.shape, 0.5, dtype=np.float32), red)
    p.paint(np.full(p.shape, 0.5, dtype=np.float32), blue)
    np.testing.assert_allclose(p.alpha, 0.75)
    np.testing.assert_allclose(p.rgb[:, 0, 0], [0.25, 0.0, 0.5])
    p.darken(np.full(p.shape, 0.2, dtype=np.float32))
    np.testing.assert_allclose(p.rgb[:, 0, 0], [0.2, 0.0, 0.4])


def test_surfaces_that_face_the_lamp_are_brighter() -> None:
    p = patch()
    white = rgb(1, 1, 1)
    towards, away = (p.lit(white, nu, 0.0).mean() for nu in (0.6, -0.6))
    assert towards > away + 0.3
    assert p.lit(white, 0.3, 0.0, gloss=0.5).mean() > p.lit(white, 0.3, 0.0).mean()
    # a quarter turn of the object does not turn the lamp with it
    turned = patch(angle=math.pi / 2)
    assert turned.lit(white, 0.0, -0.6).mean() == pytest.approx(towards, abs=1e-5)


def test_pillow_normals_point_outwards() -> None:
    p = patch()
    nu, nv = p.pillow(p.cover(np.hypot(p.u, p.v) - 0.8), 0.3)
    ring = np.abs(np.hypot(p.u, p.v) - 0.7) < 0.1
    assert (nu * p.u + nv * p.v)[ring].mean() > 0.05


def test_layer_stays_in_the_picture_wherever_the_object_is() -> None:
    for centre in ((-5.0, 30.0), (200.0, 30.0), (79.9, 59.9), (0.0, -90.0)):
        p = patch(centre)
        p.paint(p.cover(np.hypot(p.u, p.v) - 1.0), rgb(1, 1, 1))
        layer = p.layer(defocus=2.0)
        rows, columns = layer.region
        assert 0 <= rows.start < rows.stop <= 60
        assert 0 <= columns.start < columns.stop <= 80
        assert layer.alpha.shape == (rows.stop - rows.start, columns.stop - columns.start)
        assert layer.rgb.shape == (3, *layer.alpha.shape)


def test_defocus_keeps_the_amount_and_softens_the_edge() -> None:
    p = patch()
    p.paint(p.cover(np.hypot(p.u, p.v) - 0.6), rgb(1, 1, 1))
    sharp, soft = p.layer(), p.layer(defocus=3.0)
    assert soft.alpha.sum() == pytest.approx(sharp.alpha.sum(), rel=0.05)
    assert ((soft.alpha > 0.1) & (soft.alpha < 0.9)).sum() > 2 * ((sharp.alpha > 0.1) & (sharp.alpha < 0.9)).sum()


def test_spline_passes_through_its_points() -> None:
    points = np.array([(0.0, 0.0), (1.0, 2.0), (3.0, 1.0), (2.0, -1.0)])
    for closed in (True, False):
        curve = spline(points, closed=closed, steps=5)
        distances = np.linalg.norm(curve[None] - points[:, None], axis=2).min(axis=1)
        np.testing.assert_allclose(distances, 0.0, atol=1e-12)
    np.testing.assert_allclose(spline(points, closed=False)[-1], points[-1])


def test_ribbon_of_one_line_and_of_many() -> None:
    line = np.array([(0.0, 0.0), (1.0, 0.0), (2.0, 0.0)])
    band = ribbon(line, np.full(3, 0.5))
    assert set(np.abs(band[:, 1]).round(6)) == {0.25}
    np.testing.assert_allclose(ribbon(np.stack([line, line + 1]), np.full((2, 3), 0.5))[0], band)


def test_mix_ends_at_its_colours() -> None:
    a, b = rgb(0.1, 0.2, 0.3), rgb(0.9, 0.8, 0.7)
    blend = mix(a, b, np.array([[0.0, 1.0]], dtype=np.float32))
    np.testing.assert_allclose(blend[:, 0, 0], a.ravel())
    np.testing.assert_allclose(blend[:, 0, 1], b.ravel(), rtol=1e-6)
