"""DD-Net's maps for every image's pair of masks: where each is predicted to differ from the other."""

import copy
import dataclasses
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Self, get_args

import numpy as np
import torch
from torch import Tensor

from tag2mask.data.layers import HeatMap, MapLayer
from tag2mask.data.resizing import resize_scores
from tag2mask.data.samples import Sample
from tag2mask.data.view import LABELS, SCORES, View, to_view, whole_cells
from tag2mask.engine.environment import Environment
from tag2mask.engine.stage import Estimate
from tag2mask.engine.workspace import reading_arrays
from tag2mask.errors import SettingsError, unknown_choice
from tag2mask.networks.inference import ScaleSettings
from tag2mask.networks.trunks import single
from tag2mask.stages.difference.train_difference import TrainDifference
from tag2mask.stages.maps import MapStage
from tag2mask.stages.timing import seconds_per_image
from tag2mask.stages.views import load_image, view_image

Shown = Literal["before", "after"]


@dataclass(frozen=True)
class DifferenceMapSettings:
    """The size at which images are shown to DD-Net.

    Args:
        long_side: in pixels; 0 takes the crop of the training.
    """

    long_side: int = 0

    def __post_init__(self) -> None:
        if self.long_side < 0:
            raise SettingsError(f"difference_maps.long_side: {self.long_side} is negative; 0 takes the training's crop")


class DifferenceMaps(MapStage):
    """d of both masks of every image: ``.npz`` with float16 logits ``maps`` (2, h, w), before and after.

    The image and its mirror image are shown to the networks, masks mirrored with it, and the mean of the logits is
    kept. A map covers its whole image, so that `to_view` brings it to any view together with the image.

    Args:
        nets: the training whose networks and pairs of masks these are.
        settings: the size.
    """

    name = "difference_maps"
    map_kind = SCORES
    suffix = ".npz"
    on_device = True
    reads = frozenset({"images"})
    settings: DifferenceMapSettings

    def __init__(self, nets: TrainDifference, settings: DifferenceMapSettings) -> None:
        super().__init__(settings, nets.split, nets=nets, before=nets.before, after=nets.after)
        stride = nets.settings.label_stride
        if 0 < settings.long_side < 2 * stride:
            raise SettingsError(
                f"difference_maps.long_side: {settings.long_side} is less than two cells of the label grid, whose "
                f"segmenter.label_stride is {stride}"
            )
        self.nets = nets
        self.shown: Shown = "before"

    def view(self, size: tuple[int, int], *, mirror: bool) -> View:
        """The view of an image of (height, width) `size`: whole, its sides multiples of the label grid's step.

        Cells of the grid then tile the image, and those of its mirror image are the same cells mirrored. Of other sides
        the last cell would reach beyond the border, and what is averaged would lie up to a cell apart.
        """
        views, stride = self.nets.settings.views, self.nets.settings.label_stride
        whole = dataclasses.replace(views, crop=self.settings.long_side or views.crop)
        view = whole.whole_view(size, mirror=mirror)
        most = max(whole.crop // stride, 1) * stride
        height, width = whole_cells(view.resized, stride)
        return View((min(height, most), min(width, most)), mirror, view.crop)

    def open(self, env: Environment) -> Callable[[Sample], bytes]:
        system, runtime = self.nets.image_system(env), env.runtime
        backbone, stride = single(system.network.backbone), self.nets.settings.label_stride

        @torch.no_grad()
        def make(sample: Sample) -> bytes:
            image = load_image(sample)
            views = [self.view((image.shape[1], image.shape[2]), mirror=mirror) for mirror in (False, True)]
            images = torch.stack([view_image(image, view, backbone) for view in views])
            masks = [torch.from_numpy(stage.load(env, sample.id)) for stage in (self.nets.before, self.nets.after)]
            before, after = (
                torch.stack([to_view(mask, view, LABELS, stride=stride) for view in views]).to(runtime.torch_device)
                for mask in masks
            )
            with runtime.autocast():
                levels = system.grid_levels({"image": images.to(runtime.torch_device), "labels": before})
                logits = torch.stack(system.differences(levels, before, after)).cpu()
            # The image lies at the top left of its window, and so does its mirror image.
            height, width = (side // stride for side in views[0].resized)
            own, mirrored = logits[:, :, :height, :width].unbind(1)
            content = io.BytesIO()
            np.savez_compressed(content, maps=((own + mirrored.flip(2)) / 2).numpy().astype(np.float16))
            return content.getvalue()

        return make

    def load(self, env: Environment, image_id: str) -> Tensor:
        """d of one whole image: float32 (2, h, w), told from the mask before and from the one after.

        Raises:
            WorkspaceError: the file is missing or damaged.
        """
        with reading_arrays(self.path(env, image_id), self.folder(env)) as content:
            return torch.from_numpy(content["maps"].astype(np.float32))

    def at_size(self, env: Environment, image_id: str, size: tuple[int, int]) -> Tensor:
        """The same at a size, the image's for one, bilinear: float32 (2, *size).

        Raises:
            WorkspaceError: as `load`.
        """
        return resize_scores(self.load(env, image_id)[None], size)[0]

    def showing(self, shown: Shown) -> Self:
        """The same stage, artifact included, of which pictures show the map of that mask: the paper's figure 4.

        Raises:
            SettingsError: there is no such mask.
        """
        if shown not in get_args(Shown):
            raise SettingsError(unknown_choice("difference map", shown, get_args(Shown)))
        twin = copy.copy(self)
        twin.shown = shown
        return twin

    def layers(self, env: Environment, image_id: str) -> dict[str, MapLayer]:
        d = self.load(env, image_id)[get_args(Shown).index(self.shown)]
        return {"": HeatMap(d.sigmoid().numpy())}

    def estimate(self, env: Environment) -> Estimate:
        backbone, count = self.nets.settings.backbone, len(self.samples(env))
        scales = ScaleSettings(long_side=self.settings.long_side or self.nets.settings.views.crop)
        seconds = seconds_per_image(backbone, scales, env, output_stride=backbone.output_stride)
        return Estimate(seconds * count, 10e3 * count)
