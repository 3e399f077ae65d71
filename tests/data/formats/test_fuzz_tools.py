"""Random edits of small sets in the formats of other tools: nothing is lost in silence."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.data.formats.kitti.test_reader import kitti
from tests.data.recognition.test_plain_yolo import labeled
from tests.data.recognition.test_yolo import darknet
from tests.helpers.fuzz_files import silent_changes
from tests.helpers.tool_formats import MAKERS

EDITS = int(os.environ.get("FOVEAL_FUZZ", "40"))  # of each format


def plain_yolo(root: Path) -> None:
    labeled(root / "images", root / "labels", classes=root / "classes.txt")


KINDS: dict[str, Callable[[Path], object]] = {**MAKERS, "plain-yolo": plain_yolo, "darknet": darknet, "kitti": kitti}


@pytest.mark.parametrize("kind", list(KINDS))
def test_no_edit_changes_the_number_of_objects_in_silence(tmp_path: Path, kind: str) -> None:
    KINDS[kind](tmp_path / "set")
    silent = silent_changes(tmp_path / "set", EDITS, seed=sum(kind.encode()))
    assert not silent, "\n".join(silent)
