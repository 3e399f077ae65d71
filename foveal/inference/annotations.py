"""Writes detections as the annotations of labeling tools, to be corrected there: ``predict --format``."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..data.convert import convert
from ..data.formats.class_list import read_class_list
from ..data.records.dataset import Dataset, Record
from ..data.records.findings import Finding, Findings
from ..data.writing.label_studio import (
    LOCAL_FILES,
    LabelConfig,
    config_text,
    local_address,
    prediction_of,
    read_label_config,
    regions_of,
)
from ..errors import FovealError, UsageError, nearest
from ..files.atomic import write_json, write_text
from ..files.reading import Unreadable, read_text
from .predict import PredictedImages, Prediction

AnnotationFormat = Literal["labelstudio", "cvat", "coco", "yolo", "voc"]
ROOT = "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT"  # Label Studio's own variable: the folder whose files it shows


@dataclass(frozen=True)
class WrittenAnnotations:
    """What :meth:`AnnotationWriter.write` has written."""

    path: Path
    images: int
    objects: int
    unknown: tuple[str, ...] = ()  # classes of the detector that the configuration has no label for
    left_out: int = 0  # detections of those classes
    findings: list[Finding] = field(default_factory=list)  # what the format cannot store
    config: Path | None = None  # a labeling configuration that fits, where none was given


@dataclass
class AnnotationWriter:
    """Writes what :func:`~foveal.inference.predict.predict` returns as annotations.

    ``labelstudio``: ``out`` is a new JSON file of tasks with predictions of model ``version``. The address of an image
    is ``prefix`` and its path below the folder that the environment calls LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT, else
    below the current folder. Other formats: ``out`` is a new folder with the images (copies, or links with ``link``),
    as :func:`~foveal.data.convert.convert` writes it; masks are kept where the format stores some.

    ``labels`` is a file with the names of the project, whose order is kept: Label Studio's XML, CVAT's JSON, or a list
    of names. A detection of a class without a label is left out, and counted in the result.

    Raises :class:`FovealError` where ``out`` exists, and for a file that lists no labels.
    """

    out: Path
    format: AnnotationFormat
    labels: Path | None = None
    version: str = "foveal"
    prefix: str | None = None
    link: bool = False

    def __post_init__(self) -> None:
        folder = self.format != "labelstudio" and self.out.is_dir() and not any(self.out.iterdir())
        if self.out.exists() and not folder:
            raise FovealError("exists already", path=self.out, fix="Choose another name")
        if self.prefix is not None and self.format != "labelstudio":
            raise UsageError("the addresses of images are for labelstudio alone", fix="Leave the prefix out")
        self._config = None if self.labels is None else _read_labels(self.labels, self.format)

    def label_of(self, classes: Sequence[str]) -> dict[str, str | None]:
        """The label of each class of a detector. Raises :class:`FovealError` where none has one."""
        if self._config is None:
            return {name: name for name in classes}
        found = {name: self._config.label_of(name) for name in classes}
        if not any(label is not None for label in found.values()):
            raise FovealError(
                f"has no label for any class of the detector ({', '.join(classes[:10])})",
                path=self.labels,
                fix=nearest(classes[0], self._config.labels, "labels"),
            )
        return found

    def write(self, done: PredictedImages, classes: Sequence[str]) -> WrittenAnnotations:
        """``classes``: all that the detector may find."""
        label_of = self.label_of(classes)
        found = [image.detections.to_list() for image in done.images]
        count = Counter(label_of[str(one["label"])] is None for of_image in found for one in of_image)
        unknown = tuple(name for name, label in label_of.items() if label is None)
        written = WrittenAnnotations(self.out, len(done.images), count[False], unknown, count[True])
        config = self._config or LabelConfig(labels=tuple(classes))
        if self.format == "labelstudio":
            self._write_tasks(done.images, found, config)
            example = self.out.with_suffix(".xml")
            if self._config is not None or example.exists():
                return written
            write_text(example, config_text(classes))
            return replace(written, config=example)
        number = {name: config.labels.index(label) for name, label in label_of.items() if label is not None}
        data = Dataset(config.labels, [_record(*each, number) for each in zip(done.images, found, strict=True)])
        return replace(written, findings=convert(data, self.out, self.format, link=self.link).findings)

    def _write_tasks(self, images: Sequence[Prediction], found: Sequence[list[Any]], config: LabelConfig) -> None:
        """``found``: the detections of each image, as ``Detections.to_list`` gives them."""
        root, prefix = Path(os.environ.get(ROOT) or Path()), LOCAL_FILES if self.prefix is None else self.prefix
        tasks = []
        for image, detections in zip(images, found, strict=True):
            regions = regions_of(detections, image.width, image.height, config)
            address = local_address(Path(image.image), root, prefix)
            tasks.append({"data": {config.key: address}, "predictions": [prediction_of(regions, self.version)]})
        write_json(self.out, tasks)


def _read_labels(path: Path, format: AnnotationFormat) -> LabelConfig:
    """The labels of a project. Raises :class:`FovealError` for a file that lists none."""
    try:
        text, _ = read_text(path)
        if format == "labelstudio":
            return read_label_config(text, path)
        names = _cvat_labels(text) or read_class_list(path, Findings())
    except Unreadable as error:
        raise FovealError(error.message, path=path, fix=error.fix) from None
    if len(set(names)) < len(names):
        raise FovealError("has a label twice", path=path, fix="Remove one of the two")
    return LabelConfig(labels=tuple(names))


def _cvat_labels(text: str) -> list[str]:
    """The names in CVAT's "raw" list of labels, ``[{"name": ...}, ...]``; none for another text."""
    try:
        doc = json.loads(text)
    except ValueError:
        return []
    listed = isinstance(doc, list) and all(isinstance(e, dict) and isinstance(e.get("name"), str) for e in doc)
    return [str(entry["name"]) for entry in doc] if listed else []


def _record(image: Prediction, detections: Sequence[Mapping[str, Any]], label_of: Mapping[str, int]) -> Record:
    """The detections of an image as the objects of a dataset."""
    found = [f for f in detections if f["label"] in label_of]
    boxes = np.array([f["box"] for f in found], np.float64).reshape(-1, 4)
    off = np.zeros(len(found), np.bool_)
    masks: list[Any] = [f.get("mask") for f in found]
    path = Path(image.image)
    return Record(
        path.stem,
        path,
        image.width,
        image.height,
        boxes,
        np.array([label_of[f["label"]] for f in found], np.int64),
        off,
        off.copy(),
        off.copy(),
        (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]),
        masks if any(mask is not None for mask in masks) else None,
    )
