"""The verdict on every ground-truth object of an image: found, or lost for exactly one of eight reasons.

Found is what COCO's protocol calls matched at IoU .5. For a lost object the first of these that holds is the verdict,
so there is always one and never a second:

1. the best box of its class that lies on it (IoU of .5 or more) and passed the score threshold was dropped by NMS:
   *removed by NMS*; or by a limit: *cut by a limit*;
2. no prior reaches it: *no prior reaches it*. In a detector with an RPN the RPN is asked where no proposal lies on the
   object: first by rule 1, for its own candidates;
3. every prior that reaches it is assigned to another object: *reached but not matched*;
4. a detection of another class lies on it, and on no object of that class: *called another class*;
5. a detection of its class lies near it (IoU of .1 to .5), and on no other object; or a prior that is assigned to it
   gives its class a score above the threshold, but a box that does not lie on it: *badly placed*;
6. the sampler took none of its priors: *never sampled here*;
7. a box of its class lies on it, with a score that is not above the threshold: *score too low*;
8. no box of its class lies on it: *badly placed*.

A prior reaches an object if the matcher would assign it to the object were it alone in the image, and if their IoU is
not below the one under which the matcher calls a prior background (a forced match alone teaches little).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
import torch
from torch import Tensor

from ..data.records.dataset import Record
from ..files.aliases import Floats
from .pairing import ON, Pairing, overlaps, pair
from .reach import alone, assigned_to, holders, lowest_iou, nearest_prior
from .reasons import NO_CANDIDATE, Reason, is_limit
from .traced import TracedImage, TracedStage

NEAR = 0.1  # IoU from which a box lies near an object


class ObjectVerdict(StrEnum):
    """What became of an object, in the order of a forward pass."""

    FOUND = "found"
    NO_PRIOR = "no_prior"
    NOT_MATCHED = "not_matched"
    NOT_SAMPLED = "not_sampled"
    SCORE = "score"
    LIMIT = "limit"
    NMS = "nms"
    PLACE = "place"
    CLASS = "class"


VERDICT_TEXTS = {
    ObjectVerdict.FOUND: "found",
    ObjectVerdict.NO_PRIOR: "no prior reaches it",
    ObjectVerdict.NOT_MATCHED: "reached but not matched",
    ObjectVerdict.NOT_SAMPLED: "never sampled here",
    ObjectVerdict.SCORE: "score too low",
    ObjectVerdict.LIMIT: "cut by a limit",
    ObjectVerdict.NMS: "removed by NMS",
    ObjectVerdict.PLACE: "badly placed",
    ObjectVerdict.CLASS: "called another class",
}


@dataclass(frozen=True)
class JudgedObject:
    """The verdict on one object, with the evidence."""

    verdict: ObjectVerdict
    stage: str  # the stage that decided: "task", "rpn" or "roi"
    iou: float  # of the box or prior that the verdict is about, with the object
    score: float | None  # of that box
    text: str  # one sentence
    by: int | None = None  # the object whose box removed this one's: it may be this one itself


def verdicts_of(traced: TracedImage) -> list[JudgedObject | None]:
    """The verdict on each object of a traced image with a record; None for those that do not count."""
    assert traced.record is not None
    record = traced.record
    if traced.detector.class_agnostic:
        record = replace(record, labels=np.zeros_like(record.labels))
    judge = _Judge(traced, record, pair(record, traced.detections, traced.classes))
    return [judge(g) if judge.pairing.counted[g] else None for g in range(len(record))]


class _Judge:
    """Applies the rules of this module to the objects of one image."""

    def __init__(self, traced: TracedImage, record: Record, pairing: Pairing) -> None:
        self.traced, self.record, self.pairing = traced, record, pairing
        self.names, self.detections = traced.classes, traced.detections
        self.objects = torch.from_numpy(record.boxes)
        self.overlap = overlaps(self.objects, self.detections.boxes)  # (G, N)
        self.boxes: dict[tuple[str, int], Tensor] = {}  # of stages and classes
        self.recent: tuple[tuple[str, int, int], Floats] | None = None  # the last result of _overlap, asked for again

    def __call__(self, g: int) -> JudgedObject:
        last = self.traced.stages[-1]
        label = int(self.record.labels[g])
        same = self.detections.labels == label
        if self.pairing.found[g]:
            n = self._best(g, same & torch.from_numpy(self.pairing.hits))
            iou, score = float(self.overlap[g, n]), float(self.detections.scores[n])
            return JudgedObject(ObjectVerdict.FOUND, last.name, iou, score, f"IoU {iou:.2f}, score {score:.2f}")
        if (verdict := self._dropped(last, g, label)) is not None:
            return verdict
        stage = last
        if len(self.traced.stages) > 1 and not alone(last, g).any():  # no proposal lies on it
            stage = self.traced.stages[0]
            if (verdict := self._dropped(stage, g, 0)) is not None:
                return verdict
        return (
            self._untaught(stage, g)
            or self._detected(g, ~same, ObjectVerdict.CLASS)
            or self._detected(g, same, ObjectVerdict.PLACE)
            or self._astray(stage, g, 0 if stage.name == "rpn" else label)
            or self._unsampled(stage, g)
            or self._unpredicted(stage, g, 0 if stage.name == "rpn" else label)
        )

    # ------------------------------------------------------------------------------------------- the rules
    def _dropped(self, stage: TracedStage, g: int, label: int) -> JudgedObject | None:
        """Rule 1: the best box on the object that passed the threshold was dropped."""
        fates, iou = stage.fates, self._overlap(stage, g, label)
        reason = fates.reasons[:, label]
        dropped = (iou >= ON) & ((reason == Reason.NMS) | is_limit(reason))
        if not dropped.any():
            return None
        at = np.flatnonzero(dropped)  # of equal scores a limit decides: NMS removed the others for that box
        a = int(at[np.lexsort((reason[at] == Reason.NMS, -fates.scores[at, label]))[0]])
        score, rpn = float(fates.scores[a, label]), " of the RPN" if stage.name == "rpn" else ""
        what = f"its box (IoU {iou[a]:.2f}, score {score:.2f})"
        if reason[a] != Reason.NMS:
            limit = _limit_text(stage, Reason(reason[a]))
            return JudgedObject(ObjectVerdict.LIMIT, stage.name, float(iou[a]), score, f"{what} is {limit}{rpn}")
        row = int(np.flatnonzero((fates.prior == a) & (fates.label == label))[0])
        by = int(fates.by[row])
        box = stage.selection.images.to_original(torch.from_numpy(fates.box[by])[None, None].to(self._device))[0].cpu()
        near = overlaps(box, self.objects)[0]
        other = int(near.argmax()) if float(near.max()) >= NEAR else None
        whose = "its own box" if other == g else "a box on no object" if other is None else f"object {other + 1}'s box"
        text = f"{what} is removed by NMS{rpn}: {whose} (score {fates.score[by]:.2f}) overlaps it by IoU "
        return JudgedObject(
            ObjectVerdict.NMS, stage.name, float(iou[a]), score, f"{text}{fates.overlap[row]:.2f}", other
        )  # fmt: skip

    def _untaught(self, stage: TracedStage, g: int) -> JudgedObject | None:
        """Rules 2 and 3: no prior is assigned to the object."""
        priors, best, where = nearest_prior(stage, g)
        by_itself, own = alone(stage, g), assigned_to(stage, g)
        reached = by_itself.any() and best >= lowest_iou(stage)
        if own.any() and reached:
            return None
        width, height = (
            (stage.targets.boxes[0, g, 2:] - stage.targets.boxes[0, g, :2]).tolist() if stage.targets else (0, 0)
        )
        size = f"{width:.0f} x {height:.0f} px for the network"
        if reached:
            others = _describe([o + 1 for o in holders(stage, by_itself)])
            text = f"{int(by_itself.sum())} {priors} reach it, all assigned to {others}; it is {size}"
            return JudgedObject(ObjectVerdict.NOT_MATCHED, stage.name, best, None, text)
        text = f"the best of the {priors} overlaps it by IoU {best:.2f}{where}; it is {size}"
        return JudgedObject(ObjectVerdict.NO_PRIOR, stage.name, best, None, text)

    def _detected(self, g: int, labels: Tensor, verdict: ObjectVerdict) -> JudgedObject | None:
        """Rules 4 and 5: a detection of these classes that found no object lies on this one, or near it."""
        overlap = self.overlap[g]
        spare = labels & ~torch.from_numpy(self.pairing.hits)
        spare &= overlap >= ON if verdict == ObjectVerdict.CLASS else (overlap >= NEAR) & (overlap < ON)
        if not spare.any():
            return None
        n = int(
            torch.where(spare, self.detections.scores if verdict == ObjectVerdict.CLASS else overlap, -1.0).argmax()
        )
        iou, score = float(overlap[n]), float(self.detections.scores[n])
        name = self.names[int(self.detections.labels[n])]
        said = f"a detection of {name}" if verdict == ObjectVerdict.CLASS else "its detection"
        text = f"{said} has IoU {iou:.2f}, score {score:.2f}"
        return JudgedObject(verdict, self.traced.stages[-1].name, iou, score, text)

    def _astray(self, stage: TracedStage, g: int, label: int) -> JudgedObject | None:
        """Rule 5, for the priors that are assigned to the object."""
        iou, fates = self._overlap(stage, g, label), stage.fates
        own = assigned_to(stage, g).cpu().numpy() & (iou < ON)
        sure = own & np.isin(fates.reasons[:, label], (Reason.KEPT, Reason.NMS, Reason.TOP))
        if not sure.any():
            return None
        a = int(np.where(sure, fates.scores[:, label], -np.inf).argmax())
        score = float(fates.scores[a, label])
        text = f"its prior is sure of it (score {score:.2f}), but the box has IoU {iou[a]:.2f}"
        return JudgedObject(ObjectVerdict.PLACE, stage.name, float(iou[a]), score, text)

    def _unsampled(self, stage: TracedStage, g: int) -> JudgedObject | None:
        """Rule 6."""
        sampling = stage.sampling
        assert sampling is not None
        own = sampling.match.positive[0] & (sampling.match.gt[0] == g)
        if not own.any() or bool((own & (sampling.sample[0] > 0)).any()):
            return None
        text = f"none of its {int(own.sum())} positive priors is sampled in this pass"
        return JudgedObject(ObjectVerdict.NOT_SAMPLED, stage.name, 0.0, None, text)

    def _unpredicted(self, stage: TracedStage, g: int, label: int) -> JudgedObject:
        """Rules 7 and 8, one of which always holds."""
        iou, reason, scores = (
            self._overlap(stage, g, label),
            stage.fates.reasons[:, label],
            stage.fates.scores[:, label],
        )
        low = (iou >= ON) & (reason == Reason.SCORE)
        if low.any():
            a = int(np.where(low, scores, -np.inf).argmax())
            text = f"its best box (IoU {iou[a]:.2f}) has score {scores[a]:.3g}, not above "
            text += f"{stage.task.select.score:g}"
            return JudgedObject(ObjectVerdict.SCORE, stage.name, float(iou[a]), float(scores[a]), text)
        possible = reason != NO_CANDIDATE
        nearest = int(np.where(possible, iou, -1.0).argmax()) if possible.any() else None
        best, score = (0.0, None) if nearest is None else (float(iou[nearest]), float(scores[nearest]))
        text = f"no box of its class overlaps it by more than IoU {best:.2f}"
        if best >= ON:
            text = f"the only boxes on it (IoU {best:.2f}) are the detections of other objects"
        return JudgedObject(ObjectVerdict.PLACE, stage.name, best, score, text)

    # ------------------------------------------------------------------------------------------ its tools
    @property
    def _device(self) -> torch.device:
        return self.traced.images.sizes.device

    def _overlap(self, stage: TracedStage, g: int, label: int) -> Floats:
        """(A,) IoU of the object with the box of each prior for this class, 0 where it is not finite."""
        key = stage.name, label
        if self.recent is None or self.recent[0] != (*key, g):
            if key not in self.boxes:
                self.boxes[key] = stage.boxes(label).double().cpu()
            iou = np.nan_to_num(overlaps(self.objects[g : g + 1], self.boxes[key])[0].numpy())
            self.recent = (*key, g), np.where(stage.fates.reasons[:, label] == NO_CANDIDATE, 0.0, iou)
        return self.recent[1]

    def _best(self, g: int, among: Tensor) -> int:
        return int(torch.where(among, self.overlap[g], -1.0).argmax())


def _limit_text(stage: TracedStage, reason: Reason) -> str:
    select, top = stage.task.select, stage.task.suppress.top
    return {
        Reason.PER_LEVEL: f"beyond the {select.per_level} candidates of its level",
        Reason.PER_CLASS: f"beyond the {select.per_class} candidates of its class",
        Reason.SMALL: f"smaller than select.min_size={select.min_size:g}",
    }.get(reason, f"beyond the {top} best boxes of the image")


def _describe(objects: list[int]) -> str:
    return f"object{'s' if len(objects) > 1 else ''} {', '.join(map(str, objects))}" if objects else "no object"
