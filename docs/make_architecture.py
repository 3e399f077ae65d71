"""Writes the list of modules in ``architecture.md``, and its diagrams, from the code.

    python docs/make_architecture.py

The list of modules (first sentence of each docstring) goes between two marks of ``architecture.md``; the import order
and the route of an image become ``images/imports.svg`` and ``images/route.svg``. A test compares the files with it.
"""

from __future__ import annotations

import ast
import re
import textwrap
from html import escape
from pathlib import Path

HERE = Path(__file__).resolve().parent
PACKAGE = HERE.parent / "foveal"
BEGIN, END = "<!-- modules: written by make_architecture.py -->", "<!-- end of modules -->"

LEVELS = (  # of the import order, lowest first; a folder imports from its own level's left, and from levels before
    ("errors", "files", "runner", "boxes", "masks", "types", "recipe"),
    ("weights", "parts"),
    ("runtime", "data"),
    ("assembly", "detectors", "config", "external_proposals", "presets"),
    ("checkpoints", "evaluation", "inference", "inspection"),
    ("export", "training", "report", "checks"),
    ("serving", "cli"),
)
FOLDERS = {  # what each top-level folder is for
    "errors": "the two exceptions",
    "files": "reading and writing files",
    "runner": "exported detectors, without torch",
    "boxes": "box arithmetic",
    "masks": "masks as run lengths",
    "types": "Images, Targets, Match",
    "recipe": "optimizer, schedule, stages",
    "weights": "published files: names, cache, reading, key tables",
    "parts": "the parts of detectors, in a folder per role",
    "runtime": "devices, processes, precision, progress",
    "data": "records, formats, images, augmentation, loader, doctor",
    "assembly": "task, one-stage, two-stage",
    "detectors": "one file per paper",
    "config": "specs as text, overrides",
    "external_proposals": "precomputed proposals",
    "presets": "named specs",
    "checkpoints": "save, load, transfer, import, export",
    "evaluation": "COCO, VOC, recall, diagnosis",
    "inference": "predict and draw",
    "inspection": "trace, reasons, verdicts, pages",
    "export": "an ONNX file, and its proof",
    "training": "arguments, loop, stages, resume",
    "report": "report pages, plots, compare",
    "checks": "encode/decode check, overfit check",
    "serving": "a detector behind HTTP: page and JSON",
    "cli": "one module per verb",
}
ROUTE = (  # a training iteration, then a prediction: step, where it is
    (
        ("image file", ""),
        ("decode", "data/images/load"),
        ("augment", "data/augment"),
        ("batch (uint8)", "data/loader"),
        ("network", "backbones, heads"),
        ("match, sample", "matching, samplers"),
        ("losses", "parts/losses"),
        ("optimizer step", "training/loop"),
    ),
    (
        ("image file", ""),
        ("decode", "data/images/load"),
        ("resize", "parts/resizing"),
        ("network", "backbones, heads"),
        ("scores, decode", "assembly/task"),
        ("candidates, NMS", "parts/postprocess"),
        ("Detections", "types"),
        ("drawing, JSON", "inference"),
    ),
)
STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#1b1f24}.s{font-size:11px;fill:#57606a}"
    "rect{fill:#f6f8fa;stroke:#8c959f}line,path{stroke:#57606a;fill:none}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.s{fill:#9da7b3}rect{fill:#161b22;stroke:#6e7681}"
    "line,path{stroke:#9da7b3}}"
)


def first_line(path: Path) -> str:
    """The first sentence of a module's docstring."""
    paragraph = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n\n")[0]
    sentence = re.split(r"(?<=[.!?])(?<!al\.)\s", " ".join(paragraph.split()))[0]
    return re.sub(r":[a-z]+:`~?([^`]*)`", r"`\1`", sentence.replace("``", "`"))


def capitalized(text: str) -> str:
    return text[:1].upper() + text[1:]


def modules() -> str:
    """A section a folder, a line a module."""
    lines: list[str] = []
    folders = sorted({p.parent for p in PACKAGE.rglob("*.py")})
    for folder in folders:
        name = folder.relative_to(PACKAGE.parent).as_posix() + "/"
        rows = [(p.name, first_line(p)) for p in sorted(folder.glob("*.py")) if p.stem != "__init__"]
        if not rows and not (folder / "__init__.py").is_file():
            continue
        key = folder.name if folder.parent == PACKAGE else ""
        about = (first_line(folder / "__init__.py") or capitalized(FOLDERS.get(key, ""))).rstrip(".")
        lines += [f"**`{name}`**" + (f": {about}" if about else ""), ""]
        for file, text in rows:
            entry = f"- `{file}`: {text}" if text else f"- `{file}`"
            lines += textwrap.wrap(entry, 100, subsequent_indent="  ", break_on_hyphens=False)
        lines.append("")
    return "\n".join(lines).rstrip()


def box(x: float, y: float, width: float, name: str, note: str) -> str:
    """A rectangle with a name, and a note below it."""
    return (
        f'<rect x="{x}" y="{y}" width="{width}" height="42" rx="5"/>'
        f'<text x="{x + width / 2}" y="{y + 18}" text-anchor="middle">{escape(name)}</text>'
        f'<text class="s" x="{x + width / 2}" y="{y + 34}" text-anchor="middle">{escape(note)}</text>'
    )


def svg(width: int, height: int, body: str, title: str) -> str:
    """A whole picture, in the colors of the reader's light or dark page."""
    arrow = (
        '<defs><marker id="a" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 1 9 5 0 9" /></marker></defs>'
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">'
        f"<title>{escape(title)}</title><style>{STYLE}</style>{arrow}{body}</svg>\n"
    )


def imports_svg() -> str:
    """The levels of the import order, the lowest at the bottom; an arrow means "imports from"."""
    width, step, parts = 1180, 78, []
    rows = list(reversed(LEVELS))
    for row, names in enumerate(rows):
        y, gap = 20 + row * step, 12
        w = (width - 40 - gap * (len(names) - 1)) / len(names)
        for k, name in enumerate(names):
            label = name if (PACKAGE / f"{name}.py").is_file() else name + "/"
            parts.append(box(round(20 + k * (w + gap), 1), y, round(w, 1), label, FOLDERS[name]))
        if row + 1 < len(rows):
            parts.append(
                f'<line x1="{width / 2}" y1="{y + 44}" x2="{width / 2}" y2="{y + step - 3}" marker-end="url(#a)"/>'
            )
    text = "Imports only point down; within a row, only to the left"
    parts.append(f'<text class="s" x="20" y="{20 + len(rows) * step - 14}">{text}</text>')
    return svg(width, 20 + len(rows) * step, "".join(parts), "The import order of foveal's folders")


def route_svg() -> str:
    """Two rows: a training iteration and a prediction."""
    width, w, gap, parts = 1180, 128, 16, []
    for row, (name, steps) in enumerate(zip(("A training iteration", "A prediction"), ROUTE, strict=True)):
        y = 20 + row * 96
        parts.append(f'<text x="20" y="{y}">{name}</text>')
        for k, (step, where) in enumerate(steps):
            x = 20 + k * (w + gap)
            parts.append(box(x, y + 10, w, step, where))
            if k:
                parts.append(
                    f'<line x1="{x - gap + 1}" y1="{y + 31}" x2="{x - 2}" y2="{y + 31}" marker-end="url(#a)"/>'
                )
    return svg(width, 178, "".join(parts), "The route of an image through foveal")


def written(page: str) -> str:
    """``architecture.md`` with its table of modules as the files are now."""
    head, rest = page.split(BEGIN)
    return head + BEGIN + "\n\n" + modules() + "\n\n" + END + rest.split(END)[1]


def files() -> dict[Path, str]:
    """Every file that this script writes, with its text."""
    page = HERE / "architecture.md"
    return {
        page: written(page.read_text(encoding="utf-8")),
        HERE / "images" / "imports.svg": imports_svg(),
        HERE / "images" / "route.svg": route_svg(),
    }


def main() -> None:
    (HERE / "images").mkdir(exist_ok=True)
    for path, text in files().items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
