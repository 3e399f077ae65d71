"""``foveal.predict``: detects objects in image files, folders and globs; writes drawings and JSON."""

from __future__ import annotations

import errno
import io
import os
import unicodedata
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.images.load import EXTENSIONS, ImageError, load_image
from ..errors import FovealError, UsageError, nearest
from ..files.aliases import ImageArray, OnProgress, PathLike
from ..files.atomic import CannotWrite, write_bytes, write_json
from ..runner.onnx_detector import OnnxDetector
from .draw import MARK, draw, is_drawing
from .image_proposals import ImageProposals

if TYPE_CHECKING:
    from ..assembly.detector import Detector
    from ..runner.onnx_detector import FoundBoxes
    from ..types import Detections

LONGEST = 255  # bytes of a file name
LOOK_AHEAD = 4  # images decoded while the detector works


@dataclass(frozen=True)
class Prediction:
    """The detections of one image."""

    image: str  # the path as it was given
    width: int
    height: int
    detections: Detections | FoundBoxes
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
    detector: Detector | OnnxDetector | PathLike,
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

    ``detector`` may be anything that :func:`foveal.load` takes, with the same ``parts``, or a file of ``foveal
    export``. Only detections of at least ``score`` and of ``classes`` are returned. ``limit``: only the first images.
    Drawings go to folder ``out`` (JPEG,
    named after the image, in its folder where two images have one name), all detections to the file ``json``.
    ``proposals``: a file of ``foveal proposals`` or an :class:`ImageProposals`, for a detector that takes external
    proposals; default: computed, and cached. ``batch``: images at a time; default: 1 on a CPU, else 8. ``each`` is
    called with every result, ``progress`` with the number of images done and of all.

    Images that cannot be read are skipped and listed in the result. Raises :class:`FovealError` where none can be read,
    :class:`UsageError` for an unknown class and for a source without images.
    """
    if isinstance(detector, (str, Path)):
        from .exported import open_any

        detector = open_any(detector, parts)
    _check(detector, score, classes)
    files = find_sources([sources] if isinstance(sources, (str, Path)) else list(sources))[:limit]
    drawings = None if out is None else Drawings(Path(out), files)
    external = _external(detector, files, proposals)
    size = batch or _usual_batch(detector)
    done = PredictedImages()
    for loaded in _batches(files, size, done.skipped, progress):
        boxes = None if external is None else [external.boxes(name, pixels) for name, pixels in loaded]
        found = detector.predict_arrays([pixels for _, pixels in loaded], size, boxes)
        results: Sequence[Detections | FoundBoxes] = found
        for (name, pixels), result in zip(loaded, results, strict=True):
            shown = result.above(score).only(classes) if classes else result.above(score)
            drawing = None if drawings is None else drawings.save(name, pixels, shown, done.skipped)
            height, width = pixels.shape[:2]
            done.images.append(Prediction(name, width, height, shown, drawing))
            if each is not None:
                each(done.images[-1])
    if not done.images:
        from .sources import refuse_all

        refuse_all(done.skipped)
    if json is not None:
        write_json(Path(json), [p.to_dict() for p in done.images])
    return done


def _usual_batch(detector: Detector | OnnxDetector) -> int:
    if isinstance(detector, OnnxDetector):
        return detector.batch or 1
    from ..types import inference_batch

    return inference_batch(detector.device)


def _external(
    detector: Detector | OnnxDetector,
    files: Sequence[str],
    given: PathLike | Sequence[PathLike] | ImageProposals | None,
) -> ImageProposals | None:
    """The external proposals, for a detector that takes some."""
    if isinstance(given, ImageProposals) or isinstance(detector, OnnxDetector):
        return given if isinstance(given, ImageProposals) else None
    return None if given is None and detector.source is None else ImageProposals.of(detector, files, given)


def _check(detector: Detector | OnnxDetector, score: float, classes: Sequence[str] | None) -> None:
    if not 0 <= score <= 1:
        raise UsageError(f"score is {score:g}, expected a number from 0 to 1")
    unknown = [c for c in classes or () if c not in detector.classes]
    if unknown:
        fix = nearest(unknown[0], detector.classes, "classes")
        raise UsageError(f"the detector does not know the class {unknown[0]!r}", fix=fix)


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


def find_sources(sources: Sequence[PathLike], *, told: Callable[[str], None] | None = None) -> list[str]:
    """Image files, each once, in order: files as they are, the images of folders, the matches of globs, the names in
    text files (.txt, .lst, .list).

    A file that does not exist stays in the list, so that loading names it. ``told`` gets a sentence about what was left
    out. Raises :class:`FovealError` for a folder, a pattern or a list without images, and for an address: images are
    not fetched.
    """
    files: list[str] = []
    for source in map(str, sources):
        path = Path(source)
        if path.suffix.lower() in EXTENSIONS and path.is_file():
            files.append(source)
        else:
            from .sources import images_of

            files += images_of(source)
    if not files:
        raise UsageError("no image is given")
    once: dict[str, str] = {}
    for name in files:
        once.setdefault(os.path.abspath(name), name)
    if len(once) < len(files) and told is not None:
        told(f"{len(files) - len(once)} of the {len(files)} names are repeats; each image is used once")
    return list(once.values())


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


# -------------------------------------------------------------------------------------------------- drawings
class Drawings:
    """The folder ``out`` for drawings of ``files``.

    A drawing is called after its image, ``dog.jpg``. Where two images would have one name, all keep their folders,
    ``one/dog.jpg``; those of one folder their endings too, ``one/dog.png.jpg``. Raises :class:`FovealError` where a
    drawing would replace an image, or a file that is no drawing.
    """

    def __init__(self, out: Path, files: Sequence[str]) -> None:
        if out.exists() and not out.is_dir():
            raise FovealError("is a file, not a folder", path=out, fix="Give a folder for the drawings")
        self.out = out
        self.targets = dict(zip(files, drawing_names(files), strict=True))
        sources = {os.path.realpath(name) for name in files}
        real = os.path.realpath(out)
        if any(os.path.dirname(source) == real for source in sources):
            raise FovealError(
                "the source images are in this folder", path=out, fix="Give another folder for the drawings"
            )
        for target in self.targets.values():
            path = out / target
            if os.path.realpath(path) in sources:
                raise FovealError(
                    "the drawings would replace the source images", path=path, fix="Give another folder for them"
                )
            if path.exists() and not is_drawing(path):
                raise FovealError(
                    "exists, and is no drawing of foveal's", path=path, fix="Give another folder for the drawings"
                )

    def save(
        self, name: str, pixels: ImageArray, found: Detections | FoundBoxes, skipped: list[ImageError]
    ) -> Path | None:
        """Draws, writes and returns the path; ``None``, and one of ``skipped``, for a name that the disk refuses."""
        target, data = self.out / self.targets[name], io.BytesIO()
        draw(pixels, found).save(data, "JPEG", quality=92, comment=MARK)
        try:
            write_bytes(target, data.getvalue())
        except CannotWrite as error:
            unfit = (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ)  # of this name alone
            if not isinstance(error.__cause__, OSError) or error.__cause__.errno not in unfit:
                raise
            skipped.append(ImageError(f"has no drawing: {error.path} {error.message}", path=name))
            return None
        return target


def drawing_names(files: Sequence[str]) -> list[str]:
    """A name for the drawing of each file, with its folder where names alone would clash."""
    bases = [os.path.basename(name) for name in files]
    names = [_jpg(_stem(base)) for base in bases]
    if _unique(names):
        return names
    whole = [os.path.abspath(name) for name in files]
    common = os.path.commonpath([os.path.dirname(name) for name in whole])
    folders = [os.path.relpath(os.path.dirname(name), common) for name in whole]
    joined = [os.path.normpath(os.path.join(folder, name)) for folder, name in zip(folders, names, strict=True)]
    counts = Counter(map(_key, joined))
    used: set[str] = set()
    out: list[str] = []
    for folder, base, name in zip(folders, bases, joined, strict=True):
        if counts[_key(name)] > 1:
            name = os.path.normpath(os.path.join(folder, base if base.lower().endswith(".jpg") else _jpg(base)))
        number, first = 2, name
        while _key(name) in used:
            name = os.path.join(os.path.dirname(first), _jpg(_stem(os.path.basename(first)), f"-{number}"))
            number += 1
        used.add(_key(name))
        out.append(name)
    return out


def _stem(base: str) -> str:
    return os.path.splitext(base)[0]


def _jpg(stem: str, number: str = "") -> str:
    """With number and ending, cut to what a file system takes."""
    kept = os.fsencode(stem)
    if len(kept) + len(number) > LONGEST - 4:
        kept = kept[: LONGEST - 4 - 8 - len(number)]
        stem = f"{os.fsdecode(kept).encode('utf-8', 'surrogateescape').decode('utf-8', 'ignore')}~"
    return f"{stem}{number}.jpg"


def _key(name: str) -> str:
    """What two names have in common that some file systems take for one."""
    return unicodedata.normalize("NFC", name).lower()


def _unique(names: Sequence[str]) -> bool:
    return len(set(map(_key, names))) == len(names)
