"""Re-refinement of any pair of masks by difference detection (Shimoda & Yanai, SSDD, ICCV 2019).

The paper's "re-refinement module" by itself: given what a network makes of an image, a mask, the mask that some
refinement made of it, and a difference network trained on such pairs, `refine` takes the changes that can be trusted.
Where masks and features come from does not matter.
"""

from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tag2mask.data.classes import UNLABELLED
from tag2mask.data.resizing import resize_scores, to_grid
from tag2mask.errors import DataError
from tag2mask.networks.difference_net import DifferenceNet
from tag2mask.networks.segmenter import Segmenter
from tag2mask.refine.difference import refine_pair

MasksT = TypeVar("MasksT", npt.NDArray[Any], Tensor)


class ImageFeatures(NamedTuple):
    """e(x), a network's features of images.

    Args:
        high: high-level features (N, c, h, w); the difference network works on their grid.
        low: low-level features (N, c', h', w') of the same images; None for a network that takes none.
    """

    high: Tensor
    low: Tensor | None = None


def image_features(segmenter: Segmenter, images: Tensor, *, label_stride: int, low_block: str = "") -> ImageFeatures:
    """e(x) of a trained segmenter, on the grid that the difference network beside it has learnt on.

    That grid is finer than the segmenter's own as a rule; on another one the network would see masks and features at a
    scale that it does not know. `read_difference_settings` tells stride and block of the networks that a run leaves.

    Args:
        segmenter: the segmenter, in evaluation mode.
        images: normalised photographs (N, 3, H, W), each filling its H x W, as masks cover the whole photograph; sides
            are best multiples of the stride.
        label_stride: pixels per cell of the grid.
        low_block: the block of the low-level features; empty for a network that takes none.

    Returns:
        features on a grid of (ceil(H / label_stride), ceil(W / label_stride)), float32, without gradient.

    Raises:
        SettingsError: the segmenter's head has no hidden layer of its own, or there is no such block.
    """
    with torch.no_grad():
        levels = segmenter.levels(images, early=low_block or None)
    grid = -(-images.shape[2] // label_stride), -(-images.shape[3] // label_stride)
    low = None if levels.early is None else to_grid(levels.early.float(), grid)
    return ImageFeatures(resize_scores(levels.hidden.float(), grid), low)


def refine(
    image_features: ImageFeatures | tuple[Tensor, Tensor | None],
    before: MasksT,
    after: MasksT,
    network: DifferenceNet,
    *,
    bias: float = 0.1,
    background_bias: float = 0.1,
    class_bias: float = 1.0,
    present: npt.NDArray[np.bool_] | Tensor | None = None,
) -> MasksT:
    """SSDD(e(x), before, after): of the changes from one mask to the other, those that can be trusted.

    The masks may be of any size. The network sees them on the grid of the features, each cell as its middle; what it
    predicts is enlarged bilinearly, and pixels are chosen at the masks' own size (equations 2 and 3, as
    `tag2mask.refine.difference` reads them). The network works in evaluation mode, without gradients, and is given back
    in the mode it came in.

    Args:
        image_features: high- and low-level features of the N images.
        before: class ids (N, H, W), or (H, W) of one image; integers, 255 without a label.
        after: the refined masks, of the same shape.
        network: a difference network trained on pairs of this kind.
        bias: above 0 in favour of `after`. The paper's seeds are made with 0.1, its training masks with 0.4.
        background_bias: in favour of background, 0.1 for the paper's seeds and 0 for its training masks.
        class_bias: in favour of classes that lose more than half of their pixels; 0 leaves them to the rest.
        present: the classes whose loss counts, bool (N, C) or (C,), background first: the images' tags. None takes
            the classes that a mask of the pair shows.

    Returns:
        class ids of the kind, shape and type of `before`.

    Raises:
        DataError: shapes or types are not as above, or a mask has an id that is no class of the network.
    """
    weight = network.score.weight
    first, second = pair = [_masks(masks, network.classes, weight.device) for masks in (before, after)]
    high, low = (values if values is None else values.to(weight.device) for values in image_features)
    if tuple(before.shape) != tuple(after.shape) or high is None or len(high) != len(first):
        raise DataError(
            "image features and both masks must be of the same photographs, and the masks of one size; their shapes "
            f"are {None if high is None else tuple(high.shape)}, {tuple(before.shape)} and {tuple(after.shape)}"
        )
    was_training = network.training
    network.eval()
    try:
        with torch.no_grad():
            shared = network.shared(high, low)
            grid, size = (shared.shape[2], shared.shape[3]), (first.shape[1], first.shape[2])
            told = [resize_scores(network(shared, _on_grid(masks, grid))[:, None], size)[:, 0] for masks in pair]
    finally:
        network.train(was_training)
    refined = refine_pair(
        first,
        second,
        told[0],
        told[1],
        _present(present, pair, network.classes),
        bias=bias,
        background_bias=background_bias,
        class_bias=class_bias,
    ).view(tuple(before.shape))
    if isinstance(before, Tensor):
        return refined.to(before.device, before.dtype)
    return refined.cpu().numpy().astype(before.dtype)


def _masks(masks: npt.NDArray[Any] | Tensor, classes: int, device: torch.device) -> Tensor:
    """Masks as int64 (N, H, W) on a device."""
    ids = masks.detach() if isinstance(masks, Tensor) else torch.from_numpy(np.array(masks, order="C"))
    if ids.ndim not in (2, 3) or ids.is_floating_point() or ids.dtype == torch.bool or not ids.numel():
        raise DataError(
            f"masks must be integers of shape (N, H, W) or (H, W), not {ids.dtype} of shape {tuple(ids.shape)}"
        )
    ids = ids.reshape(-1, *ids.shape[-2:]).to(device, torch.int64)
    wrong = ids[(ids != UNLABELLED) & ((ids < 0) | (ids >= classes))]
    if len(wrong):
        raise DataError(
            f"a mask has the id {int(wrong[0])}; the network knows the classes 0..{classes - 1}, and {UNLABELLED}"
        )
    return ids


def _on_grid(masks: Tensor, grid: tuple[int, int]) -> Tensor:
    """Masks (N, H, W) on a grid that tiles them: each cell has the pixel that its middle lies in."""
    rows, columns = (
        (2 * torch.arange(cells, device=masks.device) + 1) * pixels // (2 * cells)
        for cells, pixels in zip(grid, masks.shape[1:], strict=True)
    )
    return masks[:, rows[:, None], columns]


def _present(given: npt.NDArray[np.bool_] | Tensor | None, pair: list[Tensor], classes: int) -> Tensor:
    """Classes whose loss counts, bool (N, classes)."""
    images, device = len(pair[0]), pair[0].device
    if given is None:
        ids = torch.cat([masks.flatten(1) for masks in pair], dim=1)
        # one more column, for pixels without a label
        shown = torch.zeros(images, classes + 1, dtype=torch.bool, device=device)
        return shown.scatter(1, ids.clamp(max=classes), True)[:, :classes]
    present = torch.as_tensor(given, device=device)
    if present.dtype != torch.bool or present.shape not in ((classes,), (images, classes)):
        raise DataError(
            f"present must be bool of shape ({images}, {classes}) or ({classes},), not {present.dtype} of shape "
            f"{tuple(present.shape)}"
        )
    return present.expand(images, classes)
