"""What foveal writes: given back to its commands, under any name, on a full disk, with class names of any kind.

One small detector is trained once; the commands run in this process.
"""

from __future__ import annotations

import io
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from foveal.cli import main as cli
from foveal.data.open import open_dataset
from foveal.files.outputs import output_kind
from tests.helpers.data_sets import coco, coco_doc

SMALL = ["--epochs", "1", "--batch", "2", "--limit", "4", "--device", "cpu", "--precision", "32"]
SMALL += ["--no-report", "input.short=64", "head.depth=1"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dataset (``shapes``), a run on it (``run``) and what the commands write about them."""
    folder = tmp_path_factory.mktemp("outputs")
    before = Path.cwd()
    os.chdir(folder)
    try:
        for words in (
            ["data", "make", "shapes", "shapes", "--images", "10", "--size", "64", "--no-masks", "--format", "coco"],
            ["train", "retinanet_mini", "--data", "shapes", "--out", "run", *SMALL],
            ["predict", "run", "shapes/train", "shapes/val", "--score", "0", "--json", "found", "--out", "drawn"],
            ["eval", "run", "--data", "shapes", "--json", "scores", "--save-detections", "results.json"],
            ["eval", "run", "--data", "shapes", "--save-detections", "voc"],
            ["doctor", "shapes", "--json", "findings", "--html", "page.html"],
            ["proposals", "--data", "shapes", "--split", "val", "--method", "sliding_windows", "--out", "proposals"],
            ["compare", "run", "run", "--out", "comparison"],
            ["weights", "export", "run", "--out", "run.safetensors"],
        ):
            assert cli.main(words) == 0, words
        (folder / "findings").write_text('[{"code": "x", "severity": "note", "path": "", "where": "", "message": ""}]')
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def here(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(made)
    return made


# ------------------------------------------------------------------------------------------- given back
def test_detections_are_scored_as_the_model_is(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = json.loads(Path("scores").read_text())
    for file in ("results.json", "voc"):
        assert cli.main(["eval", "--detections", file, "--data", "shapes", "--json", "-"]) == 0
        assert json.loads(capsys.readouterr().out)["AP"] == pytest.approx(expected["AP"], abs=1e-6), file
    assert cli.main(["predict", "run", "shapes/val", "--score", "0", "--json", "val"]) == 0
    capsys.readouterr()
    assert cli.main(["eval", "--detections", "val", "--data", "shapes", "--json", "-"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["AP"] == pytest.approx(expected["AP"], abs=1e-6)
    assert "found images: 2 by file name" in err
    assert cli.main(["eval", "--detections", "found", "--data", "shapes"]) == 1  # of other images too
    assert "8 of 10 image ids are not in the dataset: shapes/train/" in capsys.readouterr().err


KINDS = {
    "found": "the detections of foveal predict",
    "scores": "the scores of foveal eval",
    "results.json": "detections (COCO results)",
    "findings": "the findings of foveal doctor",
    "page.html": "the page of foveal doctor",
    "proposals": "the proposals of foveal proposals",
    "proposals/proposals.safetensors": "the proposals of foveal proposals",
    "proposals/recall.json": "the recall of foveal proposals",
    "comparison": "the comparison of foveal compare",
    "run": "a run of foveal train",
    "run/run.json": "the record of a run of foveal train (run.json)",
    "run/results.json": "the scores of foveal eval",
    "run/metrics.jsonl": "the log of a run of foveal train (metrics.jsonl)",
    "run/checkpoints/best": "a checkpoint of foveal",
}
OTHERS = ("voc", "drawn", "run.safetensors", "run/checkpoints", "run/data_sets", "comparison/curves.png")
INPUTS = {
    "data": ["doctor", "{}"],
    "training": ["train", "retinanet_mini", "--data", "{}", "--out", "new"],
    "run": ["compare", "run", "{}"],
    "image": ["predict", "run", "{}", "--json", "-"],
    "model": ["eval", "{}", "--data", "shapes", "--limit", "1"],
    "detections": ["eval", "--detections", "{}", "--data", "shapes"],
}
VALID = {
    *(("run", name) for name in ("run",)),
    *(("model", name) for name in ("run", "run/checkpoints/best", "run.safetensors")),
    *(("detections", name) for name in ("results.json", "voc")),
    *(("image", name) for name in ("drawn", "comparison", "comparison/curves.png")),
}


@pytest.mark.parametrize("kind", INPUTS)
def test_every_output_given_in_the_place_of_another(here: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    for name in (*KINDS, *OTHERS):
        status = cli.main([word.format(name) for word in INPUTS[kind]])
        out, err = capsys.readouterr()
        if (kind, name) in VALID:
            assert status == 0, (name, err)
            continue
        assert status in (1, 2) and "Traceback" not in err, (name, err)
        lines = [line for line in err.splitlines() if line.startswith("foveal: ")]
        assert len(lines) == 1 and err.count("\n") == 1, (name, out, err)
        if name in KINDS and kind not in ("model", "image", "detections"):
            assert f"{name}: {KINDS[name]}, not a" in err, (name, err)
    assert not Path("new").exists()
    for name, what in KINDS.items():
        assert output_kind(Path(name)) == what


# ------------------------------------------------------------------------------------------- any name
NAMES = [
    *("größe 猫", "a b", "q'\"uote", "new\nline", "100%s%n", "[x]", "k=v", "#h", "dot.", "x" * 255, "猫" * 85, "tab\t"),
    *("$HOME", " lead", "back\\slash", "a:b", "*", "-dash", os.fsdecode(b"caf\xe9")),
]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_outputs_under_any_name(here: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / name
    shutil.copytree("run", out)
    for words, file in (
        (["predict", str(out), "shapes/val", f"--out={out}/d", "--score", "0"], "d/000000000009.jpg"),
        (["eval", str(out), "--data", "shapes", "--limit", "2", f"--save-detections={out}/v"], "v"),
        (["doctor", "shapes", f"--json={out}/found", f"--html={out}/page"], "page"),
        (["compare", str(out), "run", f"--out={out}/c"], "c/curves.png"),
        (["weights", "export", str(out), f"--out={out}/w.safetensors"], "w.safetensors"),
        (["data", "convert", "shapes", "--to", "voc", f"--out={out}/voc"], "voc/Annotations"),
    ):
        status = cli.main(words)
        err = capsys.readouterr().err
        assert status == 0 and (out / file).exists(), (words, err)
    assert open_dataset(out / "voc").path.exists()


def test_a_run_in_a_folder_that_tensorboard_refuses(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / os.fsdecode(b"caf\xe9")
    assert cli.main(["train", "retinanet_mini", "--data", "shapes", "--out", str(out), *SMALL]) == 0
    err = capsys.readouterr().err
    assert err.count("no TensorBoard events: TensorBoard takes only paths that are UTF-8\n") == 1
    assert (out / "results.json").exists() and not (out / "tensorboard").exists()


@pytest.mark.skipif(os.name != "posix", reason="locales of Linux")
def test_names_where_the_locale_has_only_ascii(here: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    words = ["predict", "run", "shapes/val", "--out", str(tmp_path / "狗"), "--json", str(tmp_path / "猫.txt")]
    done = subprocess.run([sys.executable, "-m", "foveal", *words], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(json.loads((tmp_path / "猫.txt").read_text(encoding="utf-8"))) == 2
    assert len(list((tmp_path / "狗").iterdir())) == 2


# ------------------------------------------------------------------------------------------- a full disk
@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """No file may grow beyond ``size`` bytes: the write fails half-way, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("words", "file"),
    [
        (["predict", "run", "shapes/val", "--out", "{}/d"], "d/000000000009.jpg"),
        (["predict", "run", "shapes/val", "--score", "0", "--json", "{}/p"], "p"),
        (["eval", "run", "--data", "shapes", "--json", "{}/s"], "s"),
        (["eval", "run", "--data", "shapes", "--save-detections", "{}/s.json"], "s.json"),
        (["eval", "run", "--data", "shapes", "--save-detections", "{}/v"], "v/comp4_det_val_"),
        (["doctor", "broken.json", "--json", "{}/f"], "f"),
        (["doctor", "shapes", "--html", "{}/f.html"], "f.html"),
        (["compare", "run", "run", "--out", "{}/c"], "c/compare.txt"),
        (["weights", "export", "run", "--out", "{}/w.safetensors"], "w.safetensors"),
        (["weights", "export", "run", "--out", "{}/hf"], "hf"),
        (["weights", "export", "run", "--out", "{}/b.pth", "--to", "backbone"], "b.pth"),
        *((["data", "convert", "shapes", "--to", to, "--out", "{}/x"], "x") for to in ("coco", "voc", "yolo", "csv")),
        (["data", "split", "shapes", "--out", "{}/x"], "x"),
        (["data", "make", "shapes", "{}/x", "--images", "2", "--size", "64"], "x"),
        (
            ["proposals", "--data", "shapes", "--split", "val", "--method", "sliding_windows", "--out", "{}/x"],
            "x/recall",
        ),
        (["train", "retinanet_mini", "--data", "shapes", "--out", "{}/x", *SMALL], "x/"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value[:3]),
)
def test_a_full_disk_names_the_file_and_leaves_nothing_half_written(
    here: Path, tmp_path: Path, words: list[str], file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = {
        "images": [{"id": 1, "file_name": "gone.jpg", "width": 9, "height": 9}],
        "annotations": [],
        "categories": [],
    }
    Path("broken.json").write_text(json.dumps(broken))
    with file_size_limit(100):
        status = cli.main([word.format(tmp_path) for word in words])
    err = capsys.readouterr().err
    last = err.splitlines()[-1]
    assert status == 1 and "Traceback" not in err, err
    assert last.startswith(f"foveal: {tmp_path}/{file}") and "File too large" in last, err
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert all(path.stat().st_size < 100 for path in kept), "written whole before the disk was full"
    assert not [path for path in kept if path.name.startswith(".")]


# ------------------------------------------------------------------------------------------- class names
CLASSES = [
    *("a/b", "back\\slash", "..", ".", "a,b", '"quoted"', "it's", "new\nline", "😀", "x" * 200, "CON", "a&b<c>"),
    *("$x_1$", "_under", "a: b", "# hash", "null", "1", "%s", "tab\there", "\x1b[31mred", "caf\udce9", "a=b"),
]


@pytest.fixture
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dataset of these classes, each with an object."""
    monkeypatch.chdir(tmp_path)
    doc: dict[str, Any] = coco_doc()
    doc["categories"] = [{"id": k, "name": name} for k, name in enumerate(CLASSES, 1)]
    images = [image["id"] for image in doc["images"]]
    doc["annotations"] = [
        {
            "id": k,
            "image_id": images[k % 4],
            "category_id": k,
            "bbox": [2 * k % 40, k, 20, 15],
            "area": 300,
            "iscrowd": 0,
        }
        for k in range(1, len(CLASSES) + 1)
    ]
    return coco(tmp_path / "data", doc)


def test_class_names_of_any_kind(odd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ["--data", str(odd.parent.parent)]
    report = [word for word in SMALL if word != "--no-report"]
    assert cli.main(["train", "retinanet_mini", *data, "--val", data[1], "--out", "run", *report]) == 0
    page = Path("run/report.html").read_text(encoding="utf-8")
    assert "a&amp;b&lt;c&gt;" in page and "<c>" not in page
    assert cli.main(["eval", "run", *data, "--json", "scores", "--save-detections", "voc"]) == 0
    assert list(json.loads(Path("scores").read_text(encoding="utf-8"))["per_class"]) == CLASSES
    assert len(list(Path("voc").iterdir())) == len(CLASSES)
    assert cli.main(["predict", "run", "data/images", "--score", "0", "--json", "found", "--out", "drawn"]) == 0
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err
    aps = []
    for file in ("voc", "found"):
        assert cli.main(["eval", "--detections", file, *data, "--json", "-"]) == 0
        aps.append(json.loads(capsys.readouterr().out)["AP"])
    assert aps[0] == pytest.approx(aps[1], abs=1e-5)
    chosen = '"a,b","""quoted""",$x_1$,a/b,..'
    assert cli.main(["predict", "run", "data/images", "--classes", chosen, "--score", "0", "--json", "some"]) == 0
    labels = {d["label"] for entry in json.loads(Path("some").read_text()) for d in entry["detections"]}
    assert labels <= {"a,b", '"quoted"', "$x_1$", "a/b", ".."}
    assert cli.main(["predict", "run", "data/images", "--classes", "a,b"]) == 2
    assert "does not know the class 'a'." in capsys.readouterr().err


@pytest.mark.parametrize("form", ["coco", "voc", "yolo", "csv", "labelme", "createml", "cvat"])
def test_class_names_are_converted_or_told(odd: Path, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "convert", str(odd.parent.parent), "--to", form, "--out", "new"]) == 0
    told = capsys.readouterr().err
    kept = set(open_dataset("new").classes)
    lost = [name for name in CLASSES if name not in kept]
    assert len(kept) == len(CLASSES)
    assert not lost or ("class-renamed" in told and len(lost) <= 4), lost


# ------------------------------------------------------------------------------------------- sources
def test_lists_and_standard_input(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = sorted(Path("shapes/val").iterdir())
    (tmp_path / "all.txt").write_text("# both\r\n" + "".join(f"{here / image}\r\n" for image in images) * 2)
    assert cli.main(["predict", "run", str(tmp_path / "all.txt"), "--json", "-"]) == 0
    out, err = capsys.readouterr()
    assert [entry["image"] for entry in json.loads(out)] == [str(here / image) for image in images]
    assert "2 of the 4 names are repeats; each image is used once\n" in err
    stdin = io.TextIOWrapper(io.BytesIO("\0".join(map(str, images)).encode()))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert cli.main(["predict", "run", "-", "--json"]) == 0
    assert [entry["image"] for entry in json.loads(capsys.readouterr().out)] == list(map(str, images))


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["https://example.com/a.jpg"], 1, "https://example.com/a.jpg: is an address, and images are not fetched"),
        (["shapes/val", "run"], 2, "run is a model, and stands among the images. Name one model, before the images"),
        (["shapes/val", "accurate"], 2, "accurate is a model, and stands among the images"),
        (["shapes/val", "run.safetensors"], 2, "run.safetensors is a model, and stands among the images"),
        (["run", "run", "shapes/val"], 2, "run is a model, and stands among the images"),
        (["run", "shapes"], 1, "shapes: no image in this folder; there are some in folders below, such as"),
        (["run", "nothing.txt"], 1, "nothing.txt: names no image"),
        (["run", "shapes/val", "--json", "input.short=600"], 2, "'input.short=600' is a setting"),
        (["run", "--json", "shapes/val"], 2, "'shapes/val' is a folder"),
    ],
)
def test_sources_that_are_refused(
    here: Path, words: list[str], status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("nothing.txt").write_text("\n")
    assert cli.main(["predict", *words]) == status
    out, err = capsys.readouterr()
    assert message in err and err.count("\n") == 1 and out == ""


def test_images_that_cannot_be_read_are_counted(here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = "".join(f"gone{i}.jpg\n" for i in range(9))
    (tmp_path / "all.txt").write_text(f"{names}{here}/shapes/val/000000000009.jpg\n")
    (tmp_path / "film.mp4").write_bytes(b"\0\0\0\x20ftypisom" + bytes(9))
    assert cli.main(["predict", "run", str(tmp_path / "all.txt"), str(tmp_path / "film.mp4"), "--json", "-"]) == 0
    err = capsys.readouterr().err.splitlines()
    gone = f"{tmp_path}/gone"
    assert err[-3:] == [
        f"skipped: 9 images: no such file ({gone}0.jpg, {gone}1.jpg, {gone}2.jpg, ...)",
        f"skipped: {tmp_path}/film.mp4: a video, not an image. Extract its frames",
        "1 images, 10 skipped",
    ]


def test_files_are_written_whatever_becomes_of_the_screen(here: Path, tmp_path: Path) -> None:
    """``predict ... --json found.json | head -1``; the reader is gone before the first line."""
    words = ["predict", "run", "shapes/train", "shapes/val", "--score", "0", "--json", str(tmp_path / "found.json")]
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "foveal", *words]
    done = subprocess.run(command, cwd=here, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=240)
    os.close(writer)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert len(json.loads((tmp_path / "found.json").read_text())) == 10


def test_a_full_screen_is_told_after_the_files_are_written(here: Path, tmp_path: Path) -> None:
    """As on a full disk; where it ends, the lost lines are an error."""
    words = ["predict", "run", "shapes/val", "--score", "0", "--json", str(tmp_path / "found.json")]
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "foveal", *words]
        done = subprocess.run(command, cwd=here, stdout=full, stderr=subprocess.PIPE, text=True, timeout=240)
    assert done.returncode == 1
    assert "foveal: standard output: No space left on device" in done.stderr
    assert json.loads((tmp_path / "found.json").read_text())
