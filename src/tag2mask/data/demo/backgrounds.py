"""Backgrounds as (3, H, W) float32 colours, 0 to 1: grounds to lie on and out-of-focus distances to hover before."""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from tag2mask.data.demo.canvas import Light, Points, mix, rgb, ribbon, spline, tone
from tag2mask.data.demo.noise import FloatMap, fractal, smoothstep

Size = tuple[int, int]

AIRY = ("meadow", "sky")
"""Backgrounds far behind the objects: nothing casts a shadow on them."""


def shade_relief(albedo: FloatMap, height: FloatMap, strength: float, light: Light) -> FloatMap:
    """Colours of a bumpy ground; ``height`` is in pixels, ``strength`` scales it."""
    dy, dx = np.gradient(height)
    x, y, z = light.direction
    steep = np.float32(strength)
    diffuse = (z - steep * (dx * x + dy * y)) / np.sqrt(1 + steep * steep * (dx * dx + dy * dy))
    return albedo * (np.maximum(diffuse, 0) * light.colour + light.ambient)


def to_image(picture: FloatMap) -> Image.Image:
    """PIL image of a (3, H, W) picture, 0 to 1."""
    return Image.fromarray(np.moveaxis((np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8), 0, 2))


def from_image(image: Image.Image) -> FloatMap:
    """(3, H, W) picture, 0 to 1, of a PIL image."""
    return np.moveaxis(np.asarray(image), 2, 0).astype(np.float32) / np.float32(255)


def soften(picture: FloatMap, radius: float) -> FloatMap:
    """(3, H, W) picture through a Gaussian of ``radius`` pixels; bytes are fine where grain follows."""
    image = to_image(picture)
    factor = int(np.clip(radius / 1.5, 1, 8))  # what a wide Gaussian leaves fits on a coarser grid
    if factor == 1:
        return from_image(image.filter(ImageFilter.GaussianBlur(radius)))
    small = image.reduce(factor).filter(ImageFilter.GaussianBlur(radius / factor))
    return from_image(small.resize(image.size, Image.Resampling.BICUBIC))


def _byte(colour: npt.NDArray[np.floating]) -> tuple[int, int, int]:
    red, green, blue = (int(min(max(part, 0.0), 1.0) * 255) for part in colour.ravel().tolist())
    return red, green, blue


def _drawing(picture: FloatMap, ss: int = 2) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = to_image(picture)
    image = image.resize((image.width * ss, image.height * ss), Image.Resampling.BILINEAR)
    return image, ImageDraw.Draw(image)


def _finish(image: Image.Image, ss: int = 2) -> FloatMap:
    return from_image(image.reduce(ss))


def blade_lines(
    rng: np.random.Generator, feet: Points, lengths: npt.NDArray[np.float64], leans: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Bent centre lines of grass blades, (n, 9, 2) pixels, from their (n, 2) feet upwards."""
    droop = rng.normal(0, 0.25, (len(feet), 1))
    length, lean = lengths[:, None], leans[:, None]
    t = np.linspace(0, 1, 9)[None, :]
    x = feet[:, :1] + length * (np.sin(lean) * t + droop * t * t)
    y = feet[:, 1:] - length * (np.cos(lean) * t - 0.12 * np.abs(droop) * t**3)
    return np.stack([x, y], axis=2)


def _blades(
    draw: ImageDraw.ImageDraw, rng: np.random.Generator, size: Size, number: int, length: float, width: float,
    low: FloatMap, high: FloatMap, ss: int = 2,
) -> None:  # fmt: skip
    depth = np.linspace(0, 1, number)
    feet = np.stack(
        [rng.uniform(-0.1, 1.1, number) * size[1], size[0] * (0.25 + 0.95 * depth + rng.normal(0, 0.08, number))],
        axis=1,
    )
    lines = ss * blade_lines(rng, feet, length * rng.uniform(0.5, 1.2, number), rng.normal(0, 0.45, number))
    widths = width * ss * rng.uniform(0.5, 1.3, (number, 1)) * np.sqrt(np.linspace(1, 0.02, lines.shape[1]))
    outlines = ribbon(lines, widths)
    # one half of the blade turns away from the light
    halves = ribbon(lines + np.stack([widths * 0.25, np.zeros_like(widths)], axis=2), widths * 0.5)
    near = depth * rng.uniform(0.4, 1.0, number)
    colours = (low + (high - low) * near) * rng.uniform(0.75, 1.2, number)
    for whole, half, colour in zip(outlines, halves, colours[:, 0].T, strict=True):
        draw.polygon(whole.ravel().tolist(), fill=_byte(colour))
        draw.polygon(half.ravel().tolist(), fill=_byte(colour * 0.78))


def grass(rng: np.random.Generator, size: Size, light: Light) -> FloatMap:
    """A lawn seen at a slant, blade by blade."""
    short = min(size)
    low = rgb(0.10, 0.17, 0.05)
    high = rgb(0.52, 0.68, 0.22) * tone(rng, 0.1)
    field = fractal(rng, size, short / 5, finest=2.0)
    picture = mix(low * 1.3, high * 0.6, np.clip(0.5 + 0.3 * field, 0, 1))
    image, draw = _drawing(picture)
    _blades(draw, rng, size, 190, short * 0.34, max(1.5, short * rng.uniform(0.015, 0.035)), low * 1.6, high)
    lit = _finish(image) * (light.colour * 0.8 + light.ambient)
    return mix(soften(lit, short * 0.015), lit, smoothstep(0.1, 0.55, _down(size)))


def _down(size: Size) -> FloatMap:
    """(H, W) map that runs from 0 at the top to 1 at the bottom."""
    return np.broadcast_to(np.linspace(0, 1, size[0], dtype=np.float32)[:, None], size)


def moss(rng: np.random.Generator, size: Size, light: Light) -> FloatMap:
    """Cushions of moss with starry tufts."""
    short = min(size)
    cushions = fractal(rng, size, short / 3.5, finest=short / 12)
    tufts = fractal(rng, size, short / 28, finest=1.0, gain=0.8)
    height = cushions * (short * 0.035) + tufts * 0.85
    cast = tone(rng, 0.08)
    albedo = mix(
        rgb(0.07, 0.12, 0.03) * cast, rgb(0.48, 0.58, 0.15) * cast, smoothstep(-1.8, 2.2, tufts + 0.7 * cushions)
    )
    albedo = mix(albedo, rgb(0.42, 0.30, 0.14), 0.5 * smoothstep(1.4, 2.2, fractal(rng, size, short / 9, finest=2.0)))
    picture = shade_relief(albedo, height, 0.9, light)
    return mix(soften(picture, short * 0.014), picture, smoothstep(0.05, 0.5, _down(size)))


def soil(rng: np.random.Generator, size: Size, light: Light) -> FloatMap:
    """Forest floor: crumbs of earth under conifer needles and bits of bark."""
    short = min(size)
    crumbs = fractal(rng, size, short / 14, finest=1.0, gain=0.72)
    clods = fractal(rng, size, short / 3, finest=short / 20)
    cast = tone(rng, 0.08)
    albedo = mix(
        rgb(0.16, 0.105, 0.07) * cast, rgb(0.56, 0.40, 0.27) * cast, smoothstep(-2.2, 2.4, crumbs + 0.6 * clods)
    )
    ground = shade_relief(albedo, crumbs * 1.5 + clods * 3, 0.8, light)
    image, draw = _drawing(ground)
    needle = rgb(0.62, 0.42, 0.24) * cast
    tint = light.colour * 0.6 + light.ambient
    for _ in range(int(rng.integers(60, 170))):
        x, y = rng.uniform(0, size[1]), rng.uniform(0, size[0])
        turn, length = rng.uniform(0, math.pi), short * rng.uniform(0.04, 0.13)
        dx, dy = math.cos(turn) * length, math.sin(turn) * length
        colour = needle * tint * np.float32(rng.uniform(0.35, 1.2))
        width = max(1, round(2 * short / 240 * rng.uniform(0.6, 1.7)))
        draw.line(
            [(2 * x + 2, 2 * y + 3), (2 * (x + dx) + 2, 2 * (y + dy) + 3)],
            fill=_byte(ground[:, 0, 0] * 0.3),
            width=width,
        )
        draw.line([(2 * x, 2 * y), (2 * (x + dx), 2 * (y + dy))], fill=_byte(colour), width=width)
    picture = _finish(image)
    return mix(soften(picture, short * 0.012), picture, smoothstep(0.0, 0.4, _down(size)))


def bark(rng: np.random.Generator, size: Size, light: Light) -> FloatMap:
    """A trunk: plates of bark between long fissures, with lichen."""
    short = min(size)
    upright = rng.random() < 0.7
    stretch = (4.5, 1.0) if upright else (1.0, 4.5)
    plates = fractal(rng, size, short / 9, finest=2.0, stretch=stretch)
    ridged = 1 - np.abs(plates) * 1.1
    fine = fractal(rng, size, short / 20, finest=1.0, gain=0.75, stretch=(2.0, 1.0) if upright else (1.0, 2.0))
    fissures = smoothstep(0.55, 1.0, ridged)
    height = -fissures * short * 0.03 + fine * 0.7
    cast = tone(rng, 0.07)
    albedo = mix(rgb(0.30, 0.23, 0.17) * cast, rgb(0.56, 0.47, 0.38) * cast, smoothstep(-2, 2, fine + 0.4 * plates))
    albedo = mix(albedo, rgb(0.07, 0.05, 0.04), 0.85 * fissures)
    lichen = smoothstep(0.7, 1.5, fractal(rng, size, short / 5, finest=1.5, gain=0.65)) * (1 - 0.7 * fissures)
    albedo = mix(albedo, rgb(0.50, 0.56, 0.42) if rng.random() < 0.6 else rgb(0.60, 0.52, 0.16), 0.75 * lichen)
    return shade_relief(albedo, height + lichen * 1.0, 0.8, light)


def stone(rng: np.random.Generator, size: Size, light: Light) -> FloatMap:
    """Weathered rock with speckles, a crack or two and lichen."""
    short = min(size)
    shape = fractal(rng, size, short / 2, finest=short / 25)
    rough = fractal(rng, size, short / 18, finest=1.0, gain=0.8)
    cast = tone(rng, 0.06)
    dark, pale = (
        (rgb(0.36, 0.35, 0.35), rgb(0.66, 0.65, 0.62))
        if rng.random() < 0.65
        else (rgb(0.45, 0.34, 0.26), rgb(0.74, 0.62, 0.50))
    )
    albedo = mix(dark * cast, pale * cast, smoothstep(-2.4, 2.4, rough + 0.7 * shape))
    cracks = smoothstep(0.05, 0.0, np.abs(fractal(rng, size, short / 2.2, finest=3.0))) * rng.uniform(0.3, 1.0)
    albedo = mix(albedo, rgb(0.10, 0.09, 0.08), 0.7 * cracks)
    lichen = smoothstep(0.9, 1.3, fractal(rng, size, short / 6, finest=1.0, gain=0.6))
    albedo = mix(
        albedo, (rgb(0.62, 0.66, 0.52), rgb(0.72, 0.55, 0.14), rgb(0.24, 0.25, 0.2))[rng.integers(3)], 0.7 * lichen
    )
    return shade_relief(albedo, shape * short * 0.03 + rough * 0.8 - cracks * 2 + lichen * 0.8, 0.8, light)


def sand(rng: np.random.Generator, size: Size, light: Light) -> FloatMap:
    """Beach sand with wind ripples."""
    short = min(size)
    bed = fractal(rng, size, short / 1.5, finest=short / 10)
    grains = rng.standard_normal(size, dtype=np.float32)
    turn = rng.uniform(-0.5, 0.5)
    y, x = np.indices(size, dtype=np.float32) / np.float32(short)
    phase = (x * math.sin(turn) + y * math.cos(turn)) * rng.uniform(28, 55) + 1.3 * bed
    ripples = np.sin(phase) + 0.3 * np.sin(2 * phase + 0.8)
    height = ripples * short * 0.008 * rng.uniform(0.3, 1.0) + grains * 0.28 + bed * short * 0.015
    cast = tone(rng, 0.05)
    albedo = rgb(0.80, 0.68, 0.50) * cast * (1 + 0.07 * grains + 0.05 * bed)
    picture = shade_relief(albedo, height, 0.9, light)
    return mix(soften(picture, short * 0.012), picture, smoothstep(0.0, 0.45, _down(size)))


def water(rng: np.random.Generator, size: Size, light: Light) -> FloatMap:
    """A pond: dark depth, the sky mirrored in ripples."""
    short = min(size)
    swell = fractal(rng, size, short / 3, finest=2.5, gain=0.48, stretch=(0.5, 1.7))
    steep, _ = np.gradient(swell)
    steep /= steep.std()
    deep = rgb(0.06, 0.17, 0.17) * tone(rng, 0.2)
    sky = rgb(0.50, 0.64, 0.74) * tone(rng, 0.06)
    bottom = smoothstep(-1, 2, fractal(rng, size, short / 6, finest=2.0))
    picture = mix(deep, rgb(0.22, 0.24, 0.13), 0.5 * bottom)
    picture = mix(picture, sky, 0.6 * smoothstep(-1.0, 2.2, steep + 0.8 * (0.5 - _down(size)) + 0.4 * swell))
    picture = picture + (0.45 * smoothstep(2.0, 3.4, steep)) * light.colour
    return soften(picture, max(0.6, short * 0.004))


def meadow(rng: np.random.Generator, size: Size, light: Light) -> FloatMap:
    """A meadow far out of focus: soft greens, blurred stems and discs of light."""
    palettes = (
        (rgb(0.62, 0.72, 0.42), rgb(0.16, 0.30, 0.10)),
        (rgb(0.80, 0.78, 0.50), rgb(0.26, 0.34, 0.12)),
        (rgb(0.52, 0.66, 0.60), rgb(0.10, 0.24, 0.14)),
        (rgb(0.72, 0.60, 0.48), rgb(0.24, 0.22, 0.12)),
    )
    return _bokeh(rng, size, *palettes[rng.integers(len(palettes))], light, stems=True)


def sky(rng: np.random.Generator, size: Size, light: Light) -> FloatMap:
    """Open sky with clouds and a few blurred twigs' lights."""
    top = rgb(0.30, 0.52, 0.80) * tone(rng, 0.07)
    picture = _bokeh(rng, size, top, rgb(0.72, 0.83, 0.90), light, stems=False)
    clouds = smoothstep(-0.2, 1.8, fractal(rng, size, min(size) / 1.6, finest=4.0))
    return mix(picture, rgb(0.95, 0.95, 0.95), 0.85 * clouds)


def _bokeh(
    rng: np.random.Generator, size: Size, top: FloatMap, bottom: FloatMap, light: Light, *, stems: bool
) -> FloatMap:
    # far out of focus, a quarter of the resolution holds everything
    quarter = (max(8, size[0] // 4), max(8, size[1] // 4))
    short = min(quarter)
    cloud = fractal(rng, quarter, short / 2.5, finest=4.0)
    picture = mix(top, bottom, np.clip(_down(quarter) + 0.22 * cloud, 0, 1))
    image, draw = _drawing(picture)
    if stems:
        for _ in range(int(rng.integers(8, 22))):
            foot = (rng.uniform(0, quarter[1]), quarter[0] * rng.uniform(0.8, 1.3))
            line = (
                2
                * blade_lines(
                    rng, np.array([foot]), np.array([quarter[0] * rng.uniform(0.3, 0.9)]), rng.normal(0, 0.25, 1)
                )[0]
            )
            shade = mix(bottom, top, rng.uniform(-0.2, 0.9)) * np.float32(rng.uniform(0.7, 1.15))
            draw.polygon(
                ribbon(line, short * rng.uniform(0.03, 0.1) * np.linspace(1, 0.1, len(line))).ravel().tolist(),
                fill=_byte(shade),
            )
        for _ in range(int(rng.integers(0, 9))):
            x, y, r = (
                rng.uniform(0, quarter[1] * 2),
                rng.uniform(0.2, 1) * quarter[0] * 2,
                short * rng.uniform(0.05, 0.18),
            )
            tint = (
                rgb(0.85, 0.4, 0.6),
                rgb(0.9, 0.8, 0.25),
                rgb(0.85, 0.85, 0.9),
                rgb(0.6, 0.5, 0.85),
                rgb(0.85, 0.25, 0.2),
            )[rng.integers(5)]
            draw.ellipse((x - r, y - r, x + r, y + r), fill=_byte(tint * 0.85))
    picture = soften(_finish(image), short * rng.uniform(0.03, 0.07))
    picture = from_image(to_image(picture).resize((size[1], size[0]), Image.Resampling.BICUBIC))
    if not stems:
        return picture
    discs = Image.new("L", (size[1], size[0]))
    draw = ImageDraw.Draw(discs)
    for _ in range(int(rng.integers(0, 16))):
        x, y, r = rng.uniform(0, size[1]), rng.uniform(0, 0.75) * size[0], min(size) * rng.uniform(0.02, 0.07)
        level = int(rng.uniform(25, 80))
        draw.ellipse((x - r, y - r, x + r, y + r), fill=level, outline=level + 18)
    glow = np.asarray(discs.filter(ImageFilter.GaussianBlur(1.2)), dtype=np.float32) / np.float32(255)
    return mix(picture, rgb(1.0, 0.97, 0.85), glow) * (light.colour * 0.6 + light.ambient * 1.2)


BACKGROUNDS: dict[str, Callable[[np.random.Generator, Size, Light], FloatMap]] = {
    "bark": bark,
    "grass": grass,
    "meadow": meadow,
    "moss": moss,
    "sand": sand,
    "sky": sky,
    "soil": soil,
    "stone": stone,
    "water": water,
}
"""Every background by name; each takes (rng, (height, width), light)."""


def stalk_line(rng: np.random.Generator, top: tuple[float, float], bottom: float) -> Points:
    """Gently bent line from ``top`` down to the row ``bottom``, pixels."""
    sway = (bottom - top[1]) * rng.normal(0, 0.18)
    return spline([top, (top[0] + sway * 0.25, (top[1] + bottom) / 2), (top[0] + sway, bottom)], closed=False)
