"""Flower, leaf and mushroom, each about one unit in radius around its origin."""

import itertools
import math

import numpy as np

from tag2mask.data.demo.canvas import Patch, Points, mix, rgb, ribbon, spline, tone
from tag2mask.data.demo.noise import FloatMap, blur, smoothstep

FLOWER_EXTENT = 1.2
LEAF_EXTENT = 1.5
MUSHROOM_EXTENT = 1.3


def draw_flower(patch: Patch, rng: np.random.Generator) -> None:
    """A blossom seen from the front or a little from the side; its stalk is no part of it."""
    kind = rng.choice(("daisy", "cosmos", "poppy", "aster"), p=(0.3, 0.3, 0.2, 0.2))
    petals, profile, disc = {
        "daisy": (int(rng.integers(14, 23)), (0.45, 0.4, 0.13), rng.uniform(0.26, 0.36)),
        "cosmos": (8, (0.8, 0.42, 0.34), rng.uniform(0.15, 0.22)),
        "poppy": (int(rng.integers(5, 7)), (0.75, 0.5, 0.6), rng.uniform(0.16, 0.24)),
        "aster": (int(rng.integers(20, 32)), (0.6, 0.5, 0.11), rng.uniform(0.18, 0.28)),
    }[str(kind)]
    tip, root = _petal_colours(str(kind), rng)
    tilt = rng.uniform(0.62, 1.0)
    p, q = patch.u, patch.v / np.float32(tilt)
    radius = np.hypot(p, q)
    theta = np.arctan2(q, p)
    layers = 2 if kind != "aster" else 3
    count = max(2, round(petals / layers))
    pitch = 2 * math.pi / count
    cup = rng.uniform(-0.35, 0.45)
    for layer in range(layers):
        offset = layer * pitch / layers + rng.normal(0, 0.03)
        index = np.round((theta - offset) / pitch)
        bend = theta - offset - index * pitch
        which = np.mod(index, count).astype(np.intp)
        length = (rng.uniform(0.86, 1.0, count) * (1 - 0.07 * layer)).astype(np.float32)[which]
        shade = rng.normal(1, 0.06, count).astype(np.float32)[which]
        twist = rng.normal(0, 0.3, count).astype(np.float32)[which]
        bend = bend + rng.normal(0, 0.05, count).astype(np.float32)[which] * radius
        s, t = radius * np.cos(bend), radius * np.sin(bend)
        x = np.clip(s / length, 0, 1)
        rise, fall, wide = profile
        peak = rise / (rise + fall)
        half = wide * (x / peak) ** rise * ((1 - x) / (1 - peak)) ** fall
        if kind == "cosmos":  # notched tips
            half = half * (1 - 0.12 * smoothstep(0.85, 1, x) * np.cos(t * 40))
        ragged = 0.02 * patch.grain if kind == "poppy" else 0.0
        cover = patch.cover(np.maximum(np.abs(t) - half + ragged, s - length) * np.float32(min(1.0, tilt + 0.1)))
        cover *= s > 0
        veins = np.sin(t / np.maximum(half, 0.02) * (9 if wide > 0.2 else 5) + twist)
        albedo = mix(root, tip, smoothstep(0.15, 0.65, x + 0.03 * patch.grain))
        albedo = albedo * (shade * (1 + 0.05 * veins + 0.02 * patch.grain) * (0.86 + 0.14 * layer / layers))
        axis = theta - bend
        curl = np.clip(t / np.maximum(half, 0.02), -1, 1) * 0.55 + twist * 0.5
        lift = cup * (1 - 1.6 * x)
        nu = curl * -np.sin(axis) + lift * np.cos(axis)
        nv = curl * np.cos(axis) + lift * np.sin(axis)
        patch.darken(0.5 * blur(cover, max(1.0, 0.045 * patch.scale)) * (1 - cover))
        patch.paint(cover, patch.lit(albedo, nu, nv, gloss=0.06, shininess=8, wrap=0.5))
    _flower_disc(patch, rng, tilt, disc, str(kind))


def _petal_colours(kind: str, rng: np.random.Generator) -> tuple[FloatMap, FloatMap]:
    choices = {
        "daisy": ((rgb(0.96, 0.96, 0.94), rgb(0.88, 0.89, 0.80)), (rgb(0.97, 0.80, 0.12), rgb(0.92, 0.60, 0.06))),
        "cosmos": (
            (rgb(0.90, 0.36, 0.62), rgb(0.66, 0.12, 0.42)),
            (rgb(0.95, 0.72, 0.82), rgb(0.84, 0.36, 0.58)),
            (rgb(0.94, 0.92, 0.93), rgb(0.86, 0.70, 0.80)),
            (rgb(0.95, 0.52, 0.10), rgb(0.85, 0.30, 0.06)),
        ),
        "poppy": (
            (rgb(0.90, 0.16, 0.08), rgb(0.28, 0.03, 0.05)),
            (rgb(0.96, 0.62, 0.16), rgb(0.88, 0.42, 0.06)),
            (rgb(0.80, 0.24, 0.44), rgb(0.36, 0.06, 0.20)),
        ),
        "aster": ((rgb(0.60, 0.46, 0.86), rgb(0.42, 0.26, 0.68)), (rgb(0.45, 0.52, 0.90), rgb(0.34, 0.34, 0.74))),
    }[kind]
    tip, root = choices[rng.integers(len(choices))]
    cast = tone(rng, 0.05)
    return np.clip(tip * cast, 0, 1), np.clip(root * cast, 0, 1)


def _flower_disc(patch: Patch, rng: np.random.Generator, tilt: float, size: float, kind: str) -> None:
    dark = kind == "poppy" or rng.random() < 0.2
    colour, seed = (
        (rgb(0.20, 0.13, 0.08), rgb(0.42, 0.30, 0.10)) if dark else (rgb(0.80, 0.48, 0.04), rgb(0.98, 0.80, 0.20))
    )
    x, y = patch.u / np.float32(size), patch.v / np.float32(size * tilt)
    radius = np.hypot(x, y)
    number = 130
    k = np.arange(number)
    turn = k * math.pi * (3 - math.sqrt(5))  # the golden angle places the florets of a real disc
    ring = np.sqrt((k + 0.5) / number) * size * 0.96
    places = np.stack([ring * np.cos(turn), ring * np.sin(turn) * tilt], axis=1)
    florets = patch.dots(places, np.full(number, size * 0.06)) if size * patch.scale > 5 else patch.alpha * 0.4
    albedo = mix(colour, seed, florets * (0.55 + 0.45 * smoothstep(0.2, 1.0, radius)))
    albedo = mix(albedo, colour * 0.6, 0.5 * smoothstep(0.5, 0.0, radius))
    bump_u, bump_v = patch.pillow(florets, 0.02, 0.8)
    cover = patch.cover((radius - 1 + 0.04 * patch.grain) * size)
    patch.darken(0.5 * blur(cover, max(1.0, 0.05 * patch.scale)) * (1 - cover))
    patch.paint(cover, patch.lit(albedo, 0.75 * x + bump_u, 0.75 * y + bump_v, gloss=0.08, shininess=12))


_MAPLE = (
    (0.0, -1.0), (0.1, -0.72), (0.22, -0.74), (0.16, -0.42), (0.46, -0.62), (0.5, -0.48), (0.78, -0.5), (0.66, -0.3),
    (0.9, -0.14), (0.6, -0.02), (0.34, 0.06), (0.52, 0.3), (0.7, 0.42), (0.42, 0.42), (0.16, 0.36), (0.04, 0.42),
)  # fmt: skip
_MAPLE_TIPS = ((0.0, -0.96), (0.72, -0.47), (0.62, 0.4))
_LEAF_COLOURS = (
    (rgb(0.30, 0.48, 0.10), rgb(0.42, 0.58, 0.16), rgb(0.62, 0.74, 0.34)),
    (rgb(0.16, 0.36, 0.10), rgb(0.26, 0.46, 0.14), rgb(0.48, 0.64, 0.30)),
    (rgb(0.84, 0.60, 0.10), rgb(0.90, 0.74, 0.22), rgb(0.95, 0.86, 0.45)),
    (rgb(0.76, 0.26, 0.06), rgb(0.88, 0.48, 0.10), rgb(0.95, 0.70, 0.30)),
    (rgb(0.56, 0.10, 0.06), rgb(0.76, 0.20, 0.08), rgb(0.85, 0.48, 0.22)),
    (rgb(0.48, 0.30, 0.14), rgb(0.62, 0.42, 0.20), rgb(0.74, 0.56, 0.32)),
)


def draw_leaf(patch: Patch, rng: np.random.Generator) -> None:
    """A fallen or fresh leaf seen from above, its tip towards -v; the stalk belongs to it."""
    kind = str(rng.choice(("ovate", "maple", "oak"), p=(0.4, 0.35, 0.25)))
    bend = rng.uniform(-0.14, 0.14)
    squeeze = rng.uniform(0.82, 1.1)

    def warp(points: Points) -> Points:
        return np.stack([points[:, 0] * squeeze + bend * (points[:, 1] ** 2 - 0.3), points[:, 1]], axis=1)

    right, base, ribs = _leaf_outline(kind, rng)
    left = right[::-1] * (-1.0, 1.0)
    outline = np.concatenate([right, left])
    outline += rng.normal(0, 0.01, outline.shape)
    blade = patch.fill(warp(outline))
    midrib = np.stack([np.zeros(12), np.linspace(base, -0.95, 12)], axis=1)
    stalk = spline(
        [(0.0, base - 0.05), (rng.normal(0, 0.05), base + 0.22), (rng.normal(0, 0.14), base + 0.5)], closed=False
    )
    first, second, vein_colour = _LEAF_COLOURS[rng.choice(6, p=(0.22, 0.12, 0.2, 0.2, 0.14, 0.12))]
    cast = tone(rng, 0.06)
    stalk_cover = patch.fill(ribbon(warp(stalk), np.linspace(0.045, 0.06, len(stalk))))
    patch.paint(stalk_cover, patch.lit(mix(vein_colour, first, 0.5), 0, 0, gloss=0.1))

    warped = [warp(line) for line in ribs]
    veins = np.maximum(patch.strokes([warp(midrib)], 0.04, 0.3), patch.strokes(warped, 0.02, 0.4))
    groove_u, groove_v = patch.pillow(
        np.maximum(patch.strokes([warp(midrib)], 0.07, 0.4), patch.strokes(warped, 0.05, 0.5)), 0.05, -0.45
    )
    curl_u, curl_v = patch.pillow(blade, 0.3, rng.uniform(-0.5, 0.5))
    middle = patch.u - np.float32(bend) * (patch.v**2 - 0.3)
    fold = np.float32(rng.uniform(-0.4, 0.4)) * np.tanh(middle * 14)
    wave = 0.16 * np.sin(patch.v * rng.uniform(3, 6) + rng.uniform(0, 6)) + 0.05 * patch.grain
    near = blur(veins, max(1.0, 0.06 * patch.scale))
    coarse = blur(patch.grain, max(1.0, 0.08 * patch.scale))
    albedo = mix(first * cast, second * cast, np.clip(0.45 + 0.5 * coarse + 0.15 * patch.grain, 0, 1))
    albedo = mix(albedo, vein_colour, np.clip(0.7 * near + 0.75 * veins, 0, 0.85))
    rim = blur(blade, max(1.0, 0.12 * patch.scale))
    albedo = mix(
        albedo, first * rgb(0.55, 0.45, 0.4), rng.uniform(0.1, 0.8) * smoothstep(0.85, 0.5, rim + 0.08 * coarse)
    )
    spots = smoothstep(rng.uniform(1.3, 2.4), 2.6, patch.grain)
    albedo = mix(albedo, rgb(0.20, 0.11, 0.06), 0.75 * spots)
    patch.paint(
        blade,
        patch.lit(albedo * (1 + 0.03 * patch.grain), groove_u + curl_u + fold, groove_v + curl_v + wave,
                  gloss=rng.uniform(0.08, 0.3), shininess=10),
    )  # fmt: skip


def _leaf_outline(kind: str, rng: np.random.Generator) -> tuple[Points, float, list[Points]]:
    """Right half of the outline from tip to base, v of the base, and the side veins (both sides)."""
    ribs: list[Points] = []
    if kind == "maple":
        base = 0.4
        right = np.array(_MAPLE) + np.vstack([(0.0, 0.0), rng.normal(0, 0.02, (len(_MAPLE) - 2, 2)), (0.0, 0.0)])
        # straight edges with a slight bow keep the points of the lobes sharp
        right = np.concatenate([np.linspace(a, b, 4, endpoint=False) for a, b in itertools.pairwise(right)])
        for side in (1.0, -1.0):
            for x, y in _MAPLE_TIPS[1:]:
                ribs.append(np.linspace((0.0, base - 0.08), (x * side, y), 8))
                for part, out in ((0.45, 0.2), (0.65, 0.15)):
                    start = np.array((0.0, base - 0.08)) * (1 - part) + np.array((x * side, y)) * part
                    ribs.append(np.linspace(start, np.add(start, (out * side * 0.3, -out)), 5))
            for v in (-0.1, -0.4, -0.62):
                ribs.append(np.linspace((0.0, v), (side * 0.14, v - 0.18), 5))
        return right, base, ribs
    base = 0.8
    down = np.linspace(0.0, 1.0, 80)
    if kind == "oak":
        lobes = rng.integers(4, 6)
        half = 1.3 * down**0.6 * (1 - down) ** 0.5 * (0.72 + 0.3 * np.cos(2 * math.pi * lobes * (down - 0.05)))
        ends = (np.arange(1, lobes + 1) + 0.05 * lobes) / lobes
    else:
        wide = rng.uniform(0.4, 0.62)
        saw = rng.uniform(0.0, 0.07) * (np.mod(down * 26, 1.0) - 0.5)
        half = wide * (down / 0.55) ** 0.75 * ((1 - down) / 0.45) ** 0.6 * (1 + saw)
        ends = np.linspace(0.2, 0.95, 8)
    right = np.stack([half, -1.0 + (base + 1.0) * down], axis=1)
    for end in ends[ends < 1.0]:
        width = float(np.interp(end, down, half)) * 0.92
        tip = float(-1.0 + (base + 1.0) * end)
        for side in (1.0, -1.0):
            foot = min(tip + 0.28 + 0.2 * width, base)
            ribs.append(
                spline(
                    [(0.0, foot), (width * 0.5 * side, (foot + tip) / 2 + 0.05), (width * side, tip)],
                    closed=False,
                    steps=5,
                )
            )
    return right, base, ribs


def draw_mushroom(patch: Patch, rng: np.random.Generator) -> None:
    """A mushroom seen from the side, standing on v = 1; its cap is the part that tells it."""
    kind = str(rng.choice(("fly agaric", "bolete", "chanterelle", "bonnet"), p=(0.35, 0.3, 0.15, 0.2)))
    cap, cap_edge, stem = {
        "fly agaric": (rgb(0.80, 0.07, 0.03), rgb(0.90, 0.25, 0.05), rgb(0.92, 0.89, 0.80)),
        "bolete": (rgb(0.40, 0.22, 0.10), rgb(0.55, 0.34, 0.17), rgb(0.78, 0.66, 0.48)),
        "chanterelle": (rgb(0.86, 0.50, 0.10), rgb(0.92, 0.62, 0.18), rgb(0.90, 0.68, 0.30)),
        "bonnet": (rgb(0.62, 0.50, 0.42), rgb(0.76, 0.68, 0.58), rgb(0.80, 0.74, 0.66)),
    }[kind]
    cast = tone(rng, 0.06)
    cap, cap_edge = np.clip(cap * cast, 0, 1), np.clip(cap_edge * cast, 0, 1)
    wide = rng.uniform(0.68, 0.98) * (0.72 if kind == "bonnet" else 1.0)
    dome = rng.uniform(0.42, 0.75) * (1.15 if kind == "bonnet" else 0.85)
    rim = -0.95 + dome
    view = rng.uniform(-0.2, 0.2)  # > 0: seen from above, < 0: from below, where the gills show
    lean = rng.normal(0, 0.1)
    slope = rng.normal(0, 0.06)
    thick = rng.uniform(0.15, 0.26) * (1.35 if kind == "bolete" else 0.6 if kind == "bonnet" else 1.0)
    u, v = patch.u, patch.v

    if view < 0:
        depth = np.float32(-view * wide)
        nu, nv = u / np.float32(wide), (v - np.float32(rim) - np.float32(slope) * u) / depth
        inside = patch.cover((np.hypot(nu, nv) - 1) * depth)
        turn = np.arctan2(nv, nu)
        folds = 0.5 + 0.5 * np.sin(turn * rng.integers(40, 60))
        fade = np.clip(np.hypot(nu, nv) * wide * patch.scale / 30, 0, 1)
        under = mix(stem, rgb(0.86, 0.78, 0.62), 0.5) * (0.66 + 0.26 * folds * fade)
        shade = 0.75 + 0.25 * smoothstep(-1.0, 1.0, nv)
        patch.paint(inside, patch.lit(under * shade, 0, 0.35))

    _mushroom_stem(patch, rng, stem, rim, lean, thick, kind, dome)

    turn = np.linspace(math.pi, 2 * math.pi, 40)
    crown = np.stack(
        [wide * np.cos(turn), rim + dome * np.sign(np.sin(turn)) * np.abs(np.sin(turn)) ** rng.uniform(0.75, 1.05)],
        axis=1,
    )
    turn = np.linspace(0, math.pi, 40)
    brim = np.stack(
        [wide * np.cos(turn), rim + view * wide * np.sin(turn) * (1 + 0.04 * np.sin(turn * 9 + lean * 40))], axis=1
    )
    outline = np.concatenate([crown, brim])
    outline[:, 1] += slope * outline[:, 0]
    cover = patch.fill(outline)
    level = v - np.float32(rim) - np.float32(slope) * u
    nu = u / np.float32(wide) * 0.92
    nv = np.clip(level / np.float32(dome), -1, 0.25) * 0.95 + np.float32(0.12)
    edge = smoothstep(-0.3, 0.1, level / np.float32(dome)) * 0.6 + 0.7 * smoothstep(0.75, 1.0, np.abs(nu))
    albedo = mix(cap, cap_edge, np.clip(edge + 0.12 * patch.grain, 0, 1))
    streak = np.sin(np.arctan2(u, level - np.float32(0.25)) * 46 + patch.grain)
    albedo = albedo * (1 + (0.09 if kind == "bonnet" else 0.03) * streak + 0.05 * patch.grain)
    bump_u, bump_v = patch.relief(patch.grain * np.float32(0.008), 0.7)
    patch.darken(0.5 * blur(cover, max(1.0, 0.09 * patch.scale)) * (1 - cover))
    wet = rng.uniform(0.1, 0.55)
    patch.paint(cover, patch.lit(albedo, nu + bump_u, nv + bump_v, gloss=wet, shininess=rng.uniform(14, 40)))
    if kind == "fly agaric":
        _mushroom_warts(patch, rng, cover, wide, dome, rim, slope, nu, nv)


def _mushroom_stem(
    patch: Patch,
    rng: np.random.Generator,
    colour: FloatMap,
    rim: float,
    lean: float,
    thick: float,
    kind: str,
    dome: float,
) -> None:
    top = rim - 0.3 * dome
    line = spline([(0.0, top), (lean * 0.4, (top + 1.0) * 0.45), (lean * 1.2, 1.0)], closed=False, steps=14)
    run = np.linspace(0, 1, len(line))
    flare = {"bolete": 0.55, "chanterelle": -0.5, "fly agaric": 0.35, "bonnet": 0.1}[kind]
    widths = 2 * thick * (1 + flare * run**1.5 + 0.12 * np.exp(-(((run - 0.95) / 0.1) ** 2)))
    if kind == "chanterelle":
        widths += 0.5 * (1 - run) ** 3
    cover = patch.fill(ribbon(line, widths))
    centre = np.interp(patch.v, line[:, 1], line[:, 0]).astype(np.float32)
    half = np.interp(patch.v, line[:, 1], widths / 2).astype(np.float32)
    across = np.clip((patch.u - centre) / half, -1, 1)
    fibres = np.sin(across * 17 + 1.5 * patch.grain) * 0.06 + 0.05 * patch.grain
    dirt = smoothstep(0.62, 1.05, patch.v + 0.08 * patch.grain)
    albedo = mix(colour * (1 + fibres), rgb(0.30, 0.22, 0.13), 0.65 * dirt)
    albedo = albedo * (1 - 0.45 * smoothstep(rim + 0.5, rim, patch.v))  # in the shade of the cap
    patch.paint(cover, patch.lit(albedo, across * 0.9, 0.05))
    if kind == "fly agaric":
        place = rim + rng.uniform(0.28, 0.42)
        where = np.interp(place, line[:, 1], line[:, 0])
        flare_out = thick * rng.uniform(1.5, 1.9)
        half_skirt = ((thick, -0.08), (flare_out, 0.1), (flare_out * 0.4, 0.145))
        skirt = spline(
            [
                (where, place - 0.1),
                *((where + x, place + y) for x, y in half_skirt),
                *((where - x, place + y) for x, y in half_skirt[::-1]),
            ]
        )
        ring = patch.fill(skirt)
        patch.darken(0.35 * blur(ring, max(1.0, 0.05 * patch.scale)) * (1 - ring))
        pleats = 1 + 0.08 * np.sin(across * 14)
        patch.paint(ring, patch.lit(colour * pleats, across * 0.6, -0.15))


def _mushroom_warts(
    patch: Patch, rng: np.random.Generator, cap: FloatMap, wide: float, dome: float, rim: float, slope: float,
    nu: FloatMap, nv: FloatMap,
) -> None:  # fmt: skip
    corners = np.linspace(0, 2 * math.pi, 9, endpoint=False)
    flakes = []
    number = int(rng.integers(18, 42))
    for x, y in zip(rng.uniform(-0.95, 0.95, number), rng.uniform(0.05, 0.92, number), strict=True):
        if x * x + y * y > 0.92:
            continue
        size = rng.uniform(0.03, 0.085) * (0.5 + 0.5 * y)
        bumpy = size * rng.uniform(0.7, 1.2, corners.size)
        # flakes near the outline are seen from the side
        narrow, flat = math.sqrt(max(1 - x * x, 0.1)), math.sqrt(max(1 - y * y, 0.2))
        centre = (x * wide, rim - y * dome + slope * x * wide)
        flakes.append(
            np.stack(
                [centre[0] + bumpy * np.cos(corners) * narrow, centre[1] + bumpy * np.sin(corners) * flat],
                axis=1,
            )
        )
    if not flakes:
        return
    cover = patch.fill(*flakes) * cap
    patch.darken(0.35 * blur(cover, max(1.0, 0.03 * patch.scale)) * (1 - cover))
    bump_u, bump_v = patch.pillow(cover, 0.035, 0.7)
    colour = rgb(0.93, 0.90, 0.80) * (1 + 0.05 * patch.grain)
    patch.paint(cover, patch.lit(colour, nu * 0.7 + bump_u, nv * 0.7 + bump_v))
