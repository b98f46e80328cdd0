"""The torch lattice, on the CPU, against the compiled kernel and against the lattice written as matrices."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from tag2mask.refine import _permutohedral, lattice
from tests.refine.test_dense_crf import (
    DEFAULTS,
    Floats,
    Photo,
    blotchy_photo,
    dense_reference,
    lattice_kernel,
    pixel_features,
    simplex,
    smooth_probabilities,
)


def log(probabilities: Floats) -> npt.NDArray[np.float32]:
    return np.log(np.clip(probabilities, 1e-5, 1)).astype(np.float32)


def compiled(photo: Photo, scores: Floats, parameters: dict[str, Any]) -> npt.NDArray[np.float32]:
    q = np.array(scores, np.float32)
    _permutohedral.mean_field(photo, q, *parameters.values())
    return q


def in_torch(photos: Sequence[Photo], scores: Sequence[Floats], parameters: dict[str, Any]) -> list[Tensor]:
    tensors = [torch.from_numpy(s.astype(np.float32)) for s in scores]
    return lattice.mean_field([torch.from_numpy(photo) for photo in photos], tensors, **parameters)


def compare(photo: Photo, scores: Floats, tolerance: float = 1e-4, **changes: Any) -> None:
    """The torch path's answer is the compiled kernel's."""
    parameters = {**DEFAULTS, **changes}
    ours, theirs = in_torch([photo], [scores], parameters)[0].numpy(), compiled(photo, scores, parameters)
    assert ours.dtype == np.float32
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= tolerance
    np.testing.assert_array_equal(ours.argmax(0), theirs.argmax(0))


def noise(height: int, width: int, seed: int = 0) -> Photo:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def vertices(photo: Photo, kernel: lattice.Kernel) -> int:
    """How many lattice points are corners, from the definition."""
    sxy, *srgb = kernel.deviations[1:3]
    features = pixel_features(photo, sxy, srgb[0] if srgb else None)
    padded = np.concatenate([features, np.zeros((-len(features) % 4, features.shape[1]), np.float32)])
    return len({corner for feature in padded for corner in simplex(feature)[0]})


class TestCompiledKernel:
    @pytest.mark.parametrize("width", range(33, 49))
    def test_every_remainder_of_width_and_pixel_count(self, width: int) -> None:
        """29 is odd, so both the width and the pixel count have all remainders modulo 4, 8 and 16."""
        classes = width - 27
        scores = log(smooth_probabilities(classes, 29, width, seed=width))
        compare(blotchy_photo(29, width, seed=width), scores)
        for photo in (blotchy_photo(29, width, seed=width), noise(29, width)):
            compare(photo, scores, tolerance=5e-6, iterations=2)  # before updates amplify rounding

    @pytest.mark.parametrize("classes", range(1, 23))
    def test_class_counts(self, classes: int) -> None:
        compare(blotchy_photo(21, 26, seed=classes), log(smooth_probabilities(classes, 21, 26, seed=classes)))

    @pytest.mark.parametrize(
        ("height", "width"), [(1, 1), (1, 2), (2, 1), (2, 2), (1, 3), (1, 57), (58, 1), (2, 101), (3, 3)]
    )
    def test_thin_and_tiny_photographs(self, height: int, width: int) -> None:
        compare(blotchy_photo(height, width), log(smooth_probabilities(3, height, width)))
        compare(np.zeros((height, width, 3), np.uint8), log(smooth_probabilities(3, height, width)))
        compare(np.full((height, width, 3), 255, np.uint8), log(smooth_probabilities(3, height, width)))

    @pytest.mark.parametrize(
        "changes",
        [
            {"gaussian_weight": 0.0},
            {"bilateral_weight": 0.0},
            {"gaussian_weight": 0.0, "bilateral_weight": 0.0},
            {"iterations": 0},
            {"iterations": 1},
            {"gaussian_sxy": 0.3, "bilateral_sxy": 2.0, "bilateral_srgb": 0.7},
            {"gaussian_sxy": 500.0, "bilateral_sxy": 5000.0, "bilateral_srgb": 400.0},
        ],
    )
    def test_parameters(self, changes: dict[str, Any]) -> None:
        compare(blotchy_photo(23, 31), log(smooth_probabilities(5, 23, 31)), **changes)

    def test_flat_unary(self) -> None:
        compare(blotchy_photo(23, 31), smooth_probabilities(5, 23, 31))

    def test_large_scores(self) -> None:
        """Differences far beyond what exp can tell from 0."""
        compare(blotchy_photo(23, 31), log(smooth_probabilities(5, 23, 31)) * 40)

    def test_voc_photographs(self, shared_data: Path) -> None:
        folder = shared_data / "voc12-small" / "VOCdevkit" / "VOC2012" / "JPEGImages"
        for file in sorted(folder.glob("*.jpg"))[:200:50]:
            with Image.open(file) as image:
                photo = np.array(image.convert("RGB"))
            compare(photo, log(smooth_probabilities(6, *photo.shape[:2])))


class TestDefinition:
    @settings(max_examples=30, deadline=None)
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
        ours = in_torch([photo], [log(p)], parameters)[0].numpy()
        np.testing.assert_allclose(ours, dense_reference(photo, p, parameters), atol=1e-5)

    @pytest.mark.parametrize(("height", "width"), [(1, 1), (5, 4), (7, 7), (12, 13), (1, 30)])
    def test_vertices(self, height: int, width: int) -> None:
        """No vertex too few or too many, whose absence or presence the blur would show only here and there."""
        photos = [blotchy_photo(height, width), noise(width, height)]
        kernels = lattice.active_kernels(1, 3.0, 3.0, 80.0, 13.0, 10.0)
        for kernel in kernels:
            for photo in photos:
                built = lattice._build([torch.from_numpy(photo)], [kernel])
                assert built.neighbours.shape == (len(kernel.deviations) + 1, vertices(photo, kernel) + 1, 2)
        together = lattice._build([torch.from_numpy(photo) for photo in photos], kernels)
        expected = sum(vertices(photo, kernel) for photo in photos for kernel in kernels)
        assert together.neighbours.shape == (6, expected + 1, 2)

    def test_barycentric_weights(self) -> None:
        built = lattice._build(
            [torch.from_numpy(blotchy_photo(9, 11))], lattice.active_kernels(1, 3.0, 3.0, 80.0, 13.0, 10.0)
        )
        assert built.weight.min() >= -1e-6
        for weights in built.weight.split([3, 6], dim=1):
            torch.testing.assert_close(weights.sum(1), torch.ones(99))


class TestBatches:
    sizes = ((20, 31), (1, 9), (33, 12), (20, 31), (8, 8))

    def test_same_bits_as_alone(self) -> None:
        photos = [blotchy_photo(*size, seed=i) for i, size in enumerate(self.sizes)]
        scores = [log(smooth_probabilities(4, *size, seed=i)) for i, size in enumerate(self.sizes)]
        together = in_torch(photos, scores, DEFAULTS)
        for photo, score, q in zip(photos, scores, together, strict=True):
            assert q.is_contiguous()
            assert torch.equal(q, in_torch([photo], [score], DEFAULTS)[0])

    @pytest.mark.parametrize("limit", ["MOST_PIXELS", "cells"])
    def test_what_cannot_be_numbered_together_is_solved_alone(
        self, limit: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sizes = [(2, 900), (900, 2)] if limit == "cells" else [(20, 31), (30, 20)]
        parameters = {**DEFAULTS, "bilateral_sxy": 0.2, "bilateral_srgb": 1.5} if limit == "cells" else DEFAULTS
        photos = [blotchy_photo(*size) for size in sizes]
        scores = [log(smooth_probabilities(2, *size)) for size in sizes]
        alone = [in_torch([photo], [score], parameters)[0] for photo, score in zip(photos, scores, strict=True)]
        if limit == "MOST_PIXELS":
            monkeypatch.setattr(lattice, "MOST_PIXELS", 1000)
        kernels = lattice.active_kernels(*parameters.values())
        assert not lattice._fits(sizes, kernels)
        for q, expected in zip(in_torch(photos, scores, parameters), alone, strict=True):
            assert torch.equal(q, expected)

    def test_a_batch_whose_keys_overflow_together(self) -> None:
        kernels = lattice.active_kernels(1, 3.0, 0.0, 1.0, 0.45, 10.0)
        capacity = lattice._keys(400, 400, kernels[0]).capacity
        most = (2**63 - 1) // capacity
        assert lattice._fits([(400, 400)] * most, kernels)
        assert not lattice._fits([(400, 400)] * (most + 1), kernels)

    @pytest.mark.parametrize("constant", ["POINTS_AT_ONCE", "ENTRIES_AT_ONCE"])
    def test_pieces_change_nothing(self, constant: str, monkeypatch: pytest.MonkeyPatch) -> None:
        photos = [blotchy_photo(20, 31), blotchy_photo(7, 9)]
        scores = [log(smooth_probabilities(3, 20, 31)), log(smooth_probabilities(3, 7, 9))]
        whole = in_torch(photos, scores, DEFAULTS)
        monkeypatch.setattr(lattice, constant, 100)
        for a, b in zip(in_torch(photos, scores, DEFAULTS), whole, strict=True):
            assert torch.equal(a, b)

    @pytest.mark.parametrize("segment", [1, 3, 10**6])
    def test_segments_change_rounding_only(self, segment: int, monkeypatch: pytest.MonkeyPatch) -> None:
        photo, scores = np.full((40, 50, 3), 90, np.uint8), log(smooth_probabilities(3, 40, 50))
        whole = in_torch([photo], [scores], DEFAULTS)[0]
        monkeypatch.setattr(lattice, "SEGMENT", segment)
        torch.testing.assert_close(in_torch([photo], [scores], DEFAULTS)[0], whole, atol=1e-5, rtol=0)

    def test_no_segment_is_long(self) -> None:
        counts = torch.tensor([1, 64, 65, 5000, 1_000_000])
        segment, first = lattice._segments(counts)
        ends = torch.cat([segment[1:], counts.sum()[None].int()])
        assert (ends - segment).max() <= 1000
        assert first.tolist() == [0, 0, 1, 2, 4, 75]
        assert segment[first[1:]].tolist() == [0, 1, 65, 130, 5130]
        assert len(segment) == 1075


class TestBehaviour:
    photo, scores = blotchy_photo(20, 31), log(smooth_probabilities(4, 20, 31))

    def test_same_bits_again(self) -> None:
        first, second = (in_torch([self.photo], [self.scores], DEFAULTS)[0] for _ in range(2))
        assert torch.equal(first, second)

    def test_same_bits_under_autocast(self) -> None:
        plain = in_torch([self.photo], [self.scores], DEFAULTS)[0]
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(in_torch([self.photo], [self.scores], DEFAULTS)[0], plain)

    def test_same_bits_whatever_the_default_type(self) -> None:
        plain = in_torch([self.photo], [self.scores], DEFAULTS)[0]
        torch.set_default_dtype(torch.float64)
        try:
            assert torch.equal(in_torch([self.photo], [self.scores], DEFAULTS)[0], plain)
        finally:
            torch.set_default_dtype(torch.float32)

    def test_no_gradient_and_inputs_stay(self) -> None:
        image, scores = torch.from_numpy(self.photo.copy()), torch.from_numpy(self.scores.copy()).requires_grad_()
        q = lattice.mean_field([image], [scores], **DEFAULTS)[0]
        assert not q.requires_grad
        np.testing.assert_array_equal(image.numpy(), self.photo)
        np.testing.assert_array_equal(scores.detach().numpy(), self.scores)

    def test_transposed_memory(self) -> None:
        image = torch.from_numpy(self.photo).permute(2, 0, 1).contiguous().permute(1, 2, 0)
        scores = torch.from_numpy(self.scores).permute(1, 2, 0).contiguous().permute(2, 0, 1)
        assert torch.equal(
            lattice.mean_field([image], [scores], **DEFAULTS)[0], in_torch([self.photo], [self.scores], DEFAULTS)[0]
        )

    @pytest.mark.parametrize(
        "changes", [{"bilateral_srgb": 1e-3}, {"gaussian_sxy": 1e-6}, {"gaussian_sxy": 1e-50}, {"bilateral_sxy": 1e-40}]
    )
    def test_too_small_deviations(self, changes: dict[str, float]) -> None:
        parameters = {**DEFAULTS, **changes}
        with pytest.raises(ValueError, match="too small: the lattice has too many cells") as ours:
            in_torch([self.photo], [self.scores], parameters)
        with pytest.raises(ValueError, match="too small") as theirs:
            compiled(self.photo, self.scores, parameters)
        assert str(ours.value) == str(theirs.value)

    def test_the_same_deviations_are_refused(self) -> None:
        """The last one that the compiled kernel accepts, to three digits."""
        for srgb in np.linspace(0.2, 0.45, 60):
            refused = []
            for solve in (lambda *a: in_torch([a[0]], [a[1]], a[2]), compiled):
                try:
                    solve(self.photo[:3].copy(), self.scores[:, :3].copy(), {**DEFAULTS, "bilateral_srgb": float(srgb)})
                    refused.append(False)
                except ValueError:
                    refused.append(True)
            assert refused[0] == refused[1], srgb

    def test_sizes_must_fit(self) -> None:
        with pytest.raises(ValueError, match="differ in size"):
            in_torch([self.photo], [self.scores[:, 1:]], DEFAULTS)

    def test_too_many_pixels(self) -> None:
        with pytest.raises(ValueError, match="too many pixels"):
            lattice.check_size(20_000, 20_000, [])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
class TestCuda:
    @pytest.mark.parametrize("classes", [1, 3, 21])
    def test_equals_the_compiled_kernel(self, classes: int) -> None:
        sizes = [(61, 97), (40, 41), (1, 30)]
        photos = [blotchy_photo(*size) for size in sizes]
        scores = [log(smooth_probabilities(classes, *size)) for size in sizes]
        images = [torch.from_numpy(photo).to("cuda") for photo in photos]
        tensors = [torch.from_numpy(score).to("cuda") for score in scores]
        together = lattice.mean_field(images, tensors, **DEFAULTS)
        for photo, score, image, tensor, q in zip(photos, scores, images, tensors, together, strict=True):
            assert q.is_cuda
            assert torch.equal(q, lattice.mean_field([image], [tensor], **DEFAULTS)[0])
            np.testing.assert_allclose(q.cpu().numpy(), compiled(photo, score, DEFAULTS), atol=1e-4)

    def test_same_vertices(self) -> None:
        kernels = lattice.active_kernels(1, 3.0, 3.0, 80.0, 13.0, 10.0)
        image = torch.from_numpy(blotchy_photo(300, 401))
        here, there = lattice._build([image], kernels), lattice._build([image.to("cuda")], kernels)
        for name in ("pixel", "segment", "first_segment", "neighbours", "corner", "weight"):
            assert torch.equal(getattr(here, name), getattr(there, name).cpu()), name


class TestBilateralFilter:
    def test_equals_its_matrix_made_symmetric(self) -> None:
        photos = [blotchy_photo(7, 9), noise(7, 9)]
        values = torch.randn(2, 3, 7, 9, generator=torch.Generator().manual_seed(0))
        images = torch.from_numpy(np.stack(photos)).movedim(-1, 1)
        with torch.autocast("cpu", torch.bfloat16):
            filtered = lattice.bilateral_filter(images, values, sxy=6.0, srgb=20.0)
        assert filtered.shape == values.shape
        assert filtered.dtype == torch.float32
        for photo, before, after in zip(photos, values, filtered, strict=True):
            kernel = lattice_kernel(pixel_features(photo, 6.0, 20.0))
            expected = before.flatten(1).double().numpy() @ (kernel + kernel.T) / 2
            np.testing.assert_allclose(after.flatten(1), expected, atol=1e-5)

    def test_images_that_cannot_be_numbered_together(self) -> None:
        """Keys of one image fit into an int64, those of four do not."""
        images = torch.from_numpy(np.stack([noise(6, 8, seed) for seed in range(4)])).movedim(-1, 1)
        values = torch.rand(4, 2, 6, 8)
        deviations = {"sxy": 0.012, "srgb": 0.3}
        kernel = [lattice.Kernel((0.012,) * 2 + (0.3,) * 3, 1.0)]
        assert lattice._fits([(6, 8)], kernel)
        assert not lattice._fits([(6, 8)] * 4, kernel)
        together = lattice.bilateral_filter(images, values, **deviations)
        assert torch.equal(together[3:], lattice.bilateral_filter(images[3:], values[3:], **deviations))
