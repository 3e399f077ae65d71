"""External proposals of the images of a prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from ..errors import FovealError, UsageError
from ..files.aliases import ImageArray, OnProgress, PathLike

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..assembly.detector import Detector
    from ..external_proposals.file import Table


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
