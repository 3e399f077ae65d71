"""The catalogue of presets matches the presets, and lists them without building or importing them."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from foveal import presets
from foveal.cli import main as cli
from foveal.presets.catalogue import CARDS, comments, setting_rows


def test_every_preset_has_a_card_in_documentation_order() -> None:
    assert list(CARDS) == presets.names()
    assert all(card.about for card in CARDS.values())


@pytest.mark.parametrize("name", list(CARDS))
def test_scores_in_a_comment_are_those_of_the_card(name: str) -> None:
    """Every number of the form 37.0 in a preset's comment is a published score."""
    written = set(re.findall(r"(?<![\d.,(])\(?(\d\d\.\d)(?![\d.])", comments()[name]))
    assert written <= {f"{score.value:.1f}" for score in CARDS[name].published}


def test_scores_are_in_percent_and_have_a_source() -> None:
    for card in CARDS.values():
        assert all(15 < score.value < 90 and score.protocol and score.source for score in card.published)


def test_published_weights_reach_the_score_of_their_preset() -> None:
    """Equal scores in two tables: the card of a checkpoint (torchvision's, DETR's) and that of its preset."""
    from foveal.weights.catalogue import PUBLISHED

    pairs = [(entry, CARDS[entry.preset]) for entry in PUBLISHED.values() if entry.preset in CARDS]
    assert len(pairs) > 10
    for entry, card in pairs:
        assert card.published[0].value == entry.score, entry.name


def test_list_names_every_preset_and_a_starting_point(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Start here:"
    listed = [line.split()[0] for line in lines if line.startswith("  ") and line.split()[0] in CARDS]
    assert listed == list(CARDS)
    assert any(line.split()[:3] == ["faster_rcnn_r50_fpn", "41,699,936", "37.0"] for line in lines)
    assert any(line.split()[:4] == ["yolo_v1", "283,748,730", "63.4", "VOC"] for line in lines)


def test_the_list_does_not_import_torch() -> None:
    code = "import sys\nfrom foveal.cli.main import main\nmain(['models'])\nsys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_one_preset_is_shown_with_its_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["models", "yolo_v3_mini", "--classes", "20"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"yolo_v3_mini: YOLO, {809_566 - 60 * 1158:,} parameters with 20 classes\n")
    assert all(f"  {path}=" in text for path, *_ in setting_rows(presets.get("yolo_v3_mini")))
