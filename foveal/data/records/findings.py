"""Findings: what is wrong with or notable about a dataset, one record each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One finding. *error*: ``train`` rejects the dataset; *warning*: something was dropped, repaired or ignored;
    *note*: anything else."""

    code: str  # stable, kebab-case: "box-inverted", "image-missing", ...
    severity: Severity
    path: str  # the file at fault, as the user would open it
    where: str  # the location in it: "object 3 (nut)", "line 12", "annotation id 17"
    message: str  # the value and what was expected
    fix: str = ""  # what to do
    count: int = 1  # objects, lines or images that it is about
    images: tuple[str, ...] = field(default=(), compare=False, repr=False)  # what to look at, for pages
    box: tuple[float, float, float, float] | None = field(default=None, compare=False, repr=False)  # in the first

    def __post_init__(self) -> None:
        for name in ("path", "where", "message", "fix"):
            object.__setattr__(self, name, printable(getattr(self, name)))

    def __str__(self) -> str:
        location = f"{self.path}: {self.where}" if self.where else self.path
        return f"{self.severity} {self.code}: {location}: {self.message}" + (f" ({self.fix})" if self.fix else "")

    def to_dict(self) -> dict[str, Any]:
        """The texts, for JSON."""
        return {name: getattr(self, name) for name in ("code", "severity", "path", "where", "message", "fix")}


def printable(text: str) -> str:
    """Text that can be encoded as UTF-8: bytes of a file name that is not UTF-8 are escaped."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def counted(number: int, noun: str, plural: str = "") -> str:
    """``1 image``, ``2 images``."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def count(findings: Iterable[Finding]) -> dict[Severity, int]:
    """Number of findings of each severity."""
    counts: dict[Severity, int] = {"error": 0, "warning": 0, "note": 0}
    for finding in findings:
        counts[finding.severity] += 1
    return counts


SEVERITY_ORDER = {"error": 0, "warning": 1, "note": 2}


def fold(findings: Iterable[Finding]) -> list[str]:
    """One line for each kind of finding, ``warning box-empty: 2 in 2 files, first: FILE: ...``, or the only finding."""
    kinds: dict[tuple[str, str], list[Finding]] = {}
    for f in findings:
        kinds.setdefault((f.severity, f.code), []).append(f)
    lines = []
    for (severity, code), same in sorted(kinds.items(), key=lambda item: (SEVERITY_ORDER[item[0][0]], item[0][1])):
        if len(same) == 1:
            lines.append(str(same[0]))
            continue
        files = list(dict.fromkeys(f.path for f in same))
        first = str(same[0]).removeprefix(f"{severity} {code}: ")
        lines.append(f"{severity} {code}: {len(same)} in {len(files)} file{'s' * (len(files) > 1)}, first: {first}")
        if len(files) > 1:
            more = f" and {len(files) - 10} more" if len(files) > 10 else ""
            lines.append(f"  in: {', '.join(files[:10])}{more}")
    return lines


class Findings(list[Finding]):
    """A list of findings."""

    def add(
        self,
        severity: Severity,
        code: str,
        path: Path | str,
        where: str,
        message: str,
        fix: str = "",
        images: Iterable[Path | str] = (),
        box: tuple[float, float, float, float] | None = None,
    ) -> None:
        """Appends a finding. ``images``: what to look at; ``box``: where in the first, xyxy pixels."""
        self.append(Finding(code, severity, str(path), where, message, fix, images=tuple(map(str, images)), box=box))
