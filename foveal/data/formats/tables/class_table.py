"""The names of a table's classes, where another file lists them: by number, or by identifier (Open Images)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ....files.reading import Unreadable
from ...records.findings import Findings
from ..class_list import read_class_list
from ..entries import NamedImage
from ..entry_source import EntrySource
from ..rows import read_rows
from ..shapes import listed
from ..validate import number

_HEADERS = ("labelname", "name", "class", "classname", "id", "classid", "label")


@dataclass
class ClassTable:
    """A list of classes beside a table: ``classes.txt``, or a table ``name,number`` or ``identifier,name``."""

    file: Path | None = None
    order: list[str] = field(default_factory=list)  # by number
    names_of: dict[str, str] = field(default_factory=dict)  # by identifier
    used: bool = False  # whether the order is that of the dataset's classes

    @classmethod
    def read(cls, file: Path | None, findings: Findings) -> ClassTable:
        if file is None:
            return cls()
        try:
            if file.suffix.lower() != ".csv":
                return cls(file, read_class_list(file, findings))
            rows = [(cells[0].strip(), cells[1].strip()) for _, cells in read_rows(file)[0] if len(cells) >= 2]
        except Unreadable as error:
            findings.add("warning", "classes-unreadable", file, "", error.message, error.fix)
            return cls()
        rows = [row for row in rows if row[0].lower().replace("_", "") not in _HEADERS]
        for names in ({number(b): a for a, b in rows}, {number(a): b for a, b in rows}):
            if rows and set(names) == set(range(len(rows))):
                order = [names[k] for k in range(len(rows))]
                return cls(file, order, used=True)
        return cls(file, names_of=dict(rows))

    def rename(self, images: Sequence[NamedImage], file: Path, findings: Findings) -> None:
        """Replaces numbers and identifiers by names."""
        objects = [o for image in images for o in image.objects if o.name]
        found = {o.name for o in objects}
        numbers = {name: number(name) for name in found}
        if found and all(n is not None and n == int(n) and n >= 0 for n in numbers.values()):
            self._rename_numbers(images, {name: int(n or 0) for name, n in numbers.items()}, file, findings)
            return
        for o in objects:
            o.name = self.names_of.get(o.name, o.name)

    def _rename_numbers(
        self, images: Sequence[NamedImage], numbers: dict[str, int], file: Path, findings: Findings
    ) -> None:
        largest = max(numbers.values())
        if largest >= len(self.order):
            why = f"{self.file} lists {len(self.order)} names" if self.order else "no file lists their names"
            message = f"the classes are numbers ({listed(sorted(numbers), 10)}), and {why}; the numbers are the names"
            findings.add("note", "classes-numbered", file, "", message, "Write the names, or add classes.txt")
            return
        message = f"the classes are numbers, whose names are those in {self.file}, counted from 0"
        findings.add("note", "classes-numbered", file, "", message)
        self.used = True
        for image in images:
            for o in image.objects:
                if o.name:
                    o.name = self.order[numbers[o.name]]


class TableSource(EntrySource):
    """Text files of boxes, beside which a ``class_file`` may list the names of the classes."""

    def __init__(
        self,
        path: Path,
        files: Sequence[Path],
        image_roots: Iterable[Path],
        splits: Mapping[Path, str] | None = None,
        class_file: Path | None = None,
    ) -> None:
        told = Findings()
        self.class_table = ClassTable.read(class_file, told)
        super().__init__(path, files, image_roots, splits)
        self.findings.extend(told)

    def class_names(self) -> Sequence[str]:
        return self.class_table.order if self.class_table.used else ()
