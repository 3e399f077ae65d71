"""The documentation: its code works, and every name, path and link in it exists."""

from __future__ import annotations

import importlib
import re
import runpy
import sys
import types
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from foveal import presets
from foveal.types import Target, Targets

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGE = DOCS / "adding-a-part.md"
PAGES = [*sorted(DOCS.glob("*.md")), ROOT / "README.md", ROOT / "CHANGELOG.md"]
BENCHMARKS = sorted((ROOT / "benchmarks").glob("*.py"))
FAMILIES = r"retinanet|fcos|ssd\d*|ssdlite\d+|dssd\d*|yolo_v\d|detr|rcnn|spp_net|fast_rcnn|faster_rcnn|mask_rcnn|rpn"
DIALECT = r"\b[Pp]ictures?\b|learned by heart|[Kk]eeps? still|\bgone? on with\b|\bthe peer\b|not a number|\bmade new\b"
# names of classes and folders in backticks that are not foveal's
FOREIGN = {"AdaptiveMaxPool2d", "DetrForObjectDetection", "SegmentationObject"}


def test_the_custom_part_of_the_page_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    code = re.search(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert code is not None
    page = types.ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", page)  # dataclasses look their module up
    exec(code[1], vars(page))
    spec = presets.retinanet_mini
    spec = replace(spec, task=replace(spec.task, cls_loss=page.Brier(sharpness=2.0)))
    torch.manual_seed(0)
    detector = spec.build(["a", "b"]).train()
    images = [torch.rand(3, 96, 128)] * 2
    losses = detector(images, [{"boxes": torch.tensor([[10.0, 10, 60, 60]]), "labels": torch.tensor([1])}] * 2)
    losses["cls"].backward()
    assert torch.isfinite(losses["cls"]) and losses["cls"] > 0
    empty = Targets.pad([Target(torch.zeros(0, 4), torch.zeros(0).long())] * 2)
    assert torch.isfinite(detector(detector.spec.input.batch_tensors(images), empty)["cls"])
    assert all(0 <= d.scores.min() <= d.scores.max() <= 1 for d in detector.eval()(images) if len(d))


# ------------------------------------------------------------------------------------------------ architecture
def test_architecture_page_matches_the_code() -> None:
    """Run ``python docs/make_architecture.py`` where this fails."""
    for path, text in runpy.run_path(str(DOCS / "make_architecture.py"))["files"]().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run python docs/make_architecture.py"


def test_import_order_in_the_diagram_is_the_tested_one() -> None:
    from tests.test_layout import ORDER

    script = runpy.run_path(str(DOCS / "make_architecture.py"))
    assert tuple(name for level in script["LEVELS"] for name in level) == ORDER
    assert set(script["FOLDERS"]) == set(ORDER)


# ------------------------------------------------------------------------------------------------------- names
def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def code_of(page: Path) -> Iterator[str]:
    """The text in backticks in the prose and tables of a page."""
    yield from re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text_of(page), flags=re.DOTALL))


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_resolve(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text_of(page)):
        assert "://" in target or (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", [*PAGES, *BENCHMARKS], ids=lambda p: p.name)
def test_files_that_are_named_exist(page: Path) -> None:
    for name in re.findall(r"(?<![\w/.-])(?:tests|benchmarks|docs|foveal)/[\w./-]*[\w/]", text_of(page)):
        assert (ROOT / name).exists(), f"{page.name}: {name}"


@pytest.mark.parametrize("page", [*PAGES, *BENCHMARKS], ids=lambda p: p.name)
def test_modules_and_attributes_that_are_named_exist(page: Path) -> None:
    named = set(re.findall(r"(?<![\w/.-])foveal(?:\.[A-Za-z_]\w*)+", text_of(page)))
    for line in re.findall(r"^\s*from (foveal[\w.]*) import ([\w, ]+)$", text_of(page), re.MULTILINE):
        named |= {f"{line[0]}.{name.strip()}" for name in line[1].split(",")}
    for name in named:
        assert resolves(name), f"{page.name}: {name}"


def resolves(dotted: str) -> bool:
    """Whether a dotted name is a module, or an attribute of one."""
    value: object = importlib.import_module(dotted.split(".")[0])
    for name in dotted.split(".")[1:]:
        if not hasattr(value, name):
            try:
                importlib.import_module(f"{getattr(value, '__name__', '')}.{name}")
            except ModuleNotFoundError:
                return False
        value = getattr(value, name)
    return True


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_presets_that_are_named_exist(page: Path) -> None:
    from foveal.weights.cache import is_alias

    for code in code_of(page):
        if re.fullmatch(rf"(?:{FAMILIES})_[a-z0-9_]+", code):
            assert code in presets.names() or is_alias(code), f"{page.name}: {code}"
    for verb, name in re.findall(r"foveal (train|models|anchors|check) ([\w-]+)(?=[ \n`])", text_of(page)):
        if re.match(rf"(?:{FAMILIES})", name):
            assert name in presets.names() or is_alias(name), f"{page.name}: foveal {verb} {name}"


@cache
def classes() -> set[str]:
    source = "".join(text_of(path) for path in (ROOT / "foveal").rglob("*.py"))
    return set(re.findall(r"^class (\w+)", source, re.MULTILINE)) | set(re.findall(r"^([A-Z]\w+) = ", source, re.M))


@pytest.mark.parametrize("page", [p for p in PAGES if p.name != "CHANGELOG.md"], ids=lambda p: p.name)
def test_classes_that_are_named_exist(page: Path) -> None:
    known = classes() | FOREIGN | set(re.findall(r"^class (\w+)", text_of(page), re.MULTILINE))
    for code in code_of(page):
        for name in re.findall(r"^([A-Z][a-z]\w*[A-Z]\w*)(?:\(|$)|(?<=[=(])([A-Z][a-z]\w*)\(", code):
            assert (name[0] or name[1]) in known, f"{page.name}: {code}"


# ---------------------------------------------------------------------------------------------------- language
@pytest.mark.parametrize("page", [p for p in PAGES if p != PAGE], ids=lambda p: p.name)
def test_pages_use_the_words_of_the_glossary_and_short_lines(page: Path) -> None:
    prose = re.sub(r"<!-- modules.*<!-- end of modules -->|```.*?```", "", text_of(page), flags=re.DOTALL)
    lines = [line for line in prose.splitlines() if not line.startswith(("|", "    "))]
    assert not [line for line in lines if re.search(DIALECT, line)]
    assert not [line for line in lines if len(line) > 110 and "](" not in line]
