from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tag2mask.errors import DataError
from tag2mask.stages.unit_maps import encode_unit_map, read_unit_map

RAMP = np.linspace(0, 1, 32 * 24).reshape(24, 32)


def test_values_are_exact_to_half_a_step(tmp_path: Path) -> None:
    values = torch.rand(7, 9, generator=torch.Generator().manual_seed(0))
    values[0, :2] = torch.tensor([0.0, 1.0])
    path = tmp_path / "map.png"
    path.write_bytes(encode_unit_map(values))
    found = read_unit_map(path)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, values, atol=0.5001 / 65535)
    assert found[0, :2].tolist() == [0, 1]
    assert encode_unit_map(torch.from_numpy(found)) == path.read_bytes()


@pytest.mark.parametrize(("bits", "mode"), [(8, "L"), (16, "I;16"), (16, "I")])
def test_grey_of_all_depths(tmp_path: Path, bits: int, mode: str) -> None:
    kind = {"L": np.uint8, "I;16": np.uint16, "I": np.int32}[mode]
    image = Image.fromarray(np.rint(RAMP * (2**bits - 1)).astype(kind))
    assert image.mode == mode
    path = tmp_path / ("map.tif" if mode == "I" else "map.png")
    image.save(path)
    np.testing.assert_allclose(read_unit_map(path), RAMP, atol=0.51 / (2**bits - 1))


def test_what_is_no_map(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "colour.png")
    with pytest.raises(DataError, match=r"colour\.png: a map is a greyscale image of 8 or 16 bits, not .*RGB"):
        read_unit_map(tmp_path / "colour.png")
    for value in (-1, 65536):
        Image.fromarray(np.full((2, 2), value, np.int32)).save(tmp_path / "deep.tif")
        with pytest.raises(DataError, match=r"deep\.tif: grey values .* do not fit into 16 bits"):
            read_unit_map(tmp_path / "deep.tif")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(DataError, match=r"text\.png"):
        read_unit_map(tmp_path / "text.png")
