"""Renders the report of ``foveal doctor`` as one HTML page without scripts or links."""

from __future__ import annotations

from collections.abc import Mapping

from ...files.pages import page_environment, page_style, template_text
from ...files.text import one_line
from ..records.dataset import Dataset
from ..records.findings import Finding, printable
from .charts import SIDE_NAMES, bars, figure
from .detector_fit import DetectorFit, fit_section
from .pictures import CLASSES, Pictures, class_pictures, finding_pictures
from .report import Report

PACKAGE = "foveal.data.doctor"
LARGE = 20_000_000  # pixels of a photo that is worth a word


def page(report: Report, parts: Mapping[str, Dataset] | None = None, fit: DetectorFit | None = None) -> str:
    """The page, without scripts or links. All text from the dataset is escaped.

    ``parts``: the splits, for pictures (None: a page without any); ``fit``: how the objects fit a detector.
    """
    kinds: dict[tuple[str, str], list[Finding]] = {}
    for finding in report.findings:
        kinds.setdefault((finding.severity, finding.code), []).append(finding)
    pictures, shown, looks = Pictures(), {}, []
    if parts is not None:
        records = {str(r.path): r for part in parts.values() for r in part.records}
        shown = finding_pictures(report.findings, parts, pictures)
        looks = class_pictures(report.classes, list(records.values()), pictures)
    section = None if fit is None else fit_section(fit, pictures)
    pictures.draw()
    environment = page_environment()
    rows = _class_rows(report)
    text = environment.from_string(template_text("doctor.html", PACKAGE)).render(
        r=report,
        css=page_style(),
        notes=_notes(report),
        heads=("images", "without objects", "objects", "difficult", "crowd", "small", "medium", "large"),
        kinds=[(severity, code, same, shown.get((severity, code), [])) for (severity, code), same in kinds.items()],
        rows=[row for row in rows if any(row[1])],
        unused=[name for name, cells in rows if not any(cells)],
        side_bars=bars(SIDE_NAMES, report.box_sides),
        looks=[(one_line(name), some) for name, some in looks],
        more_classes=len(looks) == CLASSES < len(report.classes),
        figure=figure,
        fit=None if section is None else section(),
        pictured=parts is not None,
    )
    return printable(text)


def _class_rows(report: Report) -> list[tuple[str, list[int]]]:
    """Each class with its images and objects in every split, as Table 1 of many papers."""
    rows: dict[str, list[int]] = {}
    for k, split in enumerate(report.splits):
        for c in split.classes:
            cells = rows.setdefault(one_line(c.name), [0] * (2 * len(report.splits)))
            cells[2 * k : 2 * k + 2] = c.images, c.objects
    return list(rows.items())


def _notes(report: Report) -> list[str]:
    """What is unusual about the set, a sentence each."""
    out = []
    if not report.images:
        out.append("The set has no image.")
    elif not report.objects:
        out.append("No image has an object.")
    if len(report.classes) == 1:
        out.append("The set has a single class.")
    empty = sum(s.empty for s in report.splits)
    if report.objects and empty:
        out.append(f"{empty} images have no object: they teach the detector what is none.")
    large = [(w, h) for w, h, _ in report.image_sizes if w * h >= LARGE]
    if large:
        w, h = max(large, key=lambda size: size[0] * size[1])
        out.append(
            f"The largest photo has {w} x {h} pixels ({w * h / 1e6:.0f} megapixels); pictures are reduced copies."
        )
    return out
