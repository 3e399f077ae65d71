"""The evaluation of a run as a file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from foveal.errors import FovealError
from foveal.evaluation import score_detections
from foveal.report.evaluation_file import read_evaluation, write_evaluation
from tests.helpers.compared_runs import make_evaluation
from tests.helpers.simulated_runs import make_objects, make_run


def test_what_is_written_is_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    objects = make_objects(rng, 20)
    table = make_run(rng, objects)
    table = replace(table, box=table.box.astype(np.float32).astype(np.float64),
                    score=table.score.astype(np.float32).astype(np.float64), box_area=None)  # fmt: skip
    names = ("caf\udce9", "</script>", "'\"")
    difficult = np.arange(len(objects.table)) % 3 == 0
    truth = replace(objects.table, classes=names, difficult=difficult, sizes=np.full((20, 2), 400))
    written = make_evaluation(truth, table, skipped=("one image",))
    path = tmp_path / "deep" / "one.safetensors"
    write_evaluation(written, path)
    read = read_evaluation(path)
    assert read is not None
    assert read.truth.classes == names and (read.truth.difficult == difficult).all()
    assert read.verdicts is not None and written.verdicts is not None and (read.verdicts == written.verdicts).all()
    same = (
        "weights",
        "data",
        "split",
        "hashes",
        "seconds",
        "device",
        "version",
        "verdict_texts",
        "skipped",
        "threshold",
    )
    for name in same:
        assert vars(read).get(name) == vars(written).get(name), name
    for protocol in ("coco", "voc10"):
        expected = score_detections(written.truth, written.table, protocol)
        assert score_detections(read.truth, read.table, protocol).to_dict() == expected.to_dict()


def test_a_damaged_file_is_named_and_a_missing_one_is_none(tmp_path: Path) -> None:
    path = tmp_path / "one.safetensors"
    assert read_evaluation(path) is None
    rng = np.random.default_rng(0)
    objects = make_objects(rng, 5)
    write_evaluation(make_evaluation(objects.table, make_run(rng, objects)), path)
    data = path.read_bytes()
    for broken in (data[:100], b"", data.replace(b"detections.box", b"detections.bax"), b"\0" * 200):
        path.write_bytes(broken)
        with pytest.raises(FovealError, match=r"one\.safetensors: not an evaluation of a run .*Delete it"):
            read_evaluation(path)
