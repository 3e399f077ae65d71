"""What people's own files led to: each is read rightly, or refused with its cause, once."""

from __future__ import annotations

from pathlib import Path

import pytest

from foveal.cli import main as cli
from foveal.data.doctor.examine import examine
from foveal.data.open import check_trainable, split_pair
from foveal.errors import FovealError

READ = {  # set -> objects in training, the code that tells how it was read ("": as it should be)
    "02-yolo-pose-as-polygon/pose-17x2": (12, "keypoints-ignored"),
    "02-yolo-pose-as-polygon/pose-17x3": (12, "keypoints-ignored"),
    "02-yolo-pose-as-polygon/pose-4x3": (12, "keypoints-ignored"),
    "02-yolo-pose-as-polygon/pose-1x2": (12, "keypoints-ignored"),
    "03-yolo-labels-upper-TXT/some": (12, ""),
    "03-yolo-labels-upper-TXT/all-of-val": (12, ""),
    "04-yolo-Images-Labels/data": (12, ""),
    "04-yolo-Images-Labels/half-of-train": (24, ""),
    "39-yolo-lines-refused/commas": (12, "line-separators"),
    "39-yolo-lines-refused/semicolons": (12, "line-separators"),
    "39-yolo-lines-refused/decimal-commas": (12, "decimal-commas"),
    "39-yolo-lines-refused/with-confidence": (12, "sixth-column"),
    "39-yolo-lines-refused/class-name": (12, "class-by-name"),
    "39-yolo-lines-refused/yaml-names-text": (12, "classes-in-text"),
    "39-yolo-lines-refused/yaml-tabs": (12, "yaml-tabs"),
    "06-coco-all-crowd/class-crowd": (10, "class-without-object"),
    "15-class-names-nearly-equal/train-and-val": (12, "classes-similar"),
    "15-class-names-nearly-equal/one-set": (10, "classes-similar"),
}
REFUSED = {  # set -> code of the error
    "06-coco-all-crowd/data": "no-box",
    "06-coco-all-crowd/voc-difficult": "no-box",
    "07-boxes-in-another-convention/coco-fractions": "box-convention",
    "07-boxes-in-another-convention/coco-corners": "box-convention",
    "07-boxes-in-another-convention/yolo-corners": "box-convention",
    "07-boxes-in-another-convention/yolo-topleft": "box-convention",
    "13-git-lfs-pointers/yaml": "annotation-unreadable",
    "13-git-lfs-pointers/labels": "annotation-unreadable",
    "16-class-numbers-from-1/yolo": "class-numbers",
    "16-class-numbers-from-1/coco": "class-numbers",
    "31-doctor-and-train-disagree/yolo": "no-box",
    "31-doctor-and-train-disagree/coco": "no-box",
    "39-yolo-lines-refused/yaml-nc": "class-count",
}
MENDED = {
    "07-boxes-in-another-convention/coco-fractions": "fractions",
    "07-boxes-in-another-convention/coco-corners": "corners",
    "07-boxes-in-another-convention/yolo-corners": "corners",
    "07-boxes-in-another-convention/yolo-topleft": "top-left",
    "16-class-numbers-from-1/yolo": "from-1",
    "16-class-numbers-from-1/coco": "from-1",
}


def field(shared: Path, name: str) -> Path:
    path = shared / "field" / name
    if not path.is_dir():
        pytest.skip(f"no {path.name} in the shared folder")
    return path


@pytest.mark.parametrize("name", READ)
def test_read(shared: Path, name: str) -> None:
    path, (objects, code) = field(shared, name), READ[name]
    report = examine(path, decode=False)
    assert report.status() == 0
    assert not code or [f.code for f in report.findings].count(code) == 1  # once, not line by line
    train, val, _ = split_pair(path)
    check_trainable(train)
    check_trainable(val, "val")
    assert sum(map(len, train.records)) == objects


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_both(shared: Path, name: str) -> None:
    path = field(shared, name)
    report = examine(path, decode=False)
    errors = [f for f in report.findings if f.severity == "error"]
    assert {f.code for f in errors} == {REFUSED[name]} and report.status() == 1
    train, val, _ = split_pair(path)
    with pytest.raises(FovealError) as caught:
        check_trainable(train)
        check_trainable(val, "val")
    assert errors[0].message.split(" (first of")[0] in str(caught.value)


@pytest.mark.parametrize("name", MENDED)
def test_mended_by_the_option_of_the_finding(shared: Path, name: str, tmp_path: Path) -> None:
    path, words = field(shared, name), MENDED[name]
    errors = [f for f in examine(path, decode=False).findings if f.severity == "error"]
    assert f"--convention {words}" in errors[0].fix
    report = examine(path, decode=False, convention=words)
    assert report.status() == 0 and report.objects == 12
    convert = ["data", "convert", str(path), "--to", "coco", "--out", str(tmp_path / "as-coco")]
    assert cli.main(convert) == 1 and not (tmp_path / "as-coco").exists()
    assert cli.main([*convert, "--convention", words]) == 0
    assert examine(tmp_path / "as-coco", decode=False).status() == 0


def test_check_of_crowds_is_no_pass(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = field(shared, "06-coco-all-crowd/data")
    assert cli.main(["check", "retinanet_mini", "--data", str(path), "--encode-only"]) == 1
    assert "all 12 boxes" in capsys.readouterr().err
