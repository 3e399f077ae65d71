"""Writes a dataset as CVAT's XML for images 1.1."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from ..records.dataset import Record
from .plan import ExportPlan, line_names, lose_overlaps, number_text, write_image
from .shapes import MaskShape, report_boxes, shapes_of


def write_cvat(plan: ExportPlan, out: Path, link: bool) -> None:
    """``images/[SPLIT/]`` and ``annotations.xml``, where an image's ``subset`` is its split."""
    classes = line_names(plan)
    lose_overlaps(plan, "CVAT")
    worst: dict[str, float] = {}
    attributes = "".join(
        f"<attribute><name>{name}</name><mutable>False</mutable><input_type>checkbox</input_type>"
        "<default_value>false</default_value><values>false</values></attribute>"
        for name in ("difficult", "is_crowd")
    )
    labels = "".join(
        f"<label><name>{escape(name)}</name><type>any</type><attributes>{attributes}</attributes></label>\n"
        for name in classes
    )
    with (out / "annotations.xml").open("w", encoding="utf-8") as file:
        file.write('<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n')
        file.write(f"<meta><task><labels>\n{labels}</labels></task></meta>\n")
        for n, (record, folder, name) in enumerate(zip(plan.records, plan.folder, plan.names, strict=True)):
            write_image(record, out / "images" / folder / name, link)
            file.write(_image(record, n, folder, name, classes, shapes_of(plan, record, "CVAT", worst)))
        file.write("</annotations>\n")
    report_boxes(plan, "CVAT", worst)


def _image(record: Record, n: int, split: str, name: str, classes: Sequence[str], shapes: Sequence[MaskShape]) -> str:
    path = "/".join(part for part in (split, name) if part)
    subset = f" subset={quoteattr(split)}" if split else ""
    size = f'width="{record.width}" height="{record.height}"'
    lines = [f'<image id="{n}" name={quoteattr(path)}{subset} {size}>']
    for k, shape in enumerate(shapes):
        label = f'label={quoteattr(classes[record.labels[k]])} source="manual" occluded="0"'
        flags = {"difficult": record.difficult[k], "is_crowd": record.crowd[k]}
        inner = "".join(f'<attribute name="{key}">true</attribute>' for key, on in flags.items() if on)
        lines += [f'<{kind} {label} {numbers} z_order="0">{inner}</{kind}>' for kind, numbers in _parts(shape, k + 1)]
    return "\n".join([*lines, "</image>", ""])


def _parts(shape: MaskShape, group: int) -> list[tuple[str, str]]:
    """The elements of a shape and their numbers. The polygons of an object share a ``group_id``."""
    if shape.polygons is not None:
        same = f' group_id="{group}"' if len(shape.polygons) > 1 else ""
        return [("polygon", f'points="{_points(polygon)}"{same}') for polygon in shape.polygons]
    if shape.bits is None:
        corners = zip(("xtl", "ytl", "xbr", "ybr"), shape.box, strict=True)
        return [("box", " ".join(f'{key}="{number_text(value)}"' for key, value in corners))]
    height, width = shape.bits.shape
    runs = [(bool(bit), sum(1 for _ in same)) for bit, same in groupby(shape.bits.ravel().tolist())]
    lengths = [0] * runs[0][0] + [count for _, count in runs]  # zeros first
    place = f'left="{shape.left}" top="{shape.top}" width="{width}" height="{height}"'
    return [("mask", f'rle="{", ".join(map(str, lengths))}" {place}')]


def _points(polygon: Sequence[float]) -> str:
    numbers = list(map(number_text, polygon))
    return ";".join(f"{x},{y}" for x, y in zip(numbers[0::2], numbers[1::2], strict=True))
