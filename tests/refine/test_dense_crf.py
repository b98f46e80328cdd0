"""The dense CRF against the same lattice written as matrices, against pydensecrf and against true Gaussians."""

import importlib
import os
import threading
import time
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tag2mask.errors import DataError, SettingsError
from tag2mask.refine import _permutohedral, lattice
from tag2mask.refine.dense_crf import ReducedSizeWarning, dense_crf, label_probabilities

Floats = npt.NDArray[np.floating[Any]]
Photo = npt.NDArray[np.uint8]

DEFAULTS: dict[str, Any] = {
    "iterations": 10,
    "gaussian_sxy": 3.0,
    "gaussian_weight": 3.0,
    "bilateral_sxy": 80.0,
    "bilateral_srgb": 13.0,
    "bilateral_weight": 10.0,
}


def needed(module: str) -> ModuleType:
    """A package of the bench extra: these tests may be skipped without it, but not on CI."""
    return importlib.import_module(module) if os.environ.get("CI") == "true" else pytest.importorskip(module)


def blotchy_photo(height: int, width: int, seed: int = 0) -> Photo:
    """Coloured blotches with noise: edges and textures."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand((1, 3, max(2, height // 8), max(2, width // 8)), generator=generator) * 300 - 40
    photo = F.interpolate(coarse, size=(height, width), mode="bilinear")[0]
    photo = photo + torch.randn(photo.shape, generator=generator) * 6
    return np.ascontiguousarray(photo.clamp(0, 255).permute(1, 2, 0).to(torch.uint8).numpy())


def smooth_probabilities(classes: int, height: int, width: int, seed: int = 0) -> npt.NDArray[np.float32]:
    generator = torch.Generator().manual_seed(seed)
    size = (1, classes, max(2, height // 10), max(2, width // 10))
    logits = F.interpolate(torch.randn(size, generator=generator) * 2, size=(height, width), mode="bicubic")
    return logits.softmax(1)[0].numpy()


def pixel_features(photo: Photo, sxy: float, srgb: float | None) -> npt.NDArray[np.float32]:
    """Position, and colour where srgb is given, in standard deviations: (pixels, 2 or 5)."""
    height, width = photo.shape[:2]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    features = [x.ravel() / np.float32(sxy), y.ravel() / np.float32(sxy)]
    if srgb is not None:
        features += list(photo.reshape(-1, 3).T.astype(np.float32) / np.float32(srgb))
    return np.stack(features, axis=1)


def simplex(feature: npt.NDArray[np.float32]) -> tuple[list[tuple[int, ...]], Floats]:
    """Corners, as lattice points of d + 1 coordinates, and barycentric weights of the simplex around one feature.

    The position is in float32, as in every implementation: which simplex a point on a border belongs to, and so which
    lattice points exist, hangs on its last bit. All that follows from the position is in float64.
    """
    d = len(feature)
    elevated = np.zeros(d + 1, np.float32)
    tail = np.float32(0)
    for j in range(d, 0, -1):
        deviation = np.float32(np.sqrt(2 / 3) * (d + 1))
        scaled = feature[j - 1] * np.float32(1 / np.sqrt((j + 1) * j) * float(deviation))
        elevated[j] = tail - np.float32(j) * scaled
        tail = tail + scaled
    elevated[0] = tail

    # Nearest point whose coordinates are multiples of d + 1, brought back to the plane of sum zero.
    multiples = np.rint(elevated * np.float32(1 / np.float32(d + 1)))
    nearest = multiples * (d + 1)
    order = np.argsort(-(elevated - nearest), kind="stable")
    excess = int(multiples.sum())
    if excess > 0:
        nearest[order[-excess:]] -= d + 1
    elif excess < 0:
        nearest[order[:-excess]] += d + 1

    residual = elevated.astype(np.float64) - nearest
    order = np.argsort(-residual, kind="stable")
    corners = []
    for k in range(d + 1):  # remainder-k corner: +k everywhere, -(d+1) for the k smallest residuals
        corner = nearest.astype(int) + k
        corner[order[d + 1 - k :]] -= d + 1
        corners.append(tuple(corner.tolist()))
    falling = residual[order] / (d + 1)
    weights = np.zeros(d + 1)
    weights[0] = 1 - (falling[0] - falling[d])
    for k in range(1, d + 1):
        weights[k] = falling[d - k] - falling[d - k + 1]
    return corners, weights


def lattice_kernel(features: npt.NDArray[np.float32]) -> Floats:
    """Slice x blur x splat as one (pixels, pixels) matrix."""
    pixels, d = features.shape
    # pydensecrf's groups of four are filled up with zero features; their corners exist and hold nothing.
    padded = np.concatenate([features, np.zeros((-pixels % 4, d), np.float32)])
    number: dict[tuple[int, ...], int] = {}
    entries = []
    for pixel, feature in enumerate(padded):
        for corner, weight in zip(*simplex(feature), strict=True):
            assert sum(corner) == 0
            entries.append((number.setdefault(corner, len(number)), pixel, weight))
    splat = np.zeros((len(number), len(padded)))
    for vertex, pixel, weight in entries:
        splat[vertex, pixel] += weight
    splat = splat[:, :pixels]
    blurred = splat
    for direction in range(d + 1):
        blur = np.eye(len(number))
        for corner, vertex in number.items():
            for sign in (1, -1):
                neighbour = [c - sign for c in corner]
                neighbour[direction] += sign * (d + 1)
                if tuple(neighbour) in number:
                    blur[vertex, number[tuple(neighbour)]] += 0.5
        blurred = blur @ blurred
    return splat.T @ blurred / (1 + 2.0**-d)


def gaussian_kernel(features: npt.NDArray[np.float32]) -> Floats:
    """The kernel that the lattice approximates."""
    x = features.astype(np.float64)
    return np.exp(-0.5 * ((x[:, None] - x[None]) ** 2).sum(-1))


def mean_field(scores: Floats, kernels: list[tuple[float, Floats]], iterations: int) -> Floats:
    """Mean field with dense kernel matrices, in float64. scores: minus unary, (classes, height, width)."""
    classes, *size = scores.shape
    flat = scores.reshape(classes, -1).T.astype(np.float64)
    normalised = []
    for weight, kernel in kernels:
        norm = 1 / np.sqrt(kernel.sum(1) + 1e-20)
        normalised.append(weight * norm[:, None] * kernel * norm[None])

    def softmax(logits: Floats) -> Floats:
        e = np.exp(logits - logits.max(1, keepdims=True))
        return e / e.sum(1, keepdims=True)

    q = softmax(flat)
    for _ in range(iterations):
        q = softmax(flat + sum((kernel @ q for kernel in normalised), np.zeros_like(flat)))
    return q.T.reshape(classes, *size)


def dense_reference(photo: Photo, probabilities: Floats, parameters: dict[str, Any]) -> Floats:
    kernels = []
    if parameters["gaussian_weight"]:
        features = pixel_features(photo, parameters["gaussian_sxy"], None)
        kernels.append((parameters["gaussian_weight"], lattice_kernel(features)))
    if parameters["bilateral_weight"]:
        features = pixel_features(photo, parameters["bilateral_sxy"], parameters["bilateral_srgb"])
        kernels.append((parameters["bilateral_weight"], lattice_kernel(features)))
    return mean_field(np.log(np.clip(probabilities, 1e-5, 1)), kernels, parameters["iterations"])


def pydensecrf(photo: Photo, probabilities: Floats, iterations: int = 10) -> Floats:
    densecrf = needed("pydensecrf.densecrf")
    classes, height, width = probabilities.shape
    crf = densecrf.DenseCRF2D(width, height, classes)
    energy = -np.log(np.clip(probabilities, 1e-5, 1)).reshape(classes, -1)
    crf.setUnaryEnergy(np.ascontiguousarray(energy))
    crf.addPairwiseGaussian(sxy=3, compat=3)
    crf.addPairwiseBilateral(sxy=80, srgb=13, rgbim=photo.copy(order="C"), compat=10)
    return np.array(crf.inference(iterations)).reshape(classes, height, width)


class TestLattice:
    @pytest.mark.parametrize("classes", [1, 2, 3, 8, 9, 17, 26, 33, 41])
    def test_equals_its_matrices_at_every_class_count(self, classes: int) -> None:
        photo, p = blotchy_photo(9, 11), smooth_probabilities(classes, 9, 11)
        q = dense_crf(photo, p)
        assert q.dtype == np.float32
        np.testing.assert_allclose(q, dense_reference(photo, p, DEFAULTS), atol=1e-5)

    @settings(max_examples=40, deadline=None)
    @given(
        height=st.integers(1, 10),
        width=st.integers(1, 10),
        classes=st.integers(1, 10),
        seed=st.integers(0, 2**31),
        gaussian_sxy=st.floats(0.25, 20),
        bilateral_sxy=st.floats(0.5, 100),
        bilateral_srgb=st.floats(2, 100),
        gaussian_weight=st.sampled_from([0.0, 0.5, 3.0]),
        bilateral_weight=st.sampled_from([0.0, 1.0, 10.0]),
        iterations=st.integers(0, 4),
    )
    def test_equals_its_matrices(self, height: int, width: int, classes: int, seed: int, **parameters: Any) -> None:
        photo, p = blotchy_photo(height, width, seed), smooth_probabilities(classes, height, width, seed)
        np.testing.assert_allclose(dense_crf(photo, p, **parameters), dense_reference(photo, p, parameters), atol=1e-5)

    @pytest.mark.parametrize("off", ["gaussian_weight", "bilateral_weight"])
    def test_weight_zero_switches_a_kernel_off(self, off: str) -> None:
        photo, p = blotchy_photo(8, 9), smooth_probabilities(3, 8, 9)
        parameters = {**DEFAULTS, off: 0.0}
        np.testing.assert_allclose(dense_crf(photo, p, **parameters), dense_reference(photo, p, parameters), atol=1e-5)
        assert np.abs(dense_crf(photo, p, **parameters) - dense_crf(photo, p)).max() > 1e-3

    @pytest.mark.parametrize("nothing", [{"iterations": 0}, {"gaussian_weight": 0.0, "bilateral_weight": 0.0}])
    def test_without_kernels_or_iterations_the_unary_remains(self, nothing: dict[str, Any]) -> None:
        photo, p = blotchy_photo(12, 15), smooth_probabilities(5, 12, 15)
        np.testing.assert_allclose(dense_crf(photo, p, **nothing), p, atol=2e-5)
        np.testing.assert_allclose(
            dense_crf(photo, p, unary="flat", **nothing), torch.from_numpy(p).softmax(0).numpy(), atol=1e-6
        )

    def test_flat_unary(self) -> None:
        photo, p = blotchy_photo(8, 9), smooth_probabilities(3, 8, 9)
        kernels = [
            (3.0, lattice_kernel(pixel_features(photo, 3.0, None))),
            (10.0, lattice_kernel(pixel_features(photo, 80.0, 13.0))),
        ]
        np.testing.assert_allclose(
            dense_crf(photo, p, unary="flat", iterations=5), mean_field(p, kernels, 5), atol=1e-5
        )

    @pytest.mark.parametrize(
        "extreme", [{"min_probability": 1e-37}, {"gaussian_weight": 1e30}, {"bilateral_weight": 1e30}]
    )
    @pytest.mark.parametrize("classes", [3, 40])
    def test_extremes_give_no_nan(self, extreme: dict[str, Any], classes: int) -> None:
        p = smooth_probabilities(classes, 6, 7)
        p[:, 2, 3] = 0
        photo = blotchy_photo(6, 7)
        np.testing.assert_allclose(dense_crf(photo, p, **extreme).sum(0), 1, atol=1e-5)
        scores = [torch.from_numpy(np.log(np.clip(p, extreme.get("min_probability", 1e-5), 1)))]
        parameters = {name: (DEFAULTS | extreme)[name] for name in DEFAULTS}
        (q,) = lattice.mean_field([torch.from_numpy(photo)], scores, *parameters.values())
        np.testing.assert_allclose(q.sum(0), 1, atol=1e-5)

    def test_iterations_of_any_integer_type(self) -> None:
        photo, p = blotchy_photo(3, 4), smooth_probabilities(3, 3, 4)
        np.testing.assert_array_equal(dense_crf(photo, p, iterations=np.int64(2)), dense_crf(photo, p, iterations=2))

    def test_min_probability_bounds_the_unary(self) -> None:
        p = np.zeros((2, 3, 4), np.float32)
        p[0] = 1
        q = dense_crf(blotchy_photo(3, 4), p, iterations=0, min_probability=0.25)
        np.testing.assert_allclose(q[1], 0.2, rtol=1e-5)

    def test_exact_gaussians_are_near(self) -> None:
        chelsea = needed("skimage.data").chelsea()
        distances = []
        for top, left in ((60, 100), (100, 200), (140, 60)):
            photo = np.ascontiguousarray(chelsea[top : top + 24, left : left + 32])
            p = smooth_probabilities(3, 24, 32, seed=top)
            kernels = [
                (3.0, gaussian_kernel(pixel_features(photo, 3.0, None))),
                (10.0, gaussian_kernel(pixel_features(photo, 80.0, 13.0))),
            ]
            exact = mean_field(np.log(np.clip(p, 1e-5, 1)), kernels, 10)
            distances.append(np.abs(dense_crf(photo, p) - exact).mean())
            assert np.abs(p - exact).mean() > 2 * distances[-1]
        assert max(distances) < 0.05


class TestPydensecrf:
    """Same probabilities as the library that published results were computed with."""

    def compare(self, photo: Photo, p: Floats) -> None:
        ours, theirs = dense_crf(photo, p), pydensecrf(photo, p)
        assert np.abs(ours - theirs).max() < 1e-4
        assert (ours.argmax(0) == theirs.argmax(0)).mean() >= 0.9999

    @pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee"])
    @pytest.mark.parametrize("classes", [3, 21])
    def test_photographs(self, name: str, classes: int) -> None:
        photo = getattr(needed("skimage.data"), name)()[:299, :397]
        self.compare(photo, smooth_probabilities(classes, 299, 397))

    @pytest.mark.parametrize("width", range(97, 113))
    def test_every_remainder_of_the_pixel_count(self, width: int) -> None:
        """Height 75 is odd, so pixel counts have all remainders modulo 4, 8 and 16.

        Noise shows the zero features pydensecrf fills its last group of four with: its lattice has gaps they bridge.
        """
        photo = needed("skimage.data").coffee()[:75, :width]
        noise = np.random.default_rng(0).integers(0, 256, photo.shape, dtype=np.uint8)
        self.compare(photo, smooth_probabilities(4, 75, width))
        self.compare(noise, smooth_probabilities(4, 75, width))

    def test_voc_photographs(self, shared_data: Path) -> None:
        folder = shared_data / "voc12-small" / "VOCdevkit" / "VOC2012" / "JPEGImages"
        for file in sorted(folder.glob("*.jpg"))[:200:40]:
            with Image.open(file) as image:
                photo = np.asarray(image.convert("RGB"))
            self.compare(photo, smooth_probabilities(6, *photo.shape[:2]))


class TestBehaviour:
    def test_classes_can_be_permuted(self) -> None:
        photo, p = blotchy_photo(40, 50), smooth_probabilities(11, 40, 50)
        order = np.random.default_rng(0).permutation(11)
        np.testing.assert_allclose(dense_crf(photo, p[order]), dense_crf(photo, p)[order], atol=1e-5)

    def test_nothing_to_say_stays_unsaid(self) -> None:
        photo = np.full((20, 30, 3), 128, np.uint8)
        uniform = np.full((4, 20, 30), 0.25, np.float32)
        np.testing.assert_allclose(dense_crf(photo, uniform), uniform, atol=1e-6)

    def test_follows_the_edge_of_the_photograph(self) -> None:
        photo = np.zeros((40, 60, 3), np.uint8)
        photo[:, 30:] = 200
        p = np.full((2, 40, 60), 0.3, np.float32)
        p[0, :, :24] = p[1, :, 24:] = 0.7  # six columns off
        refined = dense_crf(photo, p).argmax(0)
        np.testing.assert_array_equal(refined, np.broadcast_to(np.arange(60) >= 30, (40, 60)))

    def test_certain_pixels_give_no_nan(self) -> None:
        p = label_probabilities(np.zeros((9, 9), np.uint8), 3, confidence=1.0)
        q = dense_crf(np.zeros((9, 9, 3), np.uint8), p)
        np.testing.assert_allclose(q[0], 1, atol=1e-6)

    def test_sums_to_one(self) -> None:
        q = dense_crf(blotchy_photo(30, 41), smooth_probabilities(21, 30, 41))
        np.testing.assert_allclose(q.sum(0), 1, atol=1e-5)
        assert q.min() >= 0

    def test_the_gil_is_released(self) -> None:
        photo, p = blotchy_photo(300, 400), np.log(smooth_probabilities(8, 300, 400))
        start = end = 0.0

        def work() -> None:
            nonlocal start, end
            start = time.perf_counter()
            _permutohedral.mean_field(photo, p, 20, 3.0, 3.0, 80.0, 13.0, 10.0)
            end = time.perf_counter()

        worker = threading.Thread(target=work)
        ticks = []
        worker.start()
        while worker.is_alive():
            ticks.append(time.perf_counter())
            time.sleep(0.001)
        worker.join()
        inside = [tick for tick in ticks if start + 0.1 * (end - start) < tick < end - 0.1 * (end - start)]
        assert len(inside) >= 3


class TestBatches:
    def test_threads_change_nothing(self) -> None:
        photos = [blotchy_photo(40 + i, 51, seed=i) for i in range(5)]
        maps = [smooth_probabilities(2 + i, 40 + i, 51, seed=i) for i in range(5)]
        one, two = dense_crf(photos, maps, threads=1), dense_crf(photos, maps, threads=2)
        assert isinstance(one, list)
        for photo, p, a, b in zip(photos, maps, one, two, strict=True):
            np.testing.assert_array_equal(a, b)
            np.testing.assert_array_equal(a, dense_crf(photo, p))

    @pytest.mark.parametrize("threads", [1, 3])
    def test_stacked(self, threads: int) -> None:
        photos = np.stack([blotchy_photo(20, 31, seed=i) for i in range(3)])
        maps = np.stack([smooth_probabilities(3, 20, 31, seed=i) for i in range(3)])
        refined = dense_crf(photos, maps, threads=threads)
        tensors = dense_crf(torch.from_numpy(photos), torch.from_numpy(maps), threads=threads)
        assert refined.shape == maps.shape
        assert isinstance(tensors, torch.Tensor)
        np.testing.assert_array_equal(refined, tensors.numpy())
        for i in range(3):
            np.testing.assert_array_equal(refined[i], dense_crf(photos[i], maps[i]))

    def test_tuple_of_tensors(self) -> None:
        refined = dense_crf((blotchy_photo(5, 6),), (torch.from_numpy(smooth_probabilities(2, 5, 6)),))
        assert isinstance(refined, tuple)
        assert isinstance(refined[0], torch.Tensor)

    def test_empty(self) -> None:
        photos, maps = np.zeros((0, 4, 5, 3), np.uint8), np.zeros((0, 2, 4, 5), np.float64)
        assert dense_crf(photos, maps).shape == maps.shape
        assert dense_crf(photos, maps).dtype == np.float32
        assert dense_crf(torch.from_numpy(photos), torch.from_numpy(maps)).shape == maps.shape
        assert dense_crf([], []) == []


class TestKinds:
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    def test_tensors(self, dtype: torch.dtype) -> None:
        photo, p = blotchy_photo(11, 13), torch.from_numpy(smooth_probabilities(3, 11, 13)).to(dtype)
        before = p.clone()
        q = dense_crf(torch.from_numpy(photo), p.requires_grad_())
        assert q.dtype == torch.float32
        assert not q.requires_grad
        assert torch.equal(p, before)
        np.testing.assert_array_equal(q.numpy(), dense_crf(photo, before.float().numpy()))

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
    def test_device(self) -> None:
        p = torch.from_numpy(smooth_probabilities(3, 11, 13))
        q = dense_crf(blotchy_photo(11, 13), p.to("cuda"))
        assert q.is_cuda
        torch.testing.assert_close(q.cpu(), dense_crf(blotchy_photo(11, 13), p), atol=1e-4, rtol=0)

    @pytest.mark.parametrize("unary", ["log", "flat"])
    def test_inputs_stay_as_they_are(self, unary: Any) -> None:
        photo = blotchy_photo(13, 22)[:, ::2]
        p = smooth_probabilities(3, 13, 22)[:, :, ::2]
        kept = photo.copy(), p.copy()
        photo.setflags(write=False)
        p.setflags(write=False)
        q = dense_crf(photo, p, unary=unary)
        np.testing.assert_array_equal(photo, kept[0])
        np.testing.assert_array_equal(p, kept[1])
        np.testing.assert_array_equal(q, dense_crf(*kept, unary=unary))

    def test_transposed_memory(self) -> None:
        """Class-last maps, as networks and files often have them."""
        photo, p = blotchy_photo(13, 11), smooth_probabilities(3, 13, 11)
        turned = np.moveaxis(np.ascontiguousarray(np.moveaxis(p, 0, -1)), -1, 0)
        np.testing.assert_array_equal(dense_crf(photo, turned), dense_crf(photo, p))
        np.testing.assert_array_equal(dense_crf(photo, turned, unary="flat"), dense_crf(photo, p, unary="flat"))


class TestMaxPixels:
    def test_large_photographs_are_solved_small(self) -> None:
        photo = np.zeros((100, 160, 3), np.uint8)
        photo[30:70, 40:120] = 180
        labels = np.zeros((100, 160), np.int64)
        labels[34:66, 46:114] = 1
        p = label_probabilities(labels, 2)
        with pytest.warns(ReducedSizeWarning, match=r"160x100 .*126x79 .*10000") as caught:
            q = dense_crf(photo, p, max_pixels=10_000)
        assert len(caught) == 1
        assert caught[0].filename == __file__
        assert q.shape == p.shape
        assert q.dtype == np.float32
        np.testing.assert_allclose(q.sum(0), 1, atol=1e-5)
        assert (q.argmax(0) == dense_crf(photo, p).argmax(0)).mean() > 0.97

    def test_the_kernel_shrinks_with_the_photograph(self) -> None:
        photo, p = blotchy_photo(60, 80), smooth_probabilities(3, 60, 80)
        with pytest.warns(ReducedSizeWarning):
            q = dense_crf(photo, p, max_pixels=60 * 80 // 4)
        tensors = [torch.from_numpy(np.moveaxis(photo, -1, 0).copy()).float(), torch.from_numpy(p)]
        small = [F.interpolate(t[None], scale_factor=0.5, mode="bilinear", antialias=True)[0] for t in tensors]
        solved = dense_crf(
            np.ascontiguousarray(small[0].round().to(torch.uint8).permute(1, 2, 0).numpy()),
            small[1],
            gaussian_sxy=1.5,
            bilateral_sxy=40.0,
        )
        expected = F.interpolate(solved[None], size=(60, 80), mode="bilinear")[0]
        np.testing.assert_allclose(q, expected / expected.sum(0), atol=1e-5)

    def test_a_batch_warns_once(self) -> None:
        photos, maps = [blotchy_photo(10, 12)] * 3, [smooth_probabilities(2, 10, 12)] * 3
        with pytest.warns(ReducedSizeWarning, match="2 more") as caught:
            dense_crf(photos, maps, max_pixels=50, threads=2)
        assert len(caught) == 1

    @pytest.mark.parametrize("max_pixels", [120, None])
    def test_no_warning_at_the_limit(self, max_pixels: int | None) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            dense_crf(blotchy_photo(10, 12), smooth_probabilities(2, 10, 12), max_pixels=max_pixels)

    @pytest.mark.parametrize(("height", "width"), [(1, 500), (500, 1), (3, 400)])
    def test_thin_photographs(self, height: int, width: int) -> None:
        with pytest.warns(ReducedSizeWarning):
            q = dense_crf(np.zeros((height, width, 3), np.uint8), np.full((2, height, width), 0.5), max_pixels=7)
        np.testing.assert_allclose(q, 0.5, atol=1e-6)


@pytest.fixture
def on_device(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """All tensors are solved as CUDA tensors are; the sizes of the batches they are solved in."""
    batches = []

    def counted(images: Any, *arguments: Any) -> Any:
        batches.append(len(images))
        return mean_field_in_torch(images, *arguments)

    mean_field_in_torch = lattice.mean_field
    monkeypatch.setattr(lattice, "mean_field", counted)
    monkeypatch.setattr(
        "tag2mask.refine.dense_crf._on_device", lambda task: isinstance(task.probabilities, torch.Tensor)
    )
    return batches


def near(ours: Any, theirs: Any) -> None:
    """A tensor from the device path beside an array from the compiled kernel."""
    assert isinstance(ours, torch.Tensor)
    assert ours.dtype == torch.float32
    np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-4)
    np.testing.assert_array_equal(ours.numpy().argmax(0), theirs.argmax(0))


class TestOnDevice:
    """The way of CUDA tensors, gone by CPU tensors, gives what the compiled kernel gives for arrays."""

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    def test_one_image(self, dtype: torch.dtype, on_device: list[int]) -> None:
        photo, p = blotchy_photo(23, 31), torch.from_numpy(smooth_probabilities(5, 23, 31)).to(dtype)
        expected = dense_crf(photo, p.float().numpy())
        before = p.clone()
        q = dense_crf(photo, p.requires_grad_())
        near(q, expected)
        assert not q.requires_grad
        assert torch.equal(p, before)
        assert torch.equal(q, dense_crf(torch.from_numpy(photo), p))
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(q, dense_crf(photo, p))
        assert on_device == [1, 1, 1]

    @pytest.mark.parametrize(
        "parameters",
        [
            {"iterations": 0},
            {"iterations": 3, "min_probability": 0.1},
            {"unary": "flat"},
            {"gaussian_sxy": 1.5, "bilateral_sxy": 20.0, "bilateral_srgb": 5.0, "bilateral_weight": 4.0},
        ],
    )
    def test_parameters(self, parameters: dict[str, Any], on_device: list[int]) -> None:
        photo, p = blotchy_photo(23, 31), smooth_probabilities(5, 23, 31)
        near(dense_crf(photo, torch.from_numpy(p), **parameters), dense_crf(photo, p, **parameters))
        assert on_device == [1]

    def test_photographs_in_any_memory(self, on_device: list[int]) -> None:
        photo, p = blotchy_photo(23, 31), smooth_probabilities(3, 23, 31)
        mirrored = photo[:, ::-1]
        mirrored.setflags(write=False)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            near(dense_crf(mirrored, torch.from_numpy(p)), dense_crf(mirrored.copy(), p))

    def test_stacked(self, on_device: list[int]) -> None:
        photos = np.stack([blotchy_photo(20, 31, seed=i) for i in range(3)])
        maps = torch.from_numpy(np.stack([smooth_probabilities(3, 20, 31, seed=i) for i in range(3)]))
        refined = dense_crf(photos, maps, threads=2)
        assert on_device == [3]
        assert refined.shape == maps.shape
        for photo, p, q in zip(photos, maps, refined, strict=True):
            near(q, dense_crf(photo, p.numpy()))
            assert torch.equal(q, dense_crf(photo, p))

    def test_images_of_a_list_keep_their_order(self, on_device: list[int]) -> None:
        """Sizes, class counts and kinds differ; those of one class count are solved together."""
        photos = [blotchy_photo(20 + i, 31 - i, seed=i) for i in range(6)]
        arrays = [smooth_probabilities(2 + i % 2, 20 + i, 31 - i, seed=i) for i in range(6)]
        maps: list[Any] = [torch.from_numpy(p) for p in arrays]
        maps[3] = arrays[3]
        refined = dense_crf(photos, maps)
        assert sorted(on_device) == [2, 3]
        assert isinstance(refined[3], np.ndarray)
        for i in (0, 1, 2, 4, 5):
            near(refined[i], dense_crf(photos[i], arrays[i]))

    def test_the_calling_thread_solves(self, on_device: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
        """A device's current stream is a thread's own."""
        threads = []
        solve = lattice.mean_field
        monkeypatch.setattr(lattice, "mean_field", lambda *a: (threads.append(threading.get_ident()), solve(*a))[1])
        photos = [blotchy_photo(10, 12, seed=i) for i in range(4)]
        dense_crf(photos, [torch.full((classes, 10, 12), 0.5) for classes in (2, 3, 2, 4)], threads=3)
        assert threads == [threading.get_ident()] * 3

    def test_batches_are_bounded(self, on_device: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
        photos, p = [blotchy_photo(10, 12, seed=i) for i in range(5)], torch.full((2, 10, 12), 0.5)
        monkeypatch.setattr("tag2mask.refine.dense_crf.MAX_PIXELS", 250)
        assert len(dense_crf(photos, [p] * 5)) == 5
        assert on_device == [2, 2, 1]

    def test_reduced_size(self, on_device: list[int]) -> None:
        sizes = [(40, 60), (12, 15), (33, 70)]
        photos = [blotchy_photo(*size, seed=i) for i, size in enumerate(sizes)]
        maps = [smooth_probabilities(3, *size, seed=i) for i, size in enumerate(sizes)]
        with pytest.warns(ReducedSizeWarning, match=r"60x40 image \(and 1 more"):
            refined = dense_crf(photos, [torch.from_numpy(p) for p in maps], max_pixels=900)
        assert on_device == [1, 1, 1]  # their kernels differ
        for photo, p, q in zip(photos, maps, refined, strict=True):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ReducedSizeWarning)
                near(q, dense_crf(photo, p, max_pixels=900))

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.1, 3.0])
    def test_values(self, value: float, on_device: list[int]) -> None:
        p = torch.full((2, 4, 5), 0.5)
        p[1, 2, 3] = value
        with pytest.raises(DataError, match="between 0 and 1"):
            dense_crf(np.zeros((4, 5, 3), np.uint8), p)

    def test_too_small_deviations_name_the_photograph(self, on_device: list[int]) -> None:
        photos = [blotchy_photo(2, 2), blotchy_photo(40, 50)]
        maps = [smooth_probabilities(2, *photo.shape[:2]) for photo in photos]
        with pytest.raises(SettingsError, match="50x40 image: standard deviation too small") as theirs:
            dense_crf(photos, maps, bilateral_sxy=0.001, bilateral_srgb=1.5)
        with pytest.raises(SettingsError) as ours:
            dense_crf(photos, [torch.from_numpy(p) for p in maps], bilateral_sxy=0.001, bilateral_srgb=1.5)
        assert str(ours.value) == str(theirs.value)

    def test_empty(self, on_device: list[int]) -> None:
        assert dense_crf(np.zeros((0, 4, 5, 3), np.uint8), torch.zeros((0, 2, 4, 5))).shape == (0, 2, 4, 5)
        assert on_device == []


class TestErrors:
    photo = np.zeros((4, 5, 3), np.uint8)
    p = np.full((2, 4, 5), 0.5, np.float32)

    @pytest.mark.parametrize(
        ("parameters", "message"),
        [
            ({"iterations": -1}, "iterations"),
            ({"iterations": 2.0}, "iterations must be an integer"),
            ({"iterations": 2**31}, "iterations"),
            ({"gaussian_weight": 1e39}, "gaussian_weight must be between 0 and 1e[+]30"),
            ({"gaussian_sxy": 0.0}, "gaussian_sxy"),
            ({"bilateral_sxy": -3.0}, "bilateral_sxy"),
            ({"bilateral_srgb": float("nan")}, "bilateral_srgb"),
            ({"gaussian_weight": -1.0}, "gaussian_weight"),
            ({"bilateral_weight": float("inf")}, "bilateral_weight"),
            ({"unary": "linear"}, "choices: log, flat"),
            ({"min_probability": 0.0}, "min_probability"),
            ({"min_probability": 1e-46}, "min_probability must be 1e-37 or more"),
            ({"max_pixels": 0}, "max_pixels"),
            ({"threads": 0}, "threads"),
            ({"bilateral_srgb": 1e-3}, "too small"),
            ({"gaussian_sxy": 1e-6}, "too small"),
        ],
    )
    def test_settings(self, parameters: dict[str, Any], message: str) -> None:
        with pytest.raises(SettingsError, match=message):
            dense_crf(self.photo, self.p, **parameters)

    @pytest.mark.parametrize(
        ("photo", "p"),
        [
            (photo.astype(np.float32), p),
            (photo[..., 0], p),
            (photo[..., :2], p),
            (photo, p[0]),
            (photo[None], p),
            (photo, p[None]),
            (photo, [p]),
            ([photo], p[0]),
            (photo[:3], p),
            (photo.transpose(1, 0, 2), p),
            (photo, p.astype(np.int64)),
            (torch.from_numpy(photo).short(), torch.from_numpy(p)),
            (photo, torch.from_numpy(p).long()),
            ([photo, photo], [p]),
            (np.stack([photo, photo]), p[None]),
            (photo, p[:0]),
            (photo[:0], p[:, :0]),
        ],
    )
    def test_shapes_and_types(self, photo: Any, p: Any) -> None:
        with pytest.raises(DataError):
            dense_crf(photo, p)

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.1, 3.0])
    def test_values(self, value: float) -> None:
        p = self.p.copy()
        p[1, 2, 3] = value
        with pytest.raises(DataError, match="between 0 and 1"):
            dense_crf(self.photo, p)
        with pytest.raises(DataError, match="between 0 and 1"):
            dense_crf([self.photo] * 2, [self.p, p], threads=2)

    def test_the_compiled_kernel_checks_sizes(self) -> None:
        arguments = (1, 3.0, 3.0, 80.0, 13.0, 10.0)
        with pytest.raises(ValueError, match="differ in size"):
            _permutohedral.mean_field(self.photo, np.zeros((2, 4, 4), np.float32), *arguments)
        with pytest.raises(ValueError, match="empty"):
            _permutohedral.mean_field(self.photo, np.zeros((0, 4, 5), np.float32), *arguments)
        with pytest.raises(TypeError):
            _permutohedral.mean_field(self.photo, self.p.astype(np.float64), *arguments)


class TestLabelProbabilities:
    def test_definition(self) -> None:
        labels = np.array([[0, 1, 2], [255, 2, 0]], np.uint8)
        p = label_probabilities(labels, 3, confidence=0.8)
        assert p.dtype == np.float32
        for y in range(2):
            for x in range(3):
                label = int(labels[y, x])
                expected = [1 / 3] * 3 if label == 255 else [0.8 if c == label else 0.1 for c in range(3)]
                np.testing.assert_allclose(p[:, y, x], expected, rtol=1e-6)

    @pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.int64])
    @pytest.mark.parametrize("classes", [1, 2, 21, 255])
    def test_every_kind(self, dtype: type, classes: int) -> None:
        labels: npt.NDArray[Any] = np.random.default_rng(0).integers(0, classes, (7, 9)).astype(dtype)
        labels[3, 3] = 255
        p = label_probabilities(labels, classes)
        np.testing.assert_allclose(p.sum(0), 1, atol=1e-5)
        np.testing.assert_array_equal(p.argmax(0)[labels != 255], labels[labels != 255])
        tensor = label_probabilities(torch.from_numpy(labels), classes)
        assert torch.equal(tensor, torch.from_numpy(p))

    def test_serves_the_crf(self) -> None:
        labels = np.full((20, 30), 255, np.uint8)
        labels[:, :4], labels[:, -4:] = 0, 1
        photo = np.zeros((20, 30, 3), np.uint8)
        photo[:, 12:] = 220
        refined = dense_crf(photo, label_probabilities(labels, 2)).argmax(0)
        np.testing.assert_array_equal(refined, np.broadcast_to(np.arange(30) >= 12, (20, 30)))

    @pytest.mark.parametrize("label", [3, 254, -1])
    def test_unknown_label(self, label: int) -> None:
        labels = np.zeros((2, 2), np.int64)
        labels[1, 0] = label
        with pytest.raises(DataError, match=f"label {label} "):
            label_probabilities(labels, 3)

    def test_shapes_and_types(self) -> None:
        with pytest.raises(DataError, match="integers"):
            label_probabilities(np.zeros((2, 2)), 3)
        with pytest.raises(DataError, match="integers"):
            label_probabilities(np.zeros((1, 2, 2), np.uint8), 3)

    @pytest.mark.parametrize("classes", [0, 256])
    def test_class_count(self, classes: int) -> None:
        with pytest.raises(SettingsError, match="classes"):
            label_probabilities(np.zeros((2, 2), np.uint8), classes)

    @pytest.mark.parametrize("confidence", [0.0, 1.1, float("nan")])
    def test_confidence(self, confidence: float) -> None:
        with pytest.raises(SettingsError, match="confidence"):
            label_probabilities(np.zeros((2, 2), np.uint8), 3, confidence=confidence)
