"""Scenes: one to three classes on a background that suits them, lit, shadowed and photographed."""

import itertools
import math
from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from tag2mask.data.classes import BACKGROUND
from tag2mask.data.demo import distractors
from tag2mask.data.demo.backgrounds import AIRY, BACKGROUNDS, Size, soften, stalk_line, to_image
from tag2mask.data.demo.canvas import Layer, Light, mix, rgb
from tag2mask.data.demo.noise import FloatMap, fractal, smoothstep
from tag2mask.data.demo.objects import DEMO_CLASSES, draw_object, object_kind

DEFAULT_LONG_SIDE = 320
"""Long side of a picture in pixels, unless a caller wants another."""

MIN_TAG_SHARE = 0.006
"""A class is in a picture only if it shows on at least this share of the pixels."""

MIN_VISIBLE = 0.3
"""An object of which less than this share shows is taken out of the scene."""

_RATIOS = (4 / 3, 3 / 2, 5 / 4, 1.0)
_COUNTS = (1, 2, 3)
_COUNT_WEIGHTS = (0.27, 0.43, 0.30)
_COMPANIONS = {
    frozenset(("butterfly", "flower")): 3.0,
    frozenset(("ladybird", "leaf")): 3.0,
    frozenset(("mushroom", "snail")): 3.0,
}
"""Classes that are often seen together; every class is in one pair, so that all stay equally frequent."""


@dataclass(frozen=True)
class Scene:
    """A drawn image and its truth.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) uint8; 0 is background, i + 1 is ``DEMO_CLASSES[i]``.
        classes: names of the classes in the mask, in the order of ``DEMO_CLASSES``.
    """

    image: npt.NDArray[np.uint8]
    mask: npt.NDArray[np.uint8]
    classes: tuple[str, ...]


@dataclass(frozen=True)
class _Item:
    """A layer and the class it shows (None: none)."""

    layer: Layer
    name: str | None


def render_scene(seed: int, index: int, *, long_side: int = DEFAULT_LONG_SIDE) -> Scene:
    """Draw one scene; a pure function of its arguments.

    Args:
        seed: the data set's seed, 0 or more.
        index: number of the picture in the data set, 0 or more.
        long_side: longer side of the picture in pixels, at least 32.

    Returns:
        the scene; it shows at least one class, and each class that shows covers at least ``MIN_TAG_SHARE`` of it.

    Raises:
        ValueError: ``long_side`` is below 32.
    """
    if long_side < 32:
        raise ValueError(f"long_side must be at least 32 pixels, got {long_side}")
    for attempt in itertools.count():
        rng = np.random.default_rng((seed, index, attempt))
        size = _size(rng, long_side)
        light = _light(rng)
        names = _choose_classes(rng, index)
        place = _choose_background(rng, names)
        items = _visible(_arrange(rng, size, light, place, names), size)
        if any(item.name for item in items):
            break
    mask = _label(items, size)
    image = _develop(rng, _compose(rng, size, light, place, items))
    present = set(np.unique(mask).tolist())
    return Scene(image, mask, tuple(name for i, name in enumerate(DEMO_CLASSES) if i + 1 in present))


def _size(rng: np.random.Generator, long_side: int) -> Size:
    short = round(long_side / rng.choice(_RATIOS, p=(0.45, 0.3, 0.15, 0.1)))
    return (short, long_side) if rng.random() < 0.7 else (long_side, short)


def _light(rng: np.random.Generator) -> Light:
    turn = rng.uniform(0.15, math.pi - 0.15)
    height = rng.uniform(0.5, 1.1)
    direction = (math.cos(turn) * math.cos(height), -math.sin(turn) * math.cos(height), math.sin(height))
    warmth = rng.normal(0, 0.07)
    tint = rgb(1 + warmth, 1.0, 1 - 1.3 * warmth)
    overcast = rng.uniform(0.0, 1.0)
    power = rng.uniform(0.82, 1.05)
    colour = tint * rgb(1.0, 0.96, 0.88) * np.float32(power * (0.95 - 0.35 * overcast))
    ambient = rgb(0.29, 0.32, 0.37) * np.float32(power * (0.85 + 0.75 * overcast))
    return Light(direction, colour, ambient, softness=0.15 + 0.85 * overcast)


def _choose_classes(rng: np.random.Generator, index: int) -> list[str]:
    """Distinct classes, the main one first; main classes take turns so that every stretch of pictures is balanced."""
    names = [DEMO_CLASSES[index % len(DEMO_CLASSES)]]
    for _ in range(int(rng.choice(_COUNTS, p=_COUNT_WEIGHTS)) - 1):
        rest = [name for name in DEMO_CLASSES if name not in names]
        weights = np.array([_COMPANIONS.get(frozenset((names[0], name)), 1.0) for name in rest])
        names.append(str(rng.choice(rest, p=weights / weights.sum())))
    return names


def _choose_background(rng: np.random.Generator, names: list[str]) -> str:
    places = list(BACKGROUNDS)
    weights = np.array([math.prod(object_kind(name).habitats.get(place, 0.02) for name in names) for place in places])
    # the flattened product keeps rare meetings of class and ground in the data
    weights = np.sqrt(weights) if len(names) > 1 else weights
    return str(rng.choice(places, p=weights / weights.sum()))


def _arrange(rng: np.random.Generator, size: Size, light: Light, place: str, names: list[str]) -> list[_Item]:
    """All layers of a scene from back to front."""
    short = min(size)
    items = [_Item(layer, None) for layer in _litter(rng, size, light, place)]
    wanted: list[tuple[str, float]] = []
    for rank, name in enumerate(names):
        low, high = object_kind(name).sizes
        number = 1 if rank else int(rng.choice((1, 2, 3), p=(0.7, 0.2, 0.1)))
        if rank and rng.random() < 0.15:
            number = 2
        for _ in range(number):
            limit = high * (1.0 if rank == 0 and number == 1 else 0.72)
            floor = low * (1.35 if rank == 0 and number == 1 else 1.0)
            wanted.append((name, short * math.exp(rng.uniform(math.log(floor), math.log(max(limit, floor))))))
    placed: list[tuple[float, float, float]] = []
    drawn: list[tuple[float, list[_Item]]] = []
    for name, scale in wanted:
        x, y = _spot(rng, size, scale, placed, standing=name == "mushroom")
        placed.append((x, y, scale))
        drawn.append((y + rng.normal(0, 0.2) * short, _object(rng, size, light, place, name, (x, y), scale)))
    for _, group in sorted(drawn, key=lambda entry: entry[0]):
        items += group
    items += [_Item(layer, None) for layer in _foreground(rng, size, light, place, placed)]
    return items


def _spot(
    rng: np.random.Generator, size: Size, scale: float, placed: list[tuple[float, float, float]], *, standing: bool
) -> tuple[float, float]:
    """Of a few random places, the one that overlaps least with what is there already."""
    best, least = (0.0, 0.0), math.inf
    for _ in range(7):
        x = rng.uniform(0.08, 0.92) * size[1]
        y = rng.uniform(0.42 if standing else 0.1, 0.85 if standing else 0.9) * size[0]
        overlap = sum(max(0.0, 0.85 * (scale + s) - math.hypot(x - a, y - b)) / min(scale, s) for a, b, s in placed)
        reach = 0.8 * scale
        cropped = (
            sum(max(0.0, part) for part in (reach - x, x + reach - size[1], reach - y, y + reach - size[0])) / scale
        )
        cost = overlap + 0.5 * cropped + rng.uniform(0, 0.35)
        if cost < least:
            best, least = (x, y), cost
    return best


def _object(
    rng: np.random.Generator, size: Size, light: Light, place: str, name: str, centre: tuple[float, float], scale: float
) -> list[_Item]:
    """An object with what carries it, back to front."""
    kind = object_kind(name)
    group: list[_Item] = []
    angle = rng.uniform(-kind.turn, kind.turn)
    if name == "snail" and place == "bark":
        angle *= 4
    defocus = float(rng.choice((0.0, 1.0, 1.6), p=(0.8, 0.12, 0.08))) * min(size) / 240
    if name == "flower" and place not in ("water", "sand"):
        line = stalk_line(rng, centre, max(size[0] + 4.0, centre[1] + scale))
        group.append(_Item(distractors.stalk(rng, size, line, max(1.5, scale * rng.uniform(0.06, 0.1)), light), None))
    elif place in AIRY and name in ("ladybird", "snail", "leaf"):
        tilt = angle if name == "snail" else rng.uniform(-0.6, 0.6)
        below = 0.78 * scale if name == "snail" else 0.0
        through = (centre[0] - math.sin(angle) * below, centre[1] + math.cos(angle) * below)
        group.append(_Item(distractors.twig(rng, size, through, max(size) * 1.6, tilt, light), None))
    mirror = bool(rng.random() < 0.5)
    drawing = draw_object(name, rng, size, centre, scale, light, angle=angle, mirror=mirror, defocus=defocus)
    group.append(_Item(drawing, name))
    if name == "mushroom":
        # a tuft hides where the stem meets the ground
        for _ in range(int(rng.integers(5, 12))):
            foot = (centre[0] + rng.normal(0, 0.26) * scale, centre[1] + scale * rng.uniform(1.0, 1.12))
            tuft = distractors.blade(
                rng, size, foot, scale * rng.uniform(0.2, 0.6), max(1.5, scale * 0.05), rng.normal(0, 0.5), light
            )
            group.append(_Item(tuft, None))
    return group


def _litter(rng: np.random.Generator, size: Size, light: Light, place: str) -> list[Layer]:
    """Distractors that lie behind every object."""
    short = min(size)
    layers: list[Layer] = []

    def anywhere() -> tuple[float, float]:
        return (rng.uniform(0, size[1]), rng.uniform(0, size[0]))

    pebbles = {"sand": (0, 6), "soil": (0, 4), "stone": (0, 3), "moss": (0, 2)}.get(place, (0, 1))
    for _ in range(int(rng.integers(pebbles[0], pebbles[1] + 1)) if place not in (*AIRY, "water", "bark") else 0):
        layers.append(distractors.pebble(rng, size, anywhere(), short * rng.uniform(0.02, 0.085), light))
    if place not in (*AIRY, "water"):
        for _ in range(int(rng.choice((0, 1, 2), p=(0.45, 0.35, 0.2)))):
            layers.append(
                distractors.twig(rng, size, anywhere(), short * rng.uniform(0.2, 0.7), rng.uniform(0, 3.1), light)
            )
        if place != "bark" and rng.random() < 0.35:
            for _ in range(int(rng.integers(1, 5))):
                layers.append(distractors.berry(rng, size, anywhere(), short * rng.uniform(0.02, 0.06), light))
    if place == "meadow":
        for _ in range(int(rng.integers(1, 5))):
            foot = (rng.uniform(0, size[1]), size[0] * 1.05)
            length, width = size[0] * rng.uniform(0.4, 1.0), short * rng.uniform(0.012, 0.03)
            layers.append(
                distractors.blade(
                    rng, size, foot, length, width, rng.normal(0, 0.3), light, defocus=short * rng.uniform(0.003, 0.012)
                )
            )
    return layers


def _foreground(
    rng: np.random.Generator, size: Size, light: Light, place: str, placed: list[tuple[float, float, float]]
) -> list[Layer]:
    """Distractors in front of the objects: sharp blades and twigs, and blades too near to be in focus."""
    short = min(size)
    layers: list[Layer] = []
    if place in ("grass", "meadow", "moss") and rng.random() < 0.65:
        for _ in range(int(rng.integers(1, 5))):
            x, y, scale = placed[rng.integers(len(placed))]
            foot = (x + rng.normal(0, 0.8) * scale, max(y + scale, size[0] * rng.uniform(0.8, 1.05)))
            length = (foot[1] - y) * rng.uniform(0.6, 1.6)
            layers.append(
                distractors.blade(rng, size, foot, length, short * rng.uniform(0.012, 0.03), rng.normal(0, 0.35), light)
            )
    elif place not in (*AIRY, "water") and rng.random() < 0.25:
        x, y, scale = placed[rng.integers(len(placed))]
        where = (x + rng.normal(0, 0.6) * scale, y + 0.7 * scale)
        layers.append(distractors.twig(rng, size, where, scale * rng.uniform(0.8, 1.6), rng.uniform(-0.6, 0.6), light))
    if place != "water" and rng.random() < 0.3:
        for _ in range(int(rng.integers(1, 4))):
            foot = (float(rng.choice((rng.uniform(-0.05, 0.2), rng.uniform(0.8, 1.05)))) * size[1], size[0] * 1.1)
            length, width = size[0] * rng.uniform(0.3, 0.8), short * rng.uniform(0.04, 0.09)
            near = distractors.blade(rng, size, foot, length, width, rng.normal(0, 0.3), light, defocus=short * 0.025)
            layers.append(near)
    return layers


def _class_id(name: str | None) -> int:
    return BACKGROUND if name is None else DEMO_CLASSES.index(name) + 1


def _owners(items: list[_Item], size: Size) -> npt.NDArray[np.int32]:
    """(H, W) number of the front-most layer that covers more than half of the pixel, -1 where none does."""
    owners = np.full(size, -1, dtype=np.int32)
    for number, item in enumerate(items):
        owners[item.layer.region][item.layer.alpha > 0.5] = number
    return owners


def _label(items: list[_Item], size: Size) -> npt.NDArray[np.uint8]:
    ids = np.array([*(_class_id(item.name) for item in items), BACKGROUND], dtype=np.uint8)
    return ids[_owners(items, size)]


def _visible(items: list[_Item], size: Size) -> list[_Item]:
    """Take out objects that hardly show, until every class that is left can honestly be tagged."""
    while True:
        owners = _owners(items, size)
        shown = np.bincount(owners.ravel() + 1, minlength=len(items) + 1)[1:]
        totals: Counter[str] = Counter()
        for item, count in zip(items, shown, strict=True):
            if item.name:
                totals[item.name] += int(count)

        def honest(item: _Item, count: int, totals: Counter[str] = totals) -> bool:
            if item.name is None:
                return True
            whole = int((item.layer.alpha > 0.5).sum())
            return totals[item.name] >= MIN_TAG_SHARE * size[0] * size[1] and count >= max(1.0, MIN_VISIBLE * whole)

        kept = [item for item, count in zip(items, shown, strict=True) if honest(item, int(count))]
        if len(kept) == len(items):
            return kept
        items = kept


def _compose(rng: np.random.Generator, size: Size, light: Light, place: str, items: list[_Item]) -> FloatMap:
    picture = BACKGROUNDS[place](rng, size, light)
    if place not in AIRY:
        # patches of sun and shade under leaves out of sight
        dapple = fractal(rng, size, min(size) / rng.uniform(1.2, 3), finest=min(size) / 8)
        picture = picture * (1 + np.float32(rng.uniform(0.0, 0.22)) * np.clip(dapple, -1.5, 1.5))
    picture = np.ascontiguousarray(picture, dtype=np.float32)
    for item in items:
        if place not in AIRY:
            _cast_shadow(picture, item.layer, light)
        region = item.layer.region
        picture[:, *region] *= 1 - item.layer.alpha
        picture[:, *region] += item.layer.rgb
    return picture


def _cast_shadow(picture: FloatMap, layer: Layer, light: Light) -> None:
    """Darken what lies behind a layer: a tight shadow where it touches and a long soft one away from the light."""
    reach = layer.height * layer.scale
    x, y, z = light.direction
    length = reach * 0.45 / max(z, 0.4)
    strength = 0.62 - 0.3 * light.softness
    for offset, radius, weight in ((0.25, 0.10, 0.5), (1.0, 0.18 + 0.35 * light.softness, strength)):
        if offset < 1 and reach < 4:
            continue  # thin things: one shadow is enough
        dx, dy = round(-x * length * offset), round(-y * length * offset + 0.06 * reach)
        sigma = max(1.0, radius * reach)
        pad = math.ceil(2 * sigma)
        alpha = Image.fromarray((np.clip(np.pad(layer.alpha, pad), 0, 1) * 255).astype(np.uint8))
        factor = int(np.clip(sigma / 2, 1, 4))
        small = alpha.reduce(factor).filter(ImageFilter.BoxBlur(sigma / factor))
        if factor > 1:
            small = small.resize(alpha.size, Image.Resampling.BILINEAR)
        soft = np.asarray(small, dtype=np.float32)
        top, left = layer.top - pad + dy, layer.left - pad + dx
        rows = slice(max(top, 0), min(top + soft.shape[0], picture.shape[1]))
        columns = slice(max(left, 0), min(left + soft.shape[1], picture.shape[2]))
        if rows.start >= rows.stop or columns.start >= columns.stop:
            continue
        part = soft[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
        picture[:, rows, columns] *= 1 - part * np.float32(weight / 255)


def _develop(rng: np.random.Generator, picture: FloatMap) -> npt.NDArray[np.uint8]:
    """Effects of a camera: lens blur, glow, vignette, tone curve and sensor noise."""
    height, width = picture.shape[1:]
    picture = mix(picture, soften(picture, min(height, width) * 0.02), 0.12)
    blur = float(rng.choice((0.0, 0.6, 0.9), p=(0.6, 0.3, 0.1))) * min(height, width) / 240
    if blur:
        picture = soften(picture, blur)
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    edge = smoothstep(0.5, 2.2, x * x + y * y)
    picture = picture * (1 - np.float32(rng.uniform(0.1, 0.6)) * edge)
    picture = picture * np.float32(rng.uniform(1.0, 1.35))
    picture = picture / (1 + 0.22 * picture * picture)  # highlights roll off
    gamma = np.float32(rng.uniform(0.78, 0.95))
    picture = np.clip(picture, 0, 1) ** gamma
    noise = rng.standard_normal((height, width), dtype=np.float32) * np.float32(rng.uniform(0.004, 0.02))
    return np.asarray(to_image(picture + noise))
