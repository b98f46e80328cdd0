"""Means and covariances of the features of each class's images, in one pass over images.

Class patterns (`tag2mask.evidence.class_pattern`) are made of them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from scipy.linalg import blas
from torch import Tensor

from tag2mask.base.versions import Code
from tag2mask.errors import DataError, SettingsError

CODE = Code("class statistics")

Array = npt.NDArray[Any] | Tensor

_SIZES = "sizes"  # of the state: numbers of classes and dimensions


@dataclass
class _Moments:
    """First and second moments of features and of CAM values, about their own means.

    Attributes:
        count: pixels.
        cam_count: those with a CAM value.
        mean: (d,).
        scatter: sum of (f - mean)(f - mean)^T, (d, d); only the lower triangle counts.
        cam_mean: ().
        cam_scatter: sum of (f - mean)(cam - cam_mean), (d,).
        cam_square: sum of (cam - cam_mean)^2, ().
    """

    count: int
    cam_count: int
    mean: Tensor
    scatter: Tensor
    cam_mean: Tensor
    cam_scatter: Tensor
    cam_square: Tensor

    @classmethod
    def empty(cls, dimensions: int, device: torch.device) -> Self:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        return cls(0, 0, zeros(dimensions), zeros(dimensions, dimensions), zeros(), zeros(dimensions), zeros())

    def to(self, device: torch.device) -> "_Moments":
        """The same on a device."""
        tensors = (self.mean, self.scatter, self.cam_mean, self.cam_scatter, self.cam_square)
        return _Moments(self.count, self.cam_count, *(tensor.to(device) for tensor in tensors))

    def merge(self, other: "_Moments") -> None:
        """Pairwise update of Chan, Golub & LeVeque (1979): no difference of large numbers, whatever the means."""
        total = self.count + other.count
        shift, cam_shift = other.mean - self.mean, other.cam_mean - self.cam_mean
        weight = self.count * other.count / total
        self.scatter.add_(other.scatter).addr_(shift, shift, alpha=weight)
        self.cam_scatter.add_(other.cam_scatter).add_(shift * cam_shift, alpha=weight)
        self.cam_square.add_(other.cam_square).add_(cam_shift**2, alpha=weight)
        self.mean.add_(shift, alpha=other.count / total)
        self.cam_mean.add_(cam_shift, alpha=other.count / total)
        self.count = total
        self.cam_count += other.cam_count


class ClassStatistics:
    """Mean and covariance of the features of each class's images, in one pass over images.

    An image counts in each of its classes, with all its pixels (Luo & Yang, eq. 2). Its (d, d) product is computed
    once, whatever the number of its classes. Sums over images are float64; the product of one image is
    computed in the type of its features (half precision as float32) about their mean. With float32 features that
    takes two thirds of the time and moves the covariance by less than 1e-6 of its largest eigenvalue, the first
    component by some 1e-5 degrees (bench/class_patterns.py). Float64 features stay float64, and on other devices than
    the CPU the product always is.

    Memory: ``8 * d * d`` bytes for each class that was seen. The order of images and of merging changes results by
    float64 rounding; the same order gives the same bits.

    Args:
        classes: number of classes, background included; ids are below it.
        dimensions: d, channels of the features.
        device: where the sums are kept and the products computed.

    Raises:
        SettingsError: fewer than one class or dimension.
    """

    def __init__(self, classes: int, dimensions: int, *, device: str | torch.device = "cpu") -> None:
        if classes < 1 or dimensions < 1:
            raise SettingsError(f"classes and dimensions must be 1 or more, not {classes} and {dimensions}")
        self.classes = classes
        self.dimensions = dimensions
        self.device = torch.device(device)
        self._moments: dict[int, _Moments] = {}

    @property
    def seen(self) -> list[int]:
        """Ids of the classes with at least one pixel, ascending."""
        return sorted(self._moments)

    def add(self, features: Array, class_ids: Sequence[int], cams: Array | None = None) -> None:
        """Count an image's pixels in each of its classes.

        Args:
            features: floats (N, d), one row per pixel; on any device.
            class_ids: the classes the image is tagged with; none adds nothing.
            cams: (len(class_ids), N), the classes' CAMs at the same pixels; needed for `cam_covariance` and
                `cam_correlation` of these classes.

        Raises:
            DataError: shapes or types are not as above, values are not finite or their squares overflow the type in
                which they are added up, a class appears twice or does not exist.
        """
        if features.ndim != 2 or features.shape[1] != self.dimensions:
            raise DataError(f"features must have shape (N, {self.dimensions}), not {tuple(features.shape)}")
        for class_id in class_ids:
            self._check_class(class_id)
        if len(set(class_ids)) < len(class_ids):
            raise DataError(f"class_ids {list(class_ids)} name a class twice")
        pixels = len(features)
        if cams is not None and tuple(cams.shape) != (len(class_ids), pixels):
            raise DataError(f"cams must have shape ({len(class_ids)}, {pixels}), not {tuple(cams.shape)}")
        if not len(class_ids) or not pixels:
            return

        values = as_tensor(features).to(self.device)
        if not values.is_floating_point():
            raise DataError(f"features must be floats, not {values.dtype}")
        if values.dtype != torch.float64:
            values = values.float()
        # About a mean as exact as the type can hold it; what is left of the mean, tiny, is put right in float64.
        shift = values.mean(0)
        centred = (values - shift).contiguous()
        rest = centred.mean(0).double()
        mean = shift.double() + rest
        scatter = _product(centred).addr_(rest, rest, alpha=-pixels)
        # The diagonal bounds every other entry.
        _check_sums("features", values, mean, scatter.diagonal())

        heights = torch.zeros((len(class_ids), pixels)) if cams is None else as_tensor(cams)
        heights = heights.to(self.device, torch.float64)
        cam_means = heights.mean(1)
        raised = heights - cam_means[:, None]
        cam_squares = raised.square().sum(1)
        cam_scatters = raised.to(centred.dtype) @ centred
        _check_sums("cams", heights, cam_squares, cam_scatters)
        for index, class_id in enumerate(class_ids):
            photograph = _Moments(
                count=pixels,
                cam_count=0 if cams is None else pixels,
                mean=mean,
                scatter=scatter,
                cam_mean=cam_means[index],
                cam_scatter=cam_scatters[index],
                cam_square=cam_squares[index],
            )
            self._of(class_id).merge(photograph)

    def merge(self, other: "ClassStatistics") -> None:
        """Count all that `other` has counted. Shards merged in the same order give the same bits.

        Raises:
            DataError: the numbers of classes or dimensions differ.
        """
        if (other.classes, other.dimensions) != (self.classes, self.dimensions):
            raise DataError(
                f"statistics of {other.classes} classes and {other.dimensions} dimensions cannot be merged into those "
                f"of {self.classes} classes and {self.dimensions} dimensions"
            )
        for class_id in other.seen:
            self._of(class_id).merge(other._moments[class_id].to(self.device))

    def count(self, class_id: int) -> int:
        """Number of pixels counted in a class, K of eq. 2; 0 where it has not been seen."""
        self._check_class(class_id)
        return self._moments[class_id].count if class_id in self._moments else 0

    def mean(self, class_id: int) -> Tensor:
        """Mean of a class's features, float64 (d,).

        Raises:
            DataError: the class does not exist or has no pixels.
        """
        return self._seen(class_id).mean.clone()

    def covariance(self, class_id: int) -> Tensor:
        """Covariance of a class's features, divided by the number of pixels (eq. 2), float64 (d, d), symmetric.

        Raises:
            DataError: the class does not exist or has no pixels.
        """
        moments = self._seen(class_id)
        lower = moments.scatter.tril()
        covariance: Tensor = (lower + lower.tril(-1).T) / moments.count
        return covariance

    def cam_covariance(self, class_id: int) -> Tensor:
        """Covariance of each channel with the class's CAM over all its pixels, float64 (d,); for `orient`.

        Raises:
            DataError: the class does not exist or has no pixels, or some of them came without a CAM value.
        """
        moments = self._with_cams(class_id)
        return moments.cam_scatter / moments.count

    def cam_correlation(self, class_id: int, component: Array) -> float:
        """Correlation of the projection on a component with the class's CAM over all its pixels, in [-1, 1].

        How strong the evidence for the component's sign is; 0 where the projection or the CAM does not vary.

        Raises:
            DataError: as `cam_covariance`.
        """
        moments = self._with_cams(class_id)
        direction = as_tensor(component).to(moments.mean)
        together = float(moments.cam_scatter @ direction)
        apart = float(direction @ self.covariance(class_id) @ direction) * moments.count * float(moments.cam_square)
        return min(1.0, max(-1.0, together / math.sqrt(apart))) if apart > 0 else 0.0

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """All that was counted, as arrays on the CPU to be kept in a file; `from_state` takes them back.

        Keys are "sizes" and, for each class that was seen, its id and a name ("3.mean"). Arrays on the CPU share
        memory with the statistics, so that a file is written without a copy of all of them.
        """
        arrays: dict[str, npt.NDArray[Any]] = {_SIZES: np.array([self.classes, self.dimensions])}
        for class_id in self.seen:
            for field in fields(_Moments):
                part = getattr(self._moments[class_id], field.name)
                arrays[f"{class_id}.{field.name}"] = part.cpu().numpy() if isinstance(part, Tensor) else np.array(part)
        return arrays

    @classmethod
    def from_state(cls, state: Mapping[str, npt.NDArray[Any]], *, device: str | torch.device = "cpu") -> Self:
        """Statistics as `state` gave them; the arrays are copied.

        Raises:
            DataError: an array is missing, none of the statistics' or of another shape, or a class does not exist.
        """
        names = [field.name for field in fields(_Moments)]
        class_ids = set()
        for key in state:
            number, _, name = key.partition(".")
            if number.isdecimal() and name in names:
                class_ids.add(int(number))
            elif key != _SIZES:
                raise DataError(
                    f"class statistics hold the array '{key}', which is neither '{_SIZES}' nor a class's id and one of "
                    f"{', '.join(names)}"
                )
        try:
            sizes = state[_SIZES]
            if sizes.shape != (2,):
                raise DataError(f"{_SIZES} of class statistics must have shape (2,), not {sizes.shape}")
            statistics = cls(*sizes.tolist(), device=device)
            empty = _Moments.empty(statistics.dimensions, torch.device("meta"))
            for class_id in sorted(class_ids):
                statistics._check_class(class_id)
                parts = {name: state[f"{class_id}.{name}"] for name in names}
                for name, part in parts.items():
                    wanted = tuple(torch.as_tensor(getattr(empty, name)).shape)
                    if part.shape != wanted:
                        raise DataError(f"{class_id}.{name} of class statistics has shape {part.shape}, not {wanted}")
                statistics._moments[class_id] = _Moments(
                    int(parts.pop("count")),
                    int(parts.pop("cam_count")),
                    **{name: as_tensor(part).to(statistics.device) for name, part in parts.items()},
                )
        except KeyError as error:
            raise DataError(f"class statistics lack the array {error}") from error
        return statistics

    def _check_class(self, class_id: int) -> None:
        if not 0 <= class_id < self.classes:
            raise DataError(f"class {class_id} is none of the classes 0..{self.classes - 1}")

    def _of(self, class_id: int) -> _Moments:
        if class_id not in self._moments:
            self._moments[class_id] = _Moments.empty(self.dimensions, self.device)
        return self._moments[class_id]

    def _seen(self, class_id: int) -> _Moments:
        self._check_class(class_id)
        if class_id not in self._moments:
            raise DataError(f"class {class_id} has no pixels; classes with some: {self.seen}")
        return self._moments[class_id]

    def _with_cams(self, class_id: int) -> _Moments:
        moments = self._seen(class_id)
        if moments.cam_count < moments.count:
            raise DataError(
                f"class {class_id} has CAM values for {moments.cam_count} of its {moments.count} pixels; all need one"
            )
        return moments


def as_tensor(values: Array) -> Tensor:
    """An array as a tensor on the CPU, or a tensor itself, without gradient."""
    # A copy: torch takes no read-only arrays and no steps backwards.
    return values.detach() if isinstance(values, Tensor) else torch.from_numpy(np.array(values, order="C"))


def _check_sums(name: str, values: Tensor, *sums: Tensor) -> None:
    """Refuses values whose sums are not finite, and says why they are not."""
    if all(part.isfinite().all() for part in sums):
        return
    if values.isfinite().all():
        raise DataError(f"{name} up to {values.abs().max():.1e} overflow when squares are added up; scale them down")
    raise DataError(f"{name} must be finite; found NaN or infinite values")


def _product(centred: Tensor) -> Tensor:
    """Lower triangle of centred^T centred, float64 (d, d); what the upper one holds does not matter."""
    return _product_by_blas(centred) if centred.device.type == "cpu" else _product_by_torch(centred)


def _product_by_blas(centred: Tensor) -> Tensor:
    syrk = blas.dsyrk if centred.dtype == torch.float64 else blas.ssyrk  # half the work of a matrix product
    upper = syrk(1.0, centred.numpy().T)  # in Fortran's order, which makes it a lower one in C's
    return torch.from_numpy(upper.T).double()


def _product_by_torch(centred: Tensor) -> Tensor:
    exact = centred.double()  # float32 products may be set to fewer digits on CUDA
    return exact.T @ exact
