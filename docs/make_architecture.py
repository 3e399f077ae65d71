"""Writes what ``architecture.md`` says about files from the files themselves.

    python docs/make_architecture.py

The table of modules (first line of each docstring) goes between two marks of ``architecture.md``; the import order and
the route of an image become ``images/imports.svg`` and ``images/route.svg``. A test runs this and compares.
"""

from __future__ import annotations

import ast
import textwrap
from html import escape
from pathlib import Path

HERE = Path(__file__).resolve().parent
PACKAGE = HERE.parent / "foveal"
BEGIN, END = "<!-- modules: written by make_architecture.py -->", "<!-- end of modules -->"

LEVELS = (  # of the import order, lowest first; a folder imports from its own level's left, and from levels before
    ("errors", "files", "boxes", "masks", "types", "recipe"),
    ("weights", "parts"),
    ("runtime", "data"),
    ("assembly", "detectors", "config", "external_proposals", "presets"),
    ("checkpoints", "evaluation", "inference"),
    ("training", "report", "checks", "cli"),
)
FOLDERS = {  # what each top-level folder is for
    "errors": "the two exceptions",
    "files": "atomic writes, careful reads, paths",
    "boxes": "box arithmetic",
    "masks": "masks as runs",
    "types": "Images, Targets, Match, ...: the glossary",
    "recipe": "optimizer, schedule, stages, augmentation",
    "weights": "published files: names, cache, reading, key tables",
    "parts": "what detectors are made of, by role",
    "runtime": "devices, processes, precision, progress",
    "data": "records, formats, images, augmentation, loader, doctor",
    "assembly": "task, one-stage and two-stage detectors",
    "detectors": "one page a paper",
    "config": "spec <-> text, overrides",
    "external_proposals": "proposals that are computed beforehand",
    "presets": "named specs",
    "checkpoints": "save, load, transfer, import, export",
    "evaluation": "COCO, VOC, recall, diagnosis",
    "inference": "predict and draw",
    "training": "arguments, loop, stages, resume",
    "report": "report pages, plots, compare",
    "checks": "encode/decode check, overfit check",
    "cli": "one module a verb",
}
ROUTE = (  # a training iteration, then a prediction: step, where it is
    (
        ("image file", ""),
        ("decode", "data/images/load"),
        ("augment", "data/augment"),
        ("batch (uint8)", "data/loader"),
        ("network", "parts/backbones, ..."),
        ("match, sample", "parts/matching, samplers"),
        ("losses", "parts/losses"),
        ("optimizer step", "training/loop"),
    ),
    (
        ("image file", ""),
        ("decode", "data/images/load"),
        ("resize", "parts/resizing"),
        ("network", "parts/backbones, ..."),
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
    """The first sentence line of a module's docstring."""
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n")[0]


def modules() -> str:
    """A section a folder, a line a module."""
    lines: list[str] = []
    folders = sorted({p.parent for p in PACKAGE.rglob("*.py")})
    for folder in folders:
        name = folder.relative_to(PACKAGE.parent).as_posix() + "/"
        rows = [(p.stem, first_line(p)) for p in sorted(folder.glob("*.py")) if p.stem != "__init__"]
        about = first_line(folder / "__init__.py") if (folder / "__init__.py").is_file() else ""
        lines += [f"**`{name}`**" + (f" {about}" if about else ""), ""]
        for stem, text in rows:
            entry = f"- `{stem}`: {text}" if text else f"- `{stem}`"
            lines += textwrap.wrap(entry, 100, subsequent_indent="  ", break_on_hyphens=False)
        lines.append("")
    return "\n".join(lines).rstrip()


def box(x: float, y: float, width: float, name: str, note: str) -> str:
    return (
        f'<rect x="{x}" y="{y}" width="{width}" height="42" rx="5"/>'
        f'<text x="{x + width / 2}" y="{y + 18}" text-anchor="middle">{escape(name)}</text>'
        f'<text class="s" x="{x + width / 2}" y="{y + 34}" text-anchor="middle">{escape(note)}</text>'
    )


def svg(width: int, height: int, body: str, title: str) -> str:
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
            note = FOLDERS[name]
            note = note if len(note) * 6.1 < w else textwrap.shorten(note, int(w / 6.1), placeholder=" ...")
            parts.append(box(round(20 + k * (w + gap), 1), y, round(w, 1), label, note))
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
            short = where if len(where) < 22 else textwrap.shorten(where.replace("parts/", ""), 24, placeholder="")
            parts.append(box(x, y + 10, w, step, short))
            if k:
                parts.append(
                    f'<line x1="{x - gap + 1}" y1="{y + 31}" x2="{x - 2}" y2="{y + 31}" marker-end="url(#a)"/>'
                )
    return svg(width, 200, "".join(parts), "The route of an image through foveal")


def written(page: str) -> str:
    """``architecture.md`` with its table of modules as the files are now."""
    head, rest = page.split(BEGIN)
    return head + BEGIN + "\n\n" + modules() + "\n\n" + END + rest.split(END)[1]


def main() -> None:
    page = HERE / "architecture.md"
    page.write_text(written(page.read_text(encoding="utf-8")), encoding="utf-8")
    (HERE / "images").mkdir(exist_ok=True)
    (HERE / "images" / "imports.svg").write_text(imports_svg(), encoding="utf-8")
    (HERE / "images" / "route.svg").write_text(route_svg(), encoding="utf-8")


if __name__ == "__main__":
    main()
