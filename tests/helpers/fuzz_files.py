"""Random edits of the files of a small dataset: renames, bytes, numbers, tags, keys, columns, capitals, ids.

``edit(files, rng)`` changes one thing, ``silent_changes`` reads the results and returns those where the number of
objects or images changed without a finding.
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote

import numpy as np

from foveal.data.doctor.examine import examine
from foveal.errors import FovealError

Files = dict[str, bytes]  # path below the root -> content
TEXT = (".xml", ".json", ".txt", ".yaml", ".csv")


def edit(files: Files, rng: np.random.Generator) -> tuple[str, Files]:
    """(what was done, the files afterwards)."""
    kind = KINDS[int(rng.integers(len(KINDS)))]
    if kind is _rename:
        name = _choose(rng, sorted(files))
        return _rename(files, name, rng)
    name = _choose(rng, sorted(n for n in files if n.lower().endswith(TEXT) and files[n]))
    text = files[name].decode("utf-8", "surrogateescape")
    what, changed = kind(text, rng)
    return f"{name}: {what}", files | {name: changed.encode("utf-8", "surrogateescape")}


def silent_changes(root: Path, count: int, seed: int) -> list[str]:
    """Edits of the dataset in ``root`` (which is restored) that change what is read without a word."""
    files = {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}
    before = _read(root)
    assert isinstance(before, tuple)
    silent = []
    for k in range(count):
        what, changed = edit(files, np.random.default_rng([seed, k]))
        touched = {n for n in files | changed if files.get(n) != changed.get(n)}
        _write(root, {n: changed.get(n) for n in touched})
        after = _read(root)
        _write(root, {n: files.get(n) for n in touched})
        if isinstance(after, tuple) and after[:2] != before[:2] and after[2] <= before[2]:
            silent.append(f"{k}: {what}: {before[:2]} became {after[:2]}")
    return silent


def _read(root: Path) -> tuple[int, int, frozenset[str]] | str:
    """Images, objects and findings; or the error."""
    try:
        report = examine(root, decode=False)
    except FovealError as error:
        assert str(error)
        return str(error)
    return report.images, report.objects, frozenset(str(f) for f in report.findings)


def _write(root: Path, files: dict[str, bytes | None]) -> None:
    for name, body in files.items():
        path = root / name
        if body is None:
            path.unlink(missing_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(body)


# ------------------------------------------------------------------------------------------------- edits
def _choose(rng: np.random.Generator, items: list[str]) -> str:
    return items[int(rng.integers(len(items)))]


def _rename(files: Files, name: str, rng: np.random.Generator) -> tuple[str, Files]:
    path = Path(name)
    stem, suffix = path.stem, path.suffix
    names = [
        stem.upper() + suffix,
        stem + suffix.upper(),
        f"{stem}_{suffix}",
        f"x{stem}{suffix}",
        f"{stem}.bak",
        f"{stem}.png",
        f"{name}.txt",
        f"1a2b3c4d-{stem}{suffix}",
        f"{stem}_jpg.rf.0123456789abcdef{suffix}",
        f"{stem} {suffix}",
        f"{quote(stem + ' ')}{suffix}",
        f"sub/{stem}{suffix}",
        f"{stem}{suffix}{suffix}",
        "",
    ]
    new = _choose(rng, names)
    rest = {n: body for n, body in files.items() if n != name}
    if not new:
        return f"{name}: removed", rest
    target = (
        (path.parent / Path(new).name).as_posix() if "/" not in new or new.startswith(name) else f"{path.parent}/{new}"
    )
    return f"{name}: renamed to {target}", rest | {target: files[name]}


def _byte(text: str, rng: np.random.Generator) -> tuple[str, str]:
    at = int(rng.integers(len(text)))
    char = chr(int(rng.integers(1, 128)))
    kind = int(rng.integers(3))
    changed = text[:at] + (char if kind < 2 else "") + text[at + (kind != 1) :]
    return f"character {at} ({text[at]!r}) {('became', 'got in front', 'removed')[kind]} {char!r}", changed


def _number(text: str, rng: np.random.Generator) -> tuple[str, str]:
    found = list(re.finditer(r"-?\d+(\.\d+)?", text))
    if not found:
        return _byte(text, rng)
    match = found[int(rng.integers(len(found)))]
    old = match.group()
    others = ["", "1e9", "nan", "inf", "null", "0", f"-{old}", f"{old}px", f"{old},5", f"{old}.", f"0{old}", f" {old} "]
    others += [f"{old} {old}", f'"{old}"', old.replace(".", ","), str(rng.integers(100)), f"{rng.random():.4f}"]
    new = _choose(rng, others)
    return f"the number {old} at {match.start()} became {new!r}", text[: match.start()] + new + text[match.end() :]


def _word(text: str, rng: np.random.Generator) -> tuple[str, str]:
    """A tag, a key or another word; an XML tag at both ends."""
    tags = list(re.finditer(r"<(\w+)>([^<]*)</\1>|<(\w+)>", text))
    words = tags or list(re.finditer(r"[A-Za-z_]+", text))
    if not words:
        return _byte(text, rng)
    match = words[int(rng.integers(len(words)))]
    word = (match.group(1) or match.group(3)) if tags else match.group()
    new = _choose(rng, [word.upper(), word.title(), word + "s", word[:-1] or "x", f"x{word}", f" {word}", f"{word}_1"])
    if not tags:
        return f"{word!r} at {match.start()} became {new!r}", text[: match.start()] + new + text[match.end() :]
    start, end = match.start(), text.index(f"</{word}>", match.start()) + len(word) + 3
    element = text[start:end]
    inner = element[len(word) + 2 : -len(word) - 3]
    changed = _choose(
        rng, [f"<{new}>{inner}</{new}>", f"<{new}>{inner}</{new}>", f"<{word}/>", inner, element + element]
    )
    return f"<{word}> at {start} became {changed[:40]!r}", text[:start] + changed + text[end:]


def _case(text: str, rng: np.random.Generator) -> tuple[str, str]:
    letters = [k for k, c in enumerate(text) if c.isalpha()]
    if not letters:
        return _byte(text, rng)
    at = letters[int(rng.integers(len(letters)))]
    return f"{text[at]!r} at {at} in the other case", text[:at] + text[at].swapcase() + text[at + 1 :]


def _id(text: str, rng: np.random.Generator) -> tuple[str, str]:
    """An id or a name in JSON or XML, or the first column of a line."""
    found = list(
        re.finditer(r'(?<="id": )\d+|(?<=_id": )\d+|(?<=name": ")[^"]*|(?<=name>)[^<]+|(?m:^)[^\s<{\[]+', text)
    )
    if not found:
        return _byte(text, rng)
    match = found[int(rng.integers(len(found)))]
    old = match.group()
    quoted = f'"{old}"' if text[match.start() - 1 : match.start()] == " " else old
    new = _choose(rng, [quoted, f"0{old}", f"{old}1", f"{old} ", old.upper(), old[:-1] or "9", f"{old}.0", "null"])
    return f"{old!r} at {match.start()} became {new!r}", text[: match.start()] + new + text[match.end() :]


def _column(text: str, rng: np.random.Generator) -> tuple[str, str]:
    """A column of a line, or what separates them."""
    lines = text.split("\n")
    k = int(rng.integers(len(lines)))
    columns = lines[k].split(" ")
    at = int(rng.integers(len(columns)))
    choice = int(rng.integers(5))
    if choice == 0:
        columns = columns[:at] + columns[at + 1 :]
    elif choice == 1:
        columns = [*columns[: at + 1], *columns[at:]]
    joined = ("\t" if choice == 2 else "," if choice == 3 else ";" if choice == 4 else " ").join(columns)
    return f"line {k + 1} became {joined[:60]!r}", "\n".join([*lines[:k], joined, *lines[k + 1 :]])


def _cut(text: str, rng: np.random.Generator) -> tuple[str, str]:
    at = int(rng.integers(len(text)))
    return f"cut off at {at} of {len(text)}", text[:at]


KINDS = (_rename, _byte, _number, _word, _case, _id, _column, _cut)
