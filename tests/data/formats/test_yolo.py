"""The YOLO reader: Ultralytics' rules for paths, names and lines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from foveal.data.open import check_trainable, open_dataset, split_pair
from foveal.errors import FovealError
from tests.data.formats.test_voc import boxes_of, codes
from tests.helpers.data_sets import BOXES, image, yolo, yolo_line


def test_valid_dataset(tmp_path: Path) -> None:
    path = yolo(tmp_path)
    for given in (path, tmp_path):
        dataset = open_dataset(given)
        assert dataset.classes == ("cat", "dog") and dataset.splits == ("train", "val") and not dataset.findings
        assert [r.id for r in dataset.records] == list("abcd")
        for record in dataset.records:
            expected = np.array([b[1:] for b in BOXES[str(record.id)]], float).reshape(-1, 4)
            assert np.allclose(record.boxes, expected, atol=1e-6)
    assert [r.id for r in open_dataset(path, split="valid").records] == ["c", "d"]


LINES = {
    "error line-columns": ["1 0.5 0.5 0.2", "1", "1 0.5 0.5 0.2 0.2 0.9", "cat 0.1 0.1 0.2 0.2 0.3 0.3 0.4"],
    "warning box-not-finite": ["1 0.5 0.5 nan 0.2", "1 0.5 inf 0.2 0.2", "1 0.1 0.1 nan 0.1 0.2 0.2"],
    "warning box-not-number": ["1 0.5 0.5 wide 0.2", "1 0,5 0.5 0.2 0.2"],
    "warning box-inverted": ["1 0.5 0.5 -0.2 0.2"],
    "warning box-empty": ["1 0.5 0.5 0 0.2"],
    "warning box-outside": ["1 1.5 0.5 0.2 0.2", "1 320 240 100 100"],
    "warning box-over-edge": ["1 0.5 0.5 1.5 0.2"],
    "warning class-unknown": ["2 0.5 0.5 0.2 0.2", "-1 0.5 0.5 0.2 0.2", "0.5 0.5 0.5 0.2 0.2", "bird 0.5 0.5 0.2 0.2",
                              f"{'9' * 400} 0.5 0.5 0.2 0.2"],
    "warning class-by-name": ["dog 0.5 0.5 0.2 0.2", "Dog 0.5 0.5 0.2 0.2", "'dog' 0.5 0.5 0.2 0.2"],
    "warning object-repeated": [yolo_line(BOXES["a"][0]).strip()],
    "note polygon-line": ["1 0.1 0.1 0.5 0.1 0.5 0.5"],
}  # fmt: skip


@pytest.mark.parametrize(("code", "line"), [(c, line) for c, many in LINES.items() for line in many])
def test_invalid_line_drops_only_itself(tmp_path: Path, code: str, line: str) -> None:
    yolo(tmp_path)
    label = tmp_path / "labels" / "train" / "a.txt"
    label.write_text(yolo_line(BOXES["a"][0]) + "\n" + line + "\n" + yolo_line(BOXES["a"][1]))
    dataset = open_dataset(tmp_path)
    assert codes(dataset) == [code]
    finding = dataset.findings[0]
    assert finding.path == str(label) and finding.where.startswith("line 3")
    boxes = boxes_of(dataset, "a")
    kept = code in ("warning box-over-edge", "warning class-by-name", "note polygon-line")
    assert len(boxes) == 2 + kept and np.allclose(boxes[-1], BOXES["a"][1][1:])
    if code == "note polygon-line":
        assert np.allclose(boxes[1], [6.4, 4.8, 32, 24])
    if line.startswith("1 320"):
        assert "look like pixels" in finding.message
    if code.startswith("error"):
        with pytest.raises(FovealError, match=r"a\.txt: line 3"):
            check_trainable(dataset)
    else:
        check_trainable(dataset)


def test_class_numbers_as_floats_and_blank_lines(tmp_path: Path) -> None:
    yolo(tmp_path)
    (tmp_path / "labels/train/a.txt").write_bytes(b"\xef\xbb\xbf\r\n1.0\t0.5 0.5  0.2 0.2\r\n\r\n")
    dataset = open_dataset(tmp_path)
    assert dataset.records[0].labels.tolist() == [1] and not dataset.findings


HEAD = "path: .\ntrain: images/train\nval: images/val\n"
YAMLS = {
    "error class-count": [HEAD + "nc: 3\nnames: [cat, dog]", HEAD + "nc: two\nnames: [cat, dog]"],
    "error classes-missing": [HEAD, HEAD + "names: []", HEAD + "names: cat", HEAD + "nc: 0"],
    "error classes-invalid": [HEAD + "names: {0: cat, 2: dog}", HEAD + "names: {a: cat, b: dog}",
                              HEAD + "names: [cat, ~, dog]",
                              HEAD + "names: [cat, [dog]]", HEAD + "names: [cat, '']"],
    "error annotation-unreadable": ["names: [cat", "", "- a\n- b", "just text",
                                    "a: !!python/object/apply:os.system [ls]: b",
                                    "a: &a [x]\nb: *c", "[" * 5000],
    "error split-missing": ["names: [cat, dog]", "train: nowhere\nnames: [cat, dog]\nval: images/val"],
}  # fmt: skip


@pytest.mark.parametrize(("code", "text"), [(c, text) for c, many in YAMLS.items() for text in many])
def test_bad_yaml_is_an_error_that_names_it(tmp_path: Path, code: str, text: str) -> None:
    path = yolo(tmp_path, text)
    dataset = open_dataset(path)
    assert code in codes(dataset)
    with pytest.raises(FovealError):
        check_trainable(dataset)
    train, _, _ = split_pair(tmp_path)
    with pytest.raises(FovealError, match=r"data\.yaml"):
        check_trainable(train)


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        ("names: {0: cat, 1: dog}", ("cat", "dog")),
        ("names: {1: dog, 0: cat}", ("cat", "dog")),
        ("names:\n  0: yes\n  1: no", ("yes", "no")),
        ("names: [1, 2.50]", ("1", "2.50")),
        ("names: ['naïve', 猫]\nnc: 2", ("naïve", "猫")),
    ],
)
def test_names_in_every_format(tmp_path: Path, names: str, classes: tuple[str, ...]) -> None:
    dataset = open_dataset(yolo(tmp_path, HEAD + names))
    assert dataset.classes == classes and not dataset.findings


def test_python_tags_are_never_executed(tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    path = yolo(tmp_path, f"{HEAD}names: [cat, dog]\nx: !!python/object/apply:os.system ['touch {mark}']\n")
    assert open_dataset(path).classes == ("cat", "dog") and not mark.exists()


def test_nc_without_names(tmp_path: Path) -> None:
    dataset = open_dataset(yolo(tmp_path, HEAD + "nc: 2"))
    assert dataset.classes == ("class_0", "class_1") and codes(dataset) == ["warning classes-missing"]


def test_splits_as_lists_texts_and_roboflow_paths(tmp_path: Path) -> None:
    names = "names: [cat, dog]\n"
    path = yolo(tmp_path / "1", f"train: [images/train, images/val]\n{names}")
    assert [r.id for r in open_dataset(path).records] == list("abcd")
    path = yolo(tmp_path / "2", f"train: train.txt\nval: {tmp_path}/2/images/val\n{names}")
    listed = f"./images/train/a.jpg\n{tmp_path}/2/images/val/d.jpg\nimages/train/gone.jpg\n./images/train/a.jpg\n"
    (tmp_path / "2" / "train.txt").write_text(listed)
    dataset = open_dataset(path, split="train")
    assert [r.id for r in dataset.records] == ["a", "d"] and [len(r) for r in dataset.records] == [2, 2]
    assert codes(dataset) == ["warning image-missing", "warning image-repeated"]
    root = tmp_path / "3"
    for split, name in (("train", "a"), ("valid", "d")):
        image(root / split / "images" / f"{name}.jpg")
        (root / split / "labels").mkdir()
        (root / split / "labels" / f"{name}.txt").write_text("".join(map(yolo_line, BOXES[name])))
    (root / "data.yaml").write_text(
        f"train: ../train/images\nval: ../valid/images\ntest: ../test/images\n{names}nc: 2\n"
    )
    assert [len(r) for r in open_dataset(root, split="val").records] == [2]
    dataset = open_dataset(root)
    assert codes(dataset) == ["error split-missing"] and "test" in dataset.findings[0].path


def test_path_key(tmp_path: Path) -> None:
    names = "train: images/train\nval: images/val\nnames: [cat, dog]\n"
    yolo(tmp_path / "coco8", f"path: ../datasets/coco8\n{names}")
    assert len(open_dataset(tmp_path / "coco8")) == 4  # Ultralytics' own yamls point to its datasets folder
    (tmp_path / "yamls").mkdir()
    for n, place in enumerate((tmp_path / "coco8", "../coco8")):
        path = tmp_path / "yamls" / f"{n}.yaml"
        path.write_text(f"path: {place}\n{names}")
        assert len(open_dataset(path)) == 4


def test_labels_beside_the_images(tmp_path: Path) -> None:
    image(tmp_path / "all" / "a.jpg")
    (tmp_path / "all" / "a.txt").write_text(yolo_line(BOXES["a"][0]))
    (tmp_path / "data.yaml").write_text("train: all\nnames: [cat, dog]\n")
    assert [len(r) for r in open_dataset(tmp_path).records] == [1]


def test_images_elsewhere(tmp_path: Path) -> None:
    yolo(tmp_path / "set")
    (tmp_path / "set" / "images").rename(tmp_path / "pics")
    dataset = open_dataset(tmp_path / "set", images=tmp_path / "pics")
    assert [len(r) for r in dataset.records] == [2, 1, 0, 2]


def test_missing_txt_means_no_objects_but_missing_labels_are_reported(tmp_path: Path) -> None:
    import shutil

    yolo(tmp_path)
    shutil.rmtree(tmp_path / "labels" / "train")
    dataset = open_dataset(tmp_path, split="train")
    assert codes(dataset) == ["warning labels-missing"] and [len(r) for r in dataset.records] == [0, 0]
    with pytest.raises(FovealError, match="has no box"):
        check_trainable(dataset)


def test_label_without_image(tmp_path: Path) -> None:
    yolo(tmp_path)
    (tmp_path / "labels" / "train" / "ghost.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    (tmp_path / "labels" / "train" / "classes.txt").write_text("cat\ndog\n")
    dataset = open_dataset(tmp_path)
    assert codes(dataset) == ["warning image-missing"] and dataset.findings[0].path.endswith("ghost.txt")
    assert codes(open_dataset(tmp_path, split="val")) == []


def test_binary_label_file_is_an_error(tmp_path: Path) -> None:
    yolo(tmp_path)
    (tmp_path / "labels" / "train" / "a.txt").write_bytes(bytes(range(256)) * 3)
    assert codes(open_dataset(tmp_path)) == ["error annotation-unreadable"]


def test_same_name_in_two_splits_keeps_both(tmp_path: Path) -> None:
    yolo(tmp_path)
    image(tmp_path / "images" / "val" / "a.jpg", seed=99)
    assert sorted(str(r.id) for r in open_dataset(tmp_path).records) == [
        "b",
        "c",
        "d",
        "images/train/a",
        "images/val/a",
    ]
