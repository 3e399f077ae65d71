"""``foveal data make|convert|split``. Never imports torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..errors import UsageError
from .common import BoxConvention, Classes, ImagesDir, group, names, paths, print_err, print_out, progress

if TYPE_CHECKING:
    from ..data.convert import Conversion

Out = Annotated[Path, typer.Option("--out", help="A new folder.", show_default=False)]
Sources = Annotated[list[Path], typer.Argument(help="Dataset; several are joined.", show_default=False)]
Written = Literal["voc", "coco", "yolo", "csv", "labelme", "createml", "cvat"]
Link = Annotated[bool, typer.Option("--link", help="Link the images instead of copying them.")]

app = group()


@app.callback()
def data() -> None:
    """Makes, converts and splits datasets; never changes a source.

    \b
    Example:
      foveal data make shapes my-shapes --images 750
      foveal data convert VOC2012 --to coco --out as-coco
      foveal data split photos --val .2 --test .1 --out divided
    """


@app.command()
def make(
    what: Annotated[Literal["shapes"], typer.Argument(help="Dataset to make.", show_default=False)],
    folder: Annotated[Path, typer.Argument(help="A new folder.", show_default=False)],
    images: Annotated[int, typer.Option("--images", min=2, help="Number of images, 4 : 1 for train and val.")] = 750,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Random seed.")] = 0,
    format: Annotated[Literal["voc", "coco"], typer.Option("--format", help="Format to write.")] = "voc",
    size: Annotated[
        str, typer.Option("--size", help="Image size in pixels: 256, or 320x256 (width x height).")
    ] = "256",
    masks: Annotated[bool, typer.Option("--masks/--no-masks", help="Write masks of the objects.")] = True,
) -> None:
    """Draws a dataset: six classes (one rare), small and overlapping objects, empty images, masks.

    \b
    Example:
      foveal data make shapes my-shapes --images 750 --format coco --size 320x256
    """
    from ..data.synthetic.shapes import make_shapes

    with progress("drawing") as update:
        made = make_shapes(
            folder, images=images, seed=seed, format=format, size=_size(size), masks=masks, progress=update
        )
    parts = ", ".join(f"{n} {split}" for split, n in made.images.items())
    print_out(f"{made.path}: {parts}; objects: {', '.join(f'{name} {n}' for name, n in made.objects.items())}")


def _size(text: str) -> tuple[int, int]:
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() for side in sides):
        raise UsageError(f"{text!r} is not a size", where="--size", fix="Write 256 or 320x256")
    return int(sides[0]), int(sides[-1])


@app.command()
def convert(
    data: Sources,
    to: Annotated[Written, typer.Option("--to", help="Format to write.")],
    out: Out,
    images: ImagesDir = None,
    classes: Classes = None,
    others: Annotated[
        Literal["background", "skip-image"],
        typer.Option("--others", help="What images with objects of other classes become."),
    ] = "background",
    convention: BoxConvention = None,
    link: Link = False,
) -> None:
    """Writes a dataset in another format, every split of it, and says what that format cannot store.

    Read are VOC, COCO, YOLO, Darknet, LabelMe, CVAT, Label Studio, CreateML, VIA, KITTI and tables (CSV).

    \b
    Example:
      foveal data convert VOC2012 --to yolo --out as-yolo --classes cat,dog
    """
    from ..data.convert import convert as run

    options: dict[str, Any] = {"images": images, "classes": names(classes), "others": others}
    _told(run(paths(data), out, to, convention=convention, link=link, **options))


@app.command()
def split(
    data: Sources,
    out: Out,
    val: Annotated[float, typer.Option("--val", help="Fraction of the images for val.")] = 0.2,
    test: Annotated[float, typer.Option("--test", help="Fraction of the images for test.")] = 0.0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Random seed.")] = 0,
    format: Annotated[
        Written | None,
        typer.Option("--format", help="Format to write; default: that of the data."),
    ] = None,
    images: ImagesDir = None,
    convention: BoxConvention = None,
    link: Link = False,
) -> None:
    """Splits a dataset at random into train, val and, with --test, test.

    \b
    Example:
      foveal data split photos --val .2 --test .1 --seed 3 --out divided
    """
    from ..data.convert import split as run

    parts = {"val": val, "test": test}
    _told(run(paths(data), out, seed=seed, format=format, images=images, convention=convention, link=link, **parts))


def _told(written: Conversion) -> None:
    from ..data.records.findings import fold

    for line in fold(written.findings):
        print_err(line)
    parts = f", splits: {', '.join(written.splits)}" if written.splits else ""
    print_out(f"{written.path}: {written.format.upper()}, {written.images} images, {written.objects} objects{parts}")
