"""The dense energy: what a fully connected CRF charges for a network's own probabilities."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tag2mask.errors import DataError, SettingsError
from tag2mask.refine import lattice


def dense_energy(
    probabilities: Tensor, images: Tensor, *, sxy: float, srgb: float, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """RRM's regularised loss (Zhang et al., AAAI 2020): a Potts energy between all pixels of an image.

        E = sum_{u, v} m_u m_v k(u, v) sum_c S_uc (1 - S_vc),
        k(u, v) = exp(-|x_u - x_v|^2 / (2 sxy^2) - |I_u - I_v|^2 / (2 srgb^2)).

    The smaller, the more alike are pixels that are near and of one colour. The sums over v are those of the
    permutohedral lattice (`lattice.bilateral_filter`), about half of the exact ones, and the gradient in S_uc is the
    filter's, m_u [(k m)_u - 2 (k m S_c)_u].

    **[resolved]** The pages at hand give the weight 1e-7 and the deviations only. The energy is the sum over an image's
    pairs of pixels, not a mean, which alone makes sense of that weight, and is averaged over images: it grows with the
    square of the number of pixels. It is not scaled to exact Gaussians, as the weight belongs to a filter of this kind.
    A pixel's pair with itself, which the filter holds, is counted: 1 - |S_u|^2, little beside thousands of others.

    Args:
        probabilities: S, a softmax (N, C, h, w); half precision is worked on in float32, as float64 is.
        images: at the same size, RGB, uint8 (N, 3, h, w).
        sxy: standard deviation in position, pixels of the map: divide by f on an image shrunk by f.
        srgb: standard deviation in colour, steps of 0..255.
        mask: m, the pixels that take part, bool or floats (N, h, w); None for all.

    Returns:
        (sum over images, N), float32. An image without pixels, or whose mask is empty, adds 0.

    Raises:
        DataError: shapes or types are not as above.
        SettingsError: a standard deviation is not positive, or so small that the lattice has too many cells.
    """
    shape = (len(probabilities), *probabilities.shape[2:])
    if probabilities.ndim != 4 or images.dtype != torch.uint8 or images.shape != (shape[0], 3, *shape[1:]):
        raise DataError(
            f"probabilities {tuple(probabilities.shape)} and images, {images.dtype} {tuple(images.shape)}, must be "
            "(N, C, h, w) and uint8 (N, 3, h, w)"
        )
    if mask is not None and mask.shape != shape:
        raise DataError(f"mask must have the shape {shape}, not {tuple(mask.shape)}")
    for name, value in (("sxy", sxy), ("srgb", srgb)):
        if not (value > 0 and math.isfinite(value)):
            raise SettingsError(f"{name} must be a positive number, not {value}")
    s = probabilities.float()
    # Rather than an error of a lattice without pixels.
    if s.numel() == 0:
        return s.sum(), s.new_tensor(len(s))
    m = torch.ones_like(s[:, :1]) if mask is None else mask.detach().to(s.dtype)[:, None]
    masked = s * m
    try:
        filtered = lattice.bilateral_filter(images, torch.cat([masked.detach(), m], 1), sxy=sxy, srgb=srgb)
    except ValueError as error:
        raise SettingsError(f"sxy {sxy}, srgb {srgb}: {error}") from error
    energy: Tensor = _PottsEnergy.apply(masked, filtered[:, :-1], filtered[:, -1:])
    return energy, energy.new_tensor(len(s))


class _PottsEnergy(torch.autograd.Function):
    """sum S (k1 - kS), where k1 is constant and kS is S filtered symmetrically."""

    @staticmethod
    def forward(ctx: Any, s: Tensor, filtered: Tensor, reach: Tensor) -> Tensor:
        ctx.save_for_backward(reach - 2 * filtered)
        return (s * (reach - filtered)).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return gradient * slope, None, None
