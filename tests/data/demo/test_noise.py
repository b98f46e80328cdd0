import numpy as np
import pytest

from tag2mask.data.demo.noise import blur, fractal, resize, slopes, smoothstep


def test_fractal_is_standardised_and_repeats() -> None:
    first = fractal(np.random.default_rng(3), (60, 90), 20.0)
    again = fractal(np.random.default_rng(3), (60, 90), 20.0)
    assert first.shape == (60, 90)
    assert first.dtype == np.float32
    assert abs(float(first.mean())) < 1e-4
    assert float(first.std()) == pytest.approx(1.0, abs=1e-3)
    np.testing.assert_array_equal(first, again)


def test_fractal_is_smoother_without_fine_octaves() -> None:
    coarse = fractal(np.random.default_rng(0), (80, 80), 20.0, finest=20.0)
    fine = fractal(np.random.default_rng(0), (80, 80), 20.0, finest=1.0, gain=0.9)
    assert np.abs(np.diff(coarse)).mean() < 0.5 * np.abs(np.diff(fine)).mean()


def test_fractal_stretch_runs_along_the_rows_it_names() -> None:
    field = fractal(np.random.default_rng(0), (120, 120), 12.0, stretch=(6.0, 1.0))
    assert np.abs(np.diff(field, axis=0)).mean() < 0.6 * np.abs(np.diff(field, axis=1)).mean()


def test_fractal_smaller_than_its_cell() -> None:
    assert np.isfinite(fractal(np.random.default_rng(0), (1, 3), 50.0)).all()


def test_blur_spreads_a_point_by_about_sigma_and_keeps_its_sum() -> None:
    field = np.zeros((101, 101), dtype=np.float32)
    field[50, 50] = 1.0
    smooth = blur(field, 6.0)
    profile = smooth[50]
    assert smooth.sum() == pytest.approx(1.0, abs=0.05)
    # the full width of a Gaussian at half its height is 2.35 sigma
    assert 0.5 * 2.35 * 6 < (profile > 0.5 * profile.max()).sum() < 1.5 * 2.35 * 6


def test_blur_keeps_constants_to_the_border_and_small_sigmas_do_nothing() -> None:
    flat = np.full((20, 30), 0.7, dtype=np.float32)
    np.testing.assert_allclose(blur(flat, 5.0), flat, atol=1e-5)
    assert blur(flat, 0.3) is flat


def test_resize_averages_when_it_shrinks() -> None:
    field = np.arange(16, dtype=np.float32).reshape(4, 4)
    assert resize(field, (1, 1)).item() == pytest.approx(field.mean(), abs=0.01)


def test_smoothstep_rises_and_falls() -> None:
    x = np.array([-1.0, 0.0, 0.5, 1.0, 2.0], dtype=np.float32)
    np.testing.assert_allclose(smoothstep(0, 1, x), [0, 0, 0.5, 1, 1])
    np.testing.assert_allclose(smoothstep(1, 0, x), [1, 1, 0.5, 0, 0])


def test_slopes_of_a_plane() -> None:
    y, x = np.mgrid[:6, :7].astype(np.float32)
    dy, dx = slopes(2 * y - 3 * x)
    np.testing.assert_allclose(dy[1:-1], 2.0)
    np.testing.assert_allclose(dx[:, 1:-1], -3.0)
    assert not slopes(np.ones((1, 1), dtype=np.float32))[0].any()
