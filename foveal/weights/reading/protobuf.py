"""Tells ONNX, Caffe, TensorFlow and Core ML files apart: all are protocol buffers, without a mark of their own."""

from __future__ import annotations

from collections.abc import Iterator

_LONGEST = 10  # bytes of a varint


def protobuf_kind(head: bytes, tail: bytes, size: int) -> str | None:
    """What a protocol buffer is, by its first fields; None for anything else.

    ``head``: the first bytes. The message may go on behind them, which ends the reading. ``size``: of the file.
    """
    fields = list(_fields(head, size))
    if not fields:
        return None
    numbers = [number for number, _, _ in fields]
    first, kind, value = fields[0]
    if (first, kind) == (1, 0):  # a version
        version = int.from_bytes(value, "little")
        texts = {number: text for number, wire, text in fields if wire == 2}
        producer = texts.get(2, b"")
        is_named = producer[:1].isalpha() and producer.isascii() and len(producer) < 100
        if (2 in texts and is_named) or 7 in numbers or 8 in numbers:
            return "an ONNX network" if version < 100 else None
        if 2 in texts and version == 1 and (b"serve" in head or b"saved_model" in head or b"\x12\x05serve" in tail):
            return "a TensorFlow model (saved_model.pb)"
        if 2 in texts and producer[:1] == b"\x0a" and version < 100:
            return "a Core ML or TensorFlow model"
        return None
    if (first, kind) != (1, 2):
        return None
    if value[:1] == b"\x0a" and len(value) > 2:  # a message that begins with a name: a node
        inner = list(_fields(value, len(value)))
        is_node = [number for number, _, _ in inner[:2]] == [1, 2] and inner[0][2].isascii()
        return "a TensorFlow graph (.pb)" if is_node else None
    if value[:1].isalpha() and value.isascii() and any(n in (2, 3, 4, 6, 7, 8, 100) for n in numbers[1:]):
        return "a Caffe network (.caffemodel)"
    return None


def _fields(data: bytes, size: int) -> Iterator[tuple[int, int, bytes]]:
    """(number, wire type, bytes) of the fields of a message of ``size`` bytes, of which ``data`` are the first.

    The last field may be cut. Nothing where these bytes cannot begin such a message.
    """
    found: list[tuple[int, int, bytes]] = []
    at = 0
    while at < len(data):
        key, start = _varint(data, at)
        number, wire = key >> 3, key & 7
        if number == 0 or number > 2000 or wire not in (0, 1, 2, 5):
            return
        length = {1: 8, 5: 4}.get(wire, 0)
        if wire == 0:
            _, end = _varint(data, start)
            found.append((number, wire, data[start:end]))
        else:
            if wire == 2:
                length, start = _varint(data, start)
            if start + length > size:
                return
            end = start + length
            found.append((number, wire, data[start:end]))
        at = end
    yield from found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The number at ``at``, and where it ends; cut ones are taken as they are."""
    value = 0
    for i in range(_LONGEST):
        if at + i >= len(data):
            return value, len(data)
        value |= (data[at + i] & 127) << (7 * i)
        if data[at + i] < 128:
            return value, at + i + 1
    return value, at + _LONGEST
