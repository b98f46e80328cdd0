import time
from fractions import Fraction
from math import floor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tag2mask.data.view import (
    IMAGE,
    LABELS,
    SCORES,
    SUPERPIXELS,
    View,
    from_whole_view,
    random_view,
    to_view,
    whole_cells,
    whole_view,
)

sides = st.integers(1, 12)
views = st.builds(
    View,
    st.tuples(sides, sides),
    st.booleans(),
    st.tuples(st.integers(-6, 14), st.integers(-6, 14), sides, sides),
)


def nearest_by_loop(array: torch.Tensor, view: View, stride: int, fill: int) -> torch.Tensor:
    """Resized, mirrored, cropped one after the other, then the middle pixel of every cell."""
    (height, width), (top, left, crop_height, crop_width) = view.resized, view.crop
    resized = torch.empty(height, width, dtype=array.dtype)
    for y in range(height):
        for x in range(width):
            v = floor(Fraction(2 * y + 1, 2) * Fraction(array.shape[0], height))
            u = floor(Fraction(2 * x + 1, 2) * Fraction(array.shape[1], width))
            resized[y, x] = array[v, u]
    if view.mirror:
        resized = resized.flip(1)
    cropped = torch.full((crop_height, crop_width), fill, dtype=array.dtype)
    for y in range(crop_height):
        for x in range(crop_width):
            if 0 <= top + y < height and 0 <= left + x < width:
                cropped[y, x] = resized[top + y, left + x]
    middles = [
        [(start + min(start + stride, length)) // 2 for start in range(0, length, stride)]
        for length in (crop_height, crop_width)
    ]
    return cropped[middles[0]][:, middles[1]]


@settings(deadline=None, max_examples=200)
@given(view=views, height=sides, width=sides, stride=st.integers(1, 5))
def test_nearest_equals_a_plain_loop(view: View, height: int, width: int, stride: int) -> None:
    array = torch.arange(height * width, dtype=torch.int32).reshape(height, width)
    expected = nearest_by_loop(array, view, stride, -1)
    result = to_view(array, view, SUPERPIXELS, stride=stride)
    assert result.dtype == torch.int32
    assert result.shape == view.output_size(stride)
    assert torch.equal(result, expected)
    stacked = to_view(torch.stack([array, array + 1]), view, SUPERPIXELS, stride=stride, fill=-5)
    assert torch.equal(stacked[0], torch.where(expected == -1, -5, expected))


def test_labels_keep_their_type_and_are_filled_with_unlabelled() -> None:
    labels = torch.tensor([[1, 2], [3, 4]], dtype=torch.uint8)
    view = View((2, 2), True, (-1, 0, 3, 3))
    expected = torch.tensor([[255, 255, 255], [2, 1, 255], [4, 3, 255]], dtype=torch.uint8)
    assert torch.equal(to_view(labels, view, LABELS), expected)


def ramp(height: int, width: int) -> torch.Tensor:
    """Position in the image, (y, x) within 0..1, as a map of a resolution."""
    y = (torch.arange(height) + 0.5) / height
    x = (torch.arange(width) + 0.5) / width
    return torch.stack(torch.meshgrid(y, x, indexing="ij"))


@pytest.mark.parametrize("stride", [1, 2, 3, 4, 8, 16])
@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("crop", [(0, 0, 96, 128), (7, 19, 65, 77), (-13, -30, 129, 161)])
@pytest.mark.parametrize("resolution", [(24, 32), (13, 9), (96, 128), (200, 111)])
def test_every_map_shows_the_same_place(
    stride: int, mirror: bool, crop: tuple[int, int, int, int], resolution: tuple[int, int]
) -> None:
    view = View((96, 128), mirror, crop)
    maps = to_view(ramp(*resolution), view, SCORES, stride=stride, fill=-1)
    for i in range(maps.shape[1]):
        for j in range(maps.shape[2]):
            # The middle of what the cell covers, in pixels of the resized and mirrored image, then of the image.
            y = crop[0] + (i * stride + min((i + 1) * stride, crop[2])) / 2
            x = crop[1] + (j * stride + min((j + 1) * stride, crop[3])) / 2
            if not (0 <= y < 96 and 0 <= x < 128):
                assert maps[:, i, j].tolist() == [-1, -1]
                continue
            expected = (y / 96, 1 - x / 128 if mirror else x / 128)
            for value, position, cells, output in zip(
                maps[:, i, j].tolist(), expected, resolution, (96 / stride, 128 / stride), strict=True
            ):
                # Between the border and the middle of its outermost pixels a map knows nothing and is constant;
                # elsewhere only the rounding of antialiasing's weights remains.
                cell = max(1 / cells, 1 / output)
                near_border = min(position, 1 - position) < 1.5 * cell
                assert abs(value - position) <= (0.5 if near_border else 0.06) * cell + 1e-5


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("stride", [4, 8])
def test_maps_at_a_stride_agree_with_the_viewed_image_to_half_a_cell(mirror: bool, stride: int) -> None:
    view = View((90, 130), mirror, (5, -8, 80, 120))
    image = to_view(ramp(180, 260), view, IMAGE, fill=-1)
    labels = to_view((ramp(180, 260) * 1000).int(), view, SUPERPIXELS, stride=stride)
    scores = to_view(ramp(45, 65), view, SCORES, stride=stride, fill=-1)
    cells = torch.nn.functional.avg_pool2d(image, stride)
    inside = torch.nn.functional.avg_pool2d((image[:1] >= 0).float(), stride)[0] == 1
    half = torch.tensor([stride / 90, stride / 130])[:, None] / 2
    assert inside.any()
    assert (torch.abs(cells - scores)[:, inside] < half).all()
    assert (torch.abs(cells - labels / 1000)[:, inside] < half + 0.001).all()


@settings(deadline=None, max_examples=60)
@given(view=views, stride=st.integers(1, 4), seed=st.integers(0, 99))
def test_mirrored_map_is_the_map_of_the_mirrored_image(view: View, stride: int, seed: int) -> None:
    array = torch.rand(2, 7, 5, generator=torch.Generator().manual_seed(seed))
    other = View(view.resized, not view.mirror, view.crop)
    first = to_view(array, view, SCORES, stride=stride)
    assert torch.allclose(first, to_view(array.flip(-1), other, SCORES, stride=stride), atol=1e-5)


def test_nothing_changes_where_nothing_is_to_be_done() -> None:
    array = torch.rand(3, 6, 7)
    view = whole_view((6, 7))
    assert torch.equal(to_view(array, view, SCORES), array)
    assert torch.equal(to_view(array, view, LABELS), array)
    assert torch.equal(to_view(array.half(), view, SCORES), array.half().float())
    assert torch.equal(to_view(array[0], View((6, 7), True, (0, 0, 6, 7)), SCORES), array[0].flip(-1))


def test_photograph_is_resized_like_pillow_and_filled_with_the_mean() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    result = to_view(image, View((20, 30), False, (-2, 0, 22, 30)), IMAGE, fill=(1.5, 2.5, 3.5))
    assert result.dtype == torch.float32
    assert result[:, :2].mean(dim=(1, 2)).tolist() == [1.5, 2.5, 3.5]
    expected = np.array(Image.fromarray(pixels).resize((30, 20), Image.Resampling.BILINEAR)).astype(np.float32)
    assert np.abs(result[:, 2:].permute(1, 2, 0).numpy() - expected).max() <= 1


def test_constant_maps_stay_constant_inside() -> None:
    for stride in (1, 4):
        for resolution in ((5, 7), (300, 200)):
            view = View((64, 64), False, (-16, -16, 96, 96))
            result = to_view(torch.full((1, *resolution), 0.25), view, SCORES, stride=stride)
            assert ((result == 0) | ((result - 0.25).abs() < 1e-6)).all()
            assert (result > 0).float().mean() == pytest.approx((64 / 96) ** 2)


def test_a_window_beside_the_image_is_all_fill() -> None:
    for left in (50, -50):
        for stride in (1, 3):
            view = View((10, 10), False, (0, left, 12, 12))
            assert (to_view(torch.ones(1, 10, 10), view, SCORES, stride=stride, fill=0.5) == 0.5).all()
            assert (to_view(torch.ones(10, 10, dtype=torch.uint8), view, LABELS, stride=stride) == 255).all()


def test_no_channel_at_all() -> None:
    assert to_view(torch.zeros(0, 5, 5), View((10, 10), False, (0, 0, 9, 8)), SCORES, stride=4).shape == (0, 3, 2)


def test_gradients_pass_through_scores() -> None:
    scores = torch.rand(1, 5, 5, requires_grad=True)
    to_view(scores, View((9, 9), True, (1, 1, 8, 8)), SCORES, stride=2).sum().backward()
    assert scores.grad is not None
    assert scores.grad.sum() == pytest.approx(16, rel=1e-4)


def test_arguments_are_checked() -> None:
    view = View((4, 4), False, (0, 0, 4, 4))
    with pytest.raises(ValueError, match="'image' needs a fill"):
        to_view(torch.zeros(3, 4, 4), view, IMAGE)
    with pytest.raises(ValueError, match=r"uint8 cannot hold the fill value -1"):
        to_view(torch.zeros(4, 4, dtype=torch.uint8), view, SUPERPIXELS)
    with pytest.raises(ValueError, match="one fill value"):
        to_view(torch.zeros(4, 4), view, LABELS, fill=(1, 2))
    with pytest.raises(ValueError, match="2 fill values for 3 channels"):
        to_view(torch.zeros(3, 4, 4), view, IMAGE, fill=(1, 2))
    with pytest.raises(ValueError, match="stride 0"):
        to_view(torch.zeros(3, 4, 4), view, SCORES, stride=0)
    with pytest.raises(ValueError, match="positive sizes"):
        View((0, 4), False, (0, 0, 4, 4))
    with pytest.raises(ValueError, match="positive sizes"):
        View((4, 4), False, (0, 0, 4, 0))


def test_speed() -> None:
    image = torch.randint(0, 256, (3, 240, 320), dtype=torch.uint8)
    view = View((300, 400), True, (-10, 20, 320, 320))
    durations = []
    for _ in range(20):
        start = time.perf_counter()
        to_view(image, view, IMAGE, fill=(120.0, 110.0, 100.0))
        durations.append(time.perf_counter() - start)
    assert min(durations) < 0.005


def test_whole_view() -> None:
    assert whole_view((240, 320)) == View((240, 320), False, (0, 0, 240, 320))
    assert whole_view((240, 320), long_side=160, mirror=True) == View((120, 160), True, (0, 0, 120, 160))
    assert whole_view((333, 500), long_side=321).resized == (214, 321)
    assert whole_view((500, 333), long_side=321, pad_to=330) == View((321, 214), False, (0, 0, 330, 330))
    assert whole_view((1000, 1), long_side=10).resized == (10, 1)
    assert whole_view((240, 320), long_side=64, stretch=True) == View((64, 64), False, (0, 0, 64, 64))
    with pytest.raises(ValueError, match="stretching needs"):
        whole_view((2, 2), stretch=True)
    with pytest.raises(ValueError, match="does not fit"):
        whole_view((240, 320), pad_to=300)


@pytest.mark.parametrize(
    ("size", "stride", "stretch"), [((30, 45), 4, False), ((45, 31), 8, False), ((20, 33), 5, True)]
)
def test_ids_come_back_from_a_whole_view(size: tuple[int, int], stride: int, stretch: bool) -> None:
    view = whole_view(size, long_side=64, pad_to=None if stretch else 64, stretch=stretch)
    rows, columns = view.output_size(stride)
    cells = torch.arange(rows * columns).reshape(rows, columns)
    inside = to_view(torch.ones(size, dtype=torch.uint8), view, LABELS, stride=stride) == 1
    back = from_whole_view(cells, view, size, stride=stride)
    assert inside.flatten()[back.unique()].all()
    for y in range(size[0]):
        for x in range(size[1]):
            row = int((y + 0.5) * view.resized[0] / size[0]) // stride
            column = int((x + 0.5) * view.resized[1] / size[1]) // stride
            row -= not inside[row, 0]
            column -= not inside[0, column]
            assert back[y, x] == cells[row, column]


def test_ids_come_back_from_whole_views_alone() -> None:
    for mirror, crop in ((True, (0, 0, 8, 8)), (False, (0, 1, 8, 8)), (False, (0, 0, 7, 8))):
        view = View((8, 8), mirror, crop)
        with pytest.raises(ValueError, match="whole image"):
            from_whole_view(torch.zeros(view.output_size()), view, (8, 8))


def draw(**changes: object) -> View:
    arguments = {"seed": 3, "epoch": 1, "image_id": "2007_000032", "crop": 200, "long_side": (160, 400)} | changes
    return random_view((240, 320), **arguments)  # type: ignore[arg-type]


def test_random_view_depends_on_seed_epoch_and_image_alone() -> None:
    first = draw()
    torch.manual_seed(9)
    np.random.seed(9)  # noqa: NPY002
    assert draw() == first
    assert len({draw(), draw(seed=4), draw(epoch=2), draw(image_id="2007_000033"), draw(seed=1, epoch=3)}) == 5


def test_random_view_is_the_same_in_every_process_and_version() -> None:
    assert draw() == View((252, 336), True, (49, 130, 200, 200))


def test_random_view_draws_uniformly() -> None:
    many = [draw(image_id=str(index)) for index in range(2000)]
    longs = [max(view.resized) for view in many]
    assert (min(longs), max(longs)) == (160, 400)
    assert np.mean(longs) == pytest.approx(280, abs=6)
    assert np.mean([view.mirror for view in many]) == pytest.approx(0.5, abs=0.04)
    shares = []
    for view in many:
        top, left, height, width = view.crop
        assert (height, width) == (200, 200)
        for offset, side in ((top, view.resized[0]), (left, view.resized[1])):
            assert min(0, side - 200) <= offset <= max(0, side - 200)
            if side != 200:
                shares.append(offset / (side - 200))
    assert np.quantile(shares, [0.1, 0.5, 0.9]) == pytest.approx([0.1, 0.5, 0.9], abs=0.05)


def test_random_view_by_scale_stretched_and_plain() -> None:
    assert not any(draw(image_id=str(index), mirror=False).mirror for index in range(50))
    scaled = [draw(image_id=str(index), long_side=None, scale=(0.5, 1.5)).resized for index in range(300)]
    assert min(scaled)[1] < 170
    assert max(scaled)[1] > 470
    assert all(abs(height / width - 0.75) < 0.01 for height, width in scaled)
    assert draw(long_side=None).resized == (240, 320)
    plain = draw(long_side=None, stretch=True)
    assert (plain.resized, plain.crop) == ((200, 200), (0, 0, 200, 200))
    square = draw(stretch=True).resized
    assert square[0] == square[1]
    assert draw(long_side=None, scale=(1.5, 1.5), stretch=True).resized == (300, 300)


def test_random_view_checks_its_ranges() -> None:
    with pytest.raises(ValueError, match="not by both"):
        draw(scale=(1, 2))
    with pytest.raises(ValueError, match="range 5 to 4"):
        draw(long_side=(5, 4))
    with pytest.raises(ValueError, match="not positive"):
        draw(long_side=None, scale=(0, 1))


def test_whole_cells_are_the_nearest_multiples() -> None:
    assert whole_cells((213, 320), 16) == (208, 320)
    assert whole_cells((216, 7), 16) == (224, 16)
    assert whole_cells((3, 500), 8) == (8, 496)
