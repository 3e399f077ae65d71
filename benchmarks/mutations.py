"""Mutation score of modules: single faults are planted in a copy of the package, and their tests must fail.

    python benchmarks/mutations.py --count 20                         # every group, 20 seeded faults each
    python benchmarks/mutations.py --group coders --count 60 --out runs/mutations.jsonl

A fault is one changed operator, comparison, constant, boolean, condition or negation, chosen at random among all of a
group (docstrings, annotations and messages of errors aside). The group's test files run on it, in the given order,
with ``-x``: a failure, an error or a run that takes six times as long as that without a fault is a kill. Results are
appended to ``--out``, from which a stopped run continues. The package is copied, so the checkout is never changed.
"""

from __future__ import annotations

import argparse
import ast
import copy
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GROUPS: dict[str, tuple[list[str], list[str]]] = {  # name -> modules, test files: the quickest first
    "boxes": (["foveal/boxes.py"], ["tests/test_properties_boxes.py", "tests/parts/test_odd_numbers.py"]),
    "coders": (
        ["foveal/parts/coders.py"],
        ["tests/parts/test_coders.py", "tests/parts/test_properties_coders.py", "tests/parts/matching/test_cells.py"],
    ),
    "matchers": (
        ["foveal/parts/matching"],
        ["tests/parts/matching"],
    ),
    "metrics": (
        [f"foveal/evaluation/{name}.py" for name in ("coco", "voc", "matching", "curves", "tables", "masks")],
        [
            "tests/evaluation/test_properties_metrics.py",
            "tests/evaluation/test_tables.py",
            "tests/evaluation/test_voc.py",
            "tests/evaluation/test_masks.py",
            "tests/evaluation/test_coco.py",
        ],
    ),
    "checkpoints": (
        [f"foveal/checkpoints/{n}.py" for n in ("folder", "content", "load", "transfer", "class_columns")],
        ["tests/checkpoints/test_folder.py", "tests/checkpoints"],
    ),
    "readers": (
        ["foveal/data/formats"],
        [
            "tests/data/formats",
            "tests/data/writing",
            "tests/data/test_convert.py",
            "tests/data/test_properties_data.py",
            "tests/data/test_open.py",
            "tests/data/recognition",
        ],
    ),
}
COMPARE = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
BINARY = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.LShift: ast.RShift, ast.RShift: ast.LShift, ast.Pow: ast.Mult,
}  # fmt: skip


def sites(tree: ast.AST) -> Iterator[tuple[ast.AST, int]]:
    """The nodes that can be changed, and the number of the place within the node."""
    skipped: set[int] = set()
    for node in ast.walk(tree):
        quiet: list[ast.AST] = []
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module) and ast.get_docstring(node) is not None:
            quiet.append(node.body[0])
        if isinstance(node, ast.FunctionDef):
            arguments = [*node.args.args, *node.args.kwonlyargs, *node.args.posonlyargs]
            quiet += [a.annotation for a in arguments if a.annotation] + ([node.returns] if node.returns else [])
        if isinstance(node, ast.AnnAssign):
            quiet.append(node.annotation)
        if isinstance(node, ast.Raise | ast.JoinedStr | ast.Assert | ast.Import | ast.ImportFrom):
            quiet.append(node)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            quiet.append(node)
        for part in quiet:
            skipped.update(id(child) for child in ast.walk(part))
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Compare):
            yield from ((node, i) for i, op in enumerate(node.ops) if type(op) in COMPARE)
        elif (
            (isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in BINARY)
            or isinstance(node, ast.BoolOp | ast.If | ast.IfExp | ast.While)
            or (isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub | ast.Invert))
            or (isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float))
        ):
            yield node, 0


def plant(node: ast.AST, place: int) -> str:
    """Changes the node in place; the change in words."""
    before = ast.unparse(node).splitlines()[0][:60]
    if isinstance(node, ast.Compare):
        node.ops[place] = COMPARE[type(node.ops[place])]()
    elif isinstance(node, ast.BinOp | ast.AugAssign):
        node.op = BINARY[type(node.op)]()
    elif isinstance(node, ast.BoolOp):
        node.op = ast.And() if isinstance(node.op, ast.Or) else ast.Or()
    elif isinstance(node, ast.If | ast.IfExp | ast.While):
        negated = ast.UnaryOp(ast.Not(), node.test)
        node.test = ast.copy_location(negated, node.test)
    elif isinstance(node, ast.UnaryOp):
        if isinstance(node.op, ast.USub):
            node.op = ast.UAdd()
        else:  # twice not: the condition or flags themselves
            node.operand = ast.copy_location(ast.UnaryOp(type(node.op)(), node.operand), node.operand)
    elif isinstance(node, ast.Constant):
        value = node.value
        node.value = not value if isinstance(value, bool) else value + 1 if isinstance(value, int) else value * 2 + 0.5  # type: ignore[operator]
    ast.fix_missing_locations(node)
    return f"{before}  ->  {ast.unparse(node).splitlines()[0][:60]}"


def modules(names: list[str]) -> list[Path]:
    found = [sorted((ROOT / n).rglob("*.py")) if (ROOT / n).is_dir() else [ROOT / n] for n in names]
    return [path.relative_to(ROOT) for paths in found for path in paths if path.stat().st_size]


def passes(copied: Path, tests: list[str], limit: float) -> tuple[bool, float]:
    """Whether all tests pass on the copy, and the seconds it took."""
    env = {**os.environ, "PYTHONPATH": str(copied), "OMP_NUM_THREADS": "1", "FOVEAL_EXAMPLES": "100"}
    env["PYTHONDONTWRITEBYTECODE"] = "1"
    words = [sys.executable, "-m", "pytest", "-x", "-q", "-m", "not slow", *tests]
    start = time.monotonic()
    try:
        done = subprocess.run(words, cwd=copied, env=env, capture_output=True, timeout=limit, check=False)
        return done.returncode == 0, time.monotonic() - start
    except subprocess.TimeoutExpired:
        return False, time.monotonic() - start


def measure(group: str, count: int, seed: int, out: Path) -> None:
    names, tests = GROUPS[group]
    choice = [(path, i) for path in modules(names) for i, _ in enumerate(sites(ast.parse((ROOT / path).read_text())))]
    random.Random(f"{seed} {group}").shuffle(choice)
    known = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    done = {(r["path"], r["site"]) for r in known if r["group"] == group and r["seed"] == seed}
    with tempfile.TemporaryDirectory() as folder:
        copied = Path(folder)
        for name in ("foveal", "tests", "docs", "benchmarks"):
            shutil.copytree(ROOT / name, copied / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "README.md", "Makefile", "CHANGELOG.md"):
            shutil.copy(ROOT / name, copied / name)
        good, took = passes(copied, tests, 1200)
        if not good:
            raise SystemExit(f"the tests of {group} fail without any fault: {' '.join(tests)}")
        for path, site in choice[:count]:
            if (str(path), site) in done:
                continue
            text = (ROOT / path).read_text()
            tree = copy.deepcopy(ast.parse(text))
            node, place = list(sites(tree))[site]
            change = plant(node, place)
            (copied / path).write_text(ast.unparse(tree))
            survived, seconds = passes(copied, tests, 6 * took + 60)
            (copied / path).write_text(text)
            line = getattr(node, "lineno", 0)
            row = {"group": group, "path": str(path), "site": site, "seed": seed, "line": line, "change": change}
            with out.open("a") as file:
                file.write(json.dumps({**row, "survived": survived, "seconds": round(seconds, 1)}) + "\n")
            print(f"{'SURVIVED' if survived else 'killed':8} {path}:{line}  {change}", flush=True)


def report(out: Path) -> None:
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    total, killed = Counter(r["group"] for r in rows), Counter(r["group"] for r in rows if not r["survived"])
    for group in GROUPS:
        if total[group]:
            print(
                f"{group:12} {killed[group]:4} of {total[group]:4} killed  {100 * killed[group] / total[group]:5.1f} %"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--group", choices=GROUPS, action="append", help="default: all")
    parser.add_argument("--count", type=int, default=20, help="faults of each group")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/mutations.jsonl"))
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for group in options.group or GROUPS:
        measure(group, options.count, options.seed, options.out)
    report(options.out)


if __name__ == "__main__":
    main()
