"""The diagnosis of whole sets through the commands: one verdict for doctor and train, one line a cause."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from foveal.cli import main as cli
from foveal.data.convert import convert, read_splits
from foveal.data.doctor.examine import examine
from foveal.data.open import check_trainable, open_dataset, split_pair
from foveal.errors import FovealError, UsageError
from tests.helpers.data_sets import BOXES, HEIGHT, WIDTH, coco, coco_doc, image, voc, xml, yolo

LARGE = [("cat", 30, 2, 62, 40), ("dog", 8, 20, 30, 46), ("cat", 40, 10, 60, 30), ("dog", 20, 12, 61, 44)]
Box = tuple[str, float, float, float, float]


def verdict(path: Path, **options: Any) -> str:
    """What ``train`` says when it refuses the data, or ""."""
    try:
        train, val, _ = split_pair(path, **options)
        check_trainable(train)
        check_trainable(val, "val")
    except FovealError as error:
        return str(error)
    return ""


def coco_of(root: Path, write: Any) -> Path:
    """Images a to f with the boxes ``LARGE``, whose ``bbox`` is ``write(x1, y1, x2, y2)``."""
    doc: dict[str, Any] = {"images": [], "annotations": [], "categories": coco_doc()["categories"]}
    for k, name in enumerate("abcdef"):
        image(root / "images" / f"{name}.jpg", seed=k)
        doc["images"].append({"id": k + 1, "file_name": f"{name}.jpg", "width": WIDTH, "height": HEIGHT})
        for name_, *box in LARGE:
            category = 3 if name_ == "cat" else 18
            doc["annotations"].append({"id": len(doc["annotations"]) + 1, "image_id": k + 1, "category_id": category,
                                       "bbox": write(*box)})  # fmt: skip
    (root / "set.json").write_text(json.dumps(doc))
    return root


def yolo_of(root: Path, write: Any) -> Path:
    for k, name in enumerate("abcdef"):
        split = "train" if k < 4 else "val"
        image(root / "images" / split / f"{name}.jpg", seed=k)
        label = root / "labels" / split / f"{name}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        lines = [f"{k % 2} " + " ".join(f"{v:.8f}" for v in write(*box)) for k, (_, *box) in enumerate(LARGE)]
        label.write_text("\n".join(lines) + "\n")
    (root / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [cat, dog]\n")
    return root


def voc_of(root: Path, write: Any) -> Path:
    for k, name in enumerate("abcdef"):
        image(root / f"{name}.jpg", seed=k)
        objects = [(name_, *write(*box)) for name_, *box in LARGE]
        text = xml([("cat", 1, 1, 2, 2)], name=f"{name}.jpg")
        start, end = text.index("<object>"), text.rindex("</annotation>")
        tags = ("xmin", "ymin", "xmax", "ymax")
        bodies = ("".join(f"<{t}>{v}</{t}>" for t, v in zip(tags, box, strict=True)) for _, *box in objects)
        parts = (
            f"<object><name>{n[0]}</name><bndbox>{b}</bndbox></object>" for n, b in zip(objects, bodies, strict=True)
        )
        (root / f"{name}.xml").write_text(text[:start] + "".join(parts) + text[end:])
    return root


def fractions(x1: float, y1: float, x2: float, y2: float) -> list[float]:
    return [x1 / WIDTH, y1 / HEIGHT, x2 / WIDTH, y2 / HEIGHT]


def sized(x1: float, y1: float, x2: float, y2: float) -> list[float]:
    return [x1, y1, x2 - x1, y2 - y1]


def centered(x1: float, y1: float, x2: float, y2: float) -> list[float]:
    return [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]


CASES = {  # maker, how boxes are written, the words that read them
    "coco corners": (coco_of, lambda *b: list(b), "corners"),
    "coco fractions": (coco_of, lambda *b: sized(*fractions(*b)), "fractions"),
    "coco corners in fractions": (coco_of, lambda *b: fractions(*b), "corners,fractions"),
    "coco centers": (coco_of, lambda *b: centered(*b), "centers"),
    "coco swapped": (coco_of, lambda *b: [sized(*b)[k] for k in (1, 0, 3, 2)], "yx"),
    "voc fractions": (voc_of, lambda *b: fractions(*b), "fractions"),
    "voc sizes": (voc_of, lambda *b: sized(*b), "top-left"),
    "yolo corners": (yolo_of, lambda *b: fractions(*b), "corners"),
    "yolo top left": (yolo_of, lambda *b: sized(*fractions(*b)), "top-left"),
    "yolo pixels": (yolo_of, lambda *b: centered(*b), "pixels"),
    "yolo corners in pixels": (yolo_of, lambda *b: list(b), "corners,pixels"),
    "yolo percent": (yolo_of, lambda *b: [100 * v for v in centered(*fractions(*b))], "percent"),
}


@pytest.mark.parametrize("case", CASES)
def test_another_convention(tmp_path: Path, case: str) -> None:
    make, write, words = CASES[case]
    root = make(tmp_path / "set", write)
    report = examine(root)
    errors = [f for f in report.findings if f.severity == "error"]
    assert [f.code for f in errors] == ["box-convention"] and report.status() == 1
    refused = verdict(root)
    assert refused.startswith(str(errors[0].path)) and errors[0].message in refused
    # one cause, told once; percent of an image of 64 x 48 are like pixels
    assert not [f for f in report.findings if f.code.startswith("box-") and f.code != "box-convention"]
    if case != "yolo percent":
        assert f"--convention {words}" in errors[0].fix
    with pytest.raises(FovealError, match="look like"):
        convert(root, tmp_path / "refused", "coco")
    read = open_dataset(root, convention=words)
    want = sorted(LARGE)
    for record in read.records:
        found = sorted(
            (read.classes[k], *box) for k, box in zip(record.labels, record.boxes.round(3).tolist(), strict=True)
        )
        assert [f[0] for f in found] == [w[0] for w in want]
        assert all(f[1:] == pytest.approx(w[1:], abs=1e-3) for f, w in zip(found, want, strict=True))
    assert verdict(root, convention=words) == "" and examine(root, convention=words).status() == 0
    convert(root, tmp_path / "mended", "coco", convention=words)
    assert examine(tmp_path / "mended").status() == 0


def test_one_split_in_another_convention(tmp_path: Path) -> None:
    root = yolo_of(tmp_path, lambda *b: centered(*fractions(*b)))
    wrong = yolo_of(tmp_path / "w", lambda *b: fractions(*b))
    shutil.rmtree(root / "labels" / "val")
    shutil.copytree(wrong / "labels" / "val", root / "labels" / "val")
    shutil.rmtree(wrong)
    errors = [f for f in examine(root).findings if f.severity == "error"]
    assert [f.code for f in errors] == ["box-convention"] and errors[0].where == "split val"
    assert "the boxes look like x1, y1, x2, y2" in verdict(root)


@pytest.mark.parametrize("text", ["corner", "", "640", "corners;pixels", "0x480", "xyxy,inches", "from-2"])
def test_unknown_words_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match="--convention"):
        open_dataset(yolo(tmp_path), convention=text)
    assert cli.main(["doctor", str(tmp_path), "--convention", text]) == 2


def test_words_of_formats_without_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no class numbers"):
        open_dataset(voc(tmp_path), convention="from-1")


def test_a_frame(tmp_path: Path) -> None:
    """Boxes of an image of 128 x 96, in images of half the size."""
    root = voc_of(tmp_path, lambda *b: [2 * v for v in b])
    assert [f.code for f in examine(root).findings if f.severity == "error"] == ["box-convention"]
    read = open_dataset(root, convention="128x96")
    assert read.records[0].boxes[0].tolist() == pytest.approx(LARGE[0][1:])


# ------------------------------------------------------------------------------------------------ the verdict
def crowds(root: Path) -> Path:
    doc = coco_doc()
    for annotation in doc["annotations"]:
        annotation["iscrowd"] = 1
    coco(root, doc)
    return root


def difficult(root: Path) -> Path:
    for name, boxes in BOXES.items():
        image(root / f"{name}.jpg")
        text = xml(boxes, name=f"{name}.jpg").replace("<bndbox>", "<difficult>1</difficult><bndbox>")
        (root / f"{name}.xml").write_text(text)
    return root


def no_box_in_val(root: Path) -> Path:
    yolo(root)
    shutil.rmtree(root / "labels" / "val")
    return root


def crowds_in_val(root: Path) -> Path:
    coco(root).unlink()
    for split, names in (("train", "ab"), ("val", "cd")):
        doc = coco_doc(list(names))
        for annotation in doc["annotations"]:
            annotation["iscrowd"] = int(split == "val")
        (root / "annotations" / f"{split}.json").write_text(json.dumps(doc))
    return root


def no_object(root: Path) -> Path:
    yolo(root)
    for label in (root / "labels").rglob("*.txt"):
        label.write_text("")
    return root


def no_images(root: Path) -> Path:
    yolo(root)
    shutil.rmtree(root / "images" / "val")
    (root / "images" / "val").mkdir()
    return root


def broken_val(root: Path) -> Path:
    crowds_in_val(root)
    (root / "annotations" / "val.json").write_text("{")
    return root


def no_training_split(root: Path) -> Path:
    yolo(root, "test: images/train\nval: images/val\nnames: [cat, dog]\n")
    return root


REFUSED = (crowds, difficult, no_box_in_val, crowds_in_val, no_object, no_images, broken_val)
FINE = (yolo, voc, coco, no_training_split)


@pytest.mark.parametrize("make", [*REFUSED, *FINE])
def test_doctor_and_train_agree(tmp_path: Path, make: Any) -> None:
    make(tmp_path / "set")
    report, said = examine(tmp_path / "set"), verdict(tmp_path / "set")
    assert report.status() == bool(said) == (make in REFUSED), (report.text(), said)
    if said and make is not broken_val:
        error = next(f for f in report.findings if f.severity == "error")
        assert error.message.split(" (first of")[0] in said


def test_a_set_that_is_divided_here_has_objects_in_both_parts(tmp_path: Path) -> None:
    for k in range(12):
        image(tmp_path / f"{k}.jpg", seed=k)
        (tmp_path / f"{k}.xml").write_text(xml(BOXES["a"] if k in (3, 7) else [], name=f"{k}.jpg"))
    for seed in range(6):
        train, val, _ = split_pair(tmp_path, seed=seed)
        assert len(train) == 10 and len(val) == 2
        assert sum(map(len, train.records)) == sum(map(len, val.records)) == 2


def test_check_of_nothing_does_not_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", "retinanet_mini", "--data", str(crowds(tmp_path / "a")), "--encode-only"]) == 1
    assert "crowd regions" in capsys.readouterr().err
    root = yolo(tmp_path / "b").parent
    label = root / "labels" / "train" / "a.txt"
    label.write_text("")  # the first image
    command = ["check", "retinanet_mini", "--data", str(root), "--encode-only", "--limit", "1", "input.short=64"]
    assert cli.main(command) == 1
    assert "0 objects" in (out := capsys.readouterr().out) and "FAILED: there is nothing to check" in out


# ------------------------------------------------------------------------------------------ what is missing
def test_images_without_a_label_file_are_counted(tmp_path: Path) -> None:
    yolo(tmp_path)
    for k in range(10):
        image(tmp_path / "images" / "train" / f"more{k}.jpg", seed=k)
    for read in (examine(tmp_path).findings, [f for d in split_pair(tmp_path)[:2] for f in d.findings]):
        told = {f.severity: f.message for f in read if f.code == "labels-missing"}
        assert told["warning"].startswith("10 of the 12 images of 'train' have no label file")
        assert told["note"].startswith("1 of the 2 images of 'val' have no label file")
    assert [f.severity for f in open_dataset(tmp_path).findings if f.code == "labels-missing"] == ["warning"]


def test_label_files_of_other_names_are_suspected(tmp_path: Path) -> None:
    yolo(tmp_path)
    label = tmp_path / "labels" / "train" / "a.txt"
    label.rename(label.with_name("photo-a.txt"))
    findings = examine(tmp_path).findings
    assert any(f.code == "image-missing" and f.path.endswith("photo-a.txt") for f in findings)
    told = next(f for f in findings if f.code == "labels-missing" and "'train'" in f.message)
    assert told.severity == "warning" and "1 label files have no image: are they named differently?" in told.message


def test_losses_are_summed_up(tmp_path: Path) -> None:
    yolo(tmp_path)
    lines = "7 .5 .5 .2 .2\n8 .5 .5 .2 .2\n0 .5 .5 0 .2\n0 .5 .5 .2\n1 .5 .5\n"
    (tmp_path / "labels" / "train" / "a.txt").write_text(lines)
    (tmp_path / "images" / "val" / "d.jpg").write_bytes(b"no image")
    lost = next(line for line in examine(tmp_path, decode=False).text().splitlines() if line.startswith("lost: "))
    assert lost == ("lost: 5 objects (2 line-columns, 2 class-unknown, 1 box-empty) and 1 image (1 image-unreadable)")
    assert "lost:" not in examine(voc(tmp_path / "good")).text()


def test_parts_keep_no_evidence(tmp_path: Path) -> None:
    for part in read_splits(yolo(tmp_path)).values():
        assert part.evidence == []
