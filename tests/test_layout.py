"""The layout of the package: imports in one direction, no circles, small folders, files and functions, unique names.

Everything is read from the source with ``ast``: imports inside functions and under ``TYPE_CHECKING`` count too.
"""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import foveal

PACKAGE = Path(foveal.__file__).resolve().parent

# Lowest first. A module imports from its own folder, or from folders to the left of it.
ORDER = (
    *("errors", "files", "runner", "boxes", "masks", "types", "recipe", "weights", "parts", "runtime", "data"),
    *("assembly", "detectors", "config", "external_proposals", "presets", "checkpoints", "evaluation", "inference"),
    *("inspection", "export", "training", "report", "checks", "serving", "cli"),
)

# Lines that may break the order: "module -> module": reason
EXCEPTIONS: Mapping[str, str] = {}

# Names that several modules define on purpose: name -> reason
SHARED_NAMES: Mapping[str, str] = {}

LONGEST_FUNCTION, LONGEST_FILE, LARGEST_FOLDER, LOOSE_MODULES = 60, 320, 14, 6


@cache
def modules() -> dict[str, Path]:
    """Dotted names without the package's own, and files: ``parts.coders``. The package itself is ""."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def tree(name: str) -> ast.Module:
    return ast.parse(modules()[name].read_text(encoding="utf-8"))


def imports(name: str) -> Iterator[tuple[int, str]]:
    """Line and module of every import from the package, anywhere in the module."""
    path = modules()[name]
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    package = [part for part in package if part]
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.ImportFrom):
            if node.level:
                base = package[: len(package) - node.level + 1] + (node.module.split(".") if node.module else [])
            elif node.module and node.module.split(".")[0] == "foveal":
                base = node.module.split(".")[1:]
            else:
                continue
            for alias in node.names:
                whole = ".".join([*base, alias.name])
                yield node.lineno, whole if whole in modules() else ".".join(base)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "foveal":
                    yield node.lineno, alias.name.partition(".")[2]


def edges() -> Iterator[tuple[str, int, str]]:
    """(importing module, line, imported module), without the two entry points: ``foveal/__init__`` and ``__main__``."""
    for name in modules():
        if name not in ("", "__main__"):
            yield from ((name, line, other) for line, other in imports(name))


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """The strongly connected components of more than one node."""
    reach: dict[str, set[str]] = {}
    for start in graph:
        seen, stack = set(), [start]
        while stack:
            for other in graph.get(stack.pop(), ()):
                if other not in seen:
                    seen.add(other)
                    stack.append(other)
        reach[start] = seen
    groups = {frozenset(b for b in reach[a] if a in reach.get(b, ())) for a in graph if a in reach[a]}
    return sorted(sorted(group) for group in groups)


def test_imports_follow_the_order() -> None:
    wrong = []
    for name, line, other in edges():
        here, there = name.split(".")[0], other.split(".")[0]
        if here == there or f"{name} -> {other}" in EXCEPTIONS or other == "":
            continue
        if ORDER.index(there) > ORDER.index(here):
            wrong.append(
                f"foveal/{modules()[name].relative_to(PACKAGE)}:{line} imports foveal.{other}, which comes later"
            )
    assert not wrong, "\n".join(wrong)
    assert not [e for e in EXCEPTIONS if not any(f"{a} -> {b}" == e for a, _, b in edges())], "an exception out of use"


def test_only_the_command_line_imports_the_package_itself() -> None:
    """``foveal.__version__`` and nothing else: every other name is imported from where it is defined."""
    assert {name for name, _, other in edges() if other == ""} <= {
        "cli.main",
        "training.run_record",
        "runtime.processes",
    }


def test_the_order_names_every_folder_and_module() -> None:
    assert {name.split(".")[0] for name in modules()} - {"", "__main__"} == set(ORDER)


def test_no_circle_of_files() -> None:
    graph: dict[str, set[str]] = defaultdict(set)
    for name, _, other in edges():
        if name != other and other != "":
            graph[name].add(other)
    assert not circles(graph)


def test_no_circle_of_folders() -> None:
    def folder(name: str) -> str:
        parent = modules()[name].parent.relative_to(PACKAGE)
        return name if parent == Path() else parent.as_posix()

    graph: dict[str, set[str]] = defaultdict(set)
    for name, _, other in edges():
        if other != "" and folder(name) != folder(other):
            graph[folder(name)].add(folder(other))
    assert not circles(graph)


def test_imports_inside_the_package_are_relative() -> None:
    wrong = [
        f"{name}:{node.lineno}"
        for name in modules()
        for node in ast.walk(tree(name))
        if isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] == "foveal"
    ]
    assert not wrong


def test_folders_are_small() -> None:
    sizes = Counter(path.parent.relative_to(PACKAGE).as_posix() for path in modules().values())
    loose = [path.name for path in PACKAGE.glob("*.py")]
    assert len(loose) <= LOOSE_MODULES, loose
    assert not {folder: n for folder, n in sizes.items() if n > LARGEST_FOLDER and folder != "cli"}


def test_files_and_functions_are_short() -> None:
    files = {n: len(p.read_text(encoding="utf-8").splitlines()) for n, p in modules().items()}
    assert not {name: lines for name, lines in files.items() if lines > LONGEST_FILE}
    long = {
        f"{name}.{node.name}": size
        for name in modules()
        for node in ast.walk(tree(name))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (size := (node.end_lineno or node.lineno) - node.lineno + 1) > LONGEST_FUNCTION
    }
    assert not long


def test_a_name_has_one_meaning() -> None:
    """No public class, function or type alias is defined in two modules (the commands of the command line aside)."""
    where: dict[str, list[str]] = defaultdict(list)
    for name in modules():
        if name == "" or name.split(".")[0] == "cli":
            continue
        for node in tree(name).body:
            names: list[str] = []
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                names = [node.name]
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                alias = node.targets[0].id
                names = [alias] if alias[:1].isupper() and not alias.isupper() else []
            for one in names:
                if not one.startswith("_"):
                    where[one].append(name)
    twice = {one: places for one, places in where.items() if len(places) > 1 and one not in SHARED_NAMES}
    assert not twice, "\n".join(f"{one}: {', '.join(places)}" for one, places in sorted(twice.items()))
    assert not [one for one in SHARED_NAMES if len(where[one]) < 2], "a shared name out of use"
