"""Every command of docs/results.md starts.

Benchmarks run in this process with the smallest sizes, as ``TINY`` gives them; those that train for minutes only parse
their arguments here and run in the slow tests. Commands of ``foveal`` are parsed, their overrides applied, their data
opened; the slow tests run them. Commands of ``pytest`` must name files that exist.
"""

from __future__ import annotations

import re
import runpy
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"
PAGE = ROOT / "docs" / "results.md"
RUN = "--rounds 1"

# The smallest arguments of each benchmark; None: it takes minutes with any, and only runs in the slow tests.
TINY: dict[str, str | None] = {
    "compress": f"{RUN} --proposals 1",
    "determinism": None,
    "detr": None,
    "evaluation": f"{RUN} --images 20 --objects 200 --per-image 5",
    "focal": f"{RUN} --anchors 900",
    "frozen_maps": f"{RUN} --frozen 3 --images 2 --batch 1 --width 96 --height 64",
    "inference": f"{RUN} --only ssdlite",
    "intervals": "--pairs 2 --equal 2 --sizes 30 --resamples 50 --hotcoco 2 --images 60",
    "ladder": None,
    "lite_training": f"{RUN} --height 64 --width 96 --batch 1",
    "loader": f"{RUN} --only SSD300",
    "matching": f"{RUN} --only ' x 1 objects'",
    "matching_and_loss": f"{RUN} --only ', 1 objects' --height 128 --width 128",
    "minis": None,
    "peer_training": None,
    "points": f"{RUN} --only 'to 10 objects'",
    "pooling": f"{RUN} --only 'one level' --boxes 20",
    "postprocess": f"{RUN} --only faster_rcnn",
    "reading": "--images 20",
    "recipes": "--tiny --levers mosaic",
    "resume_chaos": None,
    "serving": None,
    "training": f"{RUN} --only ssdlite",
    "versions": f"{RUN} --before {shlex.quote(str(ROOT))} --script loader.py --only SSD300",
}
# What the slow tests append to a command; later options win.
SLOW: dict[str, str] = {
    "determinism": "--presets fcos_mini --epochs 1 --images 4 --side 64",
    "detr": f"{RUN} --size 96 --short 96 --batch 1",
    "inference": f"{RUN} --only fasterrcnn_resnet50_fpn --short 128",
    "ladder": "--rungs fast_rcnn --passes 0.01 --timed 1 --limit 2",
    "minis": "--presets yolo_v3_mini --images 40 --minutes 0.2 --devices 1",
    "peer_training": "--minutes 0.1",
    "resume_chaos": "--chains 1 --limit 2 --epochs 1",
    "serving": "--model '' --requests 20 --clients 2 --timed 5 --sockets 5 --leavers 3 --bodies 20 --rounds 1",
    "training": f"{RUN} --only fasterrcnn_resnet50_fpn --size 128",
}


def commands(program: str) -> list[str]:
    """The commands of the page that begin with this program, from its code blocks and its tables."""
    text = PAGE.read_text(encoding="utf-8")
    found = re.findall(rf"`({program} [^`\n]+)`", text)
    for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            line = re.sub(r"^(?:[A-Z_]+=\S+ )+", "", line.strip())
            found += [line] * line.startswith(f"{program} ")
    return [
        c for c in dict.fromkeys(found) if "..." not in c and (program != "foveal" or len(c.split()) > 2 or "--" in c)
    ]


PYTHON, FOVEAL, PYTEST = commands("python"), commands("foveal"), commands("pytest")


def script(command: str) -> Path:
    return ROOT / shlex.split(command)[1]


def start(path: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs a benchmark in this process, as ``python benchmarks/x.py`` would."""
    threads = torch.get_num_threads()
    monkeypatch.setattr(sys, "argv", [str(path), *arguments])
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    try:
        runpy.run_path(str(path), run_name="__main__")
    finally:
        torch.set_num_threads(threads)


def test_the_page_has_commands_and_the_table_knows_every_benchmark() -> None:
    assert len(PYTHON) >= 20 and len(FOVEAL) >= 15 and len(PYTEST) >= 15
    assert {script(c).stem for c in PYTHON} == set(TINY)
    assert {name for name, tiny in TINY.items() if tiny is None} <= set(SLOW)


@pytest.mark.parametrize("command", PYTEST)
def test_tests_that_are_named_exist(command: str) -> None:
    paths = [word for word in shlex.split(command)[1:] if word.startswith("tests")]
    assert paths and all((ROOT / path).exists() for path in paths)


@pytest.mark.parametrize("name", [name for name, tiny in TINY.items() if tiny is not None])
def test_benchmarks_start(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    if name == "evaluation":
        pytest.importorskip("pycocotools")
    start(BENCHMARKS / f"{name}.py", shlex.split(TINY[name] or ""), monkeypatch)
    assert "Error" not in capsys.readouterr().out  # a contender that raises is a row of the table


@pytest.mark.parametrize("command", PYTHON)
def test_arguments_of_benchmark_commands_exist(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if "detr" in script(command).name:
        pytest.importorskip("transformers")
    with pytest.raises(SystemExit) as end:
        start(script(command), [*shlex.split(command, comments=True)[2:], "--help"], monkeypatch)
    assert end.value.code in (0, None)
    shown = capsys.readouterr().out
    for option in re.findall(r" (--[a-z-]+)", command):
        assert option in shown, f"{script(command).name} has no {option}"


def test_compared_detectors_train_the_same_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torchvision's box outputs for the background aside, which no loss reaches (``peers.trained_parameters``)."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from peers import pair, trained_parameters  # type: ignore[import-not-found]

    theirs, ours = pair("fasterrcnn_resnet50_fpn", 64)
    assert (
        trained_parameters(theirs)
        == trained_parameters(ours)
        == sum(p.numel() for p in ours.parameters() if p.requires_grad)
    )
    predictor = theirs.roi_heads.box_predictor.bbox_pred
    images = [torch.rand(3, 64, 64)]
    targets = [{"boxes": torch.tensor([[8.0, 8, 40, 48]]), "labels": torch.tensor([3])}]
    sum(theirs.train()(images, targets).values()).backward()
    assert predictor.weight.grad is not None and not predictor.weight.grad[:4].any()
    assert not predictor.bias.grad[:4].any()


# ------------------------------------------------------------------------------------------------------ foveal
def words_of(command: str, data: Path) -> list[str]:
    return shlex.split(command.replace("DATA/", f"{data}/"), comments=True)[1:]


def parsed(verb: str, arguments: list[str]) -> dict[str, Any]:
    """The parameters of a command as its own parser reads them; wrong usage raises."""
    import importlib

    import typer

    module = importlib.import_module(f"foveal.cli.{verb}")
    command = typer.main.get_command(module.app)
    while hasattr(command, "commands"):  # weights import, ...
        command, arguments = command.commands[arguments[0]], arguments[1:]
    return dict(command.make_context(verb, list(arguments)).params)


@pytest.mark.parametrize("command", FOVEAL)
def test_foveal_commands_parse(command: str, data: Path) -> None:
    from foveal import presets
    from foveal.config.overrides import is_override, override
    from foveal.data.open import open_dataset

    words = words_of(command, data)
    if words == ["--help"]:
        return
    parsed(words[0], words[1:])
    for word in words:
        if word.startswith(str(data)):
            assert Path(word).exists(), word
    if words[0] in ("train", "anchors") and words[1] in presets.names():
        override(presets.get(words[1]), [w for w in words[2:] if is_override(w) and "train=" not in w])
    if words[0] in ("eval", "proposals") and "--split" in words:
        split = words[words.index("--split") + 1]
        assert len(open_dataset(words[words.index("--data") + 1], split=split)) > 0


# -------------------------------------------------------------------------------------------------------- slow
@pytest.mark.slow
@pytest.mark.parametrize("command", [c for c in PYTHON if script(c).stem in SLOW])
def test_slow_benchmarks_run(
    command: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FOVEAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    words = shlex.split(command.replace("DATA/", f"{data}/"), comments=True)[2:]
    name = script(command).stem
    words = [word for word in words if "=" in word and not word.startswith("-")] if name == "resume_chaos" else words
    if name == "resume_chaos":
        words = ["--data", str(data / "bccd"), *words]
    tiny = shlex.split(SLOW[name])
    if name == "detr":
        tiny += ["--only", words[words.index("--only") + 1]]
    try:
        start(script(command), [*words, *tiny], monkeypatch)
    except SystemExit as end:
        assert end.code in (0, None)
    assert "Error" not in capsys.readouterr().out


@pytest.mark.slow
def test_foveal_commands_run(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the page's order, so that ``RUN`` and ``models/yf`` are there; training of one epoch on two images."""
    import shutil

    from foveal.cli.main import main

    monkeypatch.setenv("FOVEAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for command in FOVEAL:
        words = words_of(command, data)
        if "theirs.pth" in words or words[:2] == ["anchors", "models/yf"]:
            continue  # a file that the page's reader has; a model that a later command makes
        if words[0] == "train":
            shutil.rmtree("RUN", ignore_errors=True)
            if "--max-time" in words:
                at = words.index("--max-time")
                del words[at : at + 2]
            words += ["--epochs", "1", "--limit", "2", "--no-report"]
        elif words[0] in ("eval", "proposals"):
            words += ["--limit", "2"]
        assert main(words) == 0, " ".join(words)
