"""No code from data (pickle, eval, exec, shells, archives), and a distribution that installs and works by itself."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

FORBIDDEN = {  # what is called: why not
    "eval": "executes text",
    "exec": "executes text",
    "compile": "makes code of text",
    "__import__": "imports what a text names",
    "pickle.load": "a pickle executes what it names",
    "pickle.loads": "a pickle executes what it names",
    "pickle.Unpickler": "a pickle executes what it names",
    "marshal.loads": "executes what it reads",
    "shelve.open": "is a pickle",
    "joblib.load": "is a pickle",
    "yaml.load": "makes any object; safe_load does not",
    "yaml.unsafe_load": "makes any object",
    "os.system": "starts a shell",
    "os.popen": "starts a shell",
    "subprocess.getoutput": "starts a shell",
    "tempfile.mktemp": "another process can take the name first",
}


def violations(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        keywords = {word.arg: word.value for word in node.keywords}
        if name in FORBIDDEN:
            yield node.lineno, f"{name}: {FORBIDDEN[name]}"
        if name.rpartition(".")[2] in ("extractall", "extract"):
            yield node.lineno, f"{name}: an archive can name files outside the folder"
        if name.rpartition(".")[2] == "unpack_archive":
            yield node.lineno, f"{name}: an archive can name files outside the folder"
        for word, safe in (("shell", False), ("allow_pickle", False)):
            if word in keywords and not (isinstance(keywords[word], ast.Constant) and keywords[word].value is safe):  # type: ignore[attr-defined]
                yield node.lineno, f"{name}({word}=...)"
        if name == "torch.load" and ast.unparse(keywords.get("weights_only", ast.Constant(None))) != "True":
            yield node.lineno, "torch.load without weights_only=True"


def test_no_code_from_data() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {why}"
        for path in sorted((ROOT / "foveal").rglob("*.py"))
        for line, why in violations(ast.parse(path.read_text()))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "text",
    [
        "eval(text)",
        "pickle.load(file)",
        "yaml.load(text)",
        "archive.extractall(folder)",
        "subprocess.run(text, shell=True)",
        "np.load(path, allow_pickle=True)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
    ],
)
def test_what_would_be_found(text: str) -> None:
    assert list(violations(ast.parse(text)))


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist, and the wheel that is built from it."""
    place = tmp_path_factory.mktemp("dist")
    if not (ROOT / ".git").exists():
        pytest.skip("this is no checkout")
    clone = place / "clone"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    build = "import sys; from setuptools import build_meta as b; getattr(b, sys.argv[1])(sys.argv[2])"

    def make(kind: str, folder: Path) -> Path:
        command = [sys.executable, "-W", "ignore", "-c", build, f"build_{kind}", str(place)]
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
        (made,) = place.glob("*.tar.gz" if kind == "sdist" else "*.whl")
        return made

    sdist = make("sdist", clone)
    with tarfile.open(sdist) as archive:
        archive.extractall(place / "unpacked", filter="data")
    return sdist, make("wheel", next((place / "unpacked").iterdir()))


def test_the_wheel_holds_every_file_of_the_package(distributions: tuple[Path, Path]) -> None:
    tracked = subprocess.run(["git", "ls-files", "foveal"], cwd=ROOT, check=True, capture_output=True, text=True)
    with zipfile.ZipFile(distributions[1]) as wheel:
        held = {name for name in wheel.namelist() if name.startswith("foveal/")}
    assert held == set(tracked.stdout.split())


def test_the_wheel_works_by_itself(distributions: tuple[Path, Path], tmp_path: Path) -> None:
    """In an environment of its own that sees the packages of this one, but not this checkout."""
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / "bin" / "python"
    site = Path(sysconfig.get_path("purelib", vars={"base": str(tmp_path / "env")}))
    with zipfile.ZipFile(distributions[1]) as wheel:
        wheel.extractall(site)
    (site / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}

    def foveal(*words: str) -> str:
        command = [str(python), "-m", "foveal", *words]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = subprocess.run(
        [python, "-c", "import foveal; print(foveal.__file__)"], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert where.stdout.startswith(str(site)), where
    assert json.loads(foveal("--version", "--json"))["foveal"] in foveal("--version")
    foveal("data", "make", "shapes", "drawn", "--images", "12")
    foveal("train", "retinanet_mini", "--data", "drawn", "--out", "run", "--epochs", "1", "input.short=64")
    foveal("predict", "run", "drawn/JPEGImages", "--out", "boxes")
    assert (tmp_path / "run" / "report.html").is_file()
