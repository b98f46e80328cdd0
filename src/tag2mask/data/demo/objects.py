"""The classes of the demo data and the drawing that belongs to each."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tag2mask.data.demo import animals, plants
from tag2mask.data.demo.canvas import Layer, Light, Patch


@dataclass(frozen=True)
class ObjectKind:
    """Drawing of a class and the places it is found in.

    Attributes:
        draw: paints one object into its patch.
        extent: farthest point of the object from its origin, in object units.
        sizes: smallest and largest radius as a share of the picture's short side.
        turn: largest rotation away from upright, radians.
        height: how far it stands off the ground, in object units; lengthens its shadow.
        habitats: weight of each background it is found on; 0.02 where nothing is given.
    """

    draw: Callable[[Patch, np.random.Generator], None]
    extent: float
    sizes: tuple[float, float]
    turn: float
    height: float
    habitats: dict[str, float]


_KINDS: dict[str, ObjectKind] = {
    "butterfly": ObjectKind(
        animals.draw_butterfly, animals.BUTTERFLY_EXTENT, (0.15, 0.46), 3.1, 0.3,
        {"meadow": 5.0, "sky": 2.5, "grass": 2.0, "stone": 1.0, "bark": 1.0, "sand": 0.7, "soil": 0.3},
    ),
    "flower": ObjectKind(
        plants.draw_flower, plants.FLOWER_EXTENT, (0.13, 0.44), 3.1, 0.35,
        {"meadow": 5.0, "grass": 5.0, "sky": 2.0, "moss": 0.6, "soil": 0.5, "water": 0.7, "stone": 0.4},
    ),
    "ladybird": ObjectKind(
        animals.draw_ladybird, animals.LADYBIRD_EXTENT, (0.09, 0.34), 3.1, 0.25,
        {"grass": 4.0, "bark": 2.5, "meadow": 2.5, "stone": 1.0, "moss": 0.7, "sand": 0.5, "sky": 0.6, "water": 0.0},
    ),
    "leaf": ObjectKind(
        plants.draw_leaf, plants.LEAF_EXTENT, (0.14, 0.46), 3.1, 0.12,
        {"soil": 3.0, "water": 3.0, "stone": 2.0, "sand": 1.5, "bark": 1.5, "moss": 1.2, "grass": 1.5, "sky": 0.5},
    ),
    "mushroom": ObjectKind(
        plants.draw_mushroom, plants.MUSHROOM_EXTENT, (0.14, 0.46), 0.22, 0.5,
        {"moss": 5.0, "soil": 4.0, "grass": 1.0, "bark": 0.4, "sky": 0.0, "meadow": 0.0, "water": 0.0},
    ),
    "snail": ObjectKind(
        animals.draw_snail, animals.SNAIL_EXTENT, (0.13, 0.44), 0.3, 0.35,
        {"moss": 3.0, "stone": 4.0, "bark": 1.5, "soil": 1.5, "sand": 0.8, "grass": 0.8, "water": 0.0},
    ),
}  # fmt: skip

DEMO_CLASSES: tuple[str, ...] = tuple(_KINDS)
"""Names of the foreground classes; ``DEMO_CLASSES[i]`` is class id ``i + 1`` in a mask."""


def object_kind(name: str) -> ObjectKind:
    """The kind of object behind a class name of :data:`DEMO_CLASSES`."""
    return _KINDS[name]


def draw_object(
    name: str,
    rng: np.random.Generator,
    size: tuple[int, int],
    centre: tuple[float, float],
    scale: float,
    light: Light,
    *,
    angle: float = 0.0,
    mirror: bool = False,
    defocus: float = 0.0,
) -> Layer:
    """Draw one object of a class.

    Args:
        name: one of :data:`DEMO_CLASSES`.
        rng: draws everything in which two objects of the class differ.
        size: (height, width) of the picture.
        centre: (x, y) of the object's origin, pixels.
        scale: radius of the object, pixels.
        light: the scene's light.
        angle: clockwise rotation, radians.
        mirror: draw it left to right.
        defocus: Gaussian blur, pixels.

    Returns:
        the layer, cut to the picture.
    """
    kind = object_kind(name)
    patch = Patch(rng, size, centre, scale, light, angle=angle, extent=kind.extent, mirror=mirror)
    kind.draw(patch, rng)
    return patch.layer(defocus=defocus, height=kind.height)
