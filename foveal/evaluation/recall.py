"""Recall of class-agnostic proposals, and proposals of a dataset with their recall.

Source of the recall: cocoapi with ``useCats = 0``. Importing this module does not import torch.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import FovealError, UsageError, nearest
from ..files.aliases import OnProgress
from .coco import AREAS, THRESHOLDS, Coco, score_coco
from .curves import mean_defined
from .tables import DetectionTable, GroundTruth

if TYPE_CHECKING:
    from ..data.records.dataset import Dataset
    from ..external_proposals.cache import ComputeProposals
    from ..parts.selective_search import ProposalSource, Proposed

SIZES = ("all", "small", "medium", "large")


@dataclass(frozen=True)
class ProposalRecall:
    """Fractions of the objects found by the best ``top`` proposals of each image; ``None`` where there is no object.

    Keys: ``all``, ``small``, ``medium``, ``large`` (COCO's areas).
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
        """A plain table of the recalls by size and number of proposals."""
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
    """Recall of proposals; labels are ignored, crowds and difficult objects do not count.

    ``tops``: three or more ascending numbers of proposals per image.
    """
    # pycocotools lists the objects of an image class by class, which decides between equal overlaps
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
        objects=int(numbers.outcomes.objects[0]),
        proposals=len(proposals),
        average=by_size(slice(None)),
        at50=by_size(slice(0, 1)),
        at70=by_size(slice(4, 5)),  # .50, .55, .60, .65, .70
    )


# --------------------------------------------------------------------- proposals of a dataset, and their recall
@dataclass(frozen=True, eq=False)
class ScoredProposals:
    """The proposals of a dataset, from the cache or computed, and their recall."""

    method: str
    setting: str  # the source or detector that computed them, with its settings
    dataset: Dataset  # images without any proposal are findings
    recall: ProposalRecall
    table: DetectionTable  # all proposals; ``image`` indexes ``truth.images``
    truth: GroundTruth
    keys: list[str | None]  # content hash of each image; None where its file cannot be read
    proposals: list[Proposed | None]  # of each image
    skipped: list[FovealError]  # images that could not be read
    made: int  # images that were not in the cache
    seconds: float | None  # per computed image

    @property
    def per_image(self) -> float:
        """Mean number of proposals of an image."""
        return len(self.table) / max(1, len(self.dataset))

    def to_dict(self) -> dict[str, Any]:
        """``recall.json``."""
        return self.recall.to_dict() | {
            "method": self.method,
            "setting": self.setting,
            "boxes_per_image": self.per_image,
            "made": self.made,
            "seconds_per_image": self.seconds,
        }

    def save(self, folder: Path) -> None:
        """Writes proposals.safetensors (for ``--proposals``), proposals.npz (flat arrays) and recall.json.

        proposals.npz: ``images`` (I,) ids as text, ``image`` (N,) index into them, ``boxes`` (N, 4) xyxy, ``scores``.
        """
        from ..external_proposals.file import FILE, TableImage, write_table
        from ..files.atomic import write_bytes, write_json

        write_json(folder / "recall.json", self.to_dict())
        arrays = io.BytesIO()
        np.savez_compressed(
            arrays,
            images=np.array([str(i) for i in self.truth.images]),
            image=self.table.image,
            boxes=self.table.box.astype(np.float32),
            scores=self.table.score.astype(np.float32),
        )
        write_bytes(folder / "proposals.npz", arrays.getvalue())
        triples = zip(self.keys, self.dataset.records, self.proposals, strict=True)
        unique = {key: (TableImage(key, str(r.id)), p) for key, r, p in triples if key is not None and p is not None}
        write_table(folder / FILE, self.setting, [n for n, _ in unique.values()], [p for _, p in unique.values()])


def score_proposals(
    method: ProposalMethod | str, dataset: Dataset, *, progress: OnProgress | None = None
) -> ScoredProposals:
    """Computes the proposals of a dataset, or takes them from the cache, and measures their recall.

    ``method``: a text that :meth:`ProposalMethod.of` takes, or what it returned.
    """
    from ..external_proposals.cache import ensure_cached, find_empty, find_proposals

    method = ProposalMethod.of(method) if isinstance(method, str) else method
    start = perf_counter()
    done = ensure_cached(dataset.records, method.setting, method.maker, progress=progress)
    seconds = (perf_counter() - start) / done.made if done.made else None
    proposals = find_proposals([done.table], dataset.records, done.keys)
    dataset = replace(dataset, findings=find_empty(dataset.records, proposals))
    truth, table = GroundTruth.of(dataset), _flat(proposals)
    return ScoredProposals(
        method=method.name,
        setting=method.setting,
        dataset=dataset,
        recall=recall(truth, table),
        table=table,
        truth=truth,
        keys=done.keys,
        proposals=proposals,
        skipped=done.skipped,
        made=done.made,
        seconds=seconds,
    )


@dataclass(frozen=True, eq=False)
class ProposalMethod:
    """A method that computes proposals: a source, or a detector that has proposals."""

    name: str  # as the caller gave it
    setting: str  # everything that determines its proposals: the key of the cache
    maker: ComputeProposals
    trained: bool  # a detector: the images it was trained on are not held out
    trained_on: str = ""  # their hashes

    @classmethod
    def of(
        cls, name: str, device: str = "auto", precision: str | None = None, parts: Sequence[type] = ()
    ) -> ProposalMethod:
        """selective_search, selective_search_quality or sliding_windows; a source as a spec has it, such as
        ``"SelectiveSearch(width=320)"``; or a run, checkpoint or alias. Raises :class:`UsageError` for another."""
        source = _source(name, parts)
        if source is not None:
            from ..external_proposals.cache import from_source

            return cls(name, source.setting, from_source(source), trained=False)
        from ..checkpoints.load import load
        from ..external_proposals.detector import proposal_maker, proposal_setting

        detector = load(name, device=device, precision=precision, parts=parts)
        if not detector.has_proposals:
            raise UsageError(
                f"{type(detector.spec).__name__} does not compute proposals",
                path=name,
                fix=f"Give a Faster R-CNN or RPN, or one of {', '.join(_sources())}",
            )
        setting, maker = proposal_setting(detector), proposal_maker(detector)
        return cls(name, setting, maker, trained=True, trained_on=detector.trained_on)


def _source(method: str, parts: Sequence[type]) -> ProposalSource | None:
    """A source by its name or spec text; None: ``method`` is a detector."""
    from ..config.parse import parse_value
    from ..config.table import Vocabulary
    from ..parts.selective_search import ProposalSource

    known = _sources()
    if method in known or Path(method).exists():
        return known.get(method)
    if "(" not in method:
        fix = nearest(method, known)
        if fix:
            raise UsageError(f"unknown method {method!r}", where="--method", fix=fix)
        return None
    source = parse_value(method, Vocabulary(parts), where="--method")
    if not isinstance(source, ProposalSource):
        fix = "Give SelectiveSearch(...) or SlidingWindows(...)"
        raise UsageError(f"{type(source).__name__} is not a source of proposals", where="--method", fix=fix)
    return source


def _sources() -> dict[str, ProposalSource]:
    from ..parts.selective_search import SelectiveSearch, SlidingWindows

    return {
        "selective_search": SelectiveSearch(),
        "selective_search_quality": SelectiveSearch("quality"),
        "sliding_windows": SlidingWindows(),
    }


def _flat(proposals: Sequence[Proposed | None]) -> DetectionTable:
    """All proposals in one table, without those of images that could not be read."""
    counts = [0 if p is None else len(p.boxes) for p in proposals]
    boxes = np.concatenate([np.zeros((0, 4)), *(p.boxes for p in proposals if p is not None)])
    scores = np.concatenate([np.zeros(0), *(p.scores for p in proposals if p is not None)])
    return DetectionTable.build(np.repeat(np.arange(len(proposals)), counts), np.zeros(len(boxes)), boxes, scores)
