"""The difference detection network (DD-Net): where will the other mask of a pair differ from this one?"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from tag2mask.base.settings import canonical
from tag2mask.data.classes import MAX_CLASSES
from tag2mask.errors import DataError, SettingsError, WeightsError
from tag2mask.networks.heads import FrozenBatchNorm, initialise
from tag2mask.networks.tensor_file import read_tensor_header, reason, write_tensor_file

FORMAT = "tag2mask-difference-nets"
VERSION = 1


class DifferenceNet(nn.Module):
    """DD-Net of Shimoda & Yanai (SSDD, ICCV 2019), figure 3.

    Args:
        high: channels of the high-level features, those of the segmentation head's hidden layer.
        low: channels of the low-level features, those of the backbone's first stage; 0 for none.
        classes: classes of the masks, background included, at most 255.
        width: channels of every hidden layer, 256 in the paper.
        frozen_norm: leave batch norms as they are made, near the identity, as the authors' code does.
    """

    def __init__(self, high: int, low: int, classes: int, *, width: int = 256, frozen_norm: bool = False) -> None:
        super().__init__()
        if high < 1 or low < 0 or width < 1 or not 1 <= classes <= MAX_CLASSES:
            raise SettingsError(
                f"a difference network takes high and width above 0, low not below 0 and 1 to {MAX_CLASSES} classes, "
                f"not high {high}, low {low}, width {width}, {classes} classes"
            )
        self.arguments = {"high": high, "low": low, "classes": classes, "width": width, "frozen_norm": frozen_norm}
        self.classes = classes
        norm = FrozenBatchNorm if frozen_norm else nn.BatchNorm2d
        self.head = nn.Sequential(
            nn.Conv2d(high + low, width, 3, padding=1, padding_mode="reflect", bias=False),
            norm(width),
            nn.ReLU(),
        )
        self.mask = nn.Sequential(nn.Conv2d(classes, width, 1, bias=False), norm(width), nn.ReLU())
        self.block = _Bottleneck(2 * width, width, norm)
        self.score = nn.Conv2d(width, 1, 1, bias=False)
        convolutions = [layer for layer in self.modules() if isinstance(layer, nn.Conv2d)]
        initialise(convolutions[:-1], convolutions[-1:])

    def shared(self, high: Tensor, low: Tensor | None) -> Tensor:
        """Features that both masks of a pair have in common. No gradient goes back into the features.

        Args:
            high: high-level features (N, high, h, w), h and w at least 2; they set the grid.
            low: low-level features (N, low, h', w'), averaged into the grid's cells; None if the network takes none.

        Returns:
            (N, width, h, w).

        Raises:
            DataError: the features are of other shapes, or low-level ones are missing or too many.
        """
        expected = self.arguments["high"], self.arguments["low"]
        alike = low is None or len(low) == len(high)
        if (_channels(high), _channels(low)) != expected or not alike or min(high.shape[2:]) < 2:
            raise DataError(
                f"this difference network takes {expected[0]} high-level and {expected[1]} low-level features, "
                f"(N, channels, h, w) on a grid of at least 2x2, not those of shapes {tuple(high.shape)} and "
                f"{None if low is None else tuple(low.shape)}"
            )
        features = [high] if low is None else [high, F.adaptive_avg_pool2d(low, (high.shape[2], high.shape[3]))]
        dtype = self.score.weight.dtype  # features kept in half precision are taken, too
        shared: Tensor = self.head(torch.cat([values.detach().to(dtype) for values in features], dim=1))
        return shared

    def forward(self, shared: Tensor, masks: Tensor) -> Tensor:
        """Logits of "the other mask differs here".

        Args:
            shared: what `shared` gave.
            masks: class ids (N, h, w), integers; 255, and any id that is no class, is a pixel without a class.

        Returns:
            d (N, h, w), float32.

        Raises:
            DataError: the masks are of another shape, or no integers.
        """
        size = (len(shared), *shared.shape[2:])
        if masks.shape != size or masks.is_floating_point() or masks.dtype == torch.bool:
            raise DataError(f"masks must be integers of shape {size}, not {masks.dtype} of shape {tuple(masks.shape)}")
        one_hot = masks[:, None] == torch.arange(self.classes, device=masks.device)[:, None, None]
        mask = self.mask(one_hot.to(self.score.weight.dtype))
        scores: Tensor = self.score(self.block(torch.cat([shared, mask], dim=1)))
        return scores[:, 0].float()

    def pair(self, shared: Tensor, before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of both masks of a pair, (N, h, w) each; arguments and errors are those of `forward`.

        Both masks go through the network together, so that a batch norm that learns treats what is compared alike.
        """
        d_before, d_after = self(torch.cat([shared, shared]), torch.cat([before, after])).chunk(2)
        return d_before, d_after


def _channels(features: Tensor | None) -> int | None:
    """Channels of features (N, channels, h, w), 0 of none at all; None of anything else."""
    if features is None:
        return 0
    return features.shape[1] if features.ndim == 4 else None


class _Bottleneck(nn.Module):
    """Residual block of a 1x1, a 3x3 and a 1x1 convolution, its identity projected: (N, channels, h, w) -> width."""

    def __init__(self, channels: int, width: int, norm: type[nn.BatchNorm2d]) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(channels, width, 1, bias=False),
            norm(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            norm(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 1, bias=False),
            norm(width),
        )
        self.identity = nn.Sequential(nn.Conv2d(channels, width, 1, bias=False), norm(width))

    def forward(self, features: Tensor) -> Tensor:
        return torch.relu(self.residual(features) + self.identity(features))


def save_difference_nets(path: Path, nets: Mapping[str, DifferenceNet], settings: Mapping[str, Any]) -> None:
    """Writes difference networks that belong together into one file; the same networks give the same bytes.

    Args:
        path: the file to write.
        nets: the networks by name; names have no dots.
        settings: what a reader has to know of them, which features they were trained on for example; plain values and
            settings classes.
    """
    header = {
        "version": VERSION,
        "nets": {name: net.arguments for name, net in nets.items()},
        "settings": canonical(settings),
    }
    write_tensor_file(path, nn.ModuleDict(dict(nets)), FORMAT, header)


def read_difference_settings(path: Path) -> dict[str, Any]:
    """The settings that `save_difference_nets` was given, as plain JSON values.

    Raises:
        WeightsError: the file is missing, cut short, of something else or of another version.
    """
    settings: dict[str, Any] = _header(path)["settings"]
    return settings


def load_difference_nets(path: Path, *, device: torch.device | str = "cpu") -> dict[str, DifferenceNet]:
    """Reads what `save_difference_nets` wrote.

    Args:
        path: the file.
        device: where to put the networks.

    Returns:
        the networks by name, in evaluation mode.

    Raises:
        WeightsError: the file is missing, damaged, of something else or of another version.
    """
    header = _header(path)
    try:
        # On the device meta a damaged header cannot ask for more memory than there is.
        with torch.device("meta"):
            nets = {name: DifferenceNet(**arguments) for name, arguments in header["nets"].items()}
        nn.ModuleDict(nets).load_state_dict(load_file(path), assign=True)
    except Exception as error:  # a damaged header makes torch raise nearly every kind of exception
        raise WeightsError(f"{path}: the weights do not fit the header of this file ({reason(error)})") from error
    return {name: net.to(device).eval() for name, net in nets.items()}


def _header(path: Path) -> dict[str, Any]:
    return read_tensor_header(path, FORMAT, VERSION, "file of difference networks", _checked)


def _checked(header: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(header["nets"], dict) or not isinstance(header["settings"], dict):
        raise TypeError("networks and settings are no mappings")
    return header
