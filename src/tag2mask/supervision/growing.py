"""Labels that grow at every step: seeds spread over what the network is sure of by now."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from tag2mask.base.versions import Code
from tag2mask.engine.system import Batch, Position
from tag2mask.errors import SettingsError, unknown_choice
from tag2mask.refine.dense_crf import UNARIES, dense_crf
from tag2mask.refine.region_growing import grow_regions, grow_superpixels
from tag2mask.supervision.targets import Targets

CODE = Code("growing")

GROW_ON = ("crf", "softmax")
"""Probabilities that labels grow on: the softmax after the CRF, or as the network gives it."""


class SoftmaxCRF(nn.Module):
    """Dense CRF of a batch's softmax on the label grid, all classes taking part.

    Args:
        iterations: of mean field.
        gaussian_sxy: width of the position kernel, pixels of the photograph.
        gaussian_weight: its weight.
        bilateral_sxy: width in position of the kernel on position and colour, pixels of the photograph.
        bilateral_srgb: its width in colour, steps of 0..255.
        bilateral_weight: its weight.
        shrink: both widths in pixels are divided by it; 12 in SEC's and DSRG's code, whatever the grid.
        unary: "log" for -log p, "flat" for -p (DSRG's code).

    Raises:
        SettingsError: `shrink` is not positive, or the unary is unknown.
    """

    def __init__(
        self,
        *,
        iterations: int = 10,
        gaussian_sxy: float = 3.0,
        gaussian_weight: float = 3.0,
        bilateral_sxy: float = 80.0,
        bilateral_srgb: float = 13.0,
        bilateral_weight: float = 10.0,
        shrink: float = 12.0,
        unary: Literal["log", "flat"] = "log",
    ) -> None:
        super().__init__()
        if not shrink > 0:
            raise SettingsError(f"shrink must be above 0, not {shrink}")
        if unary not in UNARIES:
            raise SettingsError(unknown_choice("unary", unary, UNARIES))
        # As floats, so that 3 and 3.0 are told alike.
        self.iterations = iterations
        self.gaussian_sxy = float(gaussian_sxy)
        self.gaussian_weight = float(gaussian_weight)
        self.bilateral_sxy = float(bilateral_sxy)
        self.bilateral_srgb = float(bilateral_srgb)
        self.bilateral_weight = float(bilateral_weight)
        self.shrink = float(shrink)
        self.unary: Literal["log", "flat"] = unary

    def extra_repr(self) -> str:
        """The settings, for fingerprints."""
        return (
            f"iterations={self.iterations}, gaussian_sxy={self.gaussian_sxy}, gaussian_weight={self.gaussian_weight}, "
            f"bilateral_sxy={self.bilateral_sxy}, bilateral_srgb={self.bilateral_srgb}, "
            f"bilateral_weight={self.bilateral_weight}, shrink={self.shrink}, unary={self.unary}"
        )

    def forward(self, images: Tensor, probabilities: Tensor, inside: Tensor) -> Tensor:
        """The CRF's probabilities, without gradient.

        Args:
            images: on the grid of the probabilities, uint8 RGB (N, 3, h, w).
            probabilities: (N, C, h, w), sums over classes 1.
            inside: where there is a photograph, bool (N, h, w), a rectangle: the padding around it takes no part.

        Returns:
            float32 (N, C, h, w), sums over classes 1; beside the photographs the probabilities as they are.

        Raises:
            DataError: shapes or types are not as above.
            SettingsError: a setting is out of the CRF's range.
        """
        photographs = images.permute(0, 2, 3, 1)
        if inside.all():
            return self._solved(photographs, probabilities)
        shown = {index: window for index, one in enumerate(inside) if (window := _window(one)) is not None}
        refined = probabilities.detach().float().clone()
        if not shown:
            return refined
        solved = self._solved(
            [photographs[index][window] for index, window in shown.items()],
            [probabilities[index][:, *window] for index, window in shown.items()],
        )
        for (index, window), answer in zip(shown.items(), solved, strict=True):
            refined[index][:, *window] = answer
        return refined

    def of_tagged(self, images: Tensor, probabilities: Tensor, present: Tensor, inside: Tensor) -> Tensor:
        """The CRF of each image's tagged classes and background alone, without gradient.

        Absent classes are taken out before the CRF: with a probability of 0 its unary's floor would let them take part.
        Images with equally many tags are solved together.

        Args:
            images: as for `forward`.
            probabilities: (N, C, h, w), those of absent classes 0; sums over classes 1.
            present: the classes that tags name, bool (N, C), background, which is always there, first.
            inside: as for `forward`.

        Returns:
            float32 (N, C, h, w), sums over classes 1, absent classes 0.

        Raises:
            DataError, SettingsError: see `forward`.
        """
        refined = torch.zeros_like(probabilities, dtype=torch.float32)
        counts = present.sum(1)
        for count in counts.unique().tolist():
            rows = (counts == count).nonzero()[:, 0]
            ids = present[rows].nonzero()[:, 1].view(-1, count, 1, 1).expand(-1, -1, *probabilities.shape[2:])
            solved = self(images[rows], probabilities[rows].gather(1, ids), inside[rows])
            refined[rows] = refined[rows].scatter(1, ids, solved)
        return refined

    def _solved(self, photographs: Any, probabilities: Any) -> Any:
        """A batch, or a list of images of different sizes."""
        return dense_crf(
            photographs,
            probabilities,
            iterations=self.iterations,
            gaussian_sxy=self.gaussian_sxy / self.shrink,
            gaussian_weight=self.gaussian_weight,
            bilateral_sxy=self.bilateral_sxy / self.shrink,
            bilateral_srgb=self.bilateral_srgb,
            bilateral_weight=self.bilateral_weight,
            unary=self.unary,
            threads=torch.get_num_threads(),
        )


class _Growing(nn.Module):
    """Two thresholds, as floats: 1 and 1.0 are one setting."""

    def __init__(self, background_threshold: float, foreground_threshold: float) -> None:
        super().__init__()
        self.background_threshold = float(background_threshold)
        self.foreground_threshold = float(foreground_threshold)

    def extra_repr(self) -> str:
        """The settings, for fingerprints."""
        return f"background_threshold={self.background_threshold}, foreground_threshold={self.foreground_threshold}"


class RegionGrowing(_Growing):
    """Seeds spread to connected pixels that the network gives the seed's class (Huang et al., DSRG, CVPR 2018).

    Args:
        background_threshold: least probability of background that is grown into.
        foreground_threshold: the same of every other class.
    """

    needs: frozenset[str] = frozenset({"present"})

    def __init__(self, background_threshold: float = 0.99, foreground_threshold: float = 0.85) -> None:
        super().__init__(background_threshold, foreground_threshold)

    def forward(self, batch: Batch, probabilities: Tensor) -> Tensor:
        """Grown labels.

        Args:
            batch: of it ``labels``, the seeds (N, h, w), and ``present``, the classes that tags name, bool (N, C).
            probabilities: (N, C, h, w).

        Returns:
            Class ids (N, h, w) of the seeds' type, 255 where no seed got.

        Raises:
            DataError, SettingsError: see `grow_regions`.
        """
        return grow_regions(
            batch["labels"],
            probabilities,
            batch["present"],
            background_threshold=self.background_threshold,
            foreground_threshold=self.foreground_threshold,
            threads=torch.get_num_threads(),
        )


class SuperpixelGrowing(_Growing):
    """Whole superpixels go to the class that the network is sure of on average (Kim 2022, section 3.3.3).

    Args:
        background_threshold: what the mean probability of background must exceed.
        foreground_threshold: the same of every other class.
    """

    needs: frozenset[str] = frozenset({"present", "superpixels"})

    def __init__(self, background_threshold: float = 0.7, foreground_threshold: float = 0.7) -> None:
        super().__init__(background_threshold, foreground_threshold)

    def forward(self, batch: Batch, probabilities: Tensor) -> Tensor:
        """Grown labels.

        Args:
            batch: of it ``labels`` and ``present`` as for `RegionGrowing`, and ``superpixels``, ids (N, h, w) from 0,
                negative outside the photograph.
            probabilities: (N, C, h, w).

        Returns:
            Class ids (N, h, w) of the seeds' type, 255 where neither a seed nor a sure superpixel is.

        Raises:
            DataError, SettingsError: see `grow_superpixels`.
        """
        superpixels, count = batch["superpixels"], None
        if superpixels.device.type != "cpu":
            superpixels, count = _renumbered(superpixels)
        return grow_superpixels(
            batch["labels"],
            probabilities,
            superpixels,
            batch["present"],
            background_threshold=self.background_threshold,
            foreground_threshold=self.foreground_threshold,
            superpixel_count=count,
            threads=torch.get_num_threads(),
        )


class OnlineLabels(nn.Module):
    """Targets from the network's own scores: they are refined by a CRF, and the batch's seeds grow on them.

    Growth starts from the batch's seeds at every step. Only background and tagged classes compete in it; the refined
    scores keep all classes, for the boundary loss.

    Args:
        growing: how ``labels`` grow; None leaves them as they are.
        crf: what refines the softmax; None for none.
        grow_on: "crf" to grow on the refined softmax if there is a `crf`, "softmax" on the network's own.

    Raises:
        SettingsError: `grow_on` is unknown.
    """

    def __init__(
        self,
        growing: RegionGrowing | SuperpixelGrowing | None = None,
        crf: SoftmaxCRF | None = None,
        *,
        grow_on: Literal["crf", "softmax"] = "crf",
    ) -> None:
        super().__init__()
        if grow_on not in GROW_ON:
            raise SettingsError(unknown_choice("grow_on", grow_on, GROW_ON))
        self.growing = growing
        self.crf = crf
        self.grow_on = grow_on

    def extra_repr(self) -> str:
        """The setting `grow_on`, where there is a choice; growing and CRF tell their own settings."""
        return f"grow_on={self.grow_on}" if self.growing is not None and self.crf is not None else ""

    @property
    def needs(self) -> frozenset[str]:
        """Names of the batch entries it reads beside ``labels``."""
        growing = frozenset() if self.growing is None else self.growing.needs | {"inside"}
        return growing if self.crf is None else growing | {"inside", "image_on_grid"}

    def forward(self, batch: Batch, scores: Tensor, network: nn.Module, position: Position) -> Targets:
        """Targets of a step, without gradient.

        Args:
            batch: ``labels`` (N, h, w), and of ``present``, ``superpixels``, ``inside`` and ``image_on_grid`` what
                `needs` names. ``inside``, bool (N, h, w), says where there is a photograph: beside it nothing grows and
                no CRF is solved. ``image_on_grid`` is the images on the label grid, uint8 RGB (N, 3, h, w).
            scores: the network's logits (N, C, h, w).
            network: not used.
            position: not used.

        Raises:
            FloatingPointError: scores of which a CRF is to be made are not finite.
            DataError, SettingsError: see `SoftmaxCRF`, `RegionGrowing` and `SuperpixelGrowing`.
        """
        softmax = scores.detach().float().softmax(1)
        if self.crf is not None and not softmax.isfinite().all():
            # Before the loss can tell so; the CRF would only say that these are no probabilities.
            raise FloatingPointError("the network's scores are not finite; a lower learning rate usually helps")
        refined = None if self.crf is None else self.crf(batch["image_on_grid"], softmax, batch["inside"])
        if self.growing is None:
            return Targets(batch["labels"], refined)
        grown_on = softmax if refined is None or self.grow_on == "softmax" else refined
        # NaN is never sure, not even of a threshold of 0.
        return Targets(self.growing(batch, grown_on.masked_fill(~batch["inside"][:, None], torch.nan)), refined)


def _window(inside: Tensor) -> tuple[slice, slice] | None:
    """Rows and columns of a rectangle of true pixels (h, w); None where there is none."""
    rows, columns = (inside.any(axis).nonzero()[:, 0].tolist() for axis in (1, 0))
    return (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)) if rows else None


def _renumbered(superpixels: Tensor) -> tuple[Tensor, int]:
    """The same superpixels with small numbers, and what these lie below.

    A view sees few of an image's superpixels, but finding the largest id would mean waiting for the device; the
    ranks of the ids that are there lie below the number of pixels.

    Args:
        superpixels: (N, h, w); negative ids stay negative.
    """
    ids = superpixels.long()
    ordered, order = ids.flatten(1).sort(1)
    steps = ordered.diff(dim=1, prepend=ordered[:, :1]) != 0
    ranks = torch.empty_like(ordered).scatter_(1, order, steps.cumsum(1)).view(ids.shape)
    return ranks.masked_fill(ids < 0, -1), max(ordered.shape[1], 1)
