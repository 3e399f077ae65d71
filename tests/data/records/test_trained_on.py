"""Hashes of the images that trained a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from foveal.data.records.trained_on import BYTES, image_hash, pack, unpack
from foveal.errors import FovealError


def test_a_hash_is_of_the_content_alone(tmp_path: Path) -> None:
    data = np.random.default_rng(0).integers(0, 256, 1_000_001, np.uint8).tobytes()
    for size in (0, 1, 65_536, 65_537, 1_000_000):
        a, b, c, d = (tmp_path / name for name in ("a.jpg", "b.png", "c.jpg", "d.jpg"))
        a.write_bytes(data[:size])
        b.write_bytes(data[:size])
        c.write_bytes(data[: size + 1])
        d.write_bytes(data[: size - 1] + b"?" if size else b"?")
        digest = image_hash(a)
        assert digest is not None and len(digest) == BYTES
        assert image_hash(b) == digest != image_hash(c)
        assert image_hash(d) != digest  # the last byte is another
    assert image_hash(tmp_path / "missing.jpg") is None


def test_packed_hashes_are_read_back_and_joined() -> None:
    one, two, three = b"aaaaaa", b"bbbbbb", b"cccccc"
    text = pack([two, None, one, two])
    assert len(text) == 2 * 8 and unpack(text) == {one, two}
    assert pack([three], text, "") == pack([one, two, three])
    assert pack([]) == "" and unpack("") == frozenset()
    for wrong in ("abc", "YWJj", "?"):
        with pytest.raises(FovealError, match="not a list of hashes"):
            unpack(wrong)
