"""The code in docs/adding-a-part.md does what the page says."""

from __future__ import annotations

import re
import sys
import types
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from foveal import presets
from foveal.types import Target, Targets

PAGE = Path(__file__).parents[1] / "docs" / "adding-a-part.md"


def test_the_part_of_the_page_learns(monkeypatch: pytest.MonkeyPatch) -> None:
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
