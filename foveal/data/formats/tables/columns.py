"""What the columns of a table of boxes mean: by the names in its header, else by what is in them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...images.load import EXTENSIONS
from ...records.convention import Layout
from ..validate import number

# Role -> names of columns, without capitals, spaces and punctuation; the first that a header has counts.
_NAMES: dict[str, tuple[str, ...]] = {
    "image": (
        *("filename", "imagename", "imagefilename", "imagepath", "imagefile", "filepath", "image", "img", "imgname"),
        *("imgpath", "imgfile", "path", "file", "fname", "imageid", "imgid", "imageuri", "photo", "picture", "frame"),
    ),
    "class": (
        *("class", "classname", "label", "labelname", "category", "categoryname", "objectclass", "cls", "classlabel"),
        *("object", "objectname", "name", "type", "species", "classid", "categoryid", "labelid"),
    ),
    "x1": ("xmin", "x1", "left", "xtl", "minx", "bboxxmin", "boxxmin", "bboxx1", "xtopleft", "topleftx", "startx"),
    "y1": (
        "ymin",
        "y1",
        "top",
        "upper",
        "ytl",
        "miny",
        "bboxymin",
        "boxymin",
        "bboxy1",
        "ytopleft",
        "toplefty",
        "starty",
    ),
    "x2": (
        "xmax",
        "x2",
        "right",
        "xbr",
        "maxx",
        "bboxxmax",
        "boxxmax",
        "bboxx2",
        "xbottomright",
        "bottomrightx",
        "endx",
    ),
    "y2": ("ymax", "y2", "bottom", "lower", "ybr", "maxy", "bboxymax", "boxymax", "bboxy2", "ybottomright", "endy"),
    "cx": ("cx", "xcenter", "centerx", "xc", "xcentre", "centrex", "bboxxcenter"),
    "cy": ("cy", "ycenter", "centery", "yc", "ycentre", "centrey", "bboxycenter"),
    "x": ("x", "bboxx", "boxx"),
    "y": ("y", "bboxy", "boxy"),
    "w": ("bboxwidth", "boxwidth", "bboxw", "boxw", "w"),
    "h": ("bboxheight", "boxheight", "bboxh", "boxh", "h"),
    "width": ("imagewidth", "imgwidth", "imagew", "imgw", "width"),
    "height": ("imageheight", "imgheight", "imageh", "imgh", "height"),
    "bbox": ("bbox", "box", "boundingbox", "boundingboxcoordinates"),
    "difficult": ("difficult", "isdifficult"),
    "crowd": ("crowd", "iscrowd", "isgroupof", "groupof"),
    "split": ("split", "subset", "set", "usage", "partition", "mlusage"),
    "score": ("score", "confidence", "conf", "probability"),
    "shape": ("regionshapeattributes",),  # VIA
    "attributes": ("regionattributes",),  # VIA
}
_CORNERS = ("x1", "y1", "x2", "y2")
_BOXES: tuple[tuple[Layout, tuple[str, str, str, str]], ...] = (
    ("corners", ("x1", "y1", "x2", "y2")),
    ("centers", ("cx", "cy", "w", "h")),
    ("top-left", ("x1", "y1", "w", "h")),
    ("top-left", ("x", "y", "w", "h")),
)
_NO_CLASS = frozenset(
    {"source", "dataset", "annotator", "author", "url", "date", "time", "license", "comment", "country"}
)
_AUTOML = {"TRAIN", "VALIDATION", "VALIDATE", "TEST", "UNASSIGNED", "TRAINING"}


@dataclass(frozen=True)
class Columns:
    """Role -> index of the column."""

    at: dict[str, int]
    box: tuple[str, ...]  # the roles of the four numbers; empty for ``bbox`` and VIA's shapes
    layout: Layout = "corners"
    header: tuple[str, ...] = ()  # as written; empty without a header
    ignored: tuple[str, ...] = ()  # names of the columns without a role
    guessed: tuple[str, ...] = field(default=())  # what was decided without a name that says so

    @property
    def via(self) -> bool:
        """Whether it is VIA's table, whose shapes are JSON."""
        return "shape" in self.at


def find_columns(rows: Sequence[Sequence[str]]) -> Columns | None:
    """The columns of a table by its first rows; ``None`` where it is no table of boxes."""
    if not rows:
        return None
    return _by_header(rows) or _by_content(rows)


def plain(name: str) -> str:
    """A name without capitals, spaces and punctuation."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def has_extension(name: str) -> bool:
    """Whether a name ends like the name of an image."""
    return Path(name.split("?")[0].replace("\\", "/")).suffix.lower() in EXTENSIONS


# --------------------------------------------------------------------------------------------------- header
def _by_header(rows: Sequence[Sequence[str]]) -> Columns | None:
    names = [plain(name) for name in rows[0]]
    at = {role: index for role, words in _NAMES.items() if (index := _first(words, names)) is not None}
    if "class" in at:  # rather a column of names than one of numbers
        classes = [names.index(word) for word in _NAMES["class"] if word in names]
        at["class"] = next((k for k in classes if _is_text(rows[1:], k)), at["class"])
    if {"x0", "y0", "x1", "y1"} <= set(names):
        at |= {"x2": names.index("x1"), "y2": names.index("y1"), "x1": names.index("x0"), "y1": names.index("y0")}
    if "image" not in at:
        return None
    if "shape" in at and "attributes" in at:
        return Columns(at, (), "corners", tuple(rows[0]))
    # beside one corner or the center, width and height are those of the box
    one_point = "x2" not in at and bool({"x1", "x", "cx"} & at.keys())
    for side, role in (("width", "w"), ("height", "h")):
        if one_point and role not in at and side in at and names[at[side]] == side:
            at[role] = at.pop(side)
    found = next(((layout, roles) for layout, roles in _BOXES if all(role in at for role in roles)), None)
    if found is None and "bbox" not in at:
        return None
    layout: Layout = "top-left" if found is None else found[0]
    box: tuple[str, ...] = () if found is None else found[1]
    guessed: tuple[str, ...] = ("the bbox as x, y, width and height",) if found is None else ()
    used = {
        at[role] for role in at if role in (*box, "image", "width", "height", "difficult", "crowd", "split", "score")
    }
    if found is None:
        used.add(at["bbox"])
    if "class" not in at or at["class"] in used:
        at.pop("class", None)
        free = [k for k in range(len(names)) if k not in used and names[k] and names[k] not in _NO_CLASS]
        left = [k for k in free if _is_text(rows[1:], k)]
        if len(left) == 1:
            at["class"] = left[0]
            guessed += (f"the class as the column {rows[0][left[0]]!r}",)
    used |= {at["class"]} if "class" in at else set()
    ignored = tuple(rows[0][k] for k in range(len(names)) if k not in used and names[k] and not _is_index(names[k]))
    return Columns(at, box, layout, tuple(rows[0]), ignored, guessed)


def _first(words: Sequence[str], names: Sequence[str]) -> int | None:
    return next((names.index(word) for word in words if word in names), None)


def _is_index(name: str) -> bool:
    """Whether a column only numbers the rows, as pandas writes it."""
    return name in ("unnamed0", "index", "id", "rowid")


def _is_text(rows: Sequence[Sequence[str]], k: int) -> bool:
    """Whether a column has a text in every row, and no number."""
    values = [row[k].strip() for row in rows if k < len(row)]
    return bool(values) and all(value and number(value) is None for value in values)


# -------------------------------------------------------------------------------------------------- content
def _by_content(rows: Sequence[Sequence[str]]) -> Columns | None:
    """The columns of a table without a header, of a known order."""
    width = len(rows[0])
    if any(len(row) != width for row in rows):
        return None
    for at, known in _orders(rows, width):
        layout = _layout(rows, at)
        if layout is not None:
            layout = known or layout
            form = _shown(at) if layout == "corners" else _shown(at).replace("x2", "width").replace("y2", "height")
            return Columns(at, _CORNERS, layout, guessed=(f"the columns without a header as {form}",))
    return None


def _orders(rows: Sequence[Sequence[str]], width: int) -> Iterator[tuple[dict[str, int], Layout | None]]:
    """Known orders of as many columns, and the layout of their boxes where it is known."""
    if width >= 9 and all(row[0].strip().upper() in _AUTOML for row in rows):  # Google's AutoML
        yield {"split": 0, "image": 1, "class": 2, "x1": 3, "y1": 4, "x2": 7, "y2": 8}, "corners"
    if width == 6:
        yield {"image": 0, "x1": 1, "y1": 2, "x2": 3, "y2": 4, "class": 5}, None  # RetinaNet
        yield {"image": 0, "class": 1, "x1": 2, "y1": 3, "x2": 4, "y2": 5}, None
    if width == 8:
        yield {"image": 0, "width": 1, "height": 2, "class": 3, "x1": 4, "y1": 5, "x2": 6, "y2": 7}, None  # TensorFlow
        makesense = {"class": 0, "x1": 1, "y1": 2, "x2": 3, "y2": 4, "image": 5, "width": 6, "height": 7}
        yield makesense, "top-left"
    if width == 5:
        yield {"image": 0, "x1": 1, "y1": 2, "x2": 3, "y2": 4}, None


def _layout(rows: Sequence[Sequence[str]], at: dict[str, int]) -> Layout | None:
    """Two corners, or one corner and a size where the second would be before the first; ``None`` where rows do not fit.

    Every row has an image, and either nothing else or a class and four numbers.
    """
    corners = boxes = 0
    for row in rows:
        texts = [row[at[role]].strip() for role in _CORNERS]
        if not has_extension(row[at["image"]].strip()):
            return None
        if not any(texts):
            continue
        numbers = list(map(number, texts))
        if None in numbers or ("class" in at and not row[at["class"]].strip()):
            return None
        if "width" in at and None in (number(row[at["width"]]), number(row[at["height"]])):
            return None
        x1, y1, x2, y2 = (n or 0.0 for n in numbers)
        boxes += 1
        corners += x1 < x2 and y1 < y2
        if min(x2, y2) < 0:
            return None
    if not boxes:
        return None
    return "corners" if 10 * corners >= 9 * boxes else "top-left"


def _shown(at: dict[str, int]) -> str:
    return ", ".join(sorted(at, key=lambda role: at[role]))
