"""Which images trained a model: hashes of their content, small enough to travel with its weights."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ...errors import FovealError
from .dataset import Record

BYTES = 6  # of a hash: among 100,000 images of either set a chance of 1 in 28,000 that two unlike ones agree
SAMPLES, SAMPLE = 8, 8192  # of a larger file so many pieces of so many bytes are hashed, and its size


def image_hash(path: Path) -> bytes | None:
    """The hash of an image file's content, whatever its name; None: it cannot be read."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            digest = hashlib.blake2b(str(size).encode(), digest_size=BYTES)
            if size <= SAMPLES * SAMPLE:
                digest.update(file.read())
            else:
                for index in range(SAMPLES):
                    file.seek((size - SAMPLE) * index // (SAMPLES - 1))
                    digest.update(file.read(SAMPLE))
    except OSError:
        return None
    return digest.digest()


def image_hashes(records: Sequence[Record]) -> list[bytes | None]:
    """The hash of each record's image."""
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda record: image_hash(record.path), records))


def unread(records: Sequence[Record], hashes: Sequence[bytes | None]) -> str:
    """A warning about images whose content could not be read to be hashed; empty: there are none."""
    names = [record.path.name for record, each in zip(records, hashes, strict=True) if each is None]
    if not names:
        return ""
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"warning: {shown} cannot be read now; should the model learn from it later, evaluation on it is not told"


def pack(hashes: Iterable[bytes | None], *packed: str) -> str:
    """Hashes, and those of texts that are ``packed`` already, as one text of 8 characters an image."""
    distinct = {each for each in hashes if each is not None}.union(*map(unpack, packed))
    return base64.b64encode(b"".join(sorted(distinct))).decode()


def unpack(text: str) -> frozenset[bytes]:
    """The hashes in a text of :func:`pack`. Raises :class:`FovealError` for another text."""
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:
        data = b"?"
    if len(data) % BYTES:
        raise FovealError("is not a list of hashes", where="trained_on", fix="Export the model again")
    return frozenset(data[i : i + BYTES] for i in range(0, len(data), BYTES))
