"""The registry of parts: completeness, lazy imports, custom parts."""

from __future__ import annotations

import importlib
import json
import pkgutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import pytest

import foveal
from foveal import presets
from foveal.assembly.detector import Spec
from foveal.checkpoints.load import load
from foveal.cli.main import main
from foveal.config.fields import is_part
from foveal.config.overrides import override
from foveal.config.parse import parse_spec, spec_from_json
from foveal.config.show import show, spec_to_json
from foveal.config.table import PARTS, Vocabulary, custom_parts
from foveal.errors import FovealError, UsageError
from foveal.parts.losses.classification import Focal
from foveal.training.run import train
from tests.golden.make import HERE, shapes

PLACES = (
    *("foveal.parts", "foveal.detectors", "foveal.assembly", "foveal.recipe"),
    *("foveal.data.augment.transforms", "foveal.data.augment.combine"),
)
NO_PARTS = {  # public frozen dataclasses that no spec text names
    "SigmoidLossParams": "what the two sigmoid losses share: functions are its fields",
    "ExternalProposals": "made by a detector's build",
    "FromRPN": "made by a detector's build",
    "LocationGrid": "made by FCOS's build",
    "Outputs": "what a forward pass knows",
    "Selection": "what a trace records",
    "Sampling": "what a trace records",
    "FrozenLayers": "made from a detector's backbone, whose layers are its fields",
}


def defined(place: str) -> list[type]:
    """The concrete frozen dataclasses of a module or of a package and its submodules."""
    module = importlib.import_module(place)
    below = pkgutil.walk_packages(getattr(module, "__path__", ()), f"{place}.")
    names = [
        found.name for found in below if not found.name.startswith("foveal.parts.darknet")
    ]  # its are layers of a cfg
    modules = [module, *map(importlib.import_module, names)]
    return [
        cls
        for each in modules
        for name, cls in vars(each).items()
        if is_part(cls) and cls.__module__ == each.__name__ and not name.startswith("_")
    ]


def test_the_registry_holds_every_part() -> None:
    found = [cls for place in PLACES for cls in defined(place)]
    names = [cls.__name__ for cls in found]
    assert len(names) == len(set(names))
    assert set(names) == PARTS.keys() | NO_PARTS.keys() and not PARTS.keys() & NO_PARTS.keys()
    assert {cls.__name__: cls.__module__ for cls in found if cls.__name__ in PARTS} == {
        name: f"foveal.{module}" for name, module in PARTS.items()
    }
    assert list(PARTS.values()) == sorted(PARTS.values())


def test_presets_only_use_registered_parts() -> None:
    assert [name for name in presets.names() if custom_parts(presets.get(name))] == []


def test_loading_a_run_imports_only_the_parts_it_names() -> None:
    """Of the package's files that hold code (the ``__init__.py`` of most folders are empty)."""
    code = (
        "import sys, foveal; foveal.load(sys.argv[1], device='cpu', precision='32'); "
        "print(*sorted(n for n, m in sys.modules.items() if n.split('.')[0] == 'foveal' and open(m.__file__).read()))"
    )
    run = [sys.executable, "-c", code, str(HERE / "retinanet")]
    loaded = subprocess.run(run, check=True, capture_output=True, text=True).stdout.split()
    assert 30 < len(loaded) <= 45, loaded
    named = {m.rpartition(".")[2] for m in loaded}
    assert not named & {"detr", "darknet", "faster_rcnn", "fcos", "ssd", "yolo", "timm", "transformer"}


# ------------------------------------------------------------------------------------------ custom parts
PAGE = Path(__file__).parents[2] / "docs" / "adding-a-part.md"


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The two classes of docs/adding-a-part.md, as the file my_parts.py of the current folder."""
    blocks = [b.split("```")[0] for b in PAGE.read_text(encoding="utf-8").split("```python\n")[1:]]
    (tmp_path / "my_parts.py").write_text("\n".join(b for b in blocks if "class " in b), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_parts", raising=False)
    module = importlib.import_module("my_parts")
    monkeypatch.setitem(sys.modules, "my_parts", module)
    return module


SMALL = ("input.short=64", "input.long=107", "backbone=SmallResNet((8, 8, 8, 8))", "fit.epochs=1", "fit.batch=2")
TINY = (*SMALL, "neck.channels=8", "head.depth=1", "anchors.octaves=1")
BRIER = "task.cls_loss=Brier(sharpness=2)"


def test_custom_part_trains_and_loads(page: ModuleType, tmp_path: Path) -> None:
    data = shapes(tmp_path / "data")
    out, own = tmp_path / "run", [page.Brier]
    quiet = {"device": "cpu", "precision": "32", "workers": 0, "progress": False, "tensorboard": False}
    train("retinanet_mini", data=data, out=out, overrides=[*TINY, BRIER], parts=own, **quiet)  # type: ignore[arg-type]
    assert json.loads((out / "run.json").read_text())["parts"] == {"Brier": "my_parts"}
    detector = load(out, parts=own, device="cpu", overrides=["task.cls_loss=Brier(sharpness=3)"])
    assert detector.spec.task.cls_loss == page.Brier(3.0)  # type: ignore[attr-defined]
    assert foveal.evaluate(out, data=data, parts=own).to_dict()["split"] == "val"
    image = next(data.rglob("*.jpg"))
    assert len(foveal.predict(out, image, parts=own).images) == 1  # type: ignore[operator]
    with pytest.raises(UsageError, match=r"unknown part Brier\. .*Pass parts=\[Brier\], or --parts my_parts on the"):
        load(out)
    again = train(out, data=data, out=out, resume=True, parts=own, **quiet)  # type: ignore[arg-type]
    assert again.path == out


def test_custom_part_on_the_command_line(page: ModuleType, tmp_path: Path) -> None:
    data, out = str(shapes(tmp_path / "data")), str(tmp_path / "run")
    train_words = ["train", "retinanet_mini", *TINY, BRIER, "--data", data, "--out", out, "--device", "cpu"]
    assert main([*train_words, "--precision", "32"]) == 2
    assert main([*train_words, "--precision", "32", "--no-report", "--parts", "my_parts"]) == 0
    for words in (
        ["eval", out, "--data", data],
        ["predict", out, f"{data}/**/*.jpg", "--out", str(tmp_path / "drawn")],
        ["check", out, "--data", data, "--encode-only"],
        ["weights", "export", out, "--out", str(tmp_path / "mine.safetensors")],
    ):
        assert main(words) == 2
        assert main([*words, "--parts", "my_parts.py"]) == 0, words
    with pytest.raises(UsageError, match="--parts my_parts"):
        load(tmp_path / "mine.safetensors")
    assert load(tmp_path / "mine.safetensors", parts=[page.Brier], device="cpu")
    assert main(["compare", out, out]) == 2, "its detections need the part"
    assert main(["compare", out, out, "--parts", "my_parts"]) == 0
    assert main(["compare", out, out]) == 0, "the run keeps them"


def test_custom_detector(page: ModuleType, tmp_path: Path) -> None:
    spec = override(page.OneMap(), SMALL)
    out = tmp_path / "run"
    quiet = {"device": "cpu", "precision": "32", "workers": 0, "progress": False, "tensorboard": False}
    train(spec, data=shapes(tmp_path / "data"), out=out, **quiet)  # type: ignore[arg-type]
    assert load(out, parts=[page.OneMap], device="cpu").spec == spec.with_pixels()
    assert isinstance(spec, Spec)
    with pytest.raises(UsageError, match=r"unknown part OneMap.*--parts my_parts"):
        load(out)


def test_custom_parts_in_text(page: ModuleType) -> None:
    spec = presets.retinanet_mini
    spec = replace(spec, task=replace(spec.task, cls_loss=page.Brier()))
    assert custom_parts(spec) == {"Brier": "my_parts"}
    assert spec_from_json(spec_to_json(spec), parts=[page.Brier]) == spec == parse_spec(show(spec), parts=[page.Brier])
    with pytest.raises(FovealError, match="--parts my_parts"):
        spec_from_json(spec_to_json(spec))
    with pytest.raises(UsageError, match=r"Did you mean Brier\? Valid parts: .*Brier, .*Focal"):
        override(spec, ["task.cls_loss=Bier()"], parts=[page.Brier])


def test_invalid_custom_parts() -> None:
    @dataclass
    class Loose:
        pass

    other = dataclass(frozen=True)(type("Focal", (), {}))
    assert len(Vocabulary([Focal])) == len(PARTS)
    for parts, message in (([Loose], "Loose is not a part"), ([other], "two parts are named Focal")):
        with pytest.raises(UsageError, match=message):
            Vocabulary(parts)


def test_unusable_modules(page: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty_parts.py").write_text("")
    for module, message in (("no_such_module", "cannot import"), ("empty_parts.py", "no parts in empty_parts.py")):
        assert main(["eval", "run", "--data", "x", "--parts", module]) == 2
        assert message in capsys.readouterr().err
