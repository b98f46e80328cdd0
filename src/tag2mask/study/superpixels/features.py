"""Features of an image's patches, whichever network or none they come from."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from tag2mask.data.view import IMAGE, to_view
from tag2mask.engine.environment import Runtime
from tag2mask.errors import SettingsError
from tag2mask.networks.inference import normalise
from tag2mask.networks.vit_backbone import VitBackbone
from tag2mask.study.superpixels.settings import FeatureSet

Extract = Callable[[Tensor], Tensor]
"""Function of an image, uint8 (3, H, W), that gives the features of its patches, (d, rows, columns)."""


def open_features(settings: FeatureSet, runtime: Runtime) -> Extract:
    """Loads the network, where there is one, and returns the function that gives an image's features.

    Raises:
        WeightsError: the weights cannot be had.
        SettingsError: keys of a network that is no vision transformer.
    """
    device = runtime.torch_device
    if settings.kind == "rgb":

        def colours(image: Tensor) -> Tensor:
            pixels = to_view(image, settings.view(_size(image)), IMAGE, fill=0).float() / 255
            pixels = transforms.normalize(pixels, list(IMAGENET_DEFAULT_MEAN), list(IMAGENET_DEFAULT_STD))
            return F.avg_pool2d(pixels.to(device), settings.cell)

        return colours
    network = runtime.place(settings.backbone.create(runtime.seed)).eval()
    if settings.kind == "keys" and not isinstance(network, VitBackbone):
        raise SettingsError(f"features: '{settings.backbone.name}' is no vision transformer, which alone has keys")

    @torch.no_grad()
    def extract(image: Tensor) -> Tensor:
        view = settings.view(_size(image))
        batch = normalise(to_view(image, view, IMAGE, fill=0), network)[None].to(device)
        with runtime.autocast():
            if isinstance(network, VitBackbone) and settings.kind == "keys":
                return network.keys(batch, centre=settings.centre)[0]
            features: Tensor = network(batch)[0]
            return features

    return extract


def _size(image: Tensor) -> tuple[int, int]:
    return image.shape[1], image.shape[2]
