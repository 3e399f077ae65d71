"""``foveal.predict``: detects objects in image files, folders and globs; writes drawings and JSON."""

from __future__ import annotations

import json as json_module
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.images.load import ImageError, load_image
from ..errors import FovealError, UsageError
from ..files.aliases import ImageArray, OnProgress, PathLike
from ..files.atomic import write_text
from .drawings import Drawings
from .sources import find_sources

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..assembly.detector import Detector
    from ..external_proposals.file import Table
    from ..types import Detections

LOOK_AHEAD = 4  # images decoded while the detector works


@dataclass(frozen=True)
class Prediction:
    """The detections of one image."""

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
class PredictedImages:
    """What :func:`predict` returns: the images with their detections, and those that could not be read."""

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
    proposals: PathLike | Sequence[PathLike] | ImageProposals | None = None,
    parts: Sequence[type] = (),
    limit: int | None = None,
    progress: OnProgress | None = None,
    each: Callable[[Prediction], None] | None = None,
) -> PredictedImages:
    """Detects objects in images, folders, globs and lists (text files with a name a line), in their order.

        done = foveal.predict("runs/first", ["photo.jpg", "holiday/"], out="drawings", json="detections.json")
        for image in done.images:
            print(image.image, image.detections.to_list())

    ``detector`` may be anything that :func:`foveal.load` takes, with the same ``parts``. Only detections of at least
    ``score`` and of ``classes`` are returned. ``limit``: only the first images. Drawings go to folder ``out`` (JPEG,
    named after the image, in its folder where two images have one name), all detections to the file ``json``.
    ``proposals``: a file of ``foveal proposals`` or an :class:`ImageProposals`, for a detector that takes external
    proposals; default: computed, and cached. ``batch``: images at a time; default: 1 on a CPU, else 8. ``each`` is
    called with every result, ``progress`` with the number of images done and of all.

    Images that cannot be read are skipped and listed in the result. Raises :class:`FovealError` where none can be read,
    :class:`UsageError` for an unknown class and for a source without images.
    """
    if isinstance(detector, (str, Path)):
        from ..checkpoints.load import load

        detector = load(detector, parts=parts)
    _check(detector, score, classes)
    files = find_sources([sources] if isinstance(sources, (str, Path)) else list(sources))[:limit]
    drawings = None if out is None else Drawings(Path(out), files)
    external = proposals if isinstance(proposals, ImageProposals) else ImageProposals.of(detector, files, proposals)
    from ..types import inference_batch

    size = batch or inference_batch(detector.device)
    done = PredictedImages()
    for loaded in _batches(files, size, done.skipped, progress):
        boxes = None if external is None else [external.boxes(name, pixels) for name, pixels in loaded]
        results = detector.predict_arrays([pixels for _, pixels in loaded], size, boxes)
        for (name, pixels), result in zip(loaded, results, strict=True):
            shown = result.above(score).only(classes) if classes else result.above(score)
            drawing = None if drawings is None else drawings.save(name, pixels, shown)
            height, width = pixels.shape[:2]
            done.images.append(Prediction(name, width, height, shown, drawing))
            if each is not None:
                each(done.images[-1])
    if not done.images:
        _refuse(done.skipped)
    if json is not None:
        text = json_module.dumps([p.to_dict() for p in done.images], indent=1, ensure_ascii=False, allow_nan=False)
        write_text(Path(json), text + "\n")
    return done


def _check(detector: Detector, score: float, classes: Sequence[str] | None) -> None:
    if not 0 <= score <= 1:
        raise UsageError(f"score is {score:g}, expected a number from 0 to 1")
    unknown = [c for c in classes or () if c not in detector.classes]
    if unknown:
        raise UsageError(
            f"the detector does not know the class {unknown[0]!r}", fix=f"Choose of {', '.join(detector.classes)}"
        )


def _batches(
    files: Sequence[str], size: int, skipped: list[ImageError], progress: OnProgress | None
) -> Iterator[list[tuple[str, ImageArray]]]:
    """Names and pixels of ``size`` images at a time; images that cannot be read go to ``skipped``."""
    batch: list[tuple[str, ImageArray]] = []
    for number, (name, loaded) in enumerate(_prefetch(files), 1):
        if isinstance(loaded, ImageError):
            skipped.append(loaded)
        else:
            batch.append((name, loaded))
        if len(batch) >= size:
            yield batch
            batch = []
        if progress is not None:
            progress(number, len(files))
    if batch:
        yield batch


def _prefetch(files: Sequence[str]) -> Iterator[tuple[str, ImageArray | ImageError]]:
    """Names and pixels in order (or the error of an image that cannot be read), decoded a few ahead."""

    def load(name: str) -> ImageArray | ImageError:
        try:
            return load_image(name)
        except ImageError as error:
            return error

    with ThreadPoolExecutor(1) as pool:
        ahead: deque[tuple[str, Future[ImageArray | ImageError]]] = deque()
        remaining = iter(files)
        try:
            while True:
                for name in remaining:
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
class ImageProposals:
    """External proposals of images, looked up by the content of each image."""

    tables: Sequence[Table]
    top: int  # proposals of an image that are used
    without: list[str] = field(default_factory=list)  # images that turned out to have none

    @classmethod
    def of(
        cls,
        detector: Detector,
        names: Sequence[str],
        files: PathLike | Sequence[PathLike] | None = None,
        *,
        progress: OnProgress | None = None,
    ) -> ImageProposals | None:
        """Those of ``files``; without them of the cache, where the detector's source puts what it computes.

        None for a detector that makes its own. Raises :class:`UsageError` for files that it has no use for.
        """
        from ..data.records.dataset import Record
        from ..external_proposals.cache import ensure_cached, from_source
        from ..external_proposals.file import read_tables

        source = detector.source
        if source is None:
            if files is not None:
                raise UsageError(f"{type(detector.spec).__name__} takes no external proposals", where="--proposals")
            return None
        if files is not None:
            return cls(read_tables(files), source.top)
        records = [Record.bare(name) for name in names]
        return cls([ensure_cached(records, source.setting, from_source(source), progress=progress).table], source.top)

    @cached_property
    def rows(self) -> dict[str, tuple[Table, int]]:
        """Table and row of every image, by its content."""
        from ..external_proposals.file import index_tables

        return index_tables(self.tables)

    def boxes(self, name: str, pixels: ImageArray) -> NDArray[np.float32]:
        """(P, 4) xyxy pixels. Raises :class:`FovealError` for an image that the tables do not hold."""
        from ..external_proposals.file import content_key

        entry = self.rows.get(content_key(name))
        if entry is None:
            path = ", ".join(str(table.path) for table in self.tables)
            fix = "Leave --proposals out, and they are computed"
            raise FovealError(f"has no proposals for {name} as it is now", path=path, fix=fix)
        table, row = entry
        height, width = pixels.shape[:2]
        boxes = table.of(row, width, height).boxes[: self.top]
        if not len(boxes):
            self.without.append(name)
        return boxes


def _refuse(skipped: Sequence[ImageError]) -> None:
    if len(skipped) == 1:
        raise skipped[0]
    shown = "; ".join(map(str, skipped[:3]))
    raise FovealError(f"none of the {len(skipped)} images can be read: {shown}")
