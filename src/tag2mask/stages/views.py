"""Training examples: images and their maps at a view drawn for the epoch."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torchvision.transforms.v2.functional as TF
from PIL import Image
from torch import Tensor

from tag2mask.base.settings import LATER
from tag2mask.base.versions import Code
from tag2mask.data.images import read_image
from tag2mask.data.samples import Sample
from tag2mask.data.view import IMAGE, View, random_view, to_view, whole_view
from tag2mask.engine.seeding import generator
from tag2mask.errors import SettingsError
from tag2mask.networks.inference import Normalisation, normalise

CODE = Code("views")


@dataclass(frozen=True)
class ViewSettings:
    """Views in which images are shown to a network in training.

    With `long_side` a size is drawn between its two numbers; with `scale` a factor of the image's own size between its
    two, with `scales` one of these factors. Of the result a square of `crop` pixels is cut at random, padded with the
    mean colour where the image ends. With `whole` there is no chance but the mirror: the image is brought to the long
    side `crop` and padded to a square, so that features of frozen blocks can be computed once.

    Args:
        crop: side of the square the network sees.
        long_side: smallest and largest long side; (0, 0) draws a factor instead.
        scale: smallest and largest factor.
        whole: always the whole photograph.
        stretch: drop the aspect: the whole photograph as a square of `crop`; with `long_side`, a square of a side drawn
            from it, of which the crop is cut (SSDD); with factors, of `crop` times the factor.
        mirror: mirror half of the photographs.
        colour: strength of random changes of brightness, contrast, saturation and hue; 0 leaves colours alone.
        scales: factors of which one is drawn, all as likely (Kim 2022: 0.5, 1 and 1.5); empty draws by `scale`.
    """

    crop: int = 321
    long_side: tuple[int, int] = (0, 0)
    scale: tuple[float, float] = (1.0, 1.0)
    whole: bool = False
    stretch: bool = False
    mirror: bool = True
    colour: float = 0.0
    scales: tuple[float, ...] = field(default=(), metadata=LATER)

    def __post_init__(self) -> None:
        if self.crop < 1:
            raise SettingsError(f"views.crop: {self.crop} must be above 0")
        if self.long_side != (0, 0) and not 0 < self.long_side[0] <= self.long_side[1]:
            raise SettingsError(
                f"views.long_side: {list(self.long_side)} must be a smallest and a largest side above 0, or [0, 0]"
            )
        if not 0 < self.scale[0] <= self.scale[1]:
            raise SettingsError(f"views.scale: {list(self.scale)} must be a smallest and a largest factor above 0")
        if self.scales and min(self.scales) <= 0:
            raise SettingsError(f"views.scales: {list(self.scales)} must be factors above 0")
        if self.scales and (self.long_side != (0, 0) or self.scale != (1.0, 1.0)):
            raise SettingsError("views.scales: goes with views.long_side [0, 0] and views.scale [1.0, 1.0] only")
        if not 0 <= self.colour <= 1:
            raise SettingsError(f"views.colour: {self.colour} must lie between 0 and 1")

    @property
    def without_chance(self) -> bool:
        """True if an image has one view alone, and its mirror image."""
        factors = self.scales or self.scale != (1.0, 1.0)
        return self.whole or (self.stretch and not self.long_side[1] and not factors)

    def draw(self, size: tuple[int, int], *, seed: int, epoch: int, image_id: str) -> View:
        """The view of an image of (height, width) `size`, drawn from (seed, epoch, image id)."""
        if self.without_chance:
            mirror = self.mirror and bool(generator(seed, "mirror", epoch, image_id).random() < 0.5)
            return self.whole_view(size, mirror=mirror)
        return random_view(
            size,
            seed=seed,
            epoch=epoch,
            image_id=image_id,
            crop=self.crop,
            long_side=self.long_side if self.long_side[1] else None,
            scale=None if self.long_side[1] else self._factors(seed, epoch, image_id),
            stretch=self.stretch,
            mirror=self.mirror,
        )

    def _factors(self, seed: int, epoch: int, image_id: str) -> tuple[float, float]:
        """Smallest and largest factor of the image's size; of `scales` the one that is drawn, twice."""
        if not self.scales:
            return self.scale
        factor = self.scales[generator(seed, "scale", epoch, image_id).integers(len(self.scales))]
        return factor, factor

    def whole_view(self, size: tuple[int, int], *, mirror: bool) -> View:
        """The view without chance: the whole image, padded (or stretched) to the square."""
        return whole_view(
            size,
            long_side=self.crop,
            pad_to=None if self.stretch else self.crop,
            stretch=self.stretch,
            mirror=mirror,
        )


def load_image(sample: Sample) -> Tensor:
    """The image as a tensor, uint8 (3, H, W)."""
    return torch.from_numpy(read_image(sample.image)).permute(2, 0, 1)


def view_image(image: Tensor, view: View, backbone: Normalisation) -> Tensor:
    """The image at a view, normalised for the backbone: float32 (3, crop, crop)."""
    return normalise(to_view(image, view, IMAGE, fill=[255 * value for value in backbone.mean]), backbone)


def change_colours(image: Tensor, strength: float, *, seed: int, epoch: int, image_id: str) -> Tensor:
    """Random brightness, contrast, saturation and hue in random order, drawn from (seed, epoch, image id).

    What torchvision's ColorJitter does, but for its draws from torch's global state, which threads would share. On
    Pillow's images this takes a third of the time it takes on tensors, most of which went into the hue.

    Args:
        image: uint8 (3, H, W).
        strength: 0 leaves the image alone; brightness, contrast and saturation change by up to this share, the hue by
            up to a quarter of it of the colour circle.
    """
    if not strength:
        return image
    rng = generator(seed, "colour", epoch, image_id)
    low, high = max(0.0, 1 - strength), 1 + strength
    changes = [
        (TF.adjust_brightness, rng.uniform(low, high)),
        (TF.adjust_contrast, rng.uniform(low, high)),
        (TF.adjust_saturation, rng.uniform(low, high)),
        (TF.adjust_hue, rng.uniform(-strength / 4, strength / 4)),
    ]
    picture: Any = Image.fromarray(image.permute(1, 2, 0).numpy())
    for index in rng.permutation(len(changes)):
        change, amount = changes[index]
        picture = change(picture, amount)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)
