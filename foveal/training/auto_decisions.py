"""The decisions of the automatic choice: facts about data and machine in, settings out, each with its reason.

Pure functions of numbers. Where a number decides, it is measured: docs/auto.md has the table.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from ..data.anchor_clusters import mean_iou
from ..data.records.findings import counted
from ..files.aliases import Floats
from ..parts.priors.anchors import PyramidAnchors

SIZES = (320, 416, 512, 640, 800)  # short sides of the input that are considered, pixels
CLEAR_SIDE = 24.0  # pixels of the input: the smallest anchor of the presets; a quarter of the objects may be smaller
HOPELESS_SIDE = 8.0  # pixels of the input: a cell of the finest map
UPSCALING = 1.25  # an image is not enlarged by more than this for the sake of small objects
SHORT_RUN, LONG_RUN = 3, 10  # epochs: fewer than the first are a warning, the second must fit into a larger input
FAR = 0.18  # distance from ImageNet; photos of three sets .12 to .13, drawings .24, microscope images .30
FAR_LR = 5e-4  # where all layers learn; with the lower ones frozen the recipe's
LOGITS = 2_000_000  # class scores of an image from which a dense head is too large
LOCATIONS = 25_000  # anchors of the dense presets in an image of 320 pixels
GIGABYTES, GIGABYTES_A_CLASS = 0.05, 4e-4  # for training on an image of 320 pixels; the second of a dense head
VALIDATIONS = 6  # in a run
IMAGES_SEEN = 4_000  # in a run whose length nothing sets
FEWEST_EPOCHS, MOST_EPOCHS = 12, 200
GAIN, EQUAL = 0.05, 0.01  # mean IoU by which other anchors must fit better; a difference that counts as none
SCALES = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # strides
FEW = 10  # images, or objects of a class: too few to hope for much
BOX_RATIOS = (0.25, 0.5, 1.0, 2.0, 4.0)
STRIDES = (8, 16, 32, 64, 128)
GPU_SECONDS = 0.02  # of an image on a GPU, where nothing is timed: an assumption


@dataclass(frozen=True)
class DataFacts:
    """What matters of a training set. Objects are those that count: crowds and ignored regions do not."""

    images: int
    classes: int
    rarest: tuple[str, int]  # the class with the fewest objects, and their number
    rare: int  # classes with fewer than FEW objects
    masks: float  # share of the objects whose mask is more than their box
    sides: Floats  # (N, 2) width and height of each object, pixels of its image
    frames: Floats  # (N, 2) short and long side of its image
    short: float  # median of the images' short sides, pixels

    def sides_at(self, short: int) -> Floats:
        """Widths and heights (N, 2) in an input whose short side is ``short``, and the long one at most 5/3 of it."""
        scale = np.minimum(short / self.frames[:, 0], short * 5 / 3 / self.frames[:, 1])
        sides: Floats = self.sides * scale[:, None]
        return sides

    def quantile(self, share: float, short: int) -> float:
        """That quantile of the square roots of the objects' areas, in pixels of the input."""
        return float(np.quantile(np.sqrt(self.sides_at(short).prod(1)), share))


@dataclass(frozen=True)
class MachineFacts:
    """What matters of the machine, for the preset that was chosen."""

    device: str  # cpu or cuda
    memory: float  # gigabytes that are free
    seconds: float = GPU_SECONDS  # of an image in a training pass at 320 pixels
    distance: float | None = None  # of the backbone's maps on these images from those on ImageNet; None: not pretrained


@dataclass(frozen=True)
class Request:
    """What the call sets, and so is not decided."""

    max_time: float | None = None  # seconds
    epochs: int | None = None
    paths: tuple[str, ...] = ()  # of the settings that were given
    short: float = float(SIZES[0])  # where the input was given: the short side of one of as many pixels

    def sets(self, *paths: str) -> bool:
        """Whether one of these settings, a part of it or the part that it belongs to was given."""
        return any(f"{a}.".startswith(f"{b}.") or f"{b}.".startswith(f"{a}.") for a in paths for b in self.paths)


@dataclass(frozen=True)
class Decision:
    """One line of the plan."""

    subject: str
    choice: str
    reason: str
    settings: tuple[str, ...] = ()  # overrides of the preset

    def line(self) -> str:
        """For the console."""
        return f"  {self.subject:<9} {self.choice}: {self.reason}"


def choose_detector(data: DataFacts, missing: str) -> Decision:
    """The preset, as the choice. ``missing``: what the pretrained backbone lacks; empty: nothing."""
    kind = "mini" if missing else "lite"
    logits = data.classes * LOCATIONS
    if data.masks == 1:
        name, reason = "mask_rcnn", "every object has a mask"
    elif logits > LOGITS:
        name = "faster_rcnn"
        reason = f"for {data.classes} classes a dense head has {logits / 1e6:.0f} million scores an image"
    else:
        name, reason = "retinanet", "the best measured on 154 photos (.61; fcos_lite .55)"
        if data.masks:
            reason += f"; only {data.masks:.0%} of the objects have a mask, and masks are not learned"
    if missing:
        reason += (
            f"; from random weights, which needs far more images: {missing}. Run pip install 'foveal[pretrained]' first"
        )
    return Decision("detector", f"{name}_{kind}", reason)


def choose_depth(distance: float, *, stored: bool = True) -> Decision:
    """What of the pretrained backbone learns. ``distance``: see :class:`MachineFacts`.

    ``stored``: what the frozen layers compute may be stored for each image, so that later epochs take less time.
    """
    if distance < FAR:
        reason = f"the images are like ImageNet's (distance {distance:.2f}, near below {FAR})"
        maps = ("fit.frozen_maps=FrozenMaps()",) if stored else ()
        return Decision("frozen", "the backbone up to stride 16", reason + "; its maps are stored" * stored, maps)
    reason = f"the images are unlike ImageNet's (distance {distance:.2f}, near below {FAR})"
    settings = ("backbone.frozen_stages=0", f"fit.lr={FAR_LR}", "fit.backbone_lr=1.0")
    return Decision("frozen", "nothing, all layers learn", reason, settings)


def choose_input(data: DataFacts, machine: MachineFacts, request: Request) -> tuple[int, Decision]:
    """The short side of the input, and the decision."""
    side = data.quantile(0.25, SIZES[0])
    useful = [s for s in SIZES if s <= max(SIZES[0], data.short * UPSCALING)]
    wanted = next((s for s in useful if data.quantile(0.25, s) >= CLEAR_SIDE), useful[-1])
    fits = [s for s in useful if epochs_in(data, machine, request, s) >= LONG_RUN]
    short = min(wanted, max(fits, default=SIZES[0]))
    reason = f"a quarter of the objects are under {side:.0f} px at 320"
    if short == SIZES[0] == wanted:
        reason += f", and {CLEAR_SIDE:.0f} are enough" if side >= CLEAR_SIDE else ", and the images are no larger"
    elif short < wanted:
        reason += f"; {wanted} px would leave {epochs_in(data, machine, request, wanted):.1f} epochs"
    else:
        reason += f", {data.quantile(0.25, short):.0f} px here"
    if (median := data.quantile(0.5, short)) < HOPELESS_SIDE:
        reason += f"; the median object has {median:.1f} px, too few to detect well: cut the images into tiles"
    settings = () if short == SIZES[0] else (f"input.short={short}", f"input.long={short * 5 // 3}")
    return short, Decision("input", f"{short} px", reason, settings)


def choose_anchors(data: DataFacts, preset: PyramidAnchors, levels: int, short: int) -> Decision:
    """Anchors whose shapes fit the objects; the preset's, unless others fit clearly better."""
    sides = data.sides_at(short)
    sides = sides[:: -(-len(sides) // 20_000)]

    def fit(anchors: PyramidAnchors) -> float:
        cells = anchors.at(STRIDES[:levels])
        boxes = [cells.cell(k, STRIDES[k]).double().numpy() for k in range(levels)]
        return mean_iou(sides, np.concatenate([b[:, 2:] - b[:, :2] for b in boxes]))

    def nearest(ratios: tuple[float, ...]) -> PyramidAnchors:
        """Of the scales that fit almost equally well the one nearest to the preset's."""
        fits = {scale: fit(replace(preset, scale=scale, ratios=ratios)) for scale in SCALES}
        good = [scale for scale, value in fits.items() if value > max(fits.values()) - EQUAL]
        return replace(preset, scale=min(good, key=lambda s: abs(math.log(s / preset.scale))), ratios=ratios)

    own, best = fit(preset), preset
    for other in (nearest(preset.ratios), nearest(BOX_RATIOS)):
        if fit(other) > fit(best) + GAIN:
            best = other
    if best == preset:
        return Decision(
            "anchors", f"the preset's, from {8 * preset.scale:g} px", f"mean IoU {own:.2f} with the objects"
        )
    settings = [] if best.scale == preset.scale else [f"anchors.scale={best.scale}"]
    settings += [] if best.ratios == preset.ratios else [f"anchors.ratios={best.ratios}".replace(" ", "")]
    reason = f"mean IoU {fit(best):.2f} with the objects, {own:.2f} with the preset's"
    ratios = "" if best.ratios == preset.ratios else f", ratios to {BOX_RATIOS[-1]:g}"
    return Decision("anchors", f"from {8 * best.scale:g} px{ratios}", reason, tuple(settings))


def choose_batch(data: DataFacts, machine: MachineFacts, preset: str, batch: int, lr: float, short: float) -> Decision:
    """The images of an iteration; ``batch`` and ``lr`` are the recipe's, and the rate is scaled with the batch."""
    dense = GIGABYTES_A_CLASS * data.classes if preset.startswith("retinanet") else 0.0
    needs = (GIGABYTES + dense) * (short / SIZES[0]) ** 2
    fits = max(1, int(machine.memory / 2 / needs))
    size = min(2 * batch if machine.device == "cuda" and data.images >= 40 * batch else batch, fits)
    reason = f"an image takes {needs:.2g} GB, {machine.memory:.0f} GB are free"
    if size == batch:
        return Decision("batch", str(size), reason)
    return Decision("batch", str(size), reason, (f"fit.batch={size}", f"fit.lr={lr * size / batch:g}"))


def choose_length(data: DataFacts, machine: MachineFacts, request: Request, short: float) -> Decision:
    """The epochs, where nothing sets the length; else what the given length means."""
    seconds = seconds_at(machine, short)
    pace = f"{seconds:.2g} s an image"
    if machine.device == "cuda":
        pace += " (assumed: a GPU is not timed)"
    if request.max_time is not None and request.epochs is None:
        epochs = epochs_in(data, machine, request, short)
        reason = f"about {epochs:.{0 if epochs >= SHORT_RUN else 1}f} epochs, {pace}"
        if epochs < SHORT_RUN:
            reason += f"; that is short for {data.images} images, give more time or --limit"
        return Decision("length", minutes(request.max_time), reason, validations(epochs))
    epochs = request.epochs or min(MOST_EPOCHS, max(FEWEST_EPOCHS, math.ceil(IMAGES_SEEN / data.images)))
    settings = () if request.epochs else (f"fit.epochs={epochs}",)
    reason = f"{data.images} images, {pace}: about {minutes(epochs * data.images * seconds)} without validation"
    return Decision("length", f"{epochs} epoch{'' if epochs == 1 else 's'}", reason, (*settings, *validations(epochs)))


def validations(epochs: float) -> tuple[str, ...]:
    """The setting that spreads some validations over a run: one an epoch takes a third of the time of few images."""
    between = max(1, int(epochs / VALIDATIONS))
    return () if between == 1 else (f"fit.val_every={between}",)


def warnings(data: DataFacts) -> list[str]:
    """What no setting mends."""
    name, count = data.rarest
    lines = []
    if data.images < FEW:
        lines.append(f"  warning: {counted(data.images, 'training image')}: expect no useful detector")
    if data.rare:
        rare = f"{data.rare} of {data.classes} (objects of {name}: {count})"
        lines.append(f"  warning: classes with fewer than {FEW} objects to learn from: {rare}")
    return lines


# ------------------------------------------------------------------------------------------------ arithmetic
def seconds_at(machine: MachineFacts, short: float) -> float:
    """Seconds of an image in training with an input of this short side: they grow with its area."""
    return machine.seconds * (short / SIZES[0]) ** 2


def epochs_in(data: DataFacts, machine: MachineFacts, request: Request, short: float) -> float:
    """Epochs that fit into the time given; infinite without a limit."""
    if request.max_time is None:
        return math.inf
    return request.max_time / (seconds_at(machine, short) * data.images)


def minutes(seconds: float) -> str:
    """``90s``, ``15m``, ``2h05m``: as ``--max-time`` reads it."""
    if seconds < 120 and seconds % 60:
        return f"{seconds:.0f}s"
    whole = round(seconds / 60)
    return f"{whole}m" if whole < 120 else f"{whole // 60}h{whole % 60:02d}m"


def decide(
    data: DataFacts,
    machine: MachineFacts,
    detector: Decision,
    anchors: PyramidAnchors,
    recipe: tuple[int, float],
    request: Request,
) -> list[Decision]:
    """All decisions in order. ``anchors`` and ``recipe`` (batch and learning rate) are those of the preset."""
    decisions = [detector]
    batch, lr = recipe
    if machine.distance is not None:
        decisions.append(choose_depth(machine.distance, stored=not request.sets("fit.frozen_maps", "fit.augment")))
        lr = lr if machine.distance < FAR else FAR_LR
    short = request.short
    if not request.sets("input"):
        short, size = choose_input(data, machine, request)
        decisions.append(size)
    if not request.sets("anchors", "input"):
        levels = 5 if detector.choice.startswith("retinanet") else 4
        decisions.append(choose_anchors(data, anchors, levels, round(short)))
    if not request.sets("fit.batch"):
        decisions.append(choose_batch(data, machine, detector.choice, batch, lr, short))
    if not request.sets("fit.epochs"):
        decisions.append(choose_length(data, machine, request, short))
    return decisions
