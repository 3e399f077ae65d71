"""Random edits of the files of a small dataset: whatever is lost by one must be told.

An edit renames a file or folder, removes one, or changes a byte, a word, a number, a column, a tag, a key or the
encoding of a text file, as disks, editors and export scripts do. Edits after which the files are another valid set
(a line or an element taken out as a whole) are not made, for nobody could tell.
"""

from __future__ import annotations

import random
import re
import shutil
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from foveal.data.doctor.examine import examine
from foveal.errors import FovealError

Files = dict[str, bytes]  # path below the root -> content
Edit = Callable[[Files, random.Random], str]  # changes the files and returns what it did, or "" where it does not apply

_IDS = r'(?<="id": )\d+|(?<=_id": )\d+|(?<=name": ")[^"]*|(?<=name>)[^<]+|(?m:^)[^\s<{\[]+'
TEXTS = (".txt", ".xml", ".json", ".yaml", ".yml", ".csv")


@dataclass(frozen=True)
class Outcome:
    """What ``foveal doctor`` reads: images, objects and findings; ``None`` where it refuses the dataset."""

    images: int
    objects: int
    findings: frozenset[str]


def read_outcome(root: Path) -> Outcome | None:
    try:
        report = examine(root, decode=False)
    except FovealError as error:
        assert str(error)
        return None
    return Outcome(report.images, report.objects, frozenset(str(f) for f in report.findings))


def silent_changes(root: Path, count: int, seed: int) -> list[str]:
    """Makes ``count`` edits of the dataset in ``root``, one at a time, and describes those after which it has another
    number of images or objects and no new finding. The files are as before afterwards."""
    return [text for kind, text in outcomes(root, count, seed) if kind == "silent"]


def outcomes(root: Path, count: int, seed: int) -> list[tuple[str, str]]:
    """(kind, description) of each edit: "refused", "told" by a new finding, "same" number of images and objects, or
    "silent": another number, and nothing is told."""
    files = {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}
    before = read_outcome(root)
    assert before is not None
    found: list[tuple[str, str]] = []
    k = 0
    while len(found) < count:
        k += 1
        rng = random.Random(seed * 1_000_003 + k)
        changed = dict(files)
        edit = rng.choice(EDITS)
        what = edit(changed, rng)
        if not what or changed == files:
            continue
        _write(root, files, changed)
        after = read_outcome(root)
        _write(root, changed, files)
        if after is None:
            found.append(("refused", what))
        elif not after.findings <= before.findings:
            found.append(("told", what))
        else:
            numbers = [f"{n.images} images with {n.objects} objects" for n in (before, after)]
            kind = "same" if numbers[0] == numbers[1] else "silent"
            found.append((kind, f"{k}: {edit.__name__}: {what}: {numbers[0]} became {numbers[1]}"))
    return found


def _write(root: Path, old: Files, new: Files) -> None:
    for name in old.keys() - new.keys():
        (root / name).unlink()
    for name, content in new.items():
        if old.get(name) != content:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)
    for folder in sorted((p for p in root.rglob("*") if p.is_dir()), reverse=True):
        if not any(folder.iterdir()):
            shutil.rmtree(folder)


# --------------------------------------------------------------------------------------- names of files and folders
def _free(files: Files, name: str) -> bool:
    """Whether a file may get this name, on systems that ignore capitals too; no other file is replaced."""
    return bool(name) and not name.endswith("/") and name not in files and "\0" not in name


def _move(files: Files, old: str, new: str) -> str:
    if old == new or not _free(files, new):
        return ""
    files[new] = files.pop(old)
    return f"{old} -> {new}"


def rename_file(files: Files, rng: random.Random) -> str:
    """Other capitals, another extension, a prefix, a suffix, separators, percent signs, another Unicode form."""
    old = rng.choice(sorted(files))
    folder, _, base = old.rpartition("/")
    stem, dot, ending = base.rpartition(".")
    if not stem:
        return ""
    new = rng.choice(
        [
            base.upper(),
            base.capitalize(),
            f"{stem}.{ending.upper()}",
            f"{stem}.{ending}.txt",
            f"{stem}.{ending}.bak",
            f"{stem}.{ {'jpg': 'jpeg', 'txt': 'text', 'xml': 'XML', 'yaml': 'yml'}.get(ending, ending + '1') }",
            f"x{base}",
            f"{stem}_1.{ending}",
            f"{stem} .{ending}",
            f" {base}",
            f"{stem}{dot}",
            stem,
            f"img-{base}",
            quote(f"{stem} é.{ending}"),
            unicodedata.normalize("NFD", f"é{base}"),
            f"sub/{base}",
            f"1a2b3c4d-{base}",
            f"{stem}_jpg.rf.0123456789abcdef.{ending}",
            f"{stem}.png",
            f"{base}.{ending}",
        ]
    )
    return _move(files, old, f"{folder}/{new}" if folder else new)


def rename_folder(files: Files, rng: random.Random) -> str:
    """A folder gets other capitals, a plural, another word."""
    folders = sorted(
        {"/".join(parts[:k]) for name in files for parts in [name.split("/")] for k in range(1, len(parts))}
    )
    if not folders:
        return ""
    old = rng.choice(folders)
    above, _, base = old.rpartition("/")
    words = [base.capitalize(), base.upper(), base.rstrip("s"), f"{base}s", f"{base}2", f"{base}_old", base[:-1]]
    new = "/".join(part for part in (above, rng.choice(words)) if part)
    if new == old or not new or any(name.startswith(f"{new}/") for name in files):
        return ""
    for name in [name for name in files if name.startswith(f"{old}/")]:
        files[new + name[len(old) :]] = files.pop(name)
    return f"{old}/ -> {new}/"


def remove_file(files: Files, rng: random.Random) -> str:
    """A file is gone."""
    name = rng.choice(sorted(files))
    del files[name]
    return f"removed {name}"


def copy_file(files: Files, rng: random.Random) -> str:
    """A copy beside a file, as file managers make it."""
    name = rng.choice(sorted(files))
    stem, dot, ending = name.rpartition(".")
    new = rng.choice([f"{stem} (1){dot}{ending}", f"{stem} copy{dot}{ending}", f"{stem}{dot}{ending.upper()}"])
    if not _free(files, new):
        return ""
    files[new] = files[name]
    return f"copied {name} to {new}"


# ---------------------------------------------------------------------------------------------------- bytes
def change_byte(files: Files, rng: random.Random) -> str:
    """One byte of any file is another."""
    name = rng.choice(sorted(name for name, content in files.items() if content))
    content = bytearray(files[name])
    at = rng.randrange(len(content))
    content[at] = rng.choice([rng.randrange(256), ord(rng.choice(" 0123456789.,-+eE\t\r#:;\"'<>/{}[]aZ"))])
    files[name] = bytes(content)
    return f"{name}: byte {at} is {content[at]:#x}"


def insert_byte(files: Files, rng: random.Random) -> str:
    """A character that was typed into a text file by mistake."""
    name = _text(files, rng)
    content, at = files[name], rng.randrange(len(files[name]) + 1)
    byte = rng.choice(" 0123456789.,-eE\t#:;\"'<>/{}[]aZ\n").encode()
    files[name] = content[:at] + byte + content[at:]
    return f"{name}: {byte!r} at {at}"


def delete_byte(files: Files, rng: random.Random) -> str:
    """A character that is missing in a text file."""
    name = _text(files, rng)
    at = rng.randrange(len(files[name]))
    files[name] = files[name][:at] + files[name][at + 1 :]
    return f"{name}: byte {at} is missing"


def cut_off(files: Files, rng: random.Random) -> str:
    """The end of a file is missing, from within a line."""
    name = rng.choice(sorted(name for name, content in files.items() if len(content) > 4))
    at = rng.randrange(1, len(files[name]))
    cut = files[name][:at]
    if name.endswith(TEXTS) and (not cut.strip() or cut[-1:].isspace() or files[name][at : at + 1].isspace()):
        return ""  # whole lines
    files[name] = cut
    return f"{name}: only {at} bytes"


def empty_file(files: Files, rng: random.Random) -> str:
    """A file of zero bytes."""
    name = rng.choice(sorted(name for name, content in files.items() if content))
    files[name] = b""
    return f"{name} is empty"


def lfs_pointer(files: Files, rng: random.Random) -> str:
    """A git-lfs pointer in place of a file."""
    name = rng.choice(sorted(files))
    oid = "".join(rng.choice("0123456789abcdef") for _ in range(64))
    files[name] = f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize 9901\n".encode()
    return f"{name} is a pointer"


# ----------------------------------------------------------------------------------------------------- texts
def _text(files: Files, rng: random.Random) -> str:
    return rng.choice(sorted(name for name, content in files.items() if content and name.lower().endswith(TEXTS)))


def change_number(files: Files, rng: random.Random) -> str:
    """A number is another, in another notation, or no number."""
    name = _text(files, rng)
    text = files[name].decode("utf-8", "surrogateescape")
    found = list(re.finditer(r"-?\d+(?:\.\d+)?", text))
    if not found:
        return ""
    match = rng.choice(found)
    old = match.group()
    new = rng.choice(
        [
            old.replace(".", ","),
            f"-{old}",
            f"{old}%",
            f"{old}00",
            f"0{old}",
            f"{old}.0",
            f"{old}e3",
            f"'{old}'",
            f'"{old}"',
            "nan",
            "inf",
            "",
            "1e999",
            str(float(old) + 1),
            str(int(float(old)) + 1),
            str(int(float(old)) - 1),
            f"{old} px",
            f"{old} {old}",
        ]
    )
    files[name] = (text[: match.start()] + new + text[match.end() :]).encode("utf-8", "surrogateescape")
    return f"{name}: {old!r} at {match.start()} is {new!r}"


def change_word(files: Files, rng: random.Random) -> str:
    """A word (a tag, a key, a class, a file name) in other capitals, misspelled, doubled or without its end."""
    name = _text(files, rng)
    text = files[name].decode("utf-8", "surrogateescape")
    found = list(re.finditer(r"[A-Za-z_]{2,}", text))
    if not found:
        return ""
    match = rng.choice(found)
    old = match.group()
    k = rng.randrange(len(old))
    new = rng.choice(
        [
            old.upper(),
            old.capitalize(),
            old.swapcase(),
            old[:k] + old[k + 1 :],
            old[:k] + old[k] * 2 + old[k + 1 :],
            old[:k] + rng.choice("aeiou") + old[k + 1 :],
            f"{old}s",
            f" {old}",
            f"{old} ",
            f"{old}_2",
        ]
    )
    files[name] = (text[: match.start()] + new + text[match.end() :]).encode("utf-8", "surrogateescape")
    return f"{name}: {old!r} at {match.start()} is {new!r}"


def change_column(files: Files, rng: random.Random) -> str:
    """A column of one line or of all lines of a text table is missing, doubled, exchanged or separated otherwise."""
    names = sorted(
        name for name, content in files.items() if content.strip() and name.lower().endswith((".txt", ".csv"))
    )
    if not names:
        return ""
    name = rng.choice(names)
    lines = files[name].decode("utf-8", "replace").splitlines()
    mark = "," if name.lower().endswith(".csv") else " "
    every = rng.random() < 0.5
    chosen = set(range(len(lines))) if every else {rng.randrange(len(lines))}
    way, k = rng.choice(["drop", "double", "swap", "comma", "semicolon", "tab", "extra"]), rng.randrange(6)
    for n in chosen:
        columns = lines[n].split(mark)
        k = min(k, len(columns) - 1)
        if way == "drop":
            columns = columns[:k] + columns[k + 1 :]
        elif way == "double":
            columns.insert(k, columns[k])
        elif way == "swap":
            columns[k], columns[0] = columns[0], columns[k]
        elif way == "extra":
            columns.append("0.87")
        joint = {"comma": ",", "semicolon": ";", "tab": "\t"}.get(way, mark)
        lines[n] = joint.join(columns)
    files[name] = "".join(f"{line}\n" for line in lines).encode()
    return f"{name}: {way} {k} in {'every line' if every else f'line {min(chosen) + 1}'}"


def change_tag(files: Files, rng: random.Random) -> str:
    """A tag of an XML file is removed, doubled, nested or renamed, opening or closing or both."""
    names = sorted(name for name, content in files.items() if content and name.lower().endswith(".xml"))
    if not names:
        return ""
    name = rng.choice(names)
    text = files[name].decode("utf-8", "surrogateescape")
    tags = list(re.finditer(r"</?([A-Za-z]+)>", text))
    match = rng.choice(tags)
    tag, way = match.group(1), rng.choice(["remove", "double", "rename", "capital", "prefix", "attribute"])
    if way == "remove":
        text = text[: match.start()] + text[match.end() :]
    elif way == "double":
        text = text[: match.end()] + match.group() + text[match.end() :]
    elif way in ("rename", "capital", "prefix"):
        new = {"rename": f"{tag}2", "capital": tag.capitalize(), "prefix": f"a:{tag}"}[way]
        text = re.sub(rf"(</?){tag}>", rf"\g<1>{new}>", text)
    else:
        text = text.replace(f"<{tag}>", f'<{tag} id="1">')
    files[name] = text.encode("utf-8", "surrogateescape")
    return f"{name}: {way} {match.group()} at {match.start()}"


def change_case(files: Files, rng: random.Random) -> str:
    """One letter of a text is a capital, or no longer one."""
    name = _text(files, rng)
    text = files[name].decode("utf-8", "surrogateescape")
    letters = [k for k, c in enumerate(text) if c.isalpha()]
    if not letters:
        return ""
    at = rng.choice(letters)
    files[name] = (text[:at] + text[at].swapcase() + text[at + 1 :]).encode("utf-8", "surrogateescape")
    return f"{name}: {text[at]!r} at {at} in the other case"


def change_id(files: Files, rng: random.Random) -> str:
    """An id or a name in JSON or XML, or the first column of a line, is another or written otherwise."""
    name = _text(files, rng)
    text = files[name].decode("utf-8", "surrogateescape")
    found = list(re.finditer(_IDS, text))
    if not found:
        return ""
    match = rng.choice(found)
    old = match.group()
    quoted = f'"{old}"' if text[match.start() - 1 : match.start()] == " " else old
    new = rng.choice([quoted, f"0{old}", f"{old}1", f"{old} ", old.upper(), old[:-1] or "9", f"{old}.0", "null"])
    files[name] = (text[: match.start()] + new + text[match.end() :]).encode("utf-8", "surrogateescape")
    return f"{name}: {old!r} at {match.start()} is {new!r}"


def change_encoding(files: Files, rng: random.Random) -> str:
    """The text of a file in another encoding, with a byte-order mark, with other line ends, with blank lines."""
    name = _text(files, rng)
    text = files[name].decode("utf-8", "replace")
    way = rng.choice(["utf-16", "utf-8-sig", "utf-16-le", "cr", "crlf", "blank", "spaces"])
    if way in ("cr", "crlf"):
        text, encoding = text.replace("\n", "\r" if way == "cr" else "\r\n"), "utf-8"
    elif way in ("blank", "spaces"):
        text, encoding = text.replace("\n", "\n\n" if way == "blank" else " \n"), "utf-8"
    else:
        encoding = way
    files[name] = text.encode(encoding)
    return f"{name}: {way}"


EDITS: tuple[Edit, ...] = (
    rename_file,
    rename_folder,
    remove_file,
    copy_file,
    change_byte,
    insert_byte,
    delete_byte,
    cut_off,
    empty_file,
    lfs_pointer,
    change_number,
    change_word,
    change_column,
    change_tag,
    change_case,
    change_id,
    change_encoding,
)
