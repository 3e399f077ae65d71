"""Lines of label files as other tools write them: read where there is no doubt, told once, refused where there is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from foveal.data.doctor.examine import examine
from foveal.data.formats.yolo.lines import COMMAS, DECIMALS, split_line
from foveal.data.open import check_trainable, open_dataset
from foveal.data.records.dataset import Dataset
from foveal.errors import FovealError
from tests.data.formats.test_voc import codes
from tests.helpers.data_sets import image

WANT = [16.0, 6.0, 48.0, 18.0]  # of the line "1 0.5 0.25 0.5 0.25" in an image of 64 x 48


def labeled(root: Path, *lines: str, names: str = "[cat, dog, traffic light]", extra: str = "") -> Dataset:
    """Three images with these lines in their label files."""
    for k, name in enumerate("abc"):
        image(root / "images" / f"{name}.jpg", seed=k)
        (root / "labels").mkdir(exist_ok=True)
        (root / "labels" / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (root / "data.yaml").write_text(f"train: images\nval: images\nnames: {names}\n{extra}", encoding="utf-8")
    return open_dataset(root)


READ = {  # line -> code of the warning
    "1, 0.5, 0.25, 0.5, 0.25": "line-separators",
    "1,0.5,0.25,0.5,0.25": "line-separators",
    "1,0.5,0.25,0.5,0.25,": "line-separators",
    "1 0.5, 0.25, 0.5, 0.25": "line-separators",
    "1;0.5;0.25;0.5;0.25": "line-separators",
    "1; 0.5; 0.25; 0.5; 0.25;": "line-separators",
    "1|0.5|0.25|0.5|0.25": "line-separators",
    "1\t0.5\t0.25\t0.5\t0.25": "",
    "1\u00a00.5\u00a00.25\u00a00.5\u00a00.25": "",
    "1 0,5 0,25 0,5 0,25": "decimal-commas",
    "1 ,5 ,25 ,5 ,25": "decimal-commas",
    "1;0,5;0,25;0,5;0,25": "decimal-commas",
    "1\t0,5\t0,25\t0,5\t0,25": "decimal-commas",
    "dog 0.5 0.25 0.5 0.25": "class-by-name",
    "Dog 0.5 0.25 0.5 0.25": "class-by-name",
    '"dog" 0.5 0.25 0.5 0.25': "class-by-name",
    "dog, 0.5, 0.25, 0.5, 0.25": "class-by-name",
    "dog;0.5;0.25;0.5;0.25": "class-by-name",
    "1.0 5e-1 .25 0.500 +0.25": "",
}


@pytest.mark.parametrize("line", READ)
def test_read_without_doubt(tmp_path: Path, line: str) -> None:
    dataset = labeled(tmp_path, line)
    assert [r.boxes.tolist() for r in dataset.records] == [[pytest.approx(WANT)]] * 3
    assert [r.labels.tolist() for r in dataset.records] == [[1]] * 3
    told = [f for f in dataset.findings if f.severity != "note"]
    assert (READ[line] in {f.code for f in told}) == bool(READ[line]) and len(told) <= 2
    for finding in told:
        assert finding.severity == "warning" and "3 lines in 3 files" in finding.message
        assert finding.path.endswith("a.txt") and finding.where == "line 1"
    check_trainable(dataset)


def test_class_names_with_spaces(tmp_path: Path) -> None:
    dataset = labeled(
        tmp_path, "traffic light 0.5 0.25 0.5 0.25", "Traffic_Light 0.5 0.5 0.5 0.25", "2 0.3 0.3 0.1 0.1"
    )
    assert dataset.records[0].labels.tolist() == [2, 2, 2]
    assert codes(dataset) == ["warning class-by-name"] and "6 lines in 3 files" in dataset.findings[0].message


def test_names_that_are_numbers_stay_numbers(tmp_path: Path) -> None:
    dataset = labeled(tmp_path, "1 0.5 0.25 0.5 0.25", names="['1', '0']")
    assert dataset.classes == ("1", "0") and dataset.records[0].labels.tolist() == [1] and not dataset.findings


def test_nearly_equal_names_are_not_guessed(tmp_path: Path) -> None:
    dataset = labeled(tmp_path, "CAT 0.5 0.25 0.5 0.25", names="[Cat, cat]")
    assert "warning class-unknown" in codes(dataset) and not len(dataset.records[0])


DOUBT = {  # line -> code, severity
    "1,0,5,0,25,0,5,0,25": ("line-columns", "error"),  # commas of both kinds
    "1 0,5 0.25 0.5 0.25": ("box-not-number", "warning"),  # a typing error
    "bird 0.5 0.25 0.5 0.25": ("class-unknown", "warning"),
    "1 0.5 0.25 0.5": ("line-columns", "error"),
    "[1, 0.5, 0.25, 0.5, 0.25]": ("box-not-number", "warning"),
    "1:0.5:0.25:0.5:0.25": ("line-columns", "error"),
    "1 0.5 0.25 0.5 0.25 17": ("line-columns", "error"),  # a track
    "1 0.5 0.25 0.5 0.25 -1.57": ("line-columns", "error"),  # an angle
    ",": ("line-columns", "error"),
    ";;;": ("line-columns", "error"),
    "%": ("line-columns", "error"),
}


@pytest.mark.parametrize("line", DOUBT)
def test_doubt_is_told_once(tmp_path: Path, line: str) -> None:
    dataset = labeled(tmp_path, line, "0 0.5 0.5 0.2 0.2" if len(line) < 4 else line)
    code, severity = DOUBT[line]
    told = [f for f in dataset.findings if f.code == code]
    assert told and all(f.severity == severity for f in told)
    if severity == "error":
        assert len(told) == 1
        with pytest.raises(FovealError, match="columns"):
            check_trainable(dataset)


def test_the_class_at_the_end(tmp_path: Path) -> None:
    dataset = labeled(tmp_path, "0.5 0.25 0.5 0.25 1", "0.5 0.5 0.2 0.2 0")
    assert codes(dataset) == ["warning class-at-end"] and "6 lines in 3 files" in dataset.findings[0].message
    assert dataset.records[0].labels.tolist() == [1, 0] and dataset.records[0].boxes[0].tolist() == pytest.approx(WANT)
    dataset = labeled(tmp_path / "2", "0.5 0.25 0.5 0.25 1", "0 0.5 0.2 0.2 0.1")
    assert "warning class-unknown" in codes(dataset)


def test_a_confidence_column(tmp_path: Path) -> None:
    dataset = labeled(tmp_path, "1 0.5 0.25 0.5 0.25 0.87", "0 0.5 0.5 0.2 0.2 0.5")
    assert codes(dataset) == ["warning sixth-column"] and "6 lines in 3 files" in dataset.findings[0].message
    assert [len(r) for r in dataset.records] == [2, 2, 2]


def test_a_file_that_ends_within_a_number(tmp_path: Path) -> None:
    labeled(tmp_path, "1 0.50000 0.25000 0.50000 0.25000", "0 0.50000 0.50000 0.20000 0.20000")
    label = tmp_path / "labels" / "b.txt"
    label.write_text(label.read_text()[:-4])
    assert codes(open_dataset(tmp_path)) == ["warning label-cut-off"]
    label.write_text("1 0.5 0.25 0.125 0.5")  # without a last line break, but numbers of any length
    assert not open_dataset(tmp_path).findings


def test_the_columns_of_a_line() -> None:
    known = {"dog", "traffic light"}.__contains__
    line = split_line("traffic light, 0.5, 0.25, 0.5, 0.25", 7, known)
    assert (line.n, line.label, line.columns) == (7, "traffic light", ("0.5", "0.25", "0.5", "0.25"))
    assert line.ways == (COMMAS,)
    assert split_line("1 0,5 0,25 1 0,25", 1, known).ways == (DECIMALS,)
    assert split_line("7 seas 0.5 0.5 0.1 0.1", 1, {"7 seas"}.__contains__).label == "7 seas"


# ------------------------------------------------------------------------------------------------- data.yaml
@pytest.mark.parametrize(
    ("names", "extra", "classes"),
    [
        ("cat, dog", "", ("cat", "dog")),
        ("cat; dog; bird", "nc: 3\n", ("cat", "dog", "bird")),
        ("'[cat, dog]'", "", ("cat", "dog")),
        ("\"['cat', 'dog']\"", "", ("cat", "dog")),
        ("|\n  cat\n  traffic light\n", "", ("cat", "traffic light")),
        ("cat dog", "nc: 2\n", ("cat", "dog")),
        ("cat", "nc: 1\n", ("cat",)),
        ("[cat dog]", "nc: 2\n", ("cat", "dog")),
        ("['cat, dog']", "nc: 2\n", ("cat", "dog")),
    ],
)
def test_names_in_one_text(tmp_path: Path, names: str, extra: str, classes: tuple[str, ...]) -> None:
    dataset = labeled(tmp_path, "0 0.5 0.25 0.5 0.25", names=names, extra=extra)
    assert dataset.classes == classes and codes(dataset) == ["warning classes-in-text"]


@pytest.mark.parametrize(("names", "extra"), [("cat", ""), ("cat dog", ""), ("cat, dog", "nc: 3\n"), ("''", "")])
def test_one_text_in_doubt(tmp_path: Path, names: str, extra: str) -> None:
    dataset = labeled(tmp_path, "0 0.5 0.25 0.5 0.25", names=names, extra=extra)
    assert {f.code for f in dataset.findings if f.severity == "error"} & {"classes-missing", "class-count"}


def test_names_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "coco.names").write_text("cat\ndog\n")
    dataset = labeled(tmp_path, "1 0.5 0.25 0.5 0.25", names="coco.names")
    assert dataset.classes == ("cat", "dog") and codes(dataset) == ["note classes-in-file"]


def test_tags_tabs_and_keys_of_the_yaml(tmp_path: Path) -> None:
    tagged = "x: !!python/object/apply:os.system ['true']\ny: !Custom 1\nz: !!str 1\n"
    found = labeled(tmp_path, "0 0.5 0.25 0.5 0.25", extra=tagged).findings
    assert [(f.code, f.where) for f in found] == [("yaml-tag", "line 4"), ("yaml-tag", "line 5")]
    assert "!!python/object/apply:os.system" in found[0].message and "!Custom" in found[1].message
    yaml = tmp_path / "data.yaml"
    yaml.write_text("train: images\nval: images\nnames:\n\t- cat\n\t- dog\n")
    assert codes(open_dataset(tmp_path)) == ["warning yaml-tabs"]
    yaml.write_text("train: images\nval: images\ntrain: nowhere\nnames: [cat, dog]\n")
    assert "warning yaml-key-repeated" in codes(open_dataset(tmp_path))
    for key in ("vall", "Val", "VAL", "validation", "tset"):
        yaml.write_text(f"train: images\n{key}: images\nnames: [cat, dog]\n")
        findings = open_dataset(tmp_path).findings
        assert [f.code for f in findings] == ["yaml-key-unknown"] and f"'{key}'" in findings[0].message


def test_git_lfs_pointers(tmp_path: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 99\n"
    labeled(tmp_path, "0 0.5 0.25 0.5 0.25")
    (tmp_path / "labels" / "b.txt").write_text(pointer)
    found = open_dataset(tmp_path).findings
    assert [(f.code, f.fix) for f in found] == [("annotation-unreadable", "Run: git lfs pull")]
    (tmp_path / "data.yaml").write_text(pointer)
    errors = [f for f in examine(tmp_path).findings if f.severity == "error"]
    assert errors[0].fix == "Run: git lfs pull" and errors[0].path.endswith("data.yaml")


def test_numbers_of_the_boxes_do_not_change(tmp_path: Path) -> None:
    plain = labeled(tmp_path / "a", "1 0.123456789 0.25 0.5 0.25")
    commas = labeled(tmp_path / "b", "1 0,123456789 0,25 0,5 0,25")
    assert np.array_equal(plain.records[0].boxes, commas.records[0].boxes)
