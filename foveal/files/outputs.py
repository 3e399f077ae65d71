"""Recognizes what foveal itself has written, for messages about a file that was given in the place of another."""

from __future__ import annotations

import re
from pathlib import Path

_HEAD = 4096  # bytes that are looked at
_FOLDERS = (
    ("run.json", "a run of foveal train"),
    ("checkpoints", "a run of foveal train"),
    ("SHA256SUMS", "a checkpoint of foveal"),
    ("proposals.safetensors", "the proposals of foveal proposals"),
    ("compare.txt", "the comparison of foveal compare"),
)
_TEXTS = (
    (rb'\s*(\[\s*)?\{\s*"image":', "the detections of foveal predict"),
    (rb'\s*\[\s*\{\s*"code":.{,200}"severity":', "the findings of foveal doctor"),
    (rb'\s*\[\s*\{\s*"image_id":.{,400}"score":', "detections (COCO results)"),
    (rb'\s*\{\s*"protocol":', "the scores of foveal eval"),
    (rb'\s*\{\s*"images": \d+,\s*"objects": \d+,\s*"proposals":', "the recall of foveal proposals"),
    (rb'\s*\{\s*"arguments": \{\s*"data":', "the record of a run of foveal train (run.json)"),
    (rb'\s*\{"path": .{,2000}"images": \[\s*\[', "the list of images of a run of foveal train"),
    (rb'\s*\{"epoch": \d+, "step":', "the log of a run of foveal train (metrics.jsonl)"),
    (rb".{,200}\"foveal_proposals\"", "the proposals of foveal proposals"),
    (rb".{,300}<title>[^<]*: data report</title>", "the page of foveal doctor"),
    (rb".{,300}<title>[^<]* \xc2\xb7 foveal</title>", "the report of a run of foveal"),
)


def output_kind(path: Path) -> str:
    """What a file or folder of foveal's is; empty: it is something else, or cannot be read."""
    try:
        if path.is_dir():
            return next((what for name, what in _FOLDERS if (path / name).exists()), "")
        if not path.is_file():
            return ""
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return ""
    return next((what for pattern, what in _TEXTS if re.match(pattern, head, re.DOTALL)), "")
