"""Label Studio: its JSON export (tasks with annotations), JSON-MIN, and CSV.

Coordinates are percent of the image. A rectangle is a box, and where it is turned the box around it; a polygon or an
ellipse is a box with a mask; brushes and key points are dropped. Of several annotations of a task one is used: the
ground truth, else the latest. A task without an annotation is skipped, and its predictions are not used. A file of
tasks with predictions alone, as ``foveal predict --format labelstudio`` writes it for an import, is read with those as
its objects, and a warning.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ....files.reading import Unreadable
from ...images.load import EXTENSIONS
from ...records.findings import Findings
from ..entries import NamedImage, NamedObject
from ..entry_source import EntrySource
from ..rows import read_rows
from ..shapes import angle_of, box_around, ellipse, ellipse_box, numbers_of, points_of, turned
from .json_file import read_checked

_LABELS = ("rectanglelabels", "polygonlabels", "ellipselabels", "labels", "choices")  # lists of class names
_NO_BOX = ("brushlabels", "brush", "keypointlabels", "keypoint", "videorectangle", "hypertextlabels", "bitmask")

_SHAPE = ("x", "y", "width", "height", "radiusX", "radiusY", "rotation", "points")
_OF_IMAGE = ("choices", "textarea", "rating", "number", "taxonomy", "datetime", "ranker", "pairwise")  # no region


class LabelStudioSource(EntrySource):
    """One file of Label Studio, or several of one dataset."""

    format = "label-studio"

    def parse(self, file: Path, findings: Findings) -> list[NamedImage]:
        doc = _read_table(file) if file.suffix.lower() in (".csv", ".tsv") else read_checked(file, findings)
        tasks = [doc] if isinstance(doc, dict) else doc
        if not isinstance(tasks, list):
            raise Unreadable("not an export of Label Studio: expected a list of tasks", "Export it again as JSON")
        if _only_predicted(tasks):
            message, fix = (
                "its tasks have predictions and no annotations; the predictions are used",
                "Annotate the tasks",
            )
            findings.add("warning", "predictions-used", file, "", message, fix)
            tasks = [{**task, "annotations": task["predictions"], "predictions": None} for task in tasks]
        images = []
        for n, task in enumerate(tasks):
            where = f"task {task['id']}" if isinstance(task, dict) and "id" in task else f"[{n}]"
            image = _read_task(task, where, file, findings)
            if image is not None:
                images.append(image)
        return images


def _only_predicted(tasks: list[Any]) -> bool:
    """Whether a file is one to import: no task has a list of annotations, every one has predictions."""
    listed = [task for task in tasks if isinstance(task, dict) and isinstance(task.get("predictions"), list)]
    return 0 < len(listed) == len(tasks) and not any({"annotations", "completions"} & task.keys() for task in listed)


def _read_table(file: Path) -> list[dict[str, Any]]:
    """The rows of a CSV as tasks of JSON-MIN: the cells with regions are JSON."""
    (_, header), *rows = read_rows(file)[0]
    tasks = []
    for n, cells in rows:
        task: dict[str, Any] = dict(zip(header, cells, strict=False))
        for key, text in task.items():
            if text.lstrip().startswith("[{"):
                try:
                    task[key] = json.loads(text)
                except ValueError as error:
                    raise Unreadable(f"line {n}: {key!r} is not valid JSON ({error})", "Export it again") from None
        tasks.append({key: value for key, value in task.items() if value != ""})
    return tasks


def _read_task(task: Any, where: str, file: Path, findings: Findings) -> NamedImage | None:
    data = task.get("data", task) if isinstance(task, dict) else None
    name = _image_name(data) if isinstance(data, dict) else ""
    if not name:
        message = f"{str(task)[:60]} names no image; skipped"
        findings.add("warning", "image-invalid", file, where, message, "Export it again")
        return None
    predictions = task.get("predictions")
    if predictions:
        count = len(predictions) if isinstance(predictions, list) else 1
        message = f"{count} predictions are ignored"
        findings.add("note", "predictions-ignored", file, where, message, "Submit them as annotations to use them")
    result = _result(task, where, file, findings)
    if result is None:
        message = f"{name!r} has no annotation, so its objects are unknown; skipped"
        findings.add("warning", "annotation-missing", file, where, message, "Annotate it (also without objects)")
        return NamedImage(name, where, skipped=True)
    image = NamedImage(name, where, fractions=True, layout="top-left")
    sizes = set()
    for k, regions in enumerate(_regions(result), 1):
        place = f"{where}: region {k}"
        found, size = _read_region(regions, place)
        if size is not None:
            sizes.add(size)
        if isinstance(found, str):
            if found:
                findings.add("warning", "shape-invalid", file, place, f"{found}; dropped", "Draw it again")
            else:
                message = "an answer about the whole image, which is ignored"
                findings.add("note", "attributes-ignored", file, place, message)
        else:
            _report_turned(regions, found, file, place, findings)
            image.objects.append(found)
    image.size = sizes.pop() if len(sizes) == 1 else None
    return image


def _image_name(data: dict[str, Any]) -> str:
    """The image of a task: ``image``, else the only value that looks like the path of one."""
    texts = {key: value.strip() for key, value in data.items() if isinstance(value, str)}
    if texts.get("image"):
        return texts["image"]
    found = [text for text in texts.values() if text.split("?")[0].lower().endswith(tuple(EXTENSIONS)) or "?d=" in text]
    return found[0] if len(found) == 1 else ""


def _result(task: dict[str, Any], where: str, file: Path, findings: Findings) -> list[Any] | None:
    """The regions of the annotation to use; ``None`` where the task has none."""
    annotations = task.get("annotations", task.get("completions"))
    if annotations is None:  # JSON-MIN: the lists of regions under the names of the controls
        lists = [v for v in task.values() if isinstance(v, list) and v and all(isinstance(r, dict) for r in v)]
        found = [region for regions in lists for region in regions if {"x", "points"} & region.keys()]
        return found if found or "annotation_id" in task or "annotator" in task else None
    if not isinstance(annotations, list):
        return None
    usable = [a for a in annotations if isinstance(a, dict) and isinstance(a.get("result"), list)]
    usable = [a for a in usable if not a.get("was_cancelled") and not a.get("skipped")]
    if not usable:
        return None
    truth = [a for a in usable if a.get("ground_truth")]
    chosen = max(truth or usable, key=lambda a: str(a.get("updated_at") or a.get("created_at") or ""))
    if len(usable) > 1:
        what = "the ground truth" if len(truth) == 1 else "the latest"
        message = f"{len(usable)} annotations; {what} is used (id {chosen.get('id')})"
        findings.add("warning", "annotations-several", file, where, message, "Keep one annotation of each task")
    result: list[Any] = chosen["result"]
    return result


def _regions(result: Iterable[Any]) -> Iterator[list[dict[str, Any]]]:
    """The entries of each region: one, or several of its ``id`` and shape (the shape, and apart from it the label)."""
    by_id: dict[object, list[dict[str, Any]]] = {}
    for n, entry in enumerate(result):
        if not isinstance(entry, dict):
            by_id[n] = [{"type": str(entry)[:40]}]
            continue
        id, value = entry.get("id"), entry.get("value", entry)
        shape = {k: v for k, v in value.items() if k in _SHAPE} if isinstance(value, dict) else {}
        by_id.setdefault((str(id), str(shape)) if id is not None and shape else n, []).append(entry)
    yield from by_id.values()


def _read_region(entries: list[dict[str, Any]], where: str) -> tuple[NamedObject | str, tuple[float, float] | None]:
    """The object of a region, or why it cannot be used ("": it is no region); and the stated size of the image."""
    values = [entry.get("value", entry) for entry in entries]
    values = [value for value in values if isinstance(value, dict)]
    names = list(dict.fromkeys(name for value in values for key in _LABELS for name in _texts(value.get(key))))
    kinds = {str(entry.get("type")) for entry in entries}
    stated = [numbers_of([e.get("original_width"), e.get("original_height")]) for e in entries]
    size = next(((s[0], s[1]) for s in stated if s is not None), None)
    value = next((v for v in values if {"x", "points"} & v.keys()), None)
    if value is None:
        if kinds <= set(_OF_IMAGE):
            return "", size
        return f"a region of the type {', '.join(sorted(kinds))} has no box that can be read", size
    if kinds & set(_NO_BOX) or ("width" not in value and "points" not in value and "radiusX" not in value):
        return f"a region of the type {', '.join(sorted(kinds))} is no box", size
    if angle_of(entries[0].get("image_rotation")) != 0:
        return f"its image was turned by {entries[0]['image_rotation']} degrees", size
    if len(names) > 1:
        return f"it has {len(names)} classes ({', '.join(names)[:80]})", size
    found = NamedObject(names[0] if names else "", (0, 0, 0, 0), where, "")
    return _set_area(value, found, size) or found, size


def _texts(value: object) -> list[str]:
    """The class names of a list, or of a single text."""
    listed = value if isinstance(value, list) else [value]
    return [str(name).strip() for name in listed if isinstance(name, str | int | float) and str(name).strip()]


def _set_area(value: dict[str, Any], found: NamedObject, size: tuple[float, float] | None) -> str:
    """Sets box and mask, in fractions of the image; why they cannot be used, or ""."""
    points = points_of(value.get("points"))
    if points is not None and len(points) >= 6:
        found.polygons = [[v / 100 for v in points]]
        found.box = box_around(found.polygons[0])
        found.shown = f"of the polygon {' '.join(f'{v:.6g}' for v in points[:6])} ... (percent)"
        return ""
    round_ = "radiusX" in value
    keys = ("x", "y", "radiusX", "radiusY") if round_ else ("x", "y", "width", "height")
    numbers = numbers_of([value.get(key) for key in keys])
    rotation = angle_of(value.get("rotation"))
    found.shown = ", ".join(f"{key} {value.get(key)}" for key in keys) + " (percent)"
    if numbers is None or rotation is None:
        return f"its {found.shown} are not numbers"
    if rotation and size is None:
        return "it is turned and has no original_width and original_height"
    width, height = size or (1.0, 1.0)  # angles are those of pixels
    x, y, w, h = (v / 100 * side for v, side in zip(numbers, (width, height) * 2, strict=True))
    if round_:
        box, polygon = ellipse_box(x, y, w, h, rotation), ellipse(x, y, w, h, rotation)
        found.polygons = [[v / (height if k % 2 else width) for k, v in enumerate(polygon)]]
    elif rotation:
        box = box_around(turned((x, y, x + w, y + h), rotation, (x, y)))
    else:
        box = x, y, x + w, y + h
    found.box = box[0] / width, box[1] / height, box[2] / width, box[3] / height
    return ""


def _report_turned(
    entries: list[dict[str, Any]], found: NamedObject, file: Path, where: str, findings: Findings
) -> None:
    """Of a turned rectangle."""
    value: Any = next((e.get("value", e) for e in entries), {})
    rotation = angle_of(value.get("rotation")) if isinstance(value, dict) else 0
    if rotation and found.polygons is None:
        message = f"it is turned by {rotation:g} degrees; the box around it is used"
        findings.add("note", "box-turned", file, where, message)
