"""Images of more than 8 bits: scaled by the depth that they use, the same wherever they come from, and told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from foveal.data.doctor.examine import examine
from foveal.data.images.load import as_rgb, deep_values, load_image
from foveal.data.images.ranges import range_findings
from foveal.data.open import split_pair
from tests.helpers.data_sets import coco, coco_doc


def gray(path: Path, top: int, dtype: Any = np.uint16) -> Path:
    """A ramp from 0 to ``top``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.linspace(0, top, 64 * 48).round().astype(dtype).reshape(48, 64)).save(path)
    return path


def codes(folder: Path) -> list[str]:
    return [f"{f.severity} {f.code}" for f in range_findings(sorted(folder.iterdir()), folder)]


@pytest.mark.parametrize("ending", ["tif", "png"])
@pytest.mark.parametrize(
    ("top", "brightest"),
    # by hand: round(255 * top / (2 ** bits - 1)) with the bits of the comment
    [
        (255, 255),  # 8
        (256, 64),  # 10
        (1023, 255),  # 10
        (1024, 64),  # 12
        (4095, 255),  # 12
        (4096, 64),  # 14
        (16383, 255),  # 14
        (16384, 64),  # 16
        (65535, 255),  # 16
    ],
)
def test_gray_is_scaled_by_the_bits_in_use(tmp_path: Path, ending: str, top: int, brightest: int) -> None:
    path = gray(tmp_path / f"a.{ending}", top)
    pixels = load_image(path)
    assert (pixels.min(), pixels.max()) == (0, brightest)
    assert np.array_equal(as_rgb(np.asarray(Image.open(path)).astype(np.uint16)), pixels)
    assert np.array_equal(as_rgb(Image.open(path)), pixels)


def test_ranges_are_told(tmp_path: Path) -> None:
    for k in range(3):
        gray(tmp_path / "twelve" / f"{k}.tif", 4000)
        gray(tmp_path / "sixteen" / f"{k}.tif", 65000)
        gray(tmp_path / "mixed" / f"{k}.png", 500 * 10**k)
        gray(tmp_path / "floats" / f"{k}.tif", 1, np.float32)
        gray(tmp_path / "large" / f"{k}.tif", 4000, np.float32)
        gray(tmp_path / "eight" / f"{k}.png", 200, np.uint8)
        gray(tmp_path / "masks" / f"{k}.tif", 2)
        dim = np.zeros((48, 64), np.uint16)
        dim[0, 0], dim[1:] = 60_000, 900  # one hot pixel
        (tmp_path / "hot").mkdir(exist_ok=True)
        Image.fromarray(dim).save(tmp_path / "hot" / f"{k}.tif")
    expected = {
        "twelve": ["note image-depth"],
        "sixteen": [],
        "mixed": ["warning image-depths-mixed"],
        "floats": [],
        "large": ["warning image-clipped"],
        "eight": [],
        "masks": ["note image-depth", "warning image-dark"],
        "hot": ["warning image-dark"],
    }
    assert {name: codes(tmp_path / name) for name in expected} == expected
    assert "12 bits" in range_findings(sorted((tmp_path / "twelve").iterdir()), tmp_path)[0].message


def test_large_integers(tmp_path: Path) -> None:
    path = gray(tmp_path / "a.tif", 100_000, np.int32)
    assert load_image(path).max() == 97  # round(255 * 100000 / (2 ** 18 - 1))
    negative = Image.fromarray(np.array([[0, -1]], np.int32))  # 2 ** 32 - 1 without a sign
    assert as_rgb(negative)[0, :, 0].tolist() == [0, 255]


def test_colors_of_sixteen_bits_that_use_few_are_dark(tmp_path: Path) -> None:
    import struct
    import zlib

    values = np.full((4, 4, 3), 900, ">u2")

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = b"".join(b"\0" + row.tobytes() for row in values)
    head = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(png)
    assert codes(tmp_path) == ["warning image-dark"]


def test_only_deep_images_are_decoded_and_damage_is_not_an_error(tmp_path: Path) -> None:
    (tmp_path / "cut.tif").write_bytes(gray(tmp_path / "a.tif", 4000).read_bytes()[:300])
    assert deep_values(tmp_path / "cut.tif") is None
    assert deep_values(tmp_path / "none.png") is None
    Image.new("RGB", (8, 8)).save(tmp_path / "b.jpg")
    Image.new("RGB", (8, 8)).save(tmp_path / "b.png")
    Image.new("L", (8, 8)).save(tmp_path / "c.tif")
    assert [deep_values(tmp_path / n) for n in ("b.jpg", "b.png", "c.tif")] == [None] * 3


def test_real_files_of_a_low_range(shared: Path) -> None:
    folder = shared / "field" / "18-16-bit-low-range" / "data" / "images"
    if not folder.is_dir():
        pytest.skip("no such inputs")
    assert all(load_image(path).max() > 100 for path in folder.iterdir())
    assert codes(folder) == ["note image-depth"]


def test_doctor_and_train_tell_it(tmp_path: Path) -> None:
    path = coco(tmp_path)
    doc = coco_doc()
    for k, entry in enumerate(doc["images"]):
        gray(tmp_path / "deep" / f"{k}.tif", 4000 + k if k else 60_000)
        entry["file_name"] = f"{k}.tif"
    path.write_text(json.dumps(doc))
    assert [f.code for f in examine(path).findings if "image" in f.code] == ["image-depths-mixed"]
    train, valid, _ = split_pair(path)
    assert "image-depths-mixed" in {f.code for f in [*train.findings, *valid.findings]}


def test_doctor_tells_nearly_black_images_of_eight_bits(tmp_path: Path) -> None:
    path = coco(tmp_path)
    gray(tmp_path / "images" / "a.jpg", 3, np.uint8)
    (finding,) = examine(path).findings
    assert finding.code == "image-dark" and "1 of 4 images" in finding.message and finding.path.endswith("a.jpg")
