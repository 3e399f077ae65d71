"""Class and file names on a screen."""

from __future__ import annotations

import pytest

from foveal.files.text import one_line, visible


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("plain", "plain"),
        ("größe 猫 😀\u200d", "größe 猫 😀\u200d"),
        ("a\nb\tc\r", "a\\nb\\tc\\r"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("\x00\x7f\x9b", "\\x00\\x7f\\x9b"),
        ("a\u2028b\u202ec", "a\\u2028b\\u202ec"),
        ("caf\udce9", "caf\\xe9"),
        ("\ud800", "\\ud800"),
    ],
)
def test_one_line(name: str, shown: str) -> None:
    assert one_line(name) == shown
    shown.encode()


def test_long_names_are_cut() -> None:
    assert one_line("x" * 300, 40) == "x" * 39 + "…"
    assert one_line("x" * 40, 40) == "x" * 40


def test_lines_stay_lines() -> None:
    assert visible("a\n\tb\x1b[2J\r") == "a\n\tb\\x1b[2J\\r"
