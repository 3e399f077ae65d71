"""Loads images as uint8 RGB, identically for all commands.

Every image becomes (H, W, 3), rotated by its EXIF orientation. The format is recognized by content and never by the
file's extension. Modes are converted so:

====================================  =============================================================================
1 bit, 8-bit gray, palette            looked up or repeated into three channels
gray of more than 8 bits              scaled: 0 stays 0, the largest value of its depth becomes 255. The depth is that
                                      stated in the file (a TIFF of 9 to 15 bits), else the smallest even number of
                                      bits that holds all values of the image: files of 16 bits often use 10 or 12
floating point                        0..1 becomes 0..255; else clipped to 0..255; an error if not finite
16-bit color                         the high byte (libpng's own rule)
alpha, or a transparent color        blended over white (``background``)
CMYK, YCCK                            Pillow's plain formula (Adobe's inversion undone, no color profile)
several frames                        the first
====================================  =============================================================================

Which depths the images of a set use is found by :mod:`.ranges` and told by ``doctor`` and ``train``.
"""

from __future__ import annotations

import io
import os
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ...files.aliases import ImageArray
from ...files.reading import walk
from .header import Header, parse_header, read_header
from .modes import ImageError, TooManyPixels, array_rgb, gray_bits, known_format, refusal, to_rgb

MAX_PIXELS = 200_000_000  # checked in the header, before any pixel is decoded
MOST_SKIPPED = 0.05  # of a dataset's images: training skips up to this many damaged ones, and stops at more
MAX_BYTES = 2 << 30  # larger files are not images
_ENDINGS = """jpg jpeg jpe jfif mpo png bmp dib gif tif tiff webp avif ppm pgm pbm pnm jp2 j2k qoi heic heif"""
EXTENSIONS = frozenset("." + ending for ending in _ENDINGS.split())  # HEIC cannot be read, but is reported
# Pillow's other plug-ins (EPS starts Ghostscript) are not safe for untrusted files
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "DIB", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF", "QOI")
__all__ = [
    "ImageError",
    "as_rgb",
    "decode",
    "deep_values",
    "find_images",
    "image_size",
    "is_image",
    "load_image",
    "probe",
    "upright",
]
_PILLOW = threading.Lock()  # guards Pillow's global pixel limit and Python's global warning filters


def load_image(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> ImageArray:
    """The image in a file: uint8 (H, W, 3) RGB, upright, writable and contiguous.

    Raises :class:`ImageError` if the file is missing, damaged, truncated, not an image, or larger than ``max_pixels``.
    """
    with _open(path) as file:
        data = file.read()
    return decode(data, name=os.fspath(path), max_pixels=max_pixels)


def image_size(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Upright (width, height), from the header only. Raises :class:`ImageError`."""
    return probe(path, max_pixels=max_pixels, complete=False)[0]


def probe(
    path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS, complete: bool = True
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Upright and stored (width, height), from the header only; the EXIF orientation may swap them.

    With ``complete`` a file whose end is missing is decoded, which raises :class:`ImageError` if it is truncated.
    """
    name = os.fspath(path)
    with _open(path) as file:
        header = read_header(file)
        if header is None:
            file.seek(0)
            size = _pillow_size(file, name)
            _limit(size, name, max_pixels)
            return size, size
        _limit(header.upright, name, max_pixels)
        if complete and not header.complete:
            file.seek(0)
            decode(file.read(), name=name, max_pixels=max_pixels)
    return header.upright, (header.width, header.height)


def decode(data: bytes, *, name: str = "image", max_pixels: int = MAX_PIXELS) -> ImageArray:
    """:func:`load_image` of the bytes of a file; ``name`` is used in errors."""
    header = parse_header(data)
    if header is not None:
        _limit(header.upright, name, max_pixels)
        if header.plain:
            try:
                return upright(simplejpeg.decode_jpeg(data, "RGB", strict=True), header.orientation)
            except ValueError:
                pass  # Pillow distinguishes harmless oddities from real damage
    return _decode_pillow(data, name, header, max_pixels)


def deep_values(path: str | os.PathLike[str]) -> tuple[NDArray[Any], int] | None:
    """The values of an image of more than 8 bits, gray as stored (H, W), colors as loaded (H, W, 3); the stated bits.

    ``None`` for an image of 8 bits, or one that cannot be read.
    """
    try:
        with _open(path) as file:
            header = read_header(file)
            file.seek(0)
            depth = file.read(26)[24:]
            if header is not None and (header.format == "JPEG" or depth[:1] != b"\x10"):
                return None
            file.seek(0)
            with _quiet_pillow(), Image.open(file, formats=_FORMATS) as image:
                if image.mode.startswith("I") or image.mode == "F":
                    _limit(image.size, os.fspath(path), MAX_PIXELS)
                    return np.asarray(image), gray_bits(image)
                sample = getattr(image, "tag_v2", {}).get(258, 8)  # BitsPerSample
        if header is not None or max(sample if isinstance(sample, tuple) else (sample,)) > 8:
            return load_image(path), 16
    except Exception:  # a damaged file, which loading reports, may raise anything from a decoder
        return None
    return None


def as_rgb(source: Any, *, max_pixels: int = MAX_PIXELS) -> ImageArray:
    """One image in any form -> uint8 (H, W, 3) RGB.

    Paths, bytes, binary file objects, PIL images (EXIF rotation applied), NumPy arrays (H, W), (H, W, 1), (H, W, 3) or
    (H, W, 4), and torch tensors (C, H, W); integers of 8 or 16 bits, booleans, or floats in 0..1. Raises
    :class:`ImageError` for anything else.
    """
    if isinstance(source, str | os.PathLike):
        return load_image(source, max_pixels=max_pixels)
    if isinstance(source, bytes | bytearray | memoryview):
        return decode(bytes(source), max_pixels=max_pixels)
    if isinstance(source, Image.Image):
        _limit(source.size, "PIL image", max_pixels)
        return np.array(to_rgb(ImageOps.exif_transpose(source), "PIL image"))
    if isinstance(source, np.ndarray):
        return array_rgb(source)
    if type(source).__module__.split(".")[0] == "torch":
        array = source.detach().cpu()
        array = np.asarray(array.float() if array.is_floating_point() else array)
        return array_rgb(array.transpose(1, 2, 0) if array.ndim == 3 else array)
    if hasattr(source, "read"):
        data = source.read()
        if isinstance(data, bytes):
            return decode(data, name=str(getattr(source, "name", "image")), max_pixels=max_pixels)
    raise ImageError(f"a {type(source).__name__} is not an image", fix="Give a path, bytes, a PIL image or an array")


def find_images(folder: str | os.PathLike[str], *, recursive: bool = False) -> list[Path]:
    """The images in a folder, sorted, by extension or else by content, without hidden files.

    A damaged file with an image's extension is listed, so that loading reports it, and so is a folder that cannot be
    listed.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ImageError("no such folder", path=root)
    if not os.access(root, os.R_OK | os.X_OK):
        raise ImageError("the folder cannot be read (permission denied)", path=root, fix="Change its permissions")
    refused: list[Path] = []
    files = [Path(base, name) for base, names in walk(root, recursive=recursive, refused=refused) for name in names]
    return sorted([*refused, *(path for path in files if is_image(path))])


def is_image(path: Path) -> bool:
    """Whether a file is an image by its extension, or by its content where the extension is unknown."""
    suffix = path.suffix.lower()
    if suffix in EXTENSIONS:
        return True
    if suffix in {".txt", ".xml", ".json", ".yaml", ".yml", ".csv", ".md", ".html", ".pt", ".pth", ".npz", ".npy"}:
        return False
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            head = file.read(16)
    except OSError:
        return False
    return known_format(head) is not None


def upright(pixels: ImageArray, orientation: int) -> ImageArray:
    """Rotates and flips stored pixels (H, W, 3) by the EXIF orientation 1..8."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


# ------------------------------------------------------------------------------------------------- inner
@contextmanager
def _open(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Opens a regular file; pipes and devices would hang."""
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise ImageError("a folder, not an image", path=Path(path))
        if not stat.S_ISREG(status.st_mode):
            raise ImageError("not a regular file", path=Path(path))
        if status.st_size > MAX_BYTES:
            raise ImageError(f"{status.st_size:,} bytes are too large for an image", path=Path(path))
        file = open(path, "rb")  # noqa: SIM115 (closed below; only opening is guarded)
    except FileNotFoundError:
        raise ImageError("no such file", path=Path(path)) from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"cannot be read ({reason})", path=os.fspath(path)) from None
    with file:
        yield file


def _limit(size: tuple[int, int], name: str, max_pixels: int) -> None:
    if size[0] * size[1] > max_pixels:
        raise TooManyPixels(
            f"{size[0]} x {size[1]} pixels are more than the limit of {max_pixels:,}",
            path=name,
            fix="Make it smaller, or raise max_pixels for trusted files",
        )


@contextmanager
def _quiet_pillow() -> Iterator[None]:
    """Pillow without its pixel limit (ours is checked instead) and without warnings on stderr."""
    with _PILLOW, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _pillow_size(file: BinaryIO, name: str) -> tuple[int, int]:
    data = file.read(64)
    file.seek(0)
    try:
        with _quiet_pillow(), Image.open(file, formats=_FORMATS) as image:
            width, height = image.size
            swapped = image.format != "PNG" and image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
            if image.format == "TIFF":  # newer versions of Pillow report the upright size
                tags = image.tag_v2  # type: ignore[attr-defined]
                width, height = int(tags[256]), int(tags[257])
    except Exception as error:  # a damaged file may raise anything from a decoder
        file.seek(0)
        raise refusal(name, file.read(4096) or data, error) from None
    if 0 in (width, height):
        raise ImageError("an image without pixels", path=name)
    return (height, width) if swapped else (width, height)


def _decode_pillow(data: bytes, name: str, header: Header | None, max_pixels: int) -> ImageArray:
    # a PNG of ordinary size raises no warning and needs no lock, so that several threads may decode at once
    free = header is not None and header.format == "PNG" and header.width * header.height < 64_000_000
    try:
        with nullcontext() if free else _quiet_pillow():
            image: Image.Image = Image.open(io.BytesIO(data), formats=_FORMATS)
            if 0 in image.size:
                raise ImageError("an image without pixels", path=name)
            _limit(image.size, name, max_pixels)
            bits = gray_bits(image)
            image.load()
            if header is None:
                image = ImageOps.exif_transpose(image)
            pixels = np.array(to_rgb(image, name, bits))
    except ImageError:
        raise
    except Exception as error:  # a damaged file may raise anything from a decoder
        raise refusal(name, data, error) from None
    return pixels if header is None else upright(pixels, header.orientation)
