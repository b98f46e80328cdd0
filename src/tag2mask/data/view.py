"""The one place where whole-image maps of every kind are brought to a training view.

Everything that is kept per image (the photograph, seeds, superpixels, CAMs) is kept for the whole image, each at its
own resolution. A `View` says what a training step sees of it: the whole image resized, perhaps mirrored, and a window
of that. `to_view` applies it to any map, so that all maps of a step show the same place.

Geometry: a map covers the image's rectangle, whatever its resolution, and its pixels are squares whose centres lie
half a pixel inside (torch's ``align_corners=False``). With a stride s, output cell i covers the viewed pixels from s
i up to, but not including, min(s i + s, crop), and stands for the middle of them.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
import torchvision.transforms.v2.functional as TF

from tag2mask.base.versions import Code

CODE = Code("views of maps")


@dataclass(frozen=True)
class View:
    """Resized, perhaps mirrored window of an image.

    Attributes:
        resized: height and width that the whole image is brought to.
        mirror: whether it is then mirrored left to right.
        crop: top, left, height and width of the window, in pixels of the resized, mirrored image; where it reaches
            outside, maps are filled.

    Raises:
        ValueError: a size is not positive.
    """

    resized: tuple[int, int]
    mirror: bool
    crop: tuple[int, int, int, int]

    def __post_init__(self) -> None:
        if min(*self.resized, *self.crop[2:]) < 1:
            raise ValueError(f"a view needs positive sizes, not {self.resized} and window {self.crop}")

    def output_size(self, stride: int = 1) -> tuple[int, int]:
        """Height and width of a map brought to this view: the window's divided by the stride, rounded up."""
        return -(-self.crop[2] // stride), -(-self.crop[3] // stride)


@dataclass(frozen=True)
class MapKind:
    """A kind of map: its resizing and its value outside the image.

    Attributes:
        name: for messages.
        interpolation: ``"bilinear"`` (with antialiasing where it shrinks) for quantities, ``"nearest"`` for ids.
        fill: value outside the image; None when the caller has to say.
    """

    name: str
    interpolation: Literal["bilinear", "nearest"]
    fill: float | None


IMAGE = MapKind("image", "bilinear", None)
"""An image; it is filled with a colour the caller gives, as a rule the mean that the network subtracts."""
LABELS = MapKind("labels", "nearest", 255)
"""Class ids, unlabelled outside."""
SUPERPIXELS = MapKind("superpixels", "nearest", -1)
"""Superpixel ids, -1 outside."""
SCORES = MapKind("scores", "bilinear", 0)
"""CAMs, probabilities, saliency, features: 0 outside."""


def _doubled_centres(start: int, length: int, stride: int) -> torch.Tensor:
    """Twice the positions of the cells' middles along one axis of the resized, mirrored image (exact integers)."""
    first = torch.arange(0, length, stride)
    return 2 * start + first + (first + stride).clamp(max=length)


def _nearest(array: torch.Tensor, view: View, stride: int, fill: float) -> torch.Tensor:
    """Takes, for each output cell, the map's pixel under the centre of the viewed pixel in the cell's middle.

    Of an even number of viewed pixels the middle one is the one right of (below) the middle. Pixel p of n resized
    ones has its centre over pixel floor((p + 1/2) m / n) of a map of m.
    """
    if not array.is_floating_point() and not torch.iinfo(array.dtype).min <= fill <= torch.iinfo(array.dtype).max:
        raise ValueError(f"a map of {array.dtype} cannot hold the fill value {fill}")
    inside, source = [], []
    for axis, size in ((0, array.shape[-2]), (1, array.shape[-1])):
        resized = view.resized[axis]
        pixel = _doubled_centres(view.crop[axis], view.crop[axis + 2], stride) // 2
        inside.append(((pixel >= 0) & (pixel < resized)).to(array.device))
        if axis == 1 and view.mirror:
            pixel = resized - 1 - pixel
        source.append(((2 * pixel + 1) * size // (2 * resized)).clamp(0, size - 1).to(array.device))
    seen = array.index_select(-2, source[0]).index_select(-1, source[1])
    return seen.masked_fill(~(inside[0][:, None] & inside[1]), fill)


def _resize(array: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Bilinear with antialiasing, (n, h, w) -> float32 (n, *size).

    Bytes are resized as bytes, which takes a quarter of the memory for a large image and rounds as Pillow does.
    """
    # torch asserts when it makes a single pixel of bytes.
    if array.dtype != torch.uint8 or size == (1, 1):
        array = array.float()
    if tuple(array.shape[-2:]) != size:
        array = TF.resize(array, list(size), antialias=True)
    return array.float()


def _bilinear_cells(array: torch.Tensor, view: View, stride: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Values at the middles of the output cells, and which of these lie inside the image."""
    # A map finer than half the output cells is averaged to these first, so that reading it between its pixels neither
    # skips any nor leans on the border; a coarser one is read as it is.
    halves = tuple(-(-2 * side // stride) for side in view.resized)
    array = _resize(array, (min(array.shape[-2], halves[0]), min(array.shape[-1], halves[1])))
    inside, position = [], []
    for axis in (0, 1):
        doubled = _doubled_centres(view.crop[axis], view.crop[axis + 2], stride)
        inside.append(((doubled >= 0) & (doubled < 2 * view.resized[axis])).to(array.device))
        # grid_sample wants -1 and 1 at the two borders of the image.
        position.append((doubled.double() / view.resized[axis] - 1).float().to(array.device))
    columns = -position[1] if view.mirror else position[1]
    grid = torch.stack(torch.meshgrid(columns, position[0], indexing="xy"), dim=-1)
    cells = F.grid_sample(array[None], grid[None], mode="bilinear", padding_mode="border", align_corners=False)[0]
    return cells, inside[0][:, None] & inside[1]


def _bilinear(array: torch.Tensor, view: View, stride: int, fill: torch.Tensor) -> torch.Tensor:
    """(n, h, w) and fill (n,) or (1,) -> float32 (n, *output size)."""
    if stride > 1:
        cells, inside = _bilinear_cells(array, view, stride)
        return torch.where(inside, cells, fill[:, None, None])
    seen = _resize(array, view.resized)
    if view.mirror:
        seen = seen.flip(-1)
    (top, left, height, width), (full_height, full_width) = view.crop, view.resized
    rows = slice(max(top, 0), max(min(top + height, full_height), 0))
    columns = slice(max(left, 0), max(min(left + width, full_width), 0))
    if (rows.start, rows.stop, columns.start, columns.stop) == (top, top + height, left, left + width):
        return seen[:, rows, columns].contiguous()
    result = fill[:, None, None].expand(len(seen), height, width).clone()
    part = seen[:, rows, columns]
    below, right = rows.start - top, columns.start - left
    result[:, below : below + part.shape[1], right : right + part.shape[2]] = part
    return result


def to_view(
    array: torch.Tensor,
    view: View,
    kind: MapKind,
    *,
    stride: int = 1,
    fill: float | Sequence[float] | None = None,
) -> torch.Tensor:
    """Brings a map of the whole image to a view: resized, mirrored, cropped, filled outside.

    Nearest maps take, for each output cell, the pixel under its middle; bilinear ones are antialiased where the
    output is coarser, and are read at the cells' middles (see the module's description). Cells whose middle is
    outside the image are filled.

    Args:
        array: map of shape (C, h, w) or (h, w), of any resolution; C may be 0.
        view: what is seen of the image.
        kind: how to interpolate and what to fill with.
        stride: pixels of the view per output cell, in both directions.
        fill: value outside the image in place of the kind's; for bilinear kinds also one value per channel.

    Returns:
        shape (C, H, W) or (H, W) with (H, W) = `view.output_size(stride)`; float32 for bilinear kinds (a uint8 image
        stays within 0..255), the map's own type for nearest ones.

    Raises:
        ValueError: no fill value is known, a nearest map's type cannot hold it, or the stride is not positive.
    """
    fill = kind.fill if fill is None else fill
    if fill is None:
        raise ValueError(f"a map of kind '{kind.name}' needs a fill value")
    if stride < 1:
        raise ValueError(f"stride {stride} is not positive")
    if kind.interpolation == "nearest":
        if not isinstance(fill, int | float):
            raise ValueError(f"a map of kind '{kind.name}' has one fill value, not {fill}")
        return _nearest(array, view, stride, fill)
    leading = array.shape[:-2]
    if array.numel() == 0:
        return torch.zeros((*leading, *view.output_size(stride)), device=array.device)
    flat = array.reshape(-1, *array.shape[-2:])
    channel_fill = torch.as_tensor(fill, dtype=torch.float32, device=array.device).reshape(-1)
    if len(channel_fill) not in (1, len(flat)):
        raise ValueError(f"{len(channel_fill)} fill values for {len(flat)} channels")
    return _bilinear(flat, view, stride, channel_fill).reshape(*leading, *view.output_size(stride))


def _scaled(side: int, factor: float) -> int:
    return max(1, int(side * factor + 0.5))


def _with_long_side(size: tuple[int, int], long_side: int) -> tuple[int, int]:
    height, width = size
    factor = long_side / max(size)
    return (long_side, _scaled(width, factor)) if height >= width else (_scaled(height, factor), long_side)


def whole_view(
    size: tuple[int, int],
    *,
    long_side: int | None = None,
    pad_to: int | None = None,
    stretch: bool = False,
    mirror: bool = False,
) -> View:
    """The whole image, for inference and for evaluation.

    Args:
        size: height and width of the image.
        long_side: length its longer side is brought to, the aspect kept; None keeps its size.
        pad_to: side of a square window that the image is laid into at the top left; None for none.
        stretch: bring it to a square of `long_side` instead, the aspect lost.
        mirror: mirror it.

    Raises:
        ValueError: `stretch` without `long_side`, or `pad_to` smaller than the image.
    """
    if stretch:
        if long_side is None:
            raise ValueError("stretching needs the side of the square as long_side")
        resized = (long_side, long_side)
    else:
        resized = size if long_side is None else _with_long_side(size, long_side)
    if pad_to is not None and pad_to < max(resized):
        raise ValueError(f"an image of {resized} does not fit into a window of {pad_to}")
    return View(resized, mirror, (0, 0, *(resized if pad_to is None else (pad_to, pad_to))))


def whole_cells(size: tuple[int, int], stride: int) -> tuple[int, int]:
    """The multiple of a stride nearest to each side, at least one: cells of the stride then tile the image exactly.

    Of other sides the last cell reaches beyond the border, and what stands for it lies up to a cell aside.
    """
    height, width = (max(round(side / stride), 1) * stride for side in size)
    return height, width


def from_whole_view(labels: torch.Tensor, view: View, size: tuple[int, int], *, stride: int = 1) -> torch.Tensor:
    """Brings ids made on the grid of a whole view back to the image: to each pixel the id of the cell over it.

    Where the middle of that cell lies beside the image, the pixel takes the id of the cell before.

    Args:
        labels: (h, w), h and w as `view.output_size(stride)`.
        view: shows the whole image, from its top left corner on and not mirrored.
        size: height and width of the image.
        stride: pixels of the view per cell.

    Returns:
        (*size), of the labels' type.

    Raises:
        ValueError: the view is mirrored, or a part of the image.
    """
    top, left, height, width = view.crop
    if view.mirror or (top, left) != (0, 0) or height < view.resized[0] or width < view.resized[1]:
        raise ValueError("ids come back from an unmirrored view of the whole image alone")
    cells = []
    for pixels, resized, length in zip(size, view.resized, (height, width), strict=True):
        over = ((2 * torch.arange(pixels, device=labels.device) + 1) * resized // (2 * pixels)) // stride
        # A last cell whose middle is beside the image holds nothing of it, even if it covers some of its pixels.
        inside = int((_doubled_centres(0, length, stride) // 2 < resized).sum())
        cells.append(over.clamp(max=max(inside - 1, 0)))
    return labels[cells[0]][:, cells[1]]


def _generator(seed: int, epoch: int, image_id: str) -> np.random.Generator:
    # Python's own hash of a string differs from process to process.
    words = np.frombuffer(hashlib.blake2b(image_id.encode(), digest_size=16).digest(), dtype="<u4")
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch, *words.tolist()])))


def random_view(
    size: tuple[int, int],
    *,
    seed: int,
    epoch: int,
    image_id: str,
    crop: int,
    long_side: tuple[int, int] | None = None,
    scale: tuple[float, float] | None = None,
    stretch: bool = False,
    mirror: bool = True,
) -> View:
    """A random training view, decided by (seed, epoch, image id) and the arguments alone.

    The image is resized (by a factor, to a long side as PSA and IRN do, or not at all) and mirrored half of the time; a
    window of crop x crop is laid uniformly at random inside it where it is larger, and around it where it is smaller.

    Args:
        size: height and width of the image.
        seed: seed of the run, not negative.
        epoch: number of the epoch, not negative.
        image_id: id of the image.
        crop: side of the window in pixels.
        long_side: smallest and largest longer side, drawn uniformly, both included.
        scale: smallest and largest factor on the image's size, drawn uniformly.
        stretch: bring the image to a square, the aspect lost: of the side drawn from `long_side`, or of `crop` times
            the factor drawn from `scale`, or of `crop`.
        mirror: whether mirroring may be drawn.

    Raises:
        ValueError: both ranges are given, or one is empty.
    """
    if long_side is not None and scale is not None:
        raise ValueError("a view is drawn by long_side or by scale, not by both")
    low, high = long_side or scale or (1, 1)
    if not 0 < low <= high:
        raise ValueError(f"the range {low} to {high} is empty or not positive")
    generator = _generator(seed, epoch, image_id)
    base = (crop, crop) if stretch else size
    if long_side is not None:
        side = int(generator.integers(*long_side, endpoint=True))
        resized = (side, side) if stretch else _with_long_side(size, side)
    elif scale is not None:
        factor = generator.uniform(low, high)
        resized = (_scaled(base[0], factor), _scaled(base[1], factor))
    else:
        resized = base
    mirrored = bool(generator.random() < 0.5) and mirror
    top, left = (
        int(np.sign(side - crop)) * int(generator.integers(0, abs(side - crop), endpoint=True)) for side in resized
    )
    return View(resized, mirrored, (top, left, crop, crop))


def tiled_view(
    size: tuple[int, int], stride: int, cells: int, *, mirror: bool = False, pad_to: int | None = None
) -> View:
    """The whole image with sides that are multiples of a stride, so that cells of the stride tile it.

    Args:
        size: height and width of the image.
        stride: pixels of the view per cell.
        cells: along the longer side.
        mirror: mirror it.
        pad_to: cells of a square window that the image is laid into at the top left; None for none.
    """
    height, width = tiled_grid(size, cells)
    resized = (height * stride, width * stride)
    side = None if pad_to is None else pad_to * stride
    return View(resized, mirror, (0, 0, *(resized if side is None else (side, side))))


def tiled_grid(size: tuple[int, int], cells: int) -> tuple[int, int]:
    """Rows and columns of the grid that tiles an image of (height, width) `size`, its longer side in `cells` cells."""
    height, width = (max(1, round(side * cells / max(size))) for side in size)
    return height, width
