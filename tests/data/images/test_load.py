"""The image loader: every unusual image of the collection, against Pillow's result in its manifest."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from foveal.data.images.load import ImageError, as_rgb, decode, find_images, image_size, load_image, probe
from tests.data.test_open import close
from tests.helpers.data_sets import image


def save(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def make_image(width: int = 40, height: int = 30) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 255, (height // 2, width // 2, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height))


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


def test_unusual_images_match_the_manifest(data: Path) -> None:
    folder = data / "odd-images"
    manifest = json.loads((folder / "manifest.json").read_text())["files"]
    assert len(manifest) == 49
    refused = []
    for name, entry in manifest.items():
        # Pillow "loads" this one only after a first error, with its lower third black: it counts as damaged here.
        if not entry["loads"] or name == "pillow/broken_data_stream.png":
            refused.append(name)
            with pytest.raises(ImageError) as caught:
                load_image(folder / name)
            assert str(folder / name) in str(caught.value)
            continue
        pixels = load_image(folder / name)
        width, height = entry["size_after_exif_transpose"]
        assert (pixels.shape, pixels.dtype) == ((height, width, 3), np.uint8), name
        assert pixels.flags.writeable and pixels.flags.c_contiguous
        assert image_size(folder / name) == (width, height), name
        assert probe(folder / name) == ((width, height), tuple(entry["stored_size"])), name
    assert len(refused) == 5


def test_all_exif_orientations_show_the_same_image(data: Path) -> None:
    """Verified for the collection with Pillow: mean difference under 0.7 of 255."""
    folder = data / "odd-images" / "exif-orientation"
    small = [
        np.asarray(Image.fromarray(load_image(folder / f"Landscape_{k}.jpg")).resize((90, 60), Image.Resampling.BOX))
        for k in range(9)
    ]
    for k, other in enumerate(small):
        assert np.abs(small[1].astype(float) - other).mean() < 0.7, k


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_in_every_format(format: str, orientation: int, tmp_path: Path) -> None:
    body = save(make_image(), format, exif=exif(orientation))
    path = tmp_path / "a.bin"
    path.write_bytes(body)
    oracle = np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(body))).convert("RGB"))
    assert np.array_equal(load_image(path), oracle)
    assert image_size(path) == (oracle.shape[1], oracle.shape[0])


def test_orientation_in_xmp_and_raw_profile(tmp_path: Path) -> None:
    from PIL.PngImagePlugin import PngInfo

    xmp = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", xmp)
    raw = PngInfo()
    raw.add_text("Raw profile type exif", f"\nexif\n{len(exif(8))}\n{exif(8).hex()}\n", zip=True)
    jpeg = save(make_image(), "JPEG", xmp=xmp.encode())
    for body in (save(make_image(), "PNG", pnginfo=info), save(make_image(), "PNG", pnginfo=raw), jpeg):
        (tmp_path / "a").write_bytes(body)
        oracle = np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(body))))
        assert oracle.shape == (40, 30, 3)
        assert np.array_equal(decode(body), oracle)
        assert image_size(tmp_path / "a") == (30, 40)


def test_jpeg_pixels_equal_pillow(data: Path) -> None:
    """Both carry libjpeg-turbo: the same bytes must come out, gray and color, on and off the fast path."""
    paths = sorted((data / "photos").rglob("*.jpg")) + sorted((data / "coco128-train2017").rglob("*.jpg"))[:20]
    assert len(paths) > 25
    for path in paths:
        oracle = np.array(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
        assert np.array_equal(load_image(path), oracle), path


def test_sixteen_bit_gray_is_scaled_by_its_depth() -> None:
    values = np.array([[0, 128, 129, 32767, 65535]], np.uint16)  # 65535 / 255 = 257, so 128 -> 0 and 129 -> 1
    for format in ("PNG", "TIFF"):
        pixels = decode(save(Image.fromarray(values), format))
        assert pixels[0, :, 0].tolist() == [0, 0, 1, 127, 255]
        assert np.array_equal(pixels[..., 0], pixels[..., 2])


def test_twelve_bit_gray_uses_twelve_bits(tmp_path: Path) -> None:
    """A 12-bit container would otherwise look black: 4095 is white."""
    image = Image.fromarray(np.array([[0, 2048, 4095]], np.uint16))
    from foveal.data.images.modes import to_rgb

    assert np.asarray(to_rgb(image, "x", bits=12))[0, :, 0].tolist() == [0, 128, 255]


def test_other_modes() -> None:
    floats = Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32))
    assert decode(save(floats, "TIFF"))[0, :, 0].tolist() == [0, 128, 255]
    plain = Image.fromarray(np.array([[0.0, 100.4, 300.0]], np.float32))
    assert decode(save(plain, "TIFF"))[0, :, 0].tolist() == [0, 100, 255]
    with pytest.raises(ImageError, match="not finite"):
        decode(save(Image.fromarray(np.array([[np.nan, 1.0]], np.float32)), "TIFF"))
    bits = Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1")
    assert decode(save(bits, "PNG")).tolist() == [[[0, 0, 0], [255, 255, 255]]]
    clear = Image.new("RGBA", (1, 1), (10, 20, 30, 0))
    assert decode(save(clear, "PNG")).tolist() == [[[255, 255, 255]]]
    half = Image.new("RGBA", (1, 1), (100, 0, 0, 128))  # 100 * 128/255 + 255 * 127/255 = 177.2; 127
    assert np.allclose(decode(save(half, "PNG")), [[[177, 127, 127]]], atol=1)
    cmyk = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    assert np.allclose(decode(save(cmyk, "TIFF")), [255, 0, 0], atol=1)
    frames = [Image.new("RGB", (4, 4), c) for c in ("red", "blue")]
    body = save(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode(body)[0, 0].tolist() == [255, 0, 0]


REFUSED = {
    "an empty file": b"",
    "git-lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    "HTML": b"<!DOCTYPE html><html></html>",
    "PDF": b"%PDF-1.7 and so on",
    "zero bytes": bytes(4000),
    "text file": b"hello there, this is a plain text",
    "SVG": b'<?xml version="1.0"?><svg width="4" height="4"/>',
    "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(range(200)),
    "video": b"\0\0\0\x18ftypisom\0\0\0\0mif1heic" + bytes(range(200)),
    "starts with": bytes(range(128, 256)) * 10,
}


@pytest.mark.parametrize("what", REFUSED)
def test_errors_name_the_detected_file_type(what: str, tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(REFUSED[what])
    for read in (load_image, image_size, probe):
        with pytest.raises(ImageError) as caught:
            read(path)
        assert what in str(caught.value) and str(path) in str(caught.value) and caught.value.fix


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"])
def test_truncated_files_are_rejected_at_every_length(format: str, tmp_path: Path) -> None:
    body = save(make_image(), format)
    for end in range(1, len(body) - 24, max(1, len(body) // 23)):
        with pytest.raises(ImageError):
            decode(body[:end])
    (tmp_path / "cut").write_bytes(body[: len(body) // 2])
    with pytest.raises(ImageError, match="cut"):  # the file's own name at least
        load_image(tmp_path / "cut")
    if format in ("JPEG", "PNG"):  # found without decoding every image of a dataset
        with pytest.raises(ImageError):
            probe(tmp_path / "cut")


def test_trailing_bytes_are_accepted() -> None:
    for format in ("JPEG", "PNG"):
        body = save(make_image(), format)
        assert np.array_equal(decode(body + b"junk" * 10), decode(body))


def test_random_corruption_raises_only_foveal_errors() -> None:
    rng = np.random.default_rng(1)
    for format in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"):
        body = bytearray(save(make_image(), format))
        for _ in range(40):
            hurt = bytearray(body)
            for at in rng.integers(0, len(hurt), 3):
                hurt[at] = int(rng.integers(0, 256))
            with contextlib.suppress(ImageError):
                assert decode(bytes(hurt)).ndim == 3


def test_pixel_limit_is_read_from_the_header(tmp_path: Path) -> None:
    path = tmp_path / "big.png"
    body = bytearray(save(Image.new("1", (64, 64)), "PNG"))
    body[16:24] = (60_000).to_bytes(4, "big") * 2  # claims 3.6 gigapixels
    path.write_bytes(body)
    for read in (load_image, image_size):
        with pytest.raises(ImageError, match="60000 x 60000 pixels are more than the limit of 200,000,000"):
            read(path)
    small = tmp_path / "small.gif"
    small.write_bytes(save(make_image(), "GIF"))
    with pytest.raises(ImageError, match="limit of 1,000"):
        load_image(small, max_pixels=1000)
    assert load_image(small, max_pixels=1200).shape == (30, 40, 3)


def test_pillow_pixel_limit_is_not_applied(tmp_path: Path) -> None:
    """Pillow warns at 89 Mpx and refuses at 179; ours is 200 and its global is left as it was."""
    path = tmp_path / "wide.png"
    Image.new("1", (20_000, 9_500)).save(path)
    before = Image.MAX_IMAGE_PIXELS
    assert image_size(path) == (20_000, 9_500)
    path.write_bytes(save(Image.new("1", (10_000, 9_500)), "TIFF", compression="group4"))
    assert image_size(path) == (10_000, 9_500)
    assert before == Image.MAX_IMAGE_PIXELS


def test_paths_that_are_not_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    cases = {
        tmp_path: "a folder",
        tmp_path / "pipe": "regular",
        tmp_path / "no": "no such",
        tmp_path / "loop": "read",
    }
    for path, word in cases.items():
        with pytest.raises(ImageError, match=word):
            load_image(path)
    with pytest.raises(ImageError):
        load_image("a\0b.jpg")


def test_as_rgb_accepts_every_image_type(tmp_path: Path) -> None:
    pixels = np.array(make_image())
    body = save(make_image(), "PNG")
    (tmp_path / "a").write_bytes(body)
    for source in (tmp_path / "a", str(tmp_path / "a"), body, io.BytesIO(body), Image.open(io.BytesIO(body)), pixels):
        assert np.array_equal(as_rgb(source), pixels)
    gray = pixels[..., 0]
    repeated = np.repeat(gray[..., None], 3, 2)
    for source in (gray, gray[..., None], gray.astype(np.uint16) * 257, (gray / 255.0).astype(np.float32)):
        assert np.array_equal(as_rgb(source), repeated)
    assert as_rgb(np.array([[True, False]]))[0, :, 0].tolist() == [255, 0]
    turned = Image.open(io.BytesIO(save(make_image(), "JPEG", exif=exif(6))))
    assert as_rgb(turned).shape == (40, 30, 3)
    for bad in (
        np.zeros((2, 2, 5), np.uint8),
        np.zeros((0, 4), np.uint8),
        np.full((2, 2), 7.0),
        np.zeros((2, 2)) * np.nan,
        np.zeros((2, 2), np.int32),
        7,
        None,
    ):
        with pytest.raises(ImageError):
            as_rgb(bad)


def test_as_rgb_accepts_torch_tensors() -> None:
    torch = pytest.importorskip("torch")
    pixels = np.array(make_image())
    chw = torch.from_numpy(pixels).permute(2, 0, 1)
    assert np.array_equal(as_rgb(chw), pixels)
    assert np.array_equal(as_rgb(chw.float() / 255), pixels)


def test_find_images_by_ending_or_content(tmp_path: Path) -> None:
    body = save(make_image(), "PNG")
    for name in ("b.JPG", "a.png", "noending", ".hidden.png", "sub/c.webp", "broken.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"" if name == "broken.jpg" else body)
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "README").write_text("x")
    (tmp_path / "again").symlink_to(tmp_path)
    names = [p.relative_to(tmp_path).as_posix() for p in find_images(tmp_path)]
    assert names == ["a.png", "b.JPG", "broken.jpg", "noending"]
    assert len(find_images(tmp_path, recursive=True)) == 5
    with pytest.raises(ImageError, match="no such folder"):
        find_images(tmp_path / "nowhere")


def test_data_package_does_not_import_torch() -> None:
    import subprocess

    code = "import foveal.data.doctor.examine, foveal.data.convert, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unreadable_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = image(tmp_path / "a.jpg")
    (tmp_path / "closed").mkdir()
    close(tmp_path / "closed", monkeypatch)
    assert find_images(tmp_path) == [good]
    assert find_images(tmp_path, recursive=True) == [good, tmp_path / "closed"]
    with pytest.raises(ImageError, match="closed"):
        load_image(tmp_path / "closed")
