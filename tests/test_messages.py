"""Every literal ``fix`` of an error or a finding is an imperative sentence: a capital letter first, no full stop."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import foveal

PACKAGE = Path(foveal.__file__).resolve().parent

# First words of a sentence that states a fact instead of an instruction.
NOT_VERBS = {
    *("A", "An", "The", "It", "Its", "This", "That", "These", "They", "There", "Here", "We", "You", "Your"),
    *("Known", "Classes", "Fields", "Options", "Possible", "Without", "With", "From", "In", "For", "Only"),
}


def fixes(tree: ast.AST) -> Iterator[ast.expr]:
    """``fix=`` of calls, ``fix =``, ``_FIX =``, the last argument of ``Finding(...)`` and ``findings.add(...)``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield from (keyword.value for keyword in node.keywords if keyword.arg == "fix")
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in ("add", "Finding") and len(node.args) == 6:
                yield node.args[5]
        elif isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") in ("fix", "_FIX"):
            yield node.value


def ends(node: ast.expr) -> Iterator[tuple[str | None, str | None]]:
    """The first and the last literal text of each value that the expression may have; None where it is no literal."""
    if isinstance(node, ast.IfExp):
        yield from ends(node.body)
        yield from ends(node.orelse)
    elif isinstance(node, ast.BoolOp):
        for value in node.values:
            yield from ends(value)
    elif isinstance(node, ast.BinOp):
        yield from ((first, last) for first, _ in ends(node.left) for _, last in ends(node.right))
    elif isinstance(node, ast.JoinedStr) and node.values:
        first, last = (v.value if isinstance(v, ast.Constant) else None for v in (node.values[0], node.values[-1]))
        yield (first if isinstance(first, str) else None, last if isinstance(last, str) else None)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value, node.value


def problem(first: str | None, last: str | None) -> str:
    if first and not (first[0].isupper() or first[0] in "`'"):
        return "starts without a capital letter"
    if first and first.split()[0].rstrip(":,") in NOT_VERBS:
        return "is not imperative"
    if last and last.rstrip().endswith("."):
        return "ends with a full stop"
    return ""


def test_every_fix_is_an_imperative_sentence() -> None:
    count, wrong = 0, []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in fixes(ast.parse(path.read_text(encoding="utf-8"))):
            for first, last in ends(node):
                count += 1
                what = problem(first, last)
                if what:
                    where = f"foveal/{path.relative_to(PACKAGE)}:{node.lineno}"
                    wrong.append(f"{where}: {ast.unparse(node)[:80]} {what}")
    assert not wrong, "\n".join(wrong)
    assert count > 200


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('f(fix="Use it")', ""),
        ('f(fix=f"{name} --help")', ""),
        ('fix = "use it"', "starts without a capital letter"),
        ('fix = "Use it" if x else "Use that."', "ends with a full stop"),
        ('findings.add("warning", "code", path, "", message, "It is wrong")', "is not imperative"),
        ('f(fix=f"Use {x}" + ".")', "ends with a full stop"),
    ],
)
def test_the_linter_detects_mistakes(source: str, expected: str) -> None:
    found = [problem(*texts) for node in fixes(ast.parse(source)) for texts in ends(node)]
    assert [f for f in found if f] == [expected] * bool(expected)
