"""Proposals from outside, of whole data sets: made once, kept by content, carried by the records.

The cache has a folder for each setting (``proposals/SETTING`` beside the fetched weights), in it one file a data set.
Images are known by the hash of their file's content, so a renamed image, another split or another annotation format
finds what is there, and an image that changed does not. While they are made, pieces of a few images are written; what
was finished before a kill is not made again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..data.images.load import load_image
from ..data.records.dataset import Dataset, Record
from ..data.records.findings import Finding
from ..errors import FovealError
from ..files.paths import OnProgress
from ..parts.selective_search import ProposalSource, Proposed
from ..runtime.processes import cores
from .file import (
    DamagedProposals,
    Files,
    Joined,
    Named,
    Table,
    content_key,
    places,
    read_table,
    read_tables,
    table_digest,
    write_table,
)

Made = tuple[int, Proposed | FovealError]  # index of the record, and its proposals or why there are none
Maker = Callable[[Sequence[Record]], Generator[Made, None, None]]
PIECE = 16  # images of a piece: what a kill can cost


# ------------------------------------------------------------------------------------------------ the records
def fill(
    dataset: Dataset,
    source: ProposalSource,
    files: Files | None = None,
    *,
    progress: OnProgress | None = None,
) -> Dataset:
    """The data set with proposals in its records: of ``files``, else of the cache, where the source puts what is new.

    The source says how many of an image are used. Raises :class:`FovealError` where ``files`` were made for other
    images or for another version of them. An image for which there is no proposal at all becomes a finding.
    """
    if files is not None:
        return carried(dataset, read_tables(files), content_keys(dataset.records), source.top)
    done = kept(dataset.records, source.setting, from_source(source), progress=progress)
    return carried(dataset, [done.table], done.keys, source.top)


def carried(dataset: Dataset, tables: Sequence[Table], keys: Sequence[str | None], top: int) -> Dataset:
    """The data set with the best ``top`` proposals of tables in its records; :func:`fill` says what is refused."""
    triples = list(zip(dataset.records, keys, proposed(tables, dataset.records, keys), strict=True))
    missing = [record for record, key, found in triples if key is not None and found is None]
    # an image that cannot be decoded is skipped, and named, by whoever loads it; a single other one is enough
    if any(map(_decodes, missing)):
        _refuse(tables, missing, len(dataset))
    nothing = np.zeros((0, 4), np.float32)
    records = [replace(r, proposals=nothing if found is None else found.boxes[:top]) for r, _, found in triples]
    findings = empty(dataset.records, [found for _, _, found in triples])
    return replace(dataset, records=records, findings=[*dataset.findings, *findings])


def empty(records: Sequence[Record], found: Sequence[Proposed | None]) -> list[Finding]:
    """A finding for each image for which there is no proposal at all."""
    message = "no proposal at all: nothing can be found here, and training sees its objects alone"
    return [
        Finding("image-without-proposals", "warning", str(record.path), "", message)
        for record, boxes in zip(records, found, strict=True)
        if boxes is not None and not len(boxes.boxes)
    ]


def proposed(tables: Sequence[Table], records: Sequence[Record], keys: Sequence[str | None]) -> list[Proposed | None]:
    """The proposals of each record, as views of the files; None where they have none for that content."""
    known, out = places(tables), list[Proposed | None]()
    for record, key in zip(records, keys, strict=True):
        place = None if key is None else known.get(key)
        out.append(None if place is None else place[0].of(place[1], record.width, record.height))
    return out


def _refuse(tables: Sequence[Table], missing: Sequence[Record], count: int) -> None:
    """Says whether the images are unknown or have changed."""
    known = {image.id for table in tables for image in table.images}
    changed = [r for r in missing if str(r.id) in known]
    shown = ", ".join(str(r.id) for r in (changed or list(missing))[:5]) + (", ..." if len(missing) > 5 else "")
    if changed:
        what = f"was made for another version of {len(changed)} of the {count} images ({shown}): their files differ"
    else:
        what = f"has no proposals for {len(missing)} of the {count} images ({shown})"
    ids = {str(r.id) for r in changed}
    blamed = [t for t in tables if not changed or any(image.id in ids for image in t.images)]
    path = ", ".join(str(table.path) for table in blamed)
    raise FovealError(what, path=path, fix="Make them for this data: foveal proposals --data DATA --out DIR")


def _decodes(record: Record) -> bool:
    try:
        load_image(record.path)
    except FovealError:
        return False
    return True


def content_keys(records: Sequence[Record]) -> list[str | None]:
    """The hash of each image's file; None where it cannot be read, which whoever loads the image will say."""

    def key(record: Record) -> str | None:
        try:
            return content_key(record.path)
        except OSError:
            return None

    with ThreadPoolExecutor(min(8, cores() * 2)) as pool:  # hashing lets go of Python's lock
        return list(pool.map(key, records))


# -------------------------------------------------------------------------------------------------- the cache
@dataclass(frozen=True, eq=False)
class Kept:
    """What :func:`kept` found or made."""

    table: Table  # of these images and perhaps of others
    keys: list[str | None]  # the content of each image; None where its file cannot be read
    skipped: list[FovealError]  # images that could not be read
    made: int  # images that were not in the cache


def cache_folder(setting: str, root: Path | None = None) -> Path:
    """Where the proposals of a setting are kept."""
    from ..weights.cache import weights_folder

    return (root or weights_folder() / "proposals") / hashlib.blake2b(setting.encode(), digest_size=8).hexdigest()


def kept(
    records: Sequence[Record],
    setting: str,
    make: Maker,
    *,
    root: Path | None = None,
    progress: OnProgress | None = None,
) -> Kept:
    """The proposals of these images, made where the cache has none. Stopped anywhere, the next call goes on from there.

    ``root`` is where the folders of the settings are; None: in the user's cache. Several processes may do this at a
    time: each writes files of its own, and a file is whole or not there.
    """
    keys = content_keys(records)
    wanted = {key: record for record, key in zip(records, keys, strict=True) if key is not None}
    folder, skipped, made = cache_folder(setting, root), dict[str, FovealError](), 0
    while True:
        known = _known(folder, setting)
        for table in known:
            if wanted.keys() - skipped.keys() <= table.rows.keys():
                with suppress(FileNotFoundError):  # another process may be joining pieces, and removes them then
                    table.map()
                    return Kept(table, keys, list(skipped.values()), made)
        have = places(known)
        missing = [key for key in wanted if key not in have and key not in skipped]
        if missing:
            made += _make(folder, setting, {k: wanted[k] for k in missing}, make, skipped, len(wanted), progress)
            continue  # look again: another process may have been at work, too
        whole = [key for key in wanted if key not in skipped]
        path = folder / f"{table_digest(whole)}.safetensors"
        names = [Named(key, str(wanted[key].id)) for key in whole]
        try:
            write_table(path, setting, names, Joined([have[key] for key in whole]))
        except DamagedProposals:  # another process was first, and removed the pieces
            continue
        for table in known:  # pieces that are in the new file now
            if table.path.name.startswith("piece-") and table.rows.keys() <= set(whole):
                table.path.unlink(missing_ok=True)


def _known(folder: Path, setting: str) -> list[Table]:
    """All whole files of a setting, the smallest first. A damaged one is removed, so that it is made again."""
    tables = []
    for path in sorted(folder.glob("*.safetensors")):
        try:
            tables.append(read_table(path))
        except DamagedProposals:
            path.unlink(missing_ok=True)
        except FovealError:
            if path.exists():  # else another process has just put it into a larger file
                raise
    return sorted((t for t in tables if t.setting == setting), key=lambda t: len(t.images))


def _make(
    folder: Path,
    setting: str,
    missing: dict[str, Record],
    make: Maker,
    skipped: dict[str, FovealError],
    total: int,
    progress: OnProgress | None,
) -> int:
    """Writes pieces of what is made; also of what is at hand when somebody interrupts. Returns how many were made."""
    names = [Named(key, str(record.id)) for key, record in missing.items()]
    images: list[Named] = []
    found: list[Proposed] = []
    done = 0

    def flush() -> None:
        if images:
            write_table(folder / f"piece-{table_digest(n.key for n in images)}.safetensors", setting, images, found)
            images.clear()
            found.clear()

    if progress is not None:
        progress(total - len(missing), total)
    try:
        with closing(make(list(missing.values()))) as results:
            for index, result in results:
                if isinstance(result, FovealError):
                    skipped[names[index].key] = result
                else:
                    images.append(names[index])
                    found.append(result)
                    done += 1
                if len(images) == PIECE:
                    flush()
                if progress is not None:
                    progress(total - len(missing) + done + len(skipped), total)
    finally:
        flush()
    return done


def from_source(source: ProposalSource) -> Maker:
    """Every core works on a picture of its own: the work is in libraries that let go of Python's lock."""

    def make(records: Sequence[Record]) -> Generator[Made, None, None]:
        def one(record: Record) -> Proposed | FovealError:
            try:
                return source(load_image(record.path))
            except FovealError as error:
                return error

        with source.session(), ThreadPoolExecutor(cores()) as pool:
            waiting = {pool.submit(one, record): i for i, record in enumerate(records)}
            try:
                for future in as_completed(waiting):
                    yield waiting.pop(future), future.result()
            finally:
                pool.shutdown(cancel_futures=True)

    return make
