"""Writes detections as Label Studio's tasks with predictions, for a labeling configuration whose names they must match.

A prediction whose names do not match those of the configuration is not shown by Label Studio, which says nothing. So
the configuration is read first: :func:`read_label_config`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree.ElementTree import Element
from xml.sax.saxutils import quoteattr

import defusedxml.ElementTree as safe_xml
from defusedxml.common import DefusedXmlException

from ...errors import FovealError

LOCAL_FILES = "/data/local-files/?d="  # Label Studio's address of a file below its document root


@dataclass(frozen=True)
class LabelConfig:
    """What predictions must name: the control tag of rectangles, the image it belongs to, and its labels."""

    from_name: str = "label"  # the defaults are those of Label Studio's template for boxes
    to_name: str = "image"
    key: str = "image"  # of a task's data, whose value is the address of the image
    labels: tuple[str, ...] = ()
    predicted: Mapping[str, str] = field(default_factory=dict)  # predicted_values: name of a class -> label

    def label_of(self, name: str) -> str | None:
        """The label of a class: by ``predicted_values``, by its name, or by its name in other capitals."""
        if name in self.predicted or name in self.labels:
            return self.predicted.get(name, name)
        same = [label for label in self.labels if label.casefold() == name.casefold()]
        return same[0] if len(same) == 1 else None


def read_label_config(text: str, path: str | Path) -> LabelConfig:
    """The configuration of a project, XML. Raises :class:`FovealError` where it has no rectangles on an image.

    ``path`` is what errors name. Of several controls of rectangles the first is used.
    """
    try:
        root = safe_xml.fromstring(text)
    except (SyntaxError, ValueError, DefusedXmlException) as error:
        raise FovealError(
            f"is no labeling configuration: not XML ({error})", path=path, fix="Copy the project's from Label Studio"
        ) from None
    images = {tag.get("name"): tag for tag in root.iter("Image")}
    for control in root.iter("RectangleLabels"):
        if control.get("toName") in images and control.get("name"):
            return _config(control, images[control.get("toName")])
    raise FovealError(
        "has no <RectangleLabels> for an <Image>, so boxes have no place in it",
        path=path,
        fix='Add <RectangleLabels name="label" toName="image"> with the labels',
    )


def _config(control: Element, image: Element) -> LabelConfig:
    tags = [tag for tag in control.iter("Label") if tag.get("value")]
    predicted = {
        name.strip(): tag.attrib["value"]
        for tag in tags
        for name in (*tag.get("predicted_values", "").split(","), tag.get("alias", ""))
        if name.strip()
    }
    return LabelConfig(
        control.attrib["name"],
        image.attrib["name"],
        image.get("value", "$image").removeprefix("$"),
        tuple(tag.attrib["value"] for tag in tags),
        predicted,
    )


def config_text(classes: Sequence[str]) -> str:
    """A configuration of Label Studio that fits these classes."""
    labels = "".join(f"    <Label value={quoteattr(name)}/>\n" for name in classes)
    return (
        '<View>\n  <Image name="image" value="$image"/>\n  <RectangleLabels name="label" toName="image">\n'
        f"{labels}  </RectangleLabels>\n</View>\n"
    )


def regions_of(
    detections: Sequence[Mapping[str, Any]], width: int, height: int, config: LabelConfig
) -> list[dict[str, Any]]:
    """The detections (``label``, ``score``, ``box`` xyxy in pixels) as regions, in percent of the image.

    Those whose class the configuration has no label for are left out.
    """
    regions = []
    for n, found in enumerate(detections, 1):
        label = config.label_of(str(found["label"]))
        if label is None:
            continue
        x1, y1, x2, y2 = found["box"]
        value = {
            "x": 100 * x1 / width,
            "y": 100 * y1 / height,
            "width": 100 * (x2 - x1) / width,
            "height": 100 * (y2 - y1) / height,
            "rotation": 0,
            "rectanglelabels": [label],
        }
        regions.append(
            {
                "id": f"d{n}",
                "type": "rectanglelabels",
                "from_name": config.from_name,
                "to_name": config.to_name,
                "original_width": width,
                "original_height": height,
                "image_rotation": 0,
                "value": value,
                "score": found["score"],
            }
        )
    return regions


def prediction_of(regions: Sequence[Mapping[str, Any]], version: str) -> dict[str, Any]:
    """A prediction of a task; its score, by which Label Studio sorts tasks, is the mean of those of the regions."""
    scores = [float(region["score"]) for region in regions]
    score = sum(scores) / len(scores) if scores else 0.0
    return {"model_version": version, "score": score, "result": list(regions)}


def local_address(image: Path, root: Path, prefix: str = LOCAL_FILES) -> str:
    """The address of an image file: ``prefix``, and its path from ``root``, with percent signs for odd characters.

    Raises :class:`FovealError` for an image that is not below ``root``.
    """
    try:
        inside = image.absolute().relative_to(root.absolute())
    except ValueError:
        raise FovealError(
            f"is not below {root}, the folder that Label Studio shows files of",
            path=image,
            fix="Set LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT to a folder above all images",
        ) from None
    return prefix + quote(inside.as_posix())
