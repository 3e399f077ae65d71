"""Writes a dataset as PASCAL VOC."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from ...files.reading import Unreadable
from ..formats.class_list import read_class_list
from ..formats.voc.elements import SOURCE
from ..records.dataset import Record
from ..records.findings import Findings
from .plan import CONTROL, ExportPlan, line_names, lose_masks, number_text, write_document, write_image


def write_voc(plan: ExportPlan, out: Path, link: bool) -> None:
    """A devkit year folder: JPEGImages, Annotations, ImageSets/Main and classes.txt."""
    (out / "Annotations").mkdir()
    classes = line_names(plan)
    lose_masks(plan, "VOC")
    for record, name in zip(plan.records, plan.names, strict=True):
        write_image(record, out / "JPEGImages" / name, link)
        xml = out / "Annotations" / f"{Path(name).stem}.xml"
        xml.write_text(voc_xml(record, classes, name), encoding="utf-8")
    sets = out / "ImageSets" / "Main"
    for split, members in plan.members.items():
        if split:
            sets.mkdir(parents=True, exist_ok=True)
            lines = "".join(f"{Path(plan.names[i]).stem}\n" for i in members)
            (sets / f"{split}.txt").write_text(lines, encoding="utf-8")
    _write_classes(out / "classes.txt", classes)


def _write_classes(file: Path, names: Sequence[str]) -> None:
    """One name a line; a JSON list where lines would be read as something else, such as ``# 1`` or ``1 euro``."""
    file.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    try:
        plain = read_class_list(file, Findings()) == list(names)
    except Unreadable:
        plain = False
    if not plain:
        write_document(list(names), file)


def voc_xml(record: Record, classes: Sequence[str], file_name: str) -> str:
    """The VOC annotation of a record: boxes 1-based and inclusive, integers where possible."""

    def text(value: str) -> str:
        return escape(CONTROL.sub(" ", value))

    lines = [
        "<annotation>",
        f"\t<filename>{text(file_name)}</filename>",
        f"\t<source><annotation>{SOURCE}</annotation></source>",
        f"\t<size><width>{record.width}</width><height>{record.height}</height><depth>3</depth></size>",
        "\t<segmented>0</segmented>",
    ]
    for k, box in enumerate(record.boxes.tolist()):
        corners = {"xmin": box[0] + 1, "ymin": box[1] + 1, "xmax": box[2], "ymax": box[3]}
        bndbox = "".join(f"<{key}>{number_text(value)}</{key}>" for key, value in corners.items())
        crowd = "<crowd>1</crowd>" if record.crowd[k] else ""
        lines += [
            "\t<object>",
            f"\t\t<name>{text(classes[record.labels[k]])}</name>",
            "\t\t<pose>Unspecified</pose>",
            "\t\t<truncated>0</truncated>",
            f"\t\t<difficult>{int(record.difficult[k])}</difficult>{crowd}",
            f"\t\t<bndbox>{bndbox}</bndbox>",
            "\t</object>",
        ]
    return "\n".join([*lines, "</annotation>", ""])
