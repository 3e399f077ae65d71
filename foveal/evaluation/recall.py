"""How many of the objects a set of proposals holds, whatever their class. Source: cocoapi with ``useCats = 0``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from .coco import AREAS, THRESHOLDS, Coco, score_coco
from .curves import mean_defined
from .tables import DetectionTable, GroundTruth

SIZES = ("all", "small", "medium", "large")


@dataclass(frozen=True)
class ProposalRecall:
    """Fractions of the objects found by the best ``top`` proposals of each image; ``None`` where there is no object.

    Keys of both: ``all``, ``small``, ``medium``, ``large`` (COCO's areas).
    """

    images: int
    objects: int
    proposals: int
    average: dict[str, dict[int, float | None]]  # size -> top -> recall averaged over IoU .50:.05:.95 (AR@top)
    at50: dict[str, dict[int, float | None]]  # size -> top -> recall at IoU .5
    at70: dict[str, dict[int, float | None]]  # likewise at .7

    def to_dict(self) -> dict[str, object]:
        """``{"images", "objects", "proposals", "AR@100", ..., "recall50@100", ..., "small": {"AR@100", ...}, ...}``."""
        out: dict[str, object] = {"images": self.images, "objects": self.objects, "proposals": self.proposals}
        out |= self._row("all")
        return out | {size: self._row(size) for size in SIZES[1:]}

    def text(self) -> str:
        """A plain table."""
        names = list(self._row("all"))
        rows = [["size", *names]]
        rows += [[s, *("-" if v is None else f"{v:.4f}" for v in self._row(s).values())] for s in SIZES]
        width = [max(len(row[i]) for row in rows) for i in range(len(names) + 1)]
        lines = ["  ".join(cell.rjust(w) for cell, w in zip(row, width, strict=True)) for row in rows]
        head = (
            f"Proposal recall without classes, {self.images} images, {self.objects} objects, "
            f"{self.proposals} proposals; AR over IoU .50:.05:.95, recall50 at IoU .5, recall70 at IoU .7"
        )
        return "\n".join([head, *lines])

    def _row(self, size: str) -> dict[str, float | None]:
        row = {f"AR@{top}": value for top, value in self.average[size].items()}
        row |= {f"recall50@{top}": value for top, value in self.at50[size].items()}
        return row | {f"recall70@{top}": value for top, value in self.at70[size].items()}


def recall(
    truth: GroundTruth, proposals: DetectionTable, tops: Sequence[int] = (100, 300, 1000, 2000)
) -> ProposalRecall:
    """Recall of proposals; labels are not looked at, crowds and difficult objects do not count.

    ``tops``: three or more rising numbers of proposals an image.
    """
    # the oracle lists the objects of an image class by class, which decides between equal overlaps
    truth = truth[np.argsort(truth.label, kind="stable")]
    truth = replace(truth, label=np.zeros_like(truth.label), classes=("object",), category_ids=None)
    proposals = replace(proposals, label=np.zeros_like(proposals.label))
    proposals.check_against(truth)
    numbers = score_coco(truth, proposals, Coco(tuple(tops)))
    table = numbers.recall[:, 0]  # (T, A, M)
    assert table.shape == (len(THRESHOLDS), len(AREAS), len(tops))

    def by_size(rows: slice) -> dict[str, dict[int, float | None]]:
        return {s: {t: mean_defined(table[rows, a, m]) for m, t in enumerate(tops)} for a, s in enumerate(SIZES)}

    return ProposalRecall(
        images=len(truth.images),
        objects=int(numbers.verdicts.objects[0]),
        proposals=len(proposals),
        average=by_size(slice(None)),
        at50=by_size(slice(0, 1)),
        at70=by_size(slice(4, 5)),  # .50, .55, .60, .65, .70
    )
