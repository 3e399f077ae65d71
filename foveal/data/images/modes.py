"""Converts images of any mode to uint8 RGB, and describes files that are not images."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...errors import FovealError
from ...files.aliases import ImageArray

# the first bytes of Matroska and WebM, MPEG, Flash, Windows Media, Ogg, transport streams
_VIDEOS = (b"\x1aE\xdf\xa3", b"\0\0\1\xba", b"\0\0\1\xb3", b"FLV\1", b"0&\xb2u\x8ef\xcf\x11", b"OggS", b"G@\0\x10")


class ImageError(FovealError):
    """An image that cannot be used; the message states what the file is and what to do."""


class TooManyPixels(ImageError):
    """An image that is larger than the limit, by its header."""


def gray_bits(image: Image.Image) -> int:
    """Bits of a gray value as the file states them (a TIFF of 9 to 15 bits); 0 where only those of its container."""
    tags = getattr(image, "tag_v2", None)
    value = tags.get(258) if tags is not None else None  # BitsPerSample
    first = value[0] if isinstance(value, tuple) and value else value
    return first if isinstance(first, int) and 9 <= first <= 15 else 0


def bits_in_use(values: NDArray[Any]) -> int:
    """The smallest even number of bits, 8 to 32, that holds every gray value."""
    top = int(values.max(initial=0))
    if values.min(initial=0) < 0:  # 32 bits without a sign, stored with one
        return 32
    return next(bits for bits in range(8, 34, 2) if top < 1 << bits or bits == 32)


def to_rgb(image: Image.Image, name: str, bits: int = 0, background: tuple[int, int, int] = (255, 255, 255)) -> Any:
    """A PIL image of any mode -> an input of ``np.array`` that gives uint8 (H, W, 3), by the table of :mod:`.load`."""
    if image.mode.startswith("I") or image.mode == "F":
        return _gray(np.asarray(image), name, bits)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        over = image.convert("RGBA")
        if over.getchannel("A").getextrema() == (255, 255):
            return over.convert("RGB")
        return Image.alpha_composite(Image.new("RGBA", over.size, (*background, 255)), over).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def scaled_gray(values: NDArray[Any], bits: int = 0) -> ImageArray:
    """Whole numbers -> uint8: 0 stays 0, the largest value of ``bits`` (0: :func:`bits_in_use`) becomes 255."""
    wide = values.astype(np.int64)
    bits = bits or bits_in_use(wide)
    if bits == 32:
        wide = np.where(wide < 0, wide + (1 << 32), wide)
    top = (1 << bits) - 1
    return np.minimum((wide * 255 + top // 2) // top, 255).astype(np.uint8)


def _gray(values: NDArray[Any], name: str, bits: int) -> ImageArray:
    """Gray values (H, W) of more than 8 bits, or floats -> (H, W, 3)."""
    if values.dtype.kind == "f":
        if not np.isfinite(values).all():
            raise ImageError("an image with values that are not finite", path=name, fix="Convert it to 8 bits")
        low, high = float(values.min(initial=0)), float(values.max(initial=0))
        scaled = values * 255.0 if low >= 0 and high <= 1 else values
        gray = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
    else:
        gray = scaled_gray(values, bits)
    return np.repeat(gray[..., None], 3, axis=2)


def array_rgb(array: NDArray[Any]) -> ImageArray:
    """An array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) -> (H, W, 3). Raises :class:`ImageError`."""
    shape = array.shape
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape:
        raise ImageError(f"an array of shape {shape} is not an image", fix="Give (H, W), (H, W, 3) or (H, W, 4)")
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    elif array.dtype == np.uint16:
        array = scaled_gray(array)
    elif array.dtype.kind == "f":
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            raise ImageError("a floating-point image has values outside 0..1", fix="Divide by 255 or give uint8")
        array = np.rint(array * 255.0).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise ImageError(f"an image of {array.dtype} values is ambiguous", fix="Give uint8, uint16 or floats in 0..1")
    if array.shape[2] == 4:
        image = Image.fromarray(np.ascontiguousarray(array))
        return np.array(to_rgb(image, "array"))
    return np.array(np.broadcast_to(array, (*array.shape[:2], 3)))


def known_format(head: bytes) -> str | None:
    """The image format by the first bytes of a file."""
    starts = {
        b"\xff\xd8\xff": "JPEG",
        b"\x89PNG\r\n\x1a\n": "PNG",
        b"GIF8": "GIF",
        b"BM": "BMP",
        b"II*\0": "TIFF",
        b"MM\0*": "TIFF",
        b"qoif": "QOI",
        b"\0\0\0\x0cjP  ": "JPEG 2000",
    }
    for start, name in starts.items():
        if head.startswith(start):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    if head[4:8] == b"ftyp":
        return {b"avif": "AVIF", b"avis": "AVIF"}.get(head[8:12])
    return "PNM" if head[:1] == b"P" and head[1:2] in b"123456" and head[2:3].isspace() else None


def refusal(name: str, data: bytes, error: Exception) -> ImageError:
    """The error for a file that is not a usable image, which states what the file is."""
    text = data[:2048].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    known = known_format(data[:16])
    reason = str(error).split("\n")[0][:120]
    if not data:
        what, fix = "an empty file", "Copy or download it again"
    elif text.startswith(b"version https://git-lfs"):
        what, fix = "a git-lfs pointer, not the image itself", "Run git lfs pull"
    elif text.startswith((b"<!doctype html", b"<html", b"<head")):
        what, fix = "an HTML page, not an image", "Download it again; the server sent an error page"
    elif b"<svg" in text:
        what, fix = "an SVG drawing, not pixels", "Render it to PNG"
    elif text.startswith((b"<?xml", b"<annotation")):
        what, fix = "an XML file, not an image", "Name it .xml or remove it"
    elif data[:5] == b"%PDF-":
        what, fix = "a PDF document, not an image", "Export its pages as images"
    elif data[4:8] == b"ftyp" and data[8:12] in (b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"heim"):
        what, fix = "a HEIC photo, which cannot be read here", "Convert it to JPEG"
    elif (data[4:8] == b"ftyp" and known is None) or data.startswith(_VIDEOS) or data[8:12] == b"AVI ":
        what, fix = "a video, not an image", "Extract its frames"
    elif data.startswith((b"PK\x03\x04", b"\x1f\x8b", b"7z\xbc\xaf", b"Rar!")):
        what, fix = "a compressed file, not an image", "Unpack it"
    elif not any(data):
        what, fix = "only zero bytes", "Copy or download it again"
    elif known:
        cut = "truncated" in reason or "Truncated" in reason or "premature" in reason.lower()
        what = f"a {known} file that is {'truncated' if cut else 'damaged'} ({reason})"
        fix = "Copy or download it again"
    elif all(32 <= b < 127 or b in b"\t\r\n" for b in data[:512]):
        what, fix = "a text file, not an image", "Remove it or give the image itself"
    else:
        what, fix = f"not a readable image (it starts with {data[:8].hex(' ')})", "Convert it to JPEG or PNG"
    return ImageError(what, path=name, fix=fix)
