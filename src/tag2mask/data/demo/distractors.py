"""Things that belong to no class: pebbles, berries, twigs, blades of grass, stalks. All count as background."""

import math

import numpy as np
import numpy.typing as npt

from tag2mask.data.demo.backgrounds import Size, blade_lines
from tag2mask.data.demo.canvas import Layer, Light, Patch, Points, mix, rgb, ribbon, spline
from tag2mask.data.demo.noise import FloatMap, smoothstep


def pebble(rng: np.random.Generator, size: Size, centre: tuple[float, float], scale: float, light: Light) -> Layer:
    """A rounded stone of radius ``scale`` pixels."""
    patch = Patch(rng, size, centre, scale, light, angle=rng.uniform(0, 6.3), extent=1.2)
    turn = np.linspace(0, 2 * math.pi, 10, endpoint=False)
    radius = rng.normal(1, 0.1, 10)
    outline = spline(np.stack([radius * np.cos(turn), radius * np.sin(turn) * rng.uniform(0.6, 0.95)], axis=1))
    colour = (rgb(0.45, 0.44, 0.43), rgb(0.60, 0.54, 0.46), rgb(0.36, 0.32, 0.30), rgb(0.72, 0.70, 0.66))[
        rng.integers(4)
    ]
    cover = patch.fill(outline)
    nu, nv = patch.u * 0.8, patch.v * 0.9
    bump_u, bump_v = patch.relief(patch.grain * np.float32(0.015), 1.0)
    patch.paint(cover, patch.lit(colour * (1 + 0.12 * patch.grain), nu + bump_u, nv + bump_v, gloss=0.1))
    return patch.layer(height=0.4)


def berry(rng: np.random.Generator, size: Size, centre: tuple[float, float], scale: float, light: Light) -> Layer:
    """A glossy berry: as red and round as a ladybird, but none."""
    patch = Patch(rng, size, centre, scale, light, angle=rng.uniform(0, 6.3), extent=1.1)
    colour = (rgb(0.72, 0.05, 0.04), rgb(0.80, 0.25, 0.04), rgb(0.12, 0.12, 0.28), rgb(0.50, 0.03, 0.10))[
        rng.integers(4)
    ]
    radius = np.hypot(patch.u, patch.v)
    calyx = smoothstep(
        0.24,
        0.12,
        np.hypot(patch.u - 0.3, patch.v - 0.3) * (1 + 0.3 * np.sin(5 * np.arctan2(patch.v - 0.3, patch.u - 0.3))),
    )
    albedo = mix(colour * (1 + 0.08 * patch.grain), rgb(0.08, 0.05, 0.03), 0.85 * calyx)
    patch.paint(patch.cover(radius - 1), patch.lit(albedo, patch.u, patch.v, gloss=0.7, shininess=50))
    return patch.layer(height=0.6)


def _band(
    rng: np.random.Generator, size: Size, line: Points, widths: npt.NDArray[np.float64], colour: FloatMap, light: Light,
    *, fold: float, gloss: float, defocus: float, height: float,
) -> Layer:  # fmt: skip
    """A long thin thing along a line in pixels."""
    low, high = line.min(axis=0) - widths.max(), line.max(axis=0) + widths.max()
    centre = (low + high) / 2
    patch = Patch(rng, size, (centre[0], centre[1]), 1.0, light, extent=float((high - low).max()) / 2)
    cover = patch.fill(ribbon(line - centre, widths))
    nu, nv = patch.pillow(cover, float(widths.max()) * 0.4, fold)
    patch.paint(cover, patch.lit(colour * (1 + 0.07 * patch.grain), nu, nv, gloss=gloss, shininess=14))
    if fold < 0:  # a blade is keeled along its middle
        patch.darken(0.25 * patch.fill(ribbon(line - centre, widths * 0.16)))
    return patch.layer(defocus=defocus, height=height)


def twig(
    rng: np.random.Generator, size: Size, centre: tuple[float, float], length: float, angle: float, light: Light
) -> Layer:
    """A dry twig through ``centre``, ``length`` pixels long."""
    t = np.linspace(-0.5, 0.5, 9)
    bend = rng.normal(0, 0.05, 9).cumsum() * 0.35
    along = (
        np.stack([np.cos(angle) * t - np.sin(angle) * bend, np.sin(angle) * t + np.cos(angle) * bend], axis=1) * length
    )
    colour = mix(rgb(0.30, 0.20, 0.13), rgb(0.50, 0.42, 0.34), rng.uniform(0, 1))
    width = max(1.6, length * rng.uniform(0.025, 0.045))
    widths = width * np.linspace(1, 0.6, 65) * (1 + 0.12 * np.sin(np.linspace(0, 30, 65)))
    return _band(
        rng,
        size,
        spline(along + centre, closed=False),
        widths,
        colour,
        light,
        fold=1.0,
        gloss=0.05,
        defocus=0,
        height=1.5,
    )


def blade(
    rng: np.random.Generator, size: Size, foot: tuple[float, float], length: float, width: float, lean: float,
    light: Light, *, defocus: float = 0.0,
) -> Layer:  # fmt: skip
    """A blade of grass from ``foot`` upwards."""
    line = spline(blade_lines(rng, np.array([foot]), np.array([length]), np.array([lean]))[0], closed=False, steps=4)
    colour = mix(rgb(0.24, 0.42, 0.08), rgb(0.58, 0.66, 0.24), rng.uniform(0, 1))
    widths = width * np.sqrt(np.linspace(1, 0.01, len(line)))
    return _band(rng, size, line, widths, colour, light, fold=-0.5, gloss=0.12, defocus=defocus, height=2.0)


def stalk(rng: np.random.Generator, size: Size, line: Points, width: float, light: Light) -> Layer:
    """The green stalk that carries a blossom."""
    colour = mix(rgb(0.26, 0.42, 0.12), rgb(0.42, 0.52, 0.20), rng.uniform(0, 1))
    widths = width * np.linspace(1, 1.25, len(line))
    return _band(rng, size, line, widths, colour, light, fold=1.0, gloss=0.1, defocus=0, height=2.0)
