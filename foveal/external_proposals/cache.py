"""External proposals of whole datasets: computed once, cached by image content, attached to the records.

The cache has a folder for each setting (``proposals/SETTING`` beside the downloaded weights) with one file for each
dataset. Images are identified by the hash of their file, so a renamed image, another split or another annotation format
uses what is cached, and a changed image does not. During the computation, pieces of a few images are written; images
that were finished before an interruption are not computed again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..data.images.load import load_image
from ..data.records.dataset import Dataset, Record
from ..data.records.findings import Finding
from ..errors import FovealError
from ..files.aliases import OnProgress
from ..parts.selective_search import ProposalSource, Proposed
from ..runtime.processes import cores
from .file import (
    DamagedProposals,
    Files,
    LazyProposals,
    Table,
    TableImage,
    content_key,
    index_tables,
    read_table,
    read_tables,
    table_digest,
    write_table,
)

ProposalResult = tuple[int, Proposed | FovealError]  # index of the record; its proposals, or why there are none
ComputeProposals = Callable[[Sequence[Record]], Generator[ProposalResult, None, None]]
PIECE = 16  # images of a piece: at most these are lost when the process is killed


# ------------------------------------------------------------------------------------------------ the records
def fill_proposals(
    dataset: Dataset,
    source: ProposalSource,
    files: Files | None = None,
    *,
    progress: OnProgress | None = None,
) -> Dataset:
    """The dataset with the best ``source.top`` proposals in each record.

    They come from ``files``, else from the cache, where ``source`` adds what is missing. Raises :class:`FovealError`
    where ``files`` belong to other images or to another version of them. An image without any proposal becomes a
    finding.
    """
    if files is not None:
        return attach_tables(dataset, read_tables(files), content_keys(dataset.records), source.top)
    cached = ensure_cached(dataset.records, source.setting, from_source(source), progress=progress)
    cached.check()
    return attach_tables(dataset, [cached.table], cached.keys, source.top)


def attach_tables(dataset: Dataset, tables: Sequence[Table], keys: Sequence[str | None], top: int) -> Dataset:
    """The dataset with the best ``top`` proposals of ``tables`` in its records, see :func:`fill_proposals`."""
    proposals = find_proposals(tables, dataset.records, keys)
    with_keys = zip(dataset.records, keys, proposals, strict=True)
    missing = [record for record, key, found in with_keys if key is not None and found is None]
    # an image that cannot be decoded is skipped and reported by the loader; one other missing image is an error
    if any(_refusal(record.path) is None for record in missing):
        _raise_missing(tables, missing, len(dataset))
    empty = np.zeros((0, 4), np.float32)
    boxes = [empty if found is None else found.boxes[:top] for found in proposals]
    records = [replace(record, proposals=b) for record, b in zip(dataset.records, boxes, strict=True)]
    findings = find_empty(dataset.records, proposals)
    return replace(dataset, records=records, findings=[*dataset.findings, *findings])


def find_empty(records: Sequence[Record], proposals: Sequence[Proposed | None]) -> list[Finding]:
    """A finding for each image without any proposal."""
    message = "no proposals: nothing can be detected here, and training uses only its objects"
    return [
        Finding("image-without-proposals", "warning", str(record.path), "", message)
        for record, found in zip(records, proposals, strict=True)
        if found is not None and not len(found.boxes)
    ]


def find_proposals(
    tables: Sequence[Table], records: Sequence[Record], keys: Sequence[str | None]
) -> list[Proposed | None]:
    """The proposals of each record, as views of the files; ``None`` where the tables do not have its content."""
    rows, proposals = index_tables(tables), list[Proposed | None]()
    for record, key in zip(records, keys, strict=True):
        if key is None or key not in rows:
            proposals.append(None)
            continue
        proposals.append(rows[key][0].of(rows[key][1], record.width, record.height))
    return proposals


def _raise_missing(tables: Sequence[Table], missing: Sequence[Record], count: int) -> None:
    """The error distinguishes unknown images from changed ones."""
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


def _refusal(path: Path) -> FovealError | None:
    """Why an image cannot be decoded; ``None``: it can."""
    try:
        load_image(path)
    except FovealError as error:
        return error
    return None


def content_keys(records: Sequence[Record]) -> list[str | None]:
    """The hash of each image file; ``None`` where it cannot be read, which is reported when the image is loaded."""

    def key(record: Record) -> str | None:
        try:
            return content_key(record.path)
        except OSError:
            return None

    with ThreadPoolExecutor(min(8, cores() * 2)) as pool:  # hashing releases Python's lock
        return list(pool.map(key, records))


# -------------------------------------------------------------------------------------------------- the cache
@dataclass(frozen=True, eq=False)
class CachedProposals:
    """The result of :func:`ensure_cached`."""

    table: Table  # of these images and perhaps of others
    keys: list[str | None]  # hash of each image file; None where it cannot be read
    skipped: list[FovealError]  # images that could not be read
    made: int  # images that were not in the cache

    def check(self) -> None:
        """Raises the error of a file that could not be read then, and now can: it would be used without proposals."""
        if found := next((e for e in self.skipped if e.path is not None and _refusal(Path(e.path)) is None), None):
            raise found


def cache_folder(setting: str, root: Path | None = None) -> Path:
    """The cache folder of a setting."""
    from ..weights.cache import weights_folder

    return (root or weights_folder() / "proposals") / hashlib.blake2b(setting.encode(), digest_size=8).hexdigest()


def ensure_cached(
    records: Sequence[Record],
    setting: str,
    compute: ComputeProposals,
    *,
    root: Path | None = None,
    progress: OnProgress | None = None,
) -> CachedProposals:
    """The proposals of these images; ``compute`` is called for those that are not cached.

    ``root`` is the folder of all settings, ``None`` the user's cache. After an interruption the next call continues
    with the missing images. Several processes may do this at the same time: each writes files of its own, and a file
    is complete or absent.
    """
    cache = _Cache(cache_folder(setting, root), setting)
    keys = content_keys(records)
    wanted = {key: record for record, key in zip(records, keys, strict=True) if key is not None}
    skipped: dict[str, FovealError] = {}
    paths = [record.path for record, key in zip(records, keys, strict=True) if key is None]
    unread = [_refusal(path) or FovealError("could not be read for a moment", path=path) for path in paths]
    made = 0
    while True:  # each round looks at the files anew, for other processes add and remove some
        tables = cache.tables()
        readable = [key for key in wanted if key not in skipped]
        complete = _map_complete(tables, readable)
        if complete is not None:
            return CachedProposals(complete, keys, [*skipped.values(), *unread], made)
        rows = index_tables(tables)
        missing = {key: wanted[key] for key in readable if key not in rows}
        if missing:
            made += cache.compute(missing, compute, skipped, len(wanted), progress)
        else:
            cache.merge([(TableImage(key, str(wanted[key].id)), *rows[key]) for key in readable], tables)


def _map_complete(tables: Sequence[Table], keys: Sequence[str]) -> Table | None:
    """The first table that has all of these images, mapped into memory, if there is one."""
    for table in tables:
        if table.rows.keys() >= set(keys):
            try:
                table.map()
            except FileNotFoundError:  # another process has just merged it into a larger file
                continue
            return table
    return None


@dataclass(frozen=True)
class _Cache:
    """The files of one setting: pieces (``piece-*``), and tables of whole datasets that pieces were merged into."""

    folder: Path
    setting: str

    def tables(self) -> list[Table]:
        """All complete files, the smallest first. Damaged ones are removed, so that they are computed again."""
        tables = []
        for path in sorted(self.folder.glob("*.safetensors")):
            try:
                tables.append(read_table(path))
            except DamagedProposals:
                path.unlink(missing_ok=True)
            except FovealError:
                if path.exists():  # else another process has just merged it into a larger file
                    raise
        return sorted((t for t in tables if t.setting == self.setting), key=lambda t: len(t.images))

    def merge(self, rows: Sequence[tuple[TableImage, Table, int]], tables: Sequence[Table]) -> None:
        """Writes these rows into one file and removes the pieces among ``tables`` that it contains."""
        images = [image for image, _, _ in rows]
        keys = {image.key for image in images}
        path = self.folder / f"{table_digest(keys)}.safetensors"
        try:
            write_table(path, self.setting, images, LazyProposals([(table, row) for _, table, row in rows]))
        except DamagedProposals:  # another process has merged and removed the pieces
            return
        for table in tables:
            if table.path.name.startswith("piece-") and table.rows.keys() <= keys:
                with suppress(OSError):
                    table.path.unlink()  # it is of no use any more, and does no harm

    def compute(
        self,
        missing: Mapping[str, Record],
        compute: ComputeProposals,
        skipped: dict[str, FovealError],
        total: int,
        progress: OnProgress | None,
    ) -> int:
        """Computes these images and writes them in pieces; the number of images that were computed.

        Unreadable images are added to ``skipped``. An interruption writes the last, incomplete piece, too.
        """
        names = [TableImage(key, str(record.id)) for key, record in missing.items()]
        piece = _Piece(self.folder, self.setting, [], [])
        before, done = total - len(missing), 0
        if progress is not None:
            progress(before, total)
        try:
            with closing(compute(list(missing.values()))) as results:
                for index, result in results:
                    if isinstance(result, FovealError):
                        skipped[names[index].key] = result
                    else:
                        piece.add(names[index], result)
                        done += 1
                    if progress is not None:
                        progress(before + done + len(skipped), total)
        finally:
            piece.write()
        return done


@dataclass(frozen=True)
class _Piece:
    """Images that were computed and are not written yet."""

    folder: Path
    setting: str
    images: list[TableImage]
    proposals: list[Proposed]

    def add(self, image: TableImage, proposals: Proposed) -> None:
        """Writes the piece when it is full."""
        self.images.append(image)
        self.proposals.append(proposals)
        if len(self.images) == PIECE:
            self.write()

    def write(self) -> None:
        if self.images:
            name = f"piece-{table_digest(image.key for image in self.images)}.safetensors"
            write_table(self.folder / name, self.setting, self.images, self.proposals)
            self.images.clear()
            self.proposals.clear()


def from_source(source: ProposalSource) -> ComputeProposals:
    """Every core works on its own image, in threads: the work is in libraries that release Python's lock."""

    def compute(records: Sequence[Record]) -> Generator[ProposalResult, None, None]:
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

    return compute
