"""Detections of files: images, folders, globs in; drawings and JSON out."""

from __future__ import annotations

import glob
import json as json_module
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.images.load import ImageError, find_images, is_image, load_image
from ..errors import FovealError, UsageError
from ..files.aliases import ImageArray
from ..files.paths import PathLike

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..assembly.detector import Detector
    from ..external_proposals.file import Table
    from ..types import Detections
LOOK_AHEAD = 4  # pictures decoded while the detector works


@dataclass(frozen=True)
class Prediction:
    """What was found in one picture."""

    image: str  # the path as it was given
    width: int
    height: int
    detections: Detections
    drawing: Path | None = None

    def to_dict(self) -> dict[str, Any]:
        """One entry of ``predict --json``; detections of a detector of masks have a ``"mask"``."""
        return {
            "image": self.image,
            "width": self.width,
            "height": self.height,
            "detections": self.detections.to_list(),
        }


@dataclass
class Predictions:
    """What :func:`predict` did: one entry a picture, and the pictures that could not be read."""

    images: list[Prediction] = field(default_factory=list)
    skipped: list[ImageError] = field(default_factory=list)


def predict(
    detector: Detector | PathLike,
    sources: PathLike | Sequence[PathLike],
    *,
    out: PathLike | None = None,
    score: float = 0.5,
    classes: Sequence[str] | None = None,
    json: PathLike | None = None,
    batch: int | None = None,
    proposals: PathLike | Sequence[PathLike] | Outside | None = None,
    progress: Callable[[int, int], None] | None = None,
    each: Callable[[Prediction], None] | None = None,
) -> Predictions:
    """Detects objects in images, folders and globs, in their order.

    ``detector`` may be anything that :func:`foveal.load` takes. Detections below ``score`` and of other ``classes`` are
    left out. ``proposals`` is a file of ``foveal proposals``, for a detector that takes them from outside, or what
    :meth:`Outside.of` found; without it they come from the cache, where new ones are put. Drawings go to ``out`` (JPEG,
    named after the picture), all detections to the file ``json``. ``each`` is called with every result. Pictures that
    cannot be read are skipped and named in the answer; where none can be read :class:`FovealError` is raised. Raises
    :class:`UsageError` for an unknown class or a source that holds no image.
    """
    if isinstance(detector, (str, Path)):
        from ..checkpoints.load import load

        detector = load(detector)
    if not 0 <= score <= 1:
        raise UsageError(f"score is {score:g}; it must lie between 0 and 1")
    unknown = [c for c in classes or () if c not in detector.classes]
    if unknown:
        raise UsageError(f"there is no class {unknown[0]!r}", fix=f"Choose from {', '.join(detector.classes)}")
    files = find_sources([sources] if isinstance(sources, (str, Path)) else list(sources))
    namer = None if out is None else _Namer(Path(out), files)
    done = Predictions()
    size = batch or (1 if detector.device.type == "cpu" else 8)
    outside = proposals if isinstance(proposals, Outside) else Outside.of(detector, files, proposals)
    waiting: list[tuple[str, ImageArray]] = []

    def flush() -> None:
        boxes = None if outside is None else [outside.boxes(name, pixels) for name, pixels in waiting]
        answers = detector.predict_arrays([p for _, p in waiting], size, boxes)
        for (name, pixels), found in zip(waiting, answers, strict=True):
            found = found.above(score)
            if classes:
                found = found.only(classes)
            drawing = None if namer is None else namer.save(name, pixels, found)
            height, width = pixels.shape[:2]
            done.images.append(Prediction(name, width, height, found, drawing))
            if each is not None:
                each(done.images[-1])
        waiting.clear()

    for number, (name, loaded) in enumerate(_loaded(files), 1):
        if isinstance(loaded, ImageError):
            done.skipped.append(loaded)
        else:
            waiting.append((name, loaded))
        if len(waiting) >= size:
            flush()
        if progress is not None:
            progress(number, len(files))
    flush()
    if not done.images:
        _refuse(done.skipped)
    if json is not None:
        Path(json).parent.mkdir(parents=True, exist_ok=True)
        text = json_module.dumps([p.to_dict() for p in done.images], indent=1, ensure_ascii=False, allow_nan=False)
        Path(json).write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
    return done


def find_sources(sources: Sequence[PathLike]) -> list[str]:
    """The image files that are meant, each once, in order: files as they are, the images of folders, matches of globs.

    A file that does not exist stays in the list, so that loading names it. Raises :class:`FovealError` for a folder or
    a pattern without images.
    """
    found: list[str] = []
    for source in map(str, sources):
        path = Path(source)
        if path.is_dir():
            inside = [str(p) for p in find_images(path)]
            if not inside:
                raise FovealError(
                    "no image in this folder", path=path, fix="Name another, or a pattern: 'DIR/**/*.jpg'"
                )
            found += inside
        elif not path.exists() and glob.has_magic(source):
            matches = sorted(p for p in glob.glob(source, recursive=True) if Path(p).is_file() and is_image(Path(p)))
            if not matches:
                raise FovealError("no image matches this pattern", path=source)
            found += matches
        else:
            found.append(source)
    if not found:
        raise UsageError("no image is given")
    return list(dict.fromkeys(found))


def _loaded(files: Sequence[str]) -> Iterator[tuple[str, ImageArray | ImageError]]:
    """Pictures in order, or why there is none, decoded a few ahead."""

    def load(name: str) -> ImageArray | ImageError:
        try:
            return load_image(name)
        except ImageError as error:
            return error

    with ThreadPoolExecutor(1) as pool:
        ahead: deque[tuple[str, Future[ImageArray | ImageError]]] = deque()
        rest = iter(files)
        try:
            while True:
                for name in rest:
                    ahead.append((name, pool.submit(load, name)))
                    if len(ahead) > LOOK_AHEAD:
                        break
                if not ahead:
                    return
                name, future = ahead.popleft()
                yield name, future.result()
        finally:
            for _, future in ahead:
                future.cancel()


@dataclass
class Outside:
    """The proposals of pictures for a detector that makes none itself, found by the content of each."""

    tables: Sequence[Table]
    top: int  # of a picture that are used
    without: list[str] = field(default_factory=list)  # pictures that turned out to have none

    @classmethod
    def of(
        cls,
        detector: Detector,
        names: Sequence[str],
        files: PathLike | Sequence[PathLike] | None = None,
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> Outside | None:
        """Those of ``files``; without them of the cache, where the detector's source puts what is new. None for a
        detector that makes its own. Raises :class:`UsageError` for files that it has no use for."""
        from ..data.records.dataset import Record
        from ..external_proposals.cache import ensure_cached, from_source
        from ..external_proposals.file import read_tables

        source = detector.source
        if source is None:
            if files is not None:
                raise UsageError(f"{type(detector.spec).__name__} takes no proposals from outside", where="--proposals")
            return None
        if files is not None:
            return cls(read_tables(files), source.top)
        records = [Record.bare(name) for name in names]
        return cls([ensure_cached(records, source.setting, from_source(source), progress=progress).table], source.top)

    @cached_property
    def _rows(self) -> dict[str, tuple[Table, int]]:
        """Hash of the image file -> table and row."""
        from ..external_proposals.file import index_tables

        return index_tables(self.tables)

    def boxes(self, name: str, pixels: ImageArray) -> NDArray[np.float32]:
        """(P, 4). Raises :class:`FovealError` for a picture that the tables do not know."""
        from ..external_proposals.file import content_key

        place = self._rows.get(content_key(name))
        if place is None:
            path = ", ".join(str(table.path) for table in self.tables)
            fix = "Leave --proposals out to compute them for each image"
            raise FovealError(f"has no proposals for {name} as it is now", path=path, fix=fix)
        table, row = place
        height, width = pixels.shape[:2]
        found = table.of(row, width, height).boxes[: self.top]
        if not len(found):
            self.without.append(name)
        return found


def _refuse(skipped: Sequence[ImageError]) -> None:
    if len(skipped) == 1:
        raise skipped[0]
    shown = "; ".join(map(str, skipped[:3]))
    raise FovealError(f"none of the {len(skipped)} images can be read: {shown}")


class _Namer:
    """Writes drawings into a folder, under names that never clash and never beside a source."""

    def __init__(self, out: Path, files: Sequence[str]) -> None:
        self.out, self.taken = out, set[str]()
        real = out.resolve()
        for name in files:
            if Path(name).resolve().parent == real:
                raise FovealError("the pictures themselves lie here", path=out, fix="Name another folder for drawings")
        if out.exists() and not out.is_dir():
            raise FovealError("is a file, not a folder", path=out, fix="Name a folder for the drawings")

    def save(self, name: str, pixels: ImageArray, found: Detections) -> Path:
        from .draw import draw

        self.out.mkdir(parents=True, exist_ok=True)
        target = self.out / self.free(Path(name))
        draw(pixels, found).save(target, quality=92)
        return target

    def free(self, path: Path) -> str:
        """``dog.jpg``; where that is taken ``dog.png.jpg``, ``photos_dog.jpg``, then ``dog-2.jpg``, ..."""
        options = [path.stem, path.name, f"{path.resolve().parent.name}_{path.stem}"]
        number = 2
        while (stem := options.pop(0)).lower() in self.taken:  # some file systems do not know capitals
            if not options:
                options.append(f"{path.stem}-{number}")
                number += 1
        self.taken.add(stem.lower())
        return stem + ".jpg"
