import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from tag2mask.data.images import ImageFacts, content_digest, image_size, inspect_image, read_image
from tag2mask.errors import DataError

Array = npt.NDArray[np.uint8]

# What is shown of stored pixels, from the EXIF standard's table of which sides row 0 and column 0 are.
SHOWN: dict[int, Callable[[Array], Array]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


def photo(height: int = 6, width: int = 9) -> Array:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("orientation", SHOWN)
@pytest.mark.parametrize(
    ("suffix", "options"), [("png", {}), ("tif", {}), ("webp", {"lossless": True}), ("jpg", {"quality": 100})]
)
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, suffix: str, options: dict[str, object]) -> None:
    stored = np.repeat(np.repeat(photo(3, 4), 16, axis=0), 16, axis=1)  # blocks that JPEG keeps well enough
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(stored).save(path, exif=exif, **options)
    shown = SHOWN[orientation](stored)
    read = read_image(path)
    assert read.shape == shown.shape
    assert image_size(path) == shown.shape[:2]
    difference = np.abs(read.astype(int) - shown)
    assert difference.mean() < 16 if suffix == "jpg" else difference.max() == 0


def test_image_size_does_not_decode_a_jpeg(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(photo(400, 300)).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    assert image_size(path) == (400, 300)
    with pytest.raises(DataError, match=r"a\.jpg"):
        read_image(path)


def test_colour_is_kept_and_writable(tmp_path: Path) -> None:
    Image.fromarray(photo()).save(tmp_path / "a.png")
    read = read_image(str(tmp_path / "a.png"))
    assert read.dtype == np.uint8
    assert np.array_equal(read, photo())
    read[0, 0] = 0


def test_grey(tmp_path: Path) -> None:
    grey = photo()[..., 0]
    Image.fromarray(grey).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png"), np.stack([grey] * 3, axis=-1))


def test_black_and_white(tmp_path: Path) -> None:
    bits = photo()[..., 0] > 128
    Image.fromarray(bits).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png")[..., 1], bits * 255)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path, suffix: str) -> None:
    deep = np.array([[0, 128, 129, 257, 32768, 65407, 65535]], dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / f"a.{suffix}")
    assert read_image(tmp_path / f"a.{suffix}")[0, :, 2].tolist() == [0, 0, 1, 1, 128, 255, 255]
    assert image_size(tmp_path / f"a.{suffix}") == (1, 7)


def test_more_than_sixteen_bits_and_floats_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((2, 2), 70000, dtype=np.int32)).save(tmp_path / "i.tif")
    with pytest.raises(DataError, match=r"i\.tif.*16 bits"):
        read_image(tmp_path / "i.tif")
    Image.fromarray(np.full((2, 2), 0.5, dtype=np.float32)).save(tmp_path / "f.tif")
    with pytest.raises(DataError, match=r"f\.tif.*floating-point"):
        read_image(tmp_path / "f.tif")


def test_palette(tmp_path: Path) -> None:
    flat = np.zeros((4, 4, 3), np.uint8)
    flat[:2] = 10, 200, 30
    Image.fromarray(flat).convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png"), flat)


def test_transparent_palette_lies_on_white(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1]], dtype=np.uint8), mode="P")
    image.putpalette([9, 8, 7, 1, 2, 3])
    image.save(tmp_path / "a.png", transparency=0)
    assert read_image(tmp_path / "a.png").tolist() == [[[255, 255, 255], [1, 2, 3]]]


def test_alpha_lies_on_white(tmp_path: Path) -> None:
    Image.fromarray(np.array([[[100, 0, 200, 0], [100, 0, 200, 255], [100, 0, 200, 51]]], np.uint8)).save(
        tmp_path / "a.png"
    )
    clear, opaque, fifth = read_image(tmp_path / "a.png")[0].astype(int)
    assert clear.tolist() == [255, 255, 255]
    assert opaque.tolist() == [100, 0, 200]
    assert np.abs(fifth - [224, 204, 244]).max() <= 1
    Image.fromarray(np.array([[[100, 0], [100, 255]]], np.uint8)).save(tmp_path / "grey.png")
    assert read_image(tmp_path / "grey.png")[0, :, 0].tolist() == [255, 100]


def test_cmyk(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    assert np.abs(read_image(tmp_path / "a.jpg")[4, 4].astype(int) - [255, 0, 0]).max() < 6


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_first_frame_of_an_animation(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (4, 3), colour) for colour in ("#ff0000", "#0000ff")]
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:])
    read = read_image(tmp_path / f"a.{suffix}")
    assert read.shape == (3, 4, 3)
    assert np.abs(read[1, 1].astype(int) - [255, 0, 0]).max() < 4


@pytest.mark.parametrize("content", [b"", b"no image at all", b"\x89PNG\r\n\x1a\n"])
@pytest.mark.parametrize("function", [read_image, image_size])
def test_no_image(tmp_path: Path, content: bytes, function: Callable[[Path], object]) -> None:
    path = tmp_path / "holiday.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"holiday\.png"):
        function(path)


@pytest.mark.parametrize("function", [read_image, image_size, content_digest])
def test_missing_file_and_folder(tmp_path: Path, function: Callable[[Path], object]) -> None:
    with pytest.raises(DataError, match=r"gone\.png.*No such file"):
        function(tmp_path / "gone.png")
    with pytest.raises(DataError, match="directory"):
        function(tmp_path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_truncated_files_are_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"holiday.{suffix}"
    Image.fromarray(photo(200, 200)).save(path)
    whole = path.read_bytes()
    for share in (0.1, 0.5, 0.9):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(DataError, match=f"holiday.{suffix}"):
            read_image(path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), suffix=st.sampled_from(["png", "jpg", "gif", "tif", "webp"]))
def test_damage_is_read_or_named_never_another_error(tmp_path: Path, data: st.DataObject, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(photo(16, 16)).save(path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        image = read_image(path)
    except DataError as error:
        message = str(error)
    else:
        message = path.name
        assert image.ndim == 3
    assert path.name in message


def png_header(height: int, width: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 1000) + b"IDAT"


@pytest.mark.filterwarnings("ignore")  # as the module does once for the process; pytest has filters for each test
def test_large_photographs_are_no_bombs_and_bombs_are_refused(tmp_path: Path) -> None:
    large = tmp_path / "large.jpg"
    Image.new("L", (11648, 8736)).save(large)  # a camera of 100 megapixels
    assert image_size(large) == (8736, 11648)
    bomb = tmp_path / "bomb.png"
    bomb.write_bytes(png_header(60000, 60000))
    with pytest.raises(DataError, match=r"bomb\.png: too large"):
        read_image(bomb)


def test_a_full_memory_is_no_fault_of_the_photograph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (2, 2)).save(path)

    def full(image: Image.Image) -> Image.Image:
        raise MemoryError

    monkeypatch.setattr("tag2mask.data.images.ImageOps.exif_transpose", full)
    with pytest.raises(MemoryError):
        read_image(path)


def test_threads_leave_the_filters_of_warnings_alone(tmp_path: Path) -> None:
    large = tmp_path / "large.jpg"
    Image.new("L", (1000, 1000)).save(large)
    code = """
import sys, warnings
from concurrent.futures import ThreadPoolExecutor
from PIL import Image
from tag2mask.data.images import image_size
Image.MAX_IMAGE_PIXELS = 600_000
before = list(warnings.filters)
sys.setswitchinterval(1e-6)
with ThreadPoolExecutor(8) as pool:
    list(pool.map(image_size, sys.argv[1:] * 2000))
assert warnings.filters == before, warnings.filters
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(large)], check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_facts_about_a_file(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    path = tmp_path / "a.png"  # whatever the suffix says
    Image.fromarray(photo()).save(path, format="JPEG", exif=exif)
    assert inspect_image(path) == ImageFacts(9, 6, "JPEG", "RGB", turned=True, transparent=False, animated=False)
    assert inspect_image(path).height == read_image(path).shape[0]
    frames = [Image.new("RGBA", (4, 3), colour) for colour in ("#ff000080", "#0000ff80")]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert inspect_image(path) == ImageFacts(3, 4, "PNG", "RGBA", turned=False, transparent=True, animated=True)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
def test_facts_are_of_whole_files_only(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"holiday.{suffix}"
    Image.fromarray(photo(200, 200)).save(path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(DataError, match=f"holiday.{suffix}"):
        inspect_image(str(path))


def test_content_digest_is_of_bytes_only(tmp_path: Path) -> None:
    first = tmp_path / "a.jpg"
    Image.fromarray(photo()).save(first)
    shutil.copy(first, tmp_path / "b.jpg")
    digest = content_digest(first)
    assert digest == content_digest(str(tmp_path / "b.jpg"))
    assert len(digest) == 32
    content = bytearray(first.read_bytes())
    content[-1] ^= 1
    first.write_bytes(content)
    assert content_digest(first) != digest
    (tmp_path / "empty").touch()
    assert content_digest(tmp_path / "empty") == "cae66941d9efbd404e4d88758ea67670"
