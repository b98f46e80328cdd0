"""Maps of what a segmenter would erase of an image, for people to look at: Kim's figure 2.5."""

import copy
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Self, get_args

import numpy as np
import torch
from torch import Tensor

from tag2mask.data.layers import RGB, HeatMap, MapLayer, Picture
from tag2mask.data.resizing import resize_scores
from tag2mask.data.samples import Sample
from tag2mask.engine.environment import Environment
from tag2mask.engine.stage import Estimate, PerImageStage
from tag2mask.engine.workspace import reading_arrays
from tag2mask.errors import SettingsError, unknown_choice
from tag2mask.losses.attention import attention_map, mask_image
from tag2mask.networks.inference import ScaleSettings, image_scales
from tag2mask.stages.masking.train_masking import TrainMasking
from tag2mask.stages.timing import seconds_per_image
from tag2mask.stages.views import load_image

Shown = Literal["attention", "masked"]


@dataclass(frozen=True)
class AttentionMapSettings:
    """Everything is the training's: size of the image and grid of the scores."""


class AttentionMaps(PerImageStage):
    """H of the tagged classes of every image, as the trained segmenter sees them.

    ``.npz`` with ``class_ids``, float16 ``maps`` on the label grid of the whole image, and ``colour``, what is erased
    is painted in: the mean colour of whoever looks at masked images, in 0 to 1.

    Args:
        segmenter: the training.
    """

    name = "attention_maps"
    suffix = ".npz"
    on_device = True
    reads = frozenset({"images", "tags"})

    def __init__(self, segmenter: TrainMasking) -> None:
        super().__init__(AttentionMapSettings(), segmenter.split, segmenter=segmenter)
        self.segmenter = segmenter
        self.shown: Shown = "attention"

    def _scales(self) -> ScaleSettings:
        return ScaleSettings(long_side=self.segmenter.settings.views.crop, mirror=False)

    def open(self, env: Environment) -> Callable[[Sample], bytes]:
        network, runtime = self.segmenter.load(env), env.runtime
        stride, scales = self.segmenter.settings.label_stride, self._scales()
        looking = (self.segmenter.classifier or self.segmenter).settings.backbone
        colour = np.array(looking.facts.mean, dtype=np.float32)

        @torch.no_grad()
        def make(sample: Sample) -> bytes:
            (shown,) = image_scales(load_image(sample), network.backbone, scales, runtime.torch_device)
            with runtime.autocast():
                scores = network(shown)
            grid = (-(-shown.shape[2] // stride), -(-shown.shape[3] // stride))
            maps = resize_scores(scores.float(), grid).softmax(1)[0].cpu()
            content = io.BytesIO()
            np.savez_compressed(
                content,
                class_ids=np.array(sample.tags, dtype=np.int64),
                maps=maps[list(sample.tags)].numpy().astype(np.float16),
                colour=colour,
            )
            return content.getvalue()

        return make

    def load(self, env: Environment, image_id: str) -> tuple[tuple[int, ...], Tensor, Tensor]:
        """Tagged classes from 1 up, H of each of them as float32 (P, h, w), and the colour, float32 (3).

        Raises:
            WorkspaceError: the file is missing or damaged.
        """
        with reading_arrays(self.path(env, image_id), self.folder(env)) as content:
            maps = torch.from_numpy(content["maps"].astype(np.float32))
            return tuple(content["class_ids"].tolist()), maps, torch.from_numpy(content["colour"])

    def showing(self, shown: Shown) -> Self:
        """The same stage, artifact included, of which pictures show the attention map or the masked image.

        Raises:
            SettingsError: there is no such picture.
        """
        if shown not in get_args(Shown):
            raise SettingsError(unknown_choice("attention picture", shown, get_args(Shown)))
        twin = copy.copy(self)
        twin.shown = shown
        return twin

    def layers(self, env: Environment, image_id: str) -> dict[str, MapLayer]:
        """The sum of H over tagged classes and each by its class, or the image with all of them erased."""
        class_ids, maps, colour = self.load(env, image_id)
        if self.shown == "masked":
            image = load_image(env.dataset.sample(image_id))
            return {"": Picture(erase(image, maps, colour))}
        shown: dict[str, MapLayer] = {"": HeatMap(maps.sum(0).numpy())}
        if len(class_ids) > 1:
            names = (env.dataset.label_names[class_id] for class_id in class_ids)
            shown |= {name: HeatMap(map_.numpy()) for name, map_ in zip(names, maps, strict=True)}
        return shown

    def estimate(self, env: Environment) -> Estimate:
        backbone, count = self.segmenter.settings.backbone, len(self.samples(env))
        seconds = seconds_per_image(backbone, self._scales(), env, output_stride=backbone.output_stride)
        return Estimate(seconds * count, 20e3 * count)


def erase(image: Tensor, maps: Tensor, colour: Tensor) -> RGB:
    """I' of eq. 2.9 with every class erased, in colours that can be looked at.

    Args:
        image: uint8 (3, H, W).
        maps: H of the classes to erase, float (P, h, w), any resolution and number.
        colour: what is erased takes it, in 0 to 1, (3).

    Returns:
        uint8 (H, W, 3).
    """
    background = torch.zeros(1, *maps.shape[1:])
    every = torch.ones(1, len(maps), dtype=torch.bool)
    attention = attention_map(torch.cat([background, maps])[None], every)
    mean = 255 * colour.view(3, 1, 1)
    masked = mask_image((image - mean)[None], attention)[0] + mean
    erased: RGB = masked.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
    return erased


def attention_maps(segmenter: TrainMasking) -> AttentionMaps:
    """Maps of what a trained segmenter erases of the training images."""
    return AttentionMaps(segmenter)
