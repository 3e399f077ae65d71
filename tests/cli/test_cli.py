"""The command line: exit statuses, messages, what is imported. Most tests run in this process, few in a subprocess."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from foveal import presets
from foveal.cli import main as cli
from foveal.cli.common import names, seconds, write_json
from foveal.errors import UsageError
from foveal.files.atomic import write_json as write_other
from foveal.training.run import default_out
from tests.inference.test_predict import write_image


def foveal(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The console script in a subprocess; the last line of standard error is whether torch was imported."""
    code = (
        "import sys\nfrom foveal.cli.main import main\nstatus = main(sys.argv[1:])\n"
        "print('torch' in sys.modules, file=sys.stderr)\nsys.exit(status)"
    )
    environment = {**os.environ, "COLUMNS": "40"}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=cwd, env=environment
    )


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of 12 images, in a folder whose name is long and full of brackets."""
    folder = tmp_path_factory.mktemp("cli") / ("a long [red]name " * 6).strip()
    assert cli.main(["data", "make", "shapes", str(folder), "--images", "12", "--size", "96"]) == 0
    return folder


# ----------------------------------------------------------------------------------- without torch
def test_help_lists_every_command_and_does_not_import_torch() -> None:
    done = foveal("--help")
    assert done.returncode == 0
    assert all(f"  {verb} " in done.stdout for verb in cli.VERBS)
    assert done.stderr == "False\n"


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, foveal; foveal.__version__, dir(foveal); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_doctor_and_eval_of_detections_do_not_import_torch(shapes: Path, tmp_path: Path) -> None:
    done = foveal("doctor", str(shapes), "--json", str(tmp_path / "findings.json"))
    assert (done.returncode, done.stderr) == (0, "False\n")
    assert str(shapes) in done.stdout  # never cut or wrapped, brackets as they are
    assert json.loads((tmp_path / "findings.json").read_text()) == []
    (tmp_path / "found.json").write_text("[]")
    arguments = ["--data", str(shapes), "--split", "train", "--json", "-"]
    done = foveal("eval", "--detections", str(tmp_path / "found.json"), *arguments)
    assert (done.returncode, done.stderr) == (0, "False\n")
    scores = json.loads(done.stdout)
    assert (scores["protocol"], scores["split"], scores["AP50"]) == ("coco", "train", 0.0)


@pytest.mark.parametrize("verb", [v for v in cli.VERBS if v not in ("data", "weights")])
def test_every_command_has_help_with_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([verb, "--help"]) == 0
    text = capsys.readouterr().out
    assert "Example:\n" in text
    assert f"foveal {verb}" in text.split("Example:")[1]


@pytest.mark.parametrize(
    "words",
    [
        ["data"],
        ["data", "make"],
        ["data", "convert"],
        ["data", "split"],
        ["weights"],
        ["weights", "list"],
        ["weights", "fetch"],
        ["weights", "import"],
        ["weights", "export"],
    ],
)
def test_every_subcommand_has_help_with_an_example(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*words, "--help"]) == 0
    assert f"foveal {' '.join(words)}" in capsys.readouterr().out.split("Example:\n")[1]


# -------------------------------------------------------------------------------------- exit statuses
@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, ""),
        (["--version"], 0, ""),
        (["trian"], 2, "there is no verb 'trian'. Did you mean train?"),
        (["train"], 2, "Missing option"),
        (["train", "retinanet_mini"], 2, "Missing option '--data'"),
        (["train", "retinanet_mini", "--data", "x", "--batch", "0"], 2, "--batch"),
        (["train", "retinanet_mini", "--data", "x", "--max-time", "soon"], 2, "'soon' is not a duration"),
        (["train", "retinanet_mini", "--data", "x", "--split", "train"], 2, "train=A,val=B"),
        (["train", "retinanet_mimi", "--data", "nowhere"], 2, "retinanet_mini"),
        (["train", "retinanet_mini", "--data", "nowhere", "task.cls_los=Focal()"], 2, "Did you mean cls_loss?"),
        (["train", "retinanet_mini", "--data", "nowhere", "Focal()"], 2, "not of the form key=value"),
        (["train", "retinanet_mini", "--data", "nowhere"], 1, "nowhere"),
        (["eval", "--data", "nowhere"], 2, "give a model or --detections"),
        (["eval", "nothing", "--data", "nowhere"], 1, "nothing"),
        (["eval", "--detections", "d.json", "--data", "nowhere"], 1, "nowhere"),
        (["eval", "--detections", "d.json", "--data", "nowhere", "--protocol", "voc12"], 2, "voc12"),
        (["predict"], 2, ""),
        (["predict", "nothing.pth", "x.jpg"], 1, "nothing.pth"),
        (["predict", "--score", "much", "x.jpg"], 2, "'--score'"),
        (["doctor", "nowhere"], 1, "nowhere"),
        (["data", "make", "squares", "out"], 2, "squares"),
        (["data", "make", "shapes", "out", "--size", "big"], 2, "'big' is not a size"),
        (["data", "convert", "nowhere", "--to", "coco", "--out", "out"], 1, "nowhere"),
        (["models", "retinanet_mimi"], 2, "retinanet_mini"),
        (["weights", "fetch", "acurate"], 2, "accurate"),
        (["weights", "import", "nothing.pth", "--out", "out"], 1, "nothing.pth"),
        (["compare", "one"], 2, "at least two"),
        (["compare", "one", "two"], 1, "run.json is missing"),
        (["check", "retinanet_mini", "--data", "nowhere"], 1, "nowhere"),
        (["proposals", "--data", "nowhere", "--method", "nothing"], 1, "nothing"),
    ],
)
def test_errors_give_exit_status_and_one_line(
    arguments: list[str],
    status: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == status
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    assert message in err
    if message:
        assert err.startswith("foveal: ")
        assert err.count("\n") == 1
        assert out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (RuntimeError("a bug"), 3, "Please report it"),
        (OSError(28, "No space left on device", "out/x"), 1, "out/x: No space left on device"),
        (OSError(28, "No space left on device"), 1, "foveal: No space left on device"),
        (OSError(5, "Input/output error"), 1, "foveal: Input/output error"),
        (OSError(22, "Invalid argument"), 3, "Please report it"),
        (MemoryError(), 1, "out of memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), 1, "a smaller input"),
        (BrokenPipeError(), 0, ""),
    ],
)
def test_errors_inside_a_command(
    error: BaseException,
    status: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def examine(*_: object) -> None:
        raise error

    monkeypatch.setattr("foveal.data.doctor.examine.examine_parts", examine)
    assert cli.main(["doctor", "x"]) == status
    err = capsys.readouterr().err
    assert message in err
    assert ("Traceback" in err) == (status == 3)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no such device here")
def test_full_disk_on_standard_output(shapes: Path) -> None:
    code = "from foveal.cli.main import run; run()"
    for arguments in (["--help"], ["doctor", str(shapes)]):
        with Path("/dev/full").open("w") as full:
            command = [sys.executable, "-c", code, *arguments]
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
        assert done.returncode == 1
        assert done.stderr.splitlines() in (
            ["foveal: No space left on device"],
            ["foveal: standard output: No space left on device"],
        )


# ------------------------------------------------------------------------------------------- end to end
def test_data_conversions_and_doctor(shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "convert", str(shapes), "--to", "yolo", "--out", str(tmp_path / "y")]) == 0
    assert cli.main(["data", "split", str(tmp_path / "y"), "--val", ".5", "--out", str(tmp_path / "s")]) == 0
    assert "12 images" in capsys.readouterr().out
    label = next((tmp_path / "s").rglob("labels/**/*.txt"))
    label.write_text("0 0.5 0.5 nan 0.1\n")
    assert cli.main(["doctor", str(tmp_path / "s"), "--json"]) in (0, 1)
    out, _ = capsys.readouterr()
    assert any(label.name in finding["path"] for finding in json.loads(out))
    assert cli.main(["doctor", str(tmp_path / "s"), "--strict"]) == 1


def test_a_run_from_training_to_prediction(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """train, eval, predict, compare, weights export: two iterations are enough to check that they work together."""
    monkeypatch.chdir(tmp_path)
    common = ["--data", str(shapes), "--epochs", "1", "--limit", "4", "--batch", "2", "--device", "cpu"]
    common += ["--precision", "32"]
    small = ["input.short=64", "head.depth=1"]
    assert cli.main(["train", "retinanet_mini", *common, "--out", "a", *small]) == 0
    assert cli.main(["train", "retinanet_mini", *common, "--out", "a", *small]) in (1, 2)  # holds a run
    assert cli.main(["train", "retinanet_mini", *common, "--out", "b", "--no-report", "fit.lr=1e-4", *small]) == 0
    page = (tmp_path / "a" / "report.html").read_text()
    assert page.count("data:image/jpeg;base64,") >= 4
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")  # a namespace
    capsys.readouterr()

    arguments = ["--data", str(shapes), "--split", "val", "--json", "-", "--precision", "32"]
    assert cli.main(["eval", "a", *arguments, "--limit", "4", "--save-detections", "found.json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    stored = json.loads((tmp_path / "a" / "results.json").read_text())
    assert scores["AP"] == pytest.approx(stored["AP"], abs=1e-3)
    assert scores["images"] == stored["images"]
    assert isinstance(json.loads((tmp_path / "found.json").read_text()), list)

    photo, bad = write_image(tmp_path / "photo.png", 90, 70), tmp_path / "bad.png"
    bad.write_bytes(b"\x89PNG no")
    words = ["predict", "a", str(photo), str(bad), "--out", "drawn", "--json", "p.json", "--score", "0"]
    assert cli.main([*words, "task.select.score=0.01"]) == 0
    assert "bad.png" in capsys.readouterr().err
    assert [e["width"] for e in json.loads((tmp_path / "p.json").read_text())] == [90]
    assert [p.name for p in (tmp_path / "drawn").iterdir()] == ["photo.jpg"]
    assert cli.main(["predict", "a", str(bad), "--out", "drawn"]) == 1
    words = ["predict", "a", str(photo), "--score", "0", "--format", "coco"]
    assert cli.main([*words, "--out", "as-coco", "--classes", "disc,star"]) == 0
    assert "as-coco: coco, 1 images" in capsys.readouterr().err
    assert cli.main(words) == 2  # without --out
    assert cli.main(["predict", "a", str(photo), "--labels", "x.xml"]) == 2  # without --format
    assert "--format" in capsys.readouterr().err

    assert cli.main(["compare", "a", "b", "--out", "side"]) == 0
    usual = presets.get("retinanet_mini").fit.lr
    assert f"fit.lr  {usual!r}  0.0001" in (tmp_path / "side" / "compare.txt").read_text()
    assert (tmp_path / "side" / "curves.png").stat().st_size > 1000
    assert "http" not in (tmp_path / "side" / "compare.html").read_text().replace("http://www.w3.org/2000/svg", "")
    capsys.readouterr()
    assert cli.main(["compare", "a", "b", "--json", "-", "--fail-if", "worse"]) == 0
    assert json.loads(capsys.readouterr().out)["pairs"][0]["verdict"] == "cannot tell"  # four images
    assert cli.main(["compare", "a", "b", "--fail-if", "not-better"]) == 4
    assert cli.main(["compare", "a", "b", "--split", "train"]) == 2  # of no data
    (tmp_path / "b" / "results.json").rename(tmp_path / "b" / "hidden.json")
    assert cli.main(["compare", "a", "b"]) == 1
    assert "b: the run has not ended" in capsys.readouterr().err
    assert cli.main(["weights", "export", "a", "--out", "a.safetensors"]) == 0
    assert cli.main(["weights", "export", "a", "--out", "a.safetensors"]) == 1


# ---------------------------------------------------------------------------------------------- helpers
@pytest.mark.parametrize(
    ("text", "value"),
    [("90", 90), ("90s", 90), ("30m", 1800), ("1.5h", 5400), ("1h30m", 5400), (".5m", 30), (None, None)],
)
def test_durations(text: str | None, value: float | None) -> None:
    assert seconds(text) == value


@pytest.mark.parametrize(
    ("text", "listed"),
    [
        ("a,b", ["a", "b"]),
        (" a , b ,", ["a", "b"]),
        ('"a,b",c', ["a,b", "c"]),
        ('"""a"" b", c', ['"a" b', "c"]),
        ('6" pipe,b', ['6" pipe', "b"]),
        ('" lead ",x', [" lead ", "x"]),
        ("a/b,..,$x,#,x=1", ["a/b", "..", "$x", "#", "x=1"]),
        ("😀,größe\nzwei", ["😀", "größe\nzwei"]),
    ],
)
def test_lists_of_names(text: str, listed: list[str]) -> None:
    assert names(text) == listed


@pytest.mark.parametrize("text", ["", " ,", '"a', '"a"b,c', '"a""'])
def test_bad_lists_of_names(text: str) -> None:
    with pytest.raises(UsageError, match="--classes: "):
        names(text)


@pytest.mark.parametrize("text", ["", "0", "-5", "5x", "m", "1m30h"])
def test_bad_durations(text: str) -> None:
    with pytest.raises(UsageError):
        seconds(text)


def test_file_names_that_are_not_utf_8_can_be_written(tmp_path: Path) -> None:
    """Linux names are bytes; Python shows the others as lone surrogates, which UTF-8 refuses."""
    name = os.fsdecode(b"caf\xe9 \xc3\xa9.jpg")
    for write in (write_json, lambda value, path: write_other(path, value)):
        write({"image": name}, tmp_path / "x.json")
        assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == {"image": name}


def test_default_out_is_the_first_folder_without_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert default_out("some/p") == Path("runs/p")
    for number, mark in enumerate(("run.json", "results.json", "seed-0/run.json"), 1):
        file = default_out("p") / mark
        file.parent.mkdir(parents=True)
        file.write_text("{}")
        assert default_out("p") == Path(f"runs/p-{number + 1}")
    assert default_out("p", resume=True) == Path("runs/p-3")
    Path("runs/q").mkdir()
    assert default_out("q") == Path("runs/q"), "an empty folder holds nothing"


# ------------------------------------------------------------------------------------------------- the demo
def test_demo_draws_trains_and_reports(tmp_path: Path) -> None:
    """Small, but with everything; a second demo replaces the first."""
    out = tmp_path / "demo"
    command = [sys.executable, "-m", "foveal", "demo", "--out", str(out), "--images", "20", "--epochs", "1"]
    for seed in ("0", "1"):
        done = subprocess.run([*command, "--seed", seed], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("AP50") == 1 and done.stderr.count("20 images drawn") == 1
        assert json.loads((out / "results.json").read_text())["steps"] == 2  # 18 to train, 8 a batch, the rest dropped
        assert json.loads((out / "run.json").read_text())["seed"] == int(seed)
        assert (out / "report.html").stat().st_size > 10_000


def test_demo_replaces_only_its_own_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.txt").write_text("keep me")
    assert cli.main(["demo", "--out", str(tmp_path)]) == 1
    assert "holds something that demo did not make" in capsys.readouterr().err
    assert (tmp_path / "mine.txt").read_text() == "keep me"
