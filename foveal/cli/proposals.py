"""``foveal proposals``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import FovealError, UsageError, nearest
from .common import (
    Device,
    ImagesDir,
    Limit,
    Precision,
    Split,
    names,
    note,
    paths,
    progress,
    say,
    single,
    tell_findings,
    write_json,
)

if TYPE_CHECKING:
    from ..evaluation import DetectionTable, GroundTruth
    from ..external_proposals.cache import ComputeProposals
    from ..parts.selective_search import ProposalSource, Proposed


def proposals(
    data: Annotated[list[Path], typer.Option("--data", help="A data set; several are joined.", show_default=False)],
    method: Annotated[
        str,
        typer.Option(
            "--method",
            help="selective_search, selective_search_quality, sliding_windows; a source as a spec has it, such as "
            "'SelectiveSearch(width=320, min_side=10)'; or a run, checkpoint or alias with proposals of its own.",
        ),
    ] = "selective_search",
    split: Split = None,
    classes: Annotated[str | None, typer.Option("--classes", help="Objects of these classes alone.")] = None,
    images: ImagesDir = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="A folder for proposals.safetensors, proposals.npz and recall.json.")
    ] = None,
    json: Annotated[Path | None, typer.Option("--json", help="The recall as JSON; - is standard output.")] = None,
    limit: Limit = None,
    device: Device = "auto",
    precision: Precision = None,
) -> None:
    """Makes and keeps proposals, and says how many of the objects they hold, whatever their class: AR and recall.

    What is made goes into a cache, image by image, and is not made again. The file proposals.safetensors in --out is
    what --proposals of train, eval, predict and check takes.

    \b
    Example:
      foveal proposals --data my-photos --split val
      foveal proposals --data my-photos --method runs/first --split val --out first-proposals
    """
    from dataclasses import replace

    from ..data.records.subsets import select_classes
    from ..evaluation import GroundTruth, recall
    from ..evaluation.scoring import divided_ids, evaluation_set
    from ..external_proposals.cache import ensure_cached, find_empty, find_proposals, from_source
    from ..external_proposals.file import FILE, TableImage, write_table

    if out is not None and out.exists() and not out.is_dir():
        raise FovealError("is a file, not a folder", path=out)
    where = paths(data)
    source = _source(method)
    setting, maker = (source.setting, from_source(source)) if source else _own(method, device, precision)
    divided = None if source else divided_ids(method, where)
    dataset = evaluation_set(where, split=split, images=images, divided=divided)
    if classes is not None:
        dataset = select_classes(dataset, names(classes) or [])
    tell_findings(dataset)
    if limit is not None:
        dataset = replace(dataset, records=dataset.records[:limit])
    start = time.perf_counter()
    with progress("proposing") as update:
        done = ensure_cached(dataset.records, setting, maker, progress=update)
    seconds = (time.perf_counter() - start) / done.made if done.made else None
    for error in done.skipped:
        note(f"skipped: {error}")
    found = find_proposals([done.table], dataset.records, done.keys)
    tell_findings(replace(dataset, findings=find_empty(dataset.records, found)))
    truth, flat = GroundTruth.of(dataset), _flat(found)
    result = recall(truth, flat)
    each = len(flat) / max(1, len(dataset))
    told: dict[str, Any] = result.to_dict() | {
        "method": method,
        "setting": setting,
        "boxes_per_image": each,
        "made": done.made,
        "seconds_per_image": seconds,
    }
    if str(json) != "-":
        say(result.text())
        pace = "all from the cache" if seconds is None else f"{done.made} made, {seconds:.2f} s an image"
        say(f"{each:.0f} boxes an image; {pace}")
    write_json(told, json)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_json(told, out / "recall.json")
        _save(out / "proposals.npz", truth, flat)
        triples = zip(done.keys, dataset.records, found, strict=True)
        unique = {key: (TableImage(key, str(r.id)), f) for key, r, f in triples if key is not None and f is not None}
        images_, boxes = [n for n, _ in unique.values()], [f for _, f in unique.values()]
        write_table(out / FILE, setting, images_, boxes)


def _sources() -> dict[str, ProposalSource]:
    from ..parts.selective_search import SelectiveSearch, SlidingWindows

    return {
        "selective_search": SelectiveSearch(),
        "selective_search_quality": SelectiveSearch("quality"),
        "sliding_windows": SlidingWindows(),
    }


def _source(method: str) -> ProposalSource | None:
    """A source by its name, or as a spec has it; None: something that has proposals of its own."""
    from ..config.parse import parse_value, vocabulary
    from ..parts.selective_search import ProposalSource

    known = _sources()
    if method in known or Path(method).exists():
        return known.get(method)
    if "(" not in method:
        fix = nearest(method, known)
        if fix:
            raise UsageError(f"there is no method {method!r}", where="--method", fix=fix)
        return None
    source = parse_value(method, vocabulary(), where="--method")
    if not isinstance(source, ProposalSource):
        fix = "Give SelectiveSearch(...) or SlidingWindows(...)"
        raise UsageError(f"{type(source).__name__} is no source of proposals", where="--method", fix=fix)
    return source


def _own(method: str, device: str, precision: str | None) -> tuple[str, ComputeProposals]:
    """Setting and maker of a detector's own proposals."""
    from ..checkpoints.load import load
    from ..external_proposals.detector import proposal_maker, proposal_setting

    detector = load(method, device=device, precision=precision)
    if not detector.has_proposals:
        raise UsageError(
            f"{type(detector.spec).__name__} has no proposals of its own",
            path=method,
            fix=f"Give a Faster R-CNN or RPN, or one of {', '.join(_sources())}",
        )
    return proposal_setting(detector), proposal_maker(detector)


def _flat(found: Sequence[Proposed | None]) -> DetectionTable:
    """All proposals as the evaluation wants them; none where an image could not be read."""
    import numpy as np

    from ..evaluation import DetectionTable

    counts = [0 if f is None else len(f.boxes) for f in found]
    boxes = np.concatenate([np.zeros((0, 4)), *(f.boxes for f in found if f is not None)])
    scores = np.concatenate([np.zeros(0), *(f.scores for f in found if f is not None)])
    return DetectionTable.build(np.repeat(np.arange(len(found)), counts), np.zeros(len(boxes)), boxes, scores)


def _save(path: Path, truth: GroundTruth, found: DetectionTable) -> None:
    """Flat arrays: ``images`` (I,) ids as text, ``image`` (N,) index into them, ``boxes`` (N, 4) xyxy, ``scores``."""
    import numpy as np

    np.savez_compressed(
        path,
        images=np.array([str(i) for i in truth.images]),
        image=found.image,
        boxes=found.box.astype(np.float32),
        scores=found.score.astype(np.float32),
    )


app = single(proposals)
