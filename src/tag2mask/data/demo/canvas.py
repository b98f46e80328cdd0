"""Canvas that objects are drawn on: a lit patch of the picture in the object's own coordinates."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from tag2mask.data.demo.noise import FloatMap, blur, fractal, slopes

Points = npt.NDArray[np.float64]

SUPERSAMPLING = 3
"""Outlines are filled at this many times the picture's resolution and averaged."""


@dataclass(frozen=True)
class Light:
    """The light of a whole scene.

    Attributes:
        direction: unit vector towards the lamp; x to the right, y down, z towards the camera.
        colour: (3, 1, 1) RGB of the direct light.
        ambient: (3, 1, 1) RGB of the light from everywhere.
        softness: width of shadows relative to the object that casts them, 0 (hard sun) to 1 (overcast).
    """

    direction: tuple[float, float, float]
    colour: FloatMap
    ambient: FloatMap
    softness: float


@dataclass(frozen=True)
class Layer:
    """One drawn thing, cut to the picture.

    Attributes:
        rgb: (3, h, w) colours multiplied by their coverage, 0 to 1.
        alpha: (h, w) coverage of each pixel, 0 to 1.
        top: row of the picture that the layer's first row lies on.
        left: column of the picture that the layer's first column lies on.
        scale: pixels per unit of the object, for its shadow.
        height: how far the object stands off its ground, in its own units.
    """

    rgb: FloatMap
    alpha: FloatMap
    top: int
    left: int
    scale: float
    height: float

    @property
    def region(self) -> tuple[slice, slice]:
        """Rows and columns of the picture that the layer covers."""
        return (
            slice(self.top, self.top + self.alpha.shape[0]),
            slice(self.left, self.left + self.alpha.shape[1]),
        )


def rgb(red: float, green: float, blue: float) -> FloatMap:
    """A colour of shape (3, 1, 1), components 0 to 1."""
    return np.array((red, green, blue), dtype=np.float32).reshape(3, 1, 1)


def tone(rng: np.random.Generator, spread: float) -> FloatMap:
    """Random factors near 1 on the three components of a colour, shape (3, 1, 1)."""
    return rng.normal(1, spread, (3, 1, 1)).astype(np.float32)


def mix(first: FloatMap, second: FloatMap, amount: FloatMap | float) -> FloatMap:
    """``first`` where ``amount`` is 0, ``second`` where it is 1; a (h, w) amount gives a (3, h, w) map of colours."""
    return first + (second - first) * np.asarray(amount, dtype=np.float32)


def spline(points: npt.ArrayLike, *, closed: bool = True, steps: int = 8) -> Points:
    """Catmull-Rom curve through (n, 2) points, ``steps`` samples to a span."""
    p = np.asarray(points, dtype=np.float64)
    ends = (p[-1:], p[:2]) if closed else (2 * p[:1] - p[1:2], 2 * p[-1:] - p[-2:-1])
    p = np.concatenate([ends[0], p, ends[1]])
    t = (np.arange(steps) / steps)[None, :, None]
    a, b, c, d = (p[i : len(p) - 3 + i, None, :] for i in range(4))
    curve = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
    curve = curve.reshape(-1, 2)
    return curve if closed else np.concatenate([curve, p[-2:-1]])


def ribbon(line: Points, widths: npt.NDArray[np.float64]) -> Points:
    """Outline of a band along a line whose full width at each point is given.

    Args:
        line: (..., n, 2) points; leading axes are separate lines.
        widths: (..., n) widths.

    Returns:
        (..., 2 n, 2) corners.
    """
    step = np.diff(line, axis=-2)
    tangent = np.concatenate([step[..., :1, :], step[..., :-1, :] + step[..., 1:, :], step[..., -1:, :]], axis=-2)
    tangent *= (0.5 * widths / np.maximum(np.hypot(tangent[..., 0], tangent[..., 1]), 1e-9))[..., None]
    side = tangent[..., ::-1] * (-1.0, 1.0)
    return np.concatenate([line + side, (line - side)[..., ::-1, :]], axis=-2)


class Patch:
    """The part of a picture that one object can reach, with the object's coordinates at every pixel.

    Attributes:
        u, v: (h, w) object coordinates of the pixels (v points down in the unrotated object).
        pixel: size of a picture's pixel in object units.
        light: unit vector towards the lamp in object coordinates.
        grain: (h, w) fractal noise, mean 0, standard deviation 1.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        size: tuple[int, int],
        centre: tuple[float, float],
        scale: float,
        light: Light,
        *,
        angle: float = 0.0,
        extent: float = 1.3,
        mirror: bool = False,
    ) -> None:
        """Cut the patch out of a picture.

        Args:
            rng: draws the patch's noise.
            size: (height, width) of the picture.
            centre: (x, y) of the object's origin in the picture, in pixels.
            scale: pixels per object unit.
            light: the scene's light.
            angle: clockwise rotation of the object, radians.
            extent: farthest point of the object from its origin, in object units.
            mirror: draw the object left to right.
        """
        reach = extent * scale + 2.0
        self.left = int(np.clip(math.floor(centre[0] - reach), 0, size[1] - 1))
        self.top = int(np.clip(math.floor(centre[1] - reach), 0, size[0] - 1))
        right = int(np.clip(math.ceil(centre[0] + reach), self.left + 1, size[1]))
        bottom = int(np.clip(math.ceil(centre[1] + reach), self.top + 1, size[0]))
        self.shape = (bottom - self.top, right - self.left)
        self.scale = scale
        self.pixel = 1.0 / scale
        self.lamp = light
        self._centre = centre
        self._cos, self._sin = math.cos(angle), math.sin(angle)
        self._flip = -1.0 if mirror else 1.0
        dx = (np.arange(self.left, right, dtype=np.float32) + 0.5 - np.float32(centre[0]))[None, :] / np.float32(scale)
        dy = (np.arange(self.top, bottom, dtype=np.float32) + 0.5 - np.float32(centre[1]))[:, None] / np.float32(scale)
        self.u: FloatMap = np.float32(self._flip) * (np.float32(self._cos) * dx + np.float32(self._sin) * dy)
        self.v: FloatMap = np.float32(self._cos) * dy - np.float32(self._sin) * dx
        x, y, z = light.direction
        self.light = (self._flip * (self._cos * x + self._sin * y), self._cos * y - self._sin * x, z)
        self.grain = fractal(rng, self.shape, max(6.0, scale * 0.5), finest=1.0, gain=0.75)
        self.rgb: FloatMap = np.zeros((3, *self.shape), dtype=np.float32)
        self.alpha: FloatMap = np.zeros(self.shape, dtype=np.float32)

    def cover(self, distance: FloatMap) -> FloatMap:
        """Coverage of pixels at a signed distance (object units, negative inside) from an outline."""
        return np.clip(0.5 - distance * np.float32(self.scale), 0.0, 1.0)

    def fill(self, *outlines: Points) -> FloatMap:
        """(h, w) coverage of the union of polygons given by (n, 2) points in object coordinates."""
        image = Image.new("L", (self.shape[1] * SUPERSAMPLING, self.shape[0] * SUPERSAMPLING))
        draw = ImageDraw.Draw(image)
        for outline in outlines:
            du = outline[:, 0] * self._flip
            x = self._centre[0] + self.scale * (self._cos * du - self._sin * outline[:, 1]) - self.left
            y = self._centre[1] + self.scale * (self._sin * du + self._cos * outline[:, 1]) - self.top
            # PIL counts from the middle of a pixel, the picture from its corner
            draw.polygon((np.stack([x, y], axis=1) * SUPERSAMPLING - 0.5).ravel().tolist(), fill=255)
        return np.asarray(image.reduce(SUPERSAMPLING), dtype=np.float32) / np.float32(255)

    def strokes(self, lines: Sequence[Points], width: float, taper: float = 1.0) -> FloatMap:
        """(h, w) coverage of lines of one width (object units) that narrows to ``taper`` times it at the end.

        A line thinner than a pixel is drawn a pixel wide and faint instead, since the filling would break it into dots.
        """
        drawn = max(width, 0.8 * self.pixel)
        outlines = [ribbon(line, drawn * np.linspace(1.0, taper, len(line))) for line in lines]
        return self.fill(*outlines) * np.float32(width / drawn)

    def dots(self, centres: Points, radii: npt.NDArray[np.float64]) -> FloatMap:
        """(h, w) coverage of discs at (n, 2) centres."""
        turn = np.linspace(0, 2 * math.pi, 16, endpoint=False)
        ring = np.stack([np.cos(turn), np.sin(turn)], axis=1)
        return self.fill(*[c + r * ring for c, r in zip(centres, radii, strict=True)])

    def relief(self, height: FloatMap, strength: float) -> tuple[FloatMap, FloatMap]:
        """Normal components (along u, along v) of a bump map whose height is in object units."""
        dy, dx = slopes(height * np.float32(strength * self.scale))
        return (
            -np.float32(self._flip) * (np.float32(self._cos) * dx + np.float32(self._sin) * dy),
            -(np.float32(self._cos) * dy - np.float32(self._sin) * dx),
        )

    def pillow(self, cover: FloatMap, radius: float, strength: float = 1.0) -> tuple[FloatMap, FloatMap]:
        """Normal components of a shape that is rounded off within ``radius`` (object units) of its outline."""
        return self.relief(blur(cover, max(1.0, radius * self.scale)) * np.float32(radius * 2), strength)

    def lit(
        self,
        albedo: FloatMap,
        nu: FloatMap | float,
        nv: FloatMap | float,
        *,
        gloss: float = 0.0,
        shininess: float = 30.0,
        wrap: float = 0.25,
    ) -> FloatMap:
        """Colours of a surface under the scene's light (Blinn-Phong with light that wraps round the edge).

        Args:
            albedo: (3, 1, 1) or (3, h, w) colour of the surface.
            nu, nv: its normal along u and v; the part towards the camera follows.
            gloss: strength of the highlight, 0 is dull.
            shininess: exponent of the highlight; larger is smaller and sharper.
            wrap: how far the light reaches past the edge of the lit side, 0 to 1.

        Returns:
            (3, h, w) colours, (3, 1, 1) for a flat surface of one colour.
        """
        nu = np.asarray(nu, dtype=np.float32)
        nv = np.asarray(nv, dtype=np.float32)
        # steep normals are longer than 1: clipping the light is cheaper than making them shorter, and looks the same
        nz = np.sqrt(np.maximum(1.0 - nu * nu - nv * nv, np.float32(0.02)))
        lu, lv, lz = (np.float32(part) for part in self.light)
        diffuse = np.clip((nu * lu + nv * lv + nz * lz + wrap) / np.float32(1 + wrap), 0.0, 1.0)
        occlusion = 0.6 + 0.4 * nz
        out = albedo * (diffuse * self.lamp.colour + occlusion * self.lamp.ambient)
        if gloss:
            half = np.array((lu, lv, lz + 1.0), dtype=np.float32)
            half /= np.linalg.norm(half)
            spot = np.clip(nu * half[0] + nv * half[1] + nz * half[2], 0.0, 1.0) ** np.float32(shininess)
            out = out + np.float32(gloss) * spot * self.lamp.colour
        return out.astype(np.float32, copy=False)

    def paint(self, cover: FloatMap, colours: FloatMap) -> None:
        """Lay a part with (h, w) coverage and (3, 1, 1) or (3, h, w) colours over what has been drawn."""
        rest = 1.0 - cover
        self.rgb *= rest
        self.rgb += cover * colours
        self.alpha *= rest
        self.alpha += cover

    def darken(self, amount: FloatMap) -> None:
        """Shade what has been drawn by (h, w) amounts, 0 leaves it and 1 turns it black."""
        self.rgb *= 1.0 - amount

    def layer(self, *, defocus: float = 0.0, height: float = 0.3) -> Layer:
        """Hand the drawing over, out of focus by a Gaussian of ``defocus`` pixels."""
        colours, alpha = self.rgb, self.alpha
        if defocus > 0.8:
            colours = np.stack([blur(channel, defocus) for channel in colours])
            alpha = np.clip(blur(alpha, defocus), 0.0, 1.0)
        return Layer(colours, alpha, self.top, self.left, self.scale, height)
