"""Smooth random fields: the raw material of every natural texture in the demo scenes."""

import math

import numpy as np
import numpy.typing as npt
from PIL import Image

FloatMap = npt.NDArray[np.floating]


def resize(field: FloatMap, size: tuple[int, int], resample: Image.Resampling = Image.Resampling.BICUBIC) -> FloatMap:
    """Resample a (h, w) field to ``size`` = (height, width), averaging when it shrinks."""
    image = Image.fromarray(np.ascontiguousarray(field, dtype=np.float32))
    return np.array(image.resize((size[1], size[0]), resample), dtype=np.float32)


def blur(field: FloatMap, sigma: float) -> FloatMap:
    """Smooth a (h, w) field by roughly ``sigma`` pixels.

    Shrinks and enlarges again, because PIL's Gaussian filter takes bytes only and bytes leave bands in a
    shaded surface.
    The border is repeated outside, as in the field's own border pixels.
    """
    factor = sigma / 0.8
    if factor <= 1.0:
        return field
    pad = math.ceil(2 * factor)
    padded = np.pad(field, pad, mode="edge")
    height, width = padded.shape
    small = (max(2, round(height / factor)), max(2, round(width / factor)))
    smooth = resize(resize(padded, small, Image.Resampling.BILINEAR), (height, width))
    return smooth[pad : height - pad, pad : width - pad]


def fractal(
    rng: np.random.Generator,
    size: tuple[int, int],
    cell: float,
    *,
    finest: float = 1.0,
    gain: float = 0.5,
    stretch: tuple[float, float] = (1.0, 1.0),
) -> FloatMap:
    """Multi-octave value noise with mean 0 and standard deviation 1.

    Octaves are added while the field is still small and enlarged together, so that the cost is that of the finest one.

    Args:
        rng: source of the random lattice values.
        size: (height, width) of the field.
        cell: lattice spacing of the coarsest octave, in pixels.
        finest: spacing at which octaves stop, in pixels.
        gain: amplitude of an octave relative to the one before it.
        stretch: (vertical, horizontal) factors on the spacing, for grain that runs one way.

    Returns:
        float32 array of shape ``size``.
    """
    field: FloatMap | None = None
    amplitude = 1.0
    while True:
        lattice = (
            min(size[0], math.ceil(size[0] / (cell * stretch[0]))) + 2,
            min(size[1], math.ceil(size[1] / (cell * stretch[1]))) + 2,
        )
        octave = rng.standard_normal(lattice, dtype=np.float32) * np.float32(amplitude)
        field = octave if field is None else resize(field, lattice) + octave
        if cell / 2 < finest:
            break
        cell /= 2
        amplitude *= gain
    field = resize(field, size)
    field -= field.mean()
    field /= max(float(field.std()), 1e-6)
    return field


def smoothstep(low: float, high: float, x: FloatMap) -> FloatMap:
    """Cubic ramp from 0 at ``low`` to 1 at ``high`` (``low`` > ``high`` gives a falling ramp)."""
    t = np.clip((x - low) / (high - low), 0.0, 1.0)
    return (t * t * (3.0 - 2.0 * t)).astype(np.float32)


def slopes(height: FloatMap) -> tuple[FloatMap, FloatMap]:
    """Central differences (d/dy, d/dx) of a (h, w) height field; zero across an axis of one pixel."""
    dy = np.zeros_like(height)
    dx = np.zeros_like(height)
    if height.shape[0] > 2:
        dy[1:-1] = (height[2:] - height[:-2]) * 0.5
    if height.shape[1] > 2:
        dx[:, 1:-1] = (height[:, 2:] - height[:, :-2]) * 0.5
    return dy, dx
