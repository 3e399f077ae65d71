"""The settings of a training run are defined once: signature, command line and help agree."""

from __future__ import annotations

import inspect
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import typer

import foveal
from foveal.cli.options import pairs
from foveal.cli.train import app
from foveal.config.fields import describe
from foveal.errors import FovealError, UsageError
from foveal.training.arguments import NOT_RECORDED, TrainArguments

SETTINGS = {row.name: row for row in describe(TrainArguments)}


def command_line() -> dict[str, Any]:
    return {p.name: p for p in typer.main.get_command(app).params if p.name != "help"}


def test_every_setting_has_a_help_of_one_sentence() -> None:
    for name, row in SETTINGS.items():
        assert row.help[:1].isupper() and row.help.endswith("."), name


def test_signature_command_line_and_documentation_have_the_same_settings() -> None:
    signature = inspect.signature(foveal.train)
    assert list(signature.parameters) == ["spec", *SETTINGS]
    line = command_line()
    assert set(line) == {"preset", "report", "preview", "find_lr", "dry_run", *SETTINGS}
    documented = (foveal.train.__doc__ or "").partition("Settings\n--------\n")[2].splitlines()
    assert [text.partition(":")[0] for text in documented[::2]] == list(SETTINGS)
    for (name, row), text in zip(SETTINGS.items(), documented[1::2], strict=True):
        assert line[name].help == row.help
        assert text.strip().startswith(row.help)
    for setting in fields(TrainArguments):
        parameter = signature.parameters[setting.name]
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
        assert parameter.annotation == setting.type
        if setting.name != "data":
            assert parameter.default == setting.default


def test_options_keep_their_names_and_defaults() -> None:
    line = command_line()
    opts = {name: p.opts[0] for name, p in line.items()}
    assert opts == {name: name if name in ("preset", "overrides") else f"--{name.replace('_', '-')}" for name in line}
    flags = {name for name, p in line.items() if p.secondary_opts}
    assert flags == {"progress", "tensorboard", "report"}
    assert [name for name, p in line.items() if p.required] == ["data"]
    assert {name: line[name].default for name in ("others", "seed", "seeds", "device", "save_every")} == {
        "others": "background",
        "seed": 0,
        "seeds": 1,
        "device": "auto",
        "save_every": "5m",
    }


def test_command_line_options_become_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    class Arrived(Exception):
        pass

    def caught(spec: str, **options: Any) -> None:
        raise Arrived(spec, TrainArguments(**options))

    monkeypatch.setattr("foveal.training.run.train", caught)

    def typed(*words: str) -> TrainArguments:
        with pytest.raises(Arrived) as error:
            app(["p", *words], standalone_mode=False)
        assert error.value.args[0] == "p"
        return error.value.args[1]  # type: ignore[no-any-return]

    plain = typed("--data", "d")
    assert {k: str(v) if k == "data" else v for k, v in vars(plain).items()} == vars(TrainArguments(data="d"))
    words = "--data a --data b --val v --split train=x,val=y --classes cat,dog --others ignore --max-time 1h30m"
    words += " --save-every 30s --no-progress --no-tensorboard --resume --precision 16 --weights w --seeds 3 fit.lr=1"
    given = typed(*words.split())
    assert [str(path) for path in given.data] == ["a", "b"]  # type: ignore[union-attr]
    assert (str(given.val), str(given.weights)) == ("v", "w")
    assert (given.split, given.classes, given.others) == ({"train": "x", "val": "y"}, ["cat", "dog"], "ignore")
    assert (given.max_time, given.save_every, given.seeds) == (5400.0, 30.0, 3)
    assert (given.progress, given.tensorboard, given.resume, given.precision) == (False, False, True, "16")
    assert given.overrides == ["fit.lr=1"]


def test_invalid_settings_are_named() -> None:
    with pytest.raises(TypeError, match=r"'epoch'\. Did you mean epochs\?"):
        foveal.train("retinanet_mini", data="d", epoch=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="'data'"):
        foveal.train("retinanet_mini")  # type: ignore[call-arg]
    with pytest.raises(UsageError, match="epochs is 0, expected at least 1"):
        foveal.train("retinanet_mini", data="d", epochs=0)
    with pytest.raises(UsageError, match="train=A,val=B"):
        pairs("train", "--split", "train=A,val=B")


def test_arguments_stored_in_run_json() -> None:
    recorded = TrainArguments(data="d", seeds=3, overrides=["a=1"]).recorded()
    assert set(recorded) == set(SETTINGS) - set(NOT_RECORDED)


@pytest.mark.parametrize("name", ["train", "evaluate", "predict", "load"])
def test_help_shows_the_python_call(name: str) -> None:
    function = getattr(foveal, name)
    assert inspect.isfunction(function) and function.__name__ == name
    assert f"foveal.{name}(" in (function.__doc__ or "")


def test_the_spec_may_be_given_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(FovealError, match="nowhere"):
        foveal.train(spec="retinanet_mini", data=tmp_path / "nowhere", out=tmp_path / "run")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="data"):
        foveal.train(spec="retinanet_mini")  # type: ignore[call-arg]
    assert inspect.signature(foveal.train).parameters["spec"].default is None  # the automatic choice
