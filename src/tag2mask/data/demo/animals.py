"""Butterfly, ladybird and snail, each about one unit in radius around its origin."""

import math

import numpy as np

from tag2mask.data.demo.canvas import Patch, Points, mix, rgb, spline, tone
from tag2mask.data.demo.noise import FloatMap, blur, smoothstep

BUTTERFLY_EXTENT = 1.55
LADYBIRD_EXTENT = 1.75
SNAIL_EXTENT = 1.55

_FOREWING = ((0.04, -0.24), (0.3, -0.5), (0.66, -0.76), (1.0, -0.86), (1.06, -0.72), (0.95, -0.42), (0.84, -0.12),
             (0.68, 0.06), (0.36, 0.08), (0.04, 0.06))  # fmt: skip
_HINDWING = ((0.04, -0.1), (0.4, -0.06), (0.7, 0.04), (0.86, 0.26), (0.82, 0.52), (0.64, 0.72), (0.42, 0.8),
             (0.24, 0.66), (0.12, 0.42), (0.04, 0.2))  # fmt: skip
# base, outer half, margin, spots on the margin
_WINGS = (
    (rgb(0.86, 0.36, 0.05), rgb(0.95, 0.55, 0.12), rgb(0.05, 0.035, 0.03), rgb(0.95, 0.93, 0.88)),
    (rgb(0.10, 0.32, 0.80), rgb(0.22, 0.60, 0.92), rgb(0.04, 0.04, 0.07), rgb(0.85, 0.90, 0.95)),
    (rgb(0.93, 0.76, 0.18), rgb(0.96, 0.86, 0.42), rgb(0.08, 0.06, 0.05), rgb(0.95, 0.85, 0.40)),
    (rgb(0.88, 0.87, 0.80), rgb(0.94, 0.93, 0.87), rgb(0.22, 0.20, 0.20), rgb(0.80, 0.79, 0.74)),
    (rgb(0.50, 0.14, 0.07), rgb(0.70, 0.22, 0.09), rgb(0.10, 0.07, 0.06), rgb(0.90, 0.75, 0.45)),
    (rgb(0.42, 0.24, 0.55), rgb(0.62, 0.42, 0.78), rgb(0.09, 0.06, 0.11), rgb(0.90, 0.84, 0.95)),
)


def draw_butterfly(patch: Patch, rng: np.random.Generator) -> None:
    """A butterfly seen from above with open wings, its head towards -v.

    Drawn from the seed: species colours, wing proportions, how far each pair of wings is raised, eyespots, margins.
    """
    base, outer, margin, spots = _WINGS[rng.integers(len(_WINGS))]
    base, outer = (np.clip(c * tone(rng, 0.08), 0, 1) for c in (base, outer))
    fold = {1.0: rng.uniform(0.62, 1.0), -1.0: rng.uniform(0.62, 1.0)}
    fold[rng.choice((-1.0, 1.0))] = 1.0
    lift = rng.uniform(-0.12, 0.12)
    jitter = rng.normal(0, 0.025, (2, 10, 2))
    tail = rng.random() < 0.3
    margin_width = rng.uniform(0.14, 0.42)
    eyespots = rng.random() < 0.45
    side = np.where(patch.u >= 0, np.float32(fold[1.0]), np.float32(fold[-1.0]))
    wing_u = np.abs(patch.u) / side
    root = np.hypot(wing_u, patch.v - np.float32(0.05))
    dust = 1.0 + 0.05 * patch.grain

    for wing, outline in ((1, _HINDWING), (0, _FOREWING)):
        right = np.array(outline) + jitter[wing]
        right[:, 0] = np.maximum(right[:, 0], 0.03)
        right[:, 1] += lift * right[:, 0]
        if wing == 1 and tail:
            right = np.insert(right, 6, [[0.58, 0.82], [0.56, 1.08], [0.48, 1.06], [0.47, 0.84]], axis=0)
        curve = spline(right)
        sides = [curve * (fold[s] * s, 1.0) for s in (1.0, -1.0)]
        cover = patch.fill(*sides)
        centre = right.mean(axis=0)
        margin_points = right[3:-2] if wing == 0 else right[2:-2]
        rim = blur(cover, max(1.0, margin_width * patch.scale))
        # the smoothed outline is 0.5 on the edge and 1 deep inside; next to the body there is no margin
        dark = smoothstep(0.92, 0.62, rim) * smoothstep(0.3, 0.6, root)
        albedo = mix(base, outer, smoothstep(0.2, 0.8, root + 0.04 * patch.grain))
        albedo = mix(albedo, base * 0.45, 0.8 * smoothstep(0.32, 0.05, root))
        albedo = mix(albedo, margin, dark)
        from_root = np.array((0.06, -0.12 if wing == 0 else 0.05))
        veins = []
        for s in (1.0, -1.0):
            for end in margin_points:
                middle = (from_root + end) / 2 + (0.0, 0.05 if wing else -0.06)
                veins.append(spline([from_root, middle, end], closed=False, steps=5) * (fold[s] * s, 1.0))
        albedo = mix(albedo, margin, 0.75 * patch.strokes(veins, 0.022, 0.6))
        ends = centre + (spline(margin_points, closed=False, steps=2) - centre) * 0.9
        centres = np.concatenate([ends * (fold[s] * s, 1.0) for s in (1.0, -1.0)])
        radii = np.tile(rng.uniform(0.012, 0.034, len(ends)), 2)
        albedo = mix(albedo, spots, patch.dots(centres, radii) * smoothstep(0.3, 0.7, dark))
        if eyespots or (base.min() > 0.6 and wing == 0):
            where = (0.66, -0.42 + lift * 0.66) if wing == 0 else (0.52, 0.42 + lift * 0.52)
            far = np.hypot(wing_u - where[0], patch.v - where[1])
            size = rng.uniform(0.1, 0.17)
            albedo = mix(albedo, margin, patch.cover(far - size))
            if eyespots:
                albedo = mix(albedo, mix(spots, rgb(0.95, 0.75, 0.2), 0.5), patch.cover(far - size * 0.78))
                albedo = mix(albedo, rgb(0.10, 0.18, 0.45), patch.cover(far - size * 0.55))
                albedo = mix(
                    albedo,
                    rgb(0.95, 0.95, 1.0),
                    patch.cover(np.hypot(wing_u - where[0] + 0.02, patch.v - where[1] + 0.02) - size * 0.18),
                )
        # raised wings turn away from the camera, and a bow along the wing catches the light
        tilt = np.sign(patch.u) * -np.sqrt(np.maximum(1 - side * side, 0)) * 0.8 + 0.18 * np.sin(5 * patch.u + 2)
        shadow = blur(cover, max(1.0, 0.05 * patch.scale))
        patch.darken(0.55 * shadow * (1 - cover))
        patch.paint(cover, patch.lit(albedo * dust, tilt, 0.1 * np.sin(6 * root), gloss=0.12, shininess=9))

    _butterfly_body(patch, rng)


def _butterfly_body(patch: Patch, rng: np.random.Generator) -> None:
    dark = rgb(0.10, 0.075, 0.06) * np.float32(rng.uniform(0.7, 1.6))
    spread = rng.uniform(0.2, 0.45)
    feelers = [
        spline([(0.02 * s, -0.4), (0.12 * s, -0.62), (spread * s, -0.92)], closed=False) for s in (1.0, -1.0)
    ]  # fmt: skip
    clubs = np.array([line[-1] for line in feelers])
    patch.paint(np.maximum(patch.strokes(feelers, 0.02), patch.dots(clubs, np.full(2, 0.026))), dark * 0.6)
    for middle, length, width in ((0.28, 0.36, 0.065), (-0.12, 0.2, 0.1), (-0.36, 0.075, 0.075)):
        nu, nv = patch.u / np.float32(width), (patch.v - np.float32(middle)) / np.float32(length)
        fuzz = 1 + (0.08 if width < 0.1 else 0.16) * patch.grain
        inside = (np.hypot(nu, nv) - fuzz) * np.float32(width)
        rings = 1 + 0.35 * np.sin(patch.v * 55) * (middle > 0)
        patch.paint(patch.cover(inside), patch.lit(dark * (1.6 * rings + 0.4 * patch.grain), nu, 0.5 * nv, gloss=0.1))


def draw_ladybird(patch: Patch, rng: np.random.Generator) -> None:
    """A ladybird seen from above, its head towards -v.

    The wing cases are a dome whose seam and spots lie on a turned ellipsoid, so that
    it can be seen a little from the side.
    """
    black = rgb(0.025, 0.022, 0.022)
    shells = ((0.78, 0.06, 0.03), (0.86, 0.20, 0.03), (0.90, 0.42, 0.05), (0.88, 0.64, 0.12), (0.62, 0.04, 0.04))
    shell = rgb(*shells[rng.choice(5, p=(0.4, 0.25, 0.15, 0.08, 0.12))])
    _ladybird_limbs(patch, rng, black)
    u, v = patch.u, patch.v

    head = np.hypot(u / np.float32(0.36), (v + 0.93) / np.float32(0.24))
    patch.paint(patch.cover((head - 1) * 0.24), patch.lit(black, u / 0.36, (v + 0.93) / 0.24, gloss=0.5))
    pale = rgb(0.92, 0.90, 0.82)
    patch.paint(patch.dots(np.array([(0.17, -1.03), (-0.17, -1.03)]), np.full(2, 0.065)), patch.lit(pale, 0, 0))

    nu, nv = u / np.float32(0.64), (v + 0.6) / np.float32(0.38)
    cheeks = np.maximum(
        patch.cover(np.hypot((u - 0.44) / 0.8, v + 0.72) - 0.17),
        patch.cover(np.hypot((u + 0.44) / 0.8, v + 0.72) - 0.17),
    )
    collar = mix(black, pale, cheeks)
    patch.paint(patch.cover((np.hypot(nu, nv) - 1) * 0.45), patch.lit(collar, nu, nv, gloss=0.6, shininess=40))

    nu, nv = u / np.float32(0.86), (v - 0.14) / np.float32(0.92)
    radius = np.hypot(nu, nv)
    nz = np.sqrt(np.maximum(1 - radius * radius, 0))
    roll, pitch = rng.uniform(-0.45, 0.45), rng.uniform(-0.25, 0.25)
    mu = math.cos(roll) * nu - math.sin(roll) * nz
    mz = math.sin(roll) * nu + math.cos(roll) * nz
    mv, mz = math.cos(pitch) * nv - math.sin(pitch) * mz, math.sin(pitch) * nv + math.cos(pitch) * mz
    albedo = shell * (1 + 0.05 * patch.grain + 0.12 * (0.5 - mv))
    albedo = mix(albedo, shell * rgb(0.55, 0.45, 0.5), smoothstep(0.75, 1.0, radius))
    ink = np.zeros_like(u)
    for azimuth, polar, size in _ladybird_spots(rng):
        z = math.cos(polar)
        along = math.sin(polar)
        dot = along * math.sin(azimuth) * np.abs(mu) - along * math.cos(azimuth) * mv + z * mz
        width = math.sin(size) * patch.pixel * 1.3
        ink = np.maximum(ink, np.clip((dot - math.cos(size)) / width + 0.5, 0, 1))
    # the small dark shield where the wing cases meet the collar, and the seam between them
    seam = np.abs(mu) - np.float32(0.012) - np.float32(0.09) * smoothstep(-0.7, -0.95, mv)
    ink = np.maximum(ink, np.clip(0.5 - seam * patch.scale * 0.86, 0, 1) * (0.35 + 0.65 * smoothstep(-0.6, -0.75, mv)))
    albedo = mix(albedo, black, ink)
    body = patch.cover((radius - 1) * 0.88)
    patch.darken(0.5 * blur(body, max(1.0, 0.05 * patch.scale)) * (1 - body))
    surface = patch.lit(albedo, nu, nv, gloss=rng.uniform(0.5, 0.9), shininess=rng.uniform(50, 110))
    # the bright sky mirrored in the varnish
    sheen = np.maximum(nu * patch.light[0] + nv * patch.light[1] + nz * (patch.light[2] + 0.6), 0) / 1.5
    patch.paint(body, surface + (0.22 * np.clip(sheen, 0, 1) ** 10) * patch.lamp.colour)


def _ladybird_spots(rng: np.random.Generator) -> list[tuple[float, float, float]]:
    """(azimuth from the head, angle from the top, radius) on one wing case, radians."""
    count = int(rng.choice((1, 3, 4, 5, 7), p=(0.1, 0.3, 0.3, 0.2, 0.1)))
    places = {
        1: ((1.6, 0.6),),
        3: ((0.75, 0.75), (1.7, 0.55), (2.5, 0.8)),
        4: ((0.6, 0.65), (1.35, 0.95), (1.8, 0.42), (2.55, 0.8)),
        5: ((0.55, 0.6), (1.15, 1.0), (1.75, 0.4), (2.1, 0.95), (2.75, 0.7)),
        7: ((0.45, 0.75), (0.95, 1.1), (1.1, 0.45), (1.7, 0.8), (2.25, 1.1), (2.35, 0.5), (2.85, 0.85)),
    }[count]
    size = rng.uniform(0.17, 0.27) * (1.25 if count <= 3 else 0.75 if count == 7 else 1.0)
    return [(a + rng.normal(0, 0.05), p + rng.normal(0, 0.03), size * rng.uniform(0.85, 1.15)) for a, p in places]


def _ladybird_limbs(patch: Patch, rng: np.random.Generator, black: FloatMap) -> None:
    limbs: list[Points] = []
    for side in (1.0, -1.0):
        for start, knee, foot in ((-0.5, -0.72, -0.9), (-0.02, 0.0, 0.16), (0.45, 0.68, 0.98)):
            step = rng.normal(0, 0.07)
            limbs.append(
                spline(
                    [
                        (0.5 * side, start),
                        *((x * side, y + step) for x, y in ((0.98, knee), (1.16, foot), (1.27, foot))),
                    ],
                    closed=False,
                    steps=3,
                )
            )
    patch.paint(patch.strokes(limbs, 0.085, 0.4), patch.lit(black * 2.0, 0, 0))
    sway = rng.uniform(0.28, 0.4)
    feelers = [
        spline([(0.16 * s, -1.05), (sway * s, -1.2), (sway * 1.25 * s, -1.26)], closed=False) for s in (1.0, -1.0)
    ]  # fmt: skip
    patch.paint(patch.strokes(feelers, 0.045, 1.3), patch.lit(black * 2.5, 0, 0))


def draw_snail(patch: Patch, rng: np.random.Generator) -> None:
    """A snail seen from the side, creeping towards +u, its sole at v = 0.75."""
    skin = (rgb(0.50, 0.42, 0.32), rgb(0.62, 0.55, 0.42), rgb(0.36, 0.33, 0.31), rgb(0.66, 0.50, 0.34))[rng.integers(4)]
    reach = rng.uniform(0.88, 1.12)
    rear = rng.uniform(-0.06, 0.12)
    sole = 0.75
    back = spline(
        [
            (-1.12, sole), (-0.85, sole - 0.1), (-0.45, sole - 0.28), (0.1, sole - 0.36), (0.5, sole - 0.4),
            (0.74 * reach, sole - 0.56 - rear), (0.92 * reach, sole - 0.66 - rear), (1.06 * reach, sole - 0.58 - rear),
            (1.08 * reach, sole - 0.36 - rear / 2), (0.98 * reach, sole - 0.12), (0.9 * reach, sole),
            (0.4, sole + 0.015), (-0.4, sole + 0.02),
        ],
    )  # fmt: skip
    head = np.array((0.97 * reach, sole - 0.62 - rear))
    spread = rng.uniform(0.1, 0.22)
    stalks = [
        spline([head, np.add(head, (0.02, -0.2)), np.add(head, (spread * 0.4, -0.42))], closed=False),
        spline(
            [np.add(head, (0.06, 0.02)), np.add(head, (0.16, -0.14)), np.add(head, (spread + 0.16, -0.33))],
            closed=False,
        ),
    ]
    small = [
        spline([np.add(head, (0.08, 0.14)), np.add(head, (0.17, 0.19)), np.add(head, (0.2, 0.25))], closed=False),
        spline([np.add(head, (0.02, 0.18)), np.add(head, (0.1, 0.26)), np.add(head, (0.12, 0.31))], closed=False),
    ]
    eyes = np.array([line[-1] for line in stalks])
    far = skin * 0.75
    patch.paint(np.maximum(patch.strokes(stalks[:1], 0.065, 0.6), patch.dots(eyes[:1], np.full(1, 0.034))),
                patch.lit(far, 0, 0, gloss=0.2))  # fmt: skip

    body = patch.fill(back)
    nu, nv = patch.pillow(body, 0.16, 1.0)
    # rows of wet tubercles
    bumps = np.sin(patch.u * 46 + 2.0 * patch.grain) * np.sin(patch.v * 40 + 9 * patch.u + 1.5 * patch.grain)
    rough_u, rough_v = patch.relief(bumps * np.float32(0.012) * min(1.0, patch.scale / 40), 0.8)
    low = smoothstep(sole - 0.12, sole, patch.v)
    albedo = skin * (0.95 + 0.14 * bumps + 0.07 * patch.grain - 0.25 * smoothstep(sole - 0.3, sole - 0.6, patch.v))
    albedo = mix(albedo, skin * 1.35, 0.5 * low)
    patch.paint(body, patch.lit(albedo, nu + rough_u, nv + rough_v, gloss=0.35, shininess=18))
    patch.paint(patch.strokes([*stalks[1:], *small], 0.065, 0.6), patch.lit(skin * 1.05, 0, -0.3, gloss=0.3))
    patch.paint(patch.dots(eyes, np.array([0.042, 0.045])), patch.lit(skin * 0.7, 0, -0.3, gloss=0.3))
    patch.paint(patch.dots(np.add(eyes, (0.006, -0.008)), np.full(2, 0.022)), rgb(0.02, 0.02, 0.02))
    _snail_shell(patch, rng)


def _snail_shell(patch: Patch, rng: np.random.Generator) -> None:
    light, dark = (
        (rgb(0.82, 0.64, 0.36), rgb(0.34, 0.18, 0.08)),
        (rgb(0.88, 0.74, 0.30), rgb(0.30, 0.17, 0.09)),
        (rgb(0.72, 0.48, 0.30), rgb(0.28, 0.13, 0.08)),
        (rgb(0.84, 0.78, 0.66), rgb(0.50, 0.34, 0.22)),
        (rgb(0.86, 0.60, 0.50), rgb(0.46, 0.20, 0.16)),
    )[rng.integers(5)]
    centre = np.array((-0.12 + rng.normal(0, 0.03), -0.02))
    x, y = patch.u - np.float32(centre[0]), (patch.v - np.float32(centre[1])) / np.float32(rng.uniform(0.9, 0.98))
    lean = rng.uniform(-0.25, 0.25)
    radius = np.maximum(np.hypot(x, y), 1e-3)
    # the mouth opens down and forwards; going back from it the spiral winds inwards
    mouth = 0.95 + lean
    angle = np.mod(mouth - np.arctan2(y, x), 2 * math.pi)
    growth = rng.uniform(1.75, 2.1)
    size = 0.8
    outline = size * growth ** (-angle / (2 * math.pi))
    turns = np.log(np.maximum(outline / radius, 1e-3)) / math.log(growth)
    whorl = np.floor(np.maximum(turns, 0.0))
    across = np.clip(turns - whorl, 0, 1)  # 0 on the outer seam, 1 on the inner one
    tube = 2 * across - 1
    along = angle + 2 * math.pi * whorl
    width = outline * growth**-whorl
    bands = np.zeros_like(across)
    for place, thick in zip(
        rng.choice((0.2, 0.38, 0.56, 0.74), rng.integers(0, 4), replace=False), (0.05, 0.08, 0.06), strict=False
    ):
        bands = np.maximum(
            bands, smoothstep(thick + 0.05, thick, np.abs(across + 0.02 * patch.grain - np.float32(place)))
        )
    streaks = np.sin(along * rng.uniform(9, 16) + 1.2 * patch.grain + 3 * across)
    lines = np.sin(along * 60 + 2 * across)
    albedo = mix(light, dark, np.clip(0.25 + rng.uniform(0.05, 0.22) * streaks + 0.06 * patch.grain, 0, 1) * 0.7)
    albedo = mix(albedo, dark, 0.85 * bands)
    albedo = mix(albedo, dark * 0.8, 0.55 * smoothstep(2.0, 4.5, turns))
    fine = np.clip(width * patch.scale / 60, 0, 1)
    albedo = albedo * (1 + 0.06 * lines * fine)
    seam = smoothstep(0.12, 0.0, across) * (whorl > 0) + smoothstep(0.86, 1.0, across)
    albedo = mix(albedo, dark * 0.4, 0.75 * np.clip(seam, 0, 1))
    # normal of a tube that winds round, on a shell that bulges as a whole
    nu = -x / radius * tube * 0.62 + x * 0.55
    nv = -y / radius * tube * 0.62 + y * 0.55
    shell = patch.cover((radius - outline) * 0.9)
    patch.darken(0.55 * blur(shell, max(1.0, 0.06 * patch.scale)) * (1 - shell))
    patch.paint(shell, patch.lit(albedo, nu, nv, gloss=rng.uniform(0.25, 0.6), shininess=28))
