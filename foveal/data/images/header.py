"""Reads size, EXIF orientation and completeness of JPEG and PNG files from their headers.

Pillow takes ten times as long (and decodes a whole PNG to find its EXIF). For anything unusual the result is ``None``,
and Pillow reads the file.
"""

from __future__ import annotations

import io
import re
import zlib
from dataclasses import dataclass
from typing import BinaryIO, Literal

_XMP_JPEG = b"http://ns.adobe.com/xap/1.0/\0"
_XMP_PNG = b"XML:com.adobe.xmp\0\0\0"
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')
_TAIL = 1 << 16  # bytes: the end marker of a JPEG is this near to the end of the file (cameras append data)
_CHUNK = 1 << 16  # bytes of a PNG chunk that are read for its orientation


@dataclass(frozen=True)
class Header:
    """The content of a header; ``width`` and ``height`` are of the stored image, before the EXIF rotation."""

    format: Literal["JPEG", "PNG"]
    width: int
    height: int
    orientation: int  # EXIF 1..8
    plain: bool = False  # an 8-bit gray or color JPEG, which simplejpeg decodes
    complete: bool = True  # False: the end of the image is missing

    @property
    def upright(self) -> tuple[int, int]:
        """(width, height) after the EXIF rotation: orientations 5 to 8 swap them."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)


def read_header(file: BinaryIO) -> Header | None:
    """The header of an open JPEG or PNG file; ``None`` for other formats and for a damaged header."""
    file.seek(0)
    magic = file.read(8)
    if magic[:3] == b"\xff\xd8\xff":
        return _jpeg(file)
    if magic == b"\x89PNG\r\n\x1a\n":
        return _png(file)
    return None


def parse_header(data: bytes) -> Header | None:
    """:func:`read_header` of bytes in memory."""
    return read_header(io.BytesIO(data))


def _jpeg(file: BinaryIO) -> Header | None:
    """Walks the marker segments up to the start of the scan (ITU T.81, annex B)."""
    file.seek(2)
    size: tuple[int, int] | None = None
    exif = xmp = 0
    plain = False
    while True:
        head = file.read(2)
        if len(head) < 2 or head[0] != 0xFF:
            return None
        marker = head[1]
        while marker == 0xFF:  # fill bytes
            marker = (file.read(1) or b"\0")[0]
        if marker == 0x01 or 0xD0 <= marker <= 0xD7:
            continue
        length = int.from_bytes(file.read(2), "big") - 2
        if length < 0:
            return None
        if marker == 0xDA:
            break
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            frame = file.read(length)
            if len(frame) < 6:
                return None
            size = int.from_bytes(frame[3:5], "big"), int.from_bytes(frame[1:3], "big")
            plain = marker in (0xC0, 0xC1, 0xC2) and frame[0] == 8 and frame[5] in (1, 3)
        elif marker == 0xE1 and not exif:
            body = file.read(length)
            if body[:6] == b"Exif\0\0":
                exif = exif_orientation(body[6:])
            elif body.startswith(_XMP_JPEG) and not xmp:
                xmp = _xmp_orientation(body)
        else:
            file.seek(length, io.SEEK_CUR)
    if size is None or 0 in size:  # height 0 is legal (it follows the scan), but so rare that it is left to Pillow
        return None
    end = file.seek(0, io.SEEK_END)
    file.seek(max(0, end - 2))
    complete = file.read() == b"\xff\xd9"
    if not complete:
        file.seek(max(0, end - _TAIL))
        complete = b"\xff\xd9" in file.read()
    return Header("JPEG", *size, orientation=exif or xmp or 1, plain=plain, complete=complete)


def _png(file: BinaryIO) -> Header | None:
    """Walks the chunks to the end: an EXIF chunk may follow the pixels (PNG 3rd edition, 11.3)."""
    end = file.seek(0, io.SEEK_END)
    at, exif, xmp, size = 8, 0, 0, (0, 0)
    while True:
        file.seek(at)
        head = file.read(8)
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        at += length + 12
        if len(head) < 8 or at > end:
            return Header("PNG", *size, orientation=exif or xmp or 1, complete=False) if 0 not in size else None
        if kind == b"IHDR":
            body = file.read(8)
            size = int.from_bytes(body[:4], "big"), int.from_bytes(body[4:], "big")
        elif kind == b"eXIf":
            exif = exif_orientation(file.read(min(length, _CHUNK)))
        elif kind == b"iTXt" and length > len(_XMP_PNG):
            body = file.read(min(length, _CHUNK))
            if body.startswith(_XMP_PNG):
                xmp = _xmp_orientation(body)
        elif kind in (b"tEXt", b"zTXt") and not exif:
            exif = _raw_profile(file.read(min(length, _CHUNK)))
        elif kind == b"IEND":
            return Header("PNG", *size, orientation=exif or xmp or 1) if 0 not in size else None


def exif_orientation(exif: bytes) -> int:
    """EXIF orientation 1..8 of a TIFF structure; 0 where it has none or is damaged (TIFF 6.0, section 2)."""
    if exif.startswith(b"Exif\0\0"):
        exif = exif[6:]
    order: Literal["little", "big"]
    if exif[:2] == b"II":
        order = "little"
    elif exif[:2] == b"MM":
        order = "big"
    else:
        return 0
    at = int.from_bytes(exif[4:8], order)
    entries = int.from_bytes(exif[at : at + 2], order)
    for i in range(entries):
        entry = exif[at + 2 + 12 * i : at + 14 + 12 * i]
        if len(entry) < 12:
            return 0
        if int.from_bytes(entry[:2], order) == 0x0112:
            width = {1: 1, 3: 2, 4: 4}.get(int.from_bytes(entry[2:4], order), 2)  # BYTE, SHORT, LONG
            value = int.from_bytes(entry[8 : 8 + width], order)
            return value if 1 <= value <= 8 else 0
    return 0


def _xmp_orientation(packet: bytes) -> int:
    match = _XMP_ORIENTATION.search(packet)
    value = int(match.group(1)) if match else 0
    return value if 1 <= value <= 8 else 0


def _raw_profile(chunk: bytes) -> int:
    """The orientation in ImageMagick's hexadecimal ``Raw profile type exif`` text, 0 where there is none."""
    keyword, _, text = chunk.partition(b"\0")
    if keyword != b"Raw profile type exif":
        return 0
    try:
        if text[:1] == b"\0":  # zTXt: method 0, then a zlib stream
            text = zlib.decompressobj().decompress(text[1:], _CHUNK)
        return exif_orientation(bytes.fromhex("".join(text.decode("ascii").split()[2:])))
    except (zlib.error, ValueError):
        return 0
