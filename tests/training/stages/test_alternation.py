"""Faster R-CNN in the paper's four steps: what each step trains, on what data; resuming is bitwise equal."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from foveal import load, presets
from foveal.assembly.proposers import Counts
from foveal.assembly.two_stage import TwoStage
from foveal.checkpoints.initial import frozen_random_parts
from foveal.config.parse import parse_spec
from foveal.config.show import show
from foveal.data.augment.transforms import HorizontalFlip
from foveal.data.synthetic.shapes import make_shapes
from foveal.detectors.fast_rcnn import FastRCNN
from foveal.detectors.faster_rcnn import FasterRCNN, alternating
from foveal.errors import FovealError, UsageError
from foveal.external_proposals.detector import proposal_setting
from foveal.parts.backbones.small import SmallResNet
from foveal.parts.heads.dense import RPNHead
from foveal.parts.heads.roi import RoIMLP
from foveal.parts.necks.fpn import SingleLevel
from foveal.parts.pooling.roi_align import RoIAlign
from foveal.parts.priors.anchors import Anchors
from foveal.parts.resizing import Resize
from foveal.parts.samplers import Balanced
from foveal.parts.selective_search import SlidingWindows
from foveal.recipe import SGD, AdamW, Cosine, OnImages, OnProposals, Recipe, Stage
from foveal.types import Target, Targets

TRAIN, VAL = 8, 2
SMALL = FasterRCNN(
    input=Resize(48, 64, 1),
    backbone=SmallResNet((8, 8, 8)),
    levels=(3,),
    neck=SingleLevel(),
    rpn_head=RPNHead(channels=8),
    anchors=Anchors(((12, 24),)),
    pool=RoIAlign(3, ratio=1),
    roi_head=RoIMLP(16),
    train_proposals=Counts(50, 24),
    test_proposals=Counts(20, 6),
    fit=Recipe(
        epochs=2,
        batch=2,
        lr=0.02,
        solver=SGD(),
        warmup_steps=0,
        ema=0.9,
        augment=(HorizontalFlip(),),
        val_every=2,
        precision="32",
        stages=alternating("backbone"),
    ),
)
UPDATES = 8  # of each step: 2 epochs of 8 images in batches of 2


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alternation") / "set"
    make_shapes(out, splits={"train": TRAIN, "val": VAL}, size=(96, 72), seed=1, masks=False)
    return out


def run(data: Path, out: Path, spec: FasterRCNN = SMALL, **options: Any) -> Any:
    from foveal.training.run import train

    quiet = {"progress": False, "tensorboard": False, "device": "cpu", "workers": 0}
    return train(spec, data=data, out=out, **{**quiet, **options})  # type: ignore[arg-type]


def lines(out: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if "second" not in k} for row in rows]


def outcome(out: Path) -> dict[str, Any]:
    """Everything that must not depend on interruptions."""
    last = out / "checkpoints" / "last"
    return {
        **{f: (last / f).read_bytes() for f in ("model.safetensors", "raw.safetensors", "optimizer.safetensors")},
        "best": (out / "checkpoints" / "best" / "model.safetensors").read_bytes(),
        "lines": lines(out),
        "results": (out / "results.json").read_text(),
    }


# ------------------------------------------------------------------------------------------ what each step trains
Weights = dict[str, Tensor]


def copied(detector: torch.nn.Module) -> Weights:
    return {name: tensor.clone() for name, tensor in detector.state_dict().items()}


def same(a: Weights, b: Weights, prefix: str) -> bool:
    names = [name for name in a if name.startswith(prefix)]
    assert names
    return all(torch.equal(a[name], b[name]) for name in names)


Whole = tuple[list[tuple[Weights, Weights]], list[Any], Path]


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """An uninterrupted run: the weights at the start and end of each step, and the proposals it trained on."""
    from foveal.training.stages import runner as segments

    out = tmp_path_factory.mktemp("whole") / "run"
    weights: list[tuple[Weights, Weights]] = []
    proposals: list[Any] = []
    original = segments.Loop

    class Recorded(original):  # type: ignore[misc, valid-type]
        def run(self) -> Any:
            before = copied(self.job.detector)
            proposals.append([record.proposals for record in self.job.train.records])
            state = super().run()
            weights.append((before, copied(self.weights)))
            return state

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the processes that are killed
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(segments, "Loop", Recorded)
            run(data, out)
    finally:
        torch.set_num_threads(threads)
    return weights, proposals, out


def test_each_step_trains_its_parts_from_the_initialization_of_the_paper(
    whole: Whole,
) -> None:
    (w1, end1), (w2, end2), (w3, end3), (w4, end4) = whole[0]
    # step 1: the RPN and the backbone
    assert not same(w1, end1, "backbone") and not same(w1, end1, "rpn_head") and same(w1, end1, "roi_head")
    # step 2: a separate network with the initial backbone; the RPN is not trained
    assert same(w2, w1, "backbone") and same(w2, w1, "roi_head") and same(w2, end1, "rpn_head")
    assert not same(w2, end2, "backbone") and not same(w2, end2, "roi_head") and same(w2, end2, "rpn_head")
    # step 3: a new RPN on the backbone of that network, which is frozen, running statistics included
    assert same(w3, w1, "rpn_head") and same(w3, end2, "backbone") and same(w3, end2, "roi_head")
    assert not same(w3, end3, "rpn_head") and same(w3, end3, "backbone") and same(w3, end3, "roi_head")
    # step 4: new last layers, the others continue; everything else is frozen
    assert same(w4, w1, "roi_head.predictor") and same(w4, end2, "roi_head.trunk") and same(w4, end3, "rpn_head")
    assert same(w4, end4, "backbone") and same(w4, end4, "rpn_head")
    assert not same(w4, end4, "roi_head.predictor") and not same(w4, end4, "roi_head.trunk")
    assert any("running_mean" in name for name in w1)


def test_each_step_has_its_own_losses(whole: Whole) -> None:
    out = whole[2]
    known = {"rpn.cls", "rpn.box", "cls", "box"}
    for split in ("train", "val"):
        found = [(row["step"], known & row.keys()) for row in lines(out) if row["split"] == split]
        for step, names in found:
            rpn = (step - 1) // UPDATES in (0, 2)
            assert names == ({"rpn.cls", "rpn.box"} if rpn else {"cls", "box"}), (split, step)
    assert [row["step"] for row in lines(out) if row["split"] == "val"] == [8, 16, 24, 32]


def test_the_head_trains_on_the_current_rpn_proposals(whole: Whole, data: Path) -> None:
    weights, proposals, out = whole
    assert all(found is None for step in (0, 2) for found in proposals[step])
    from foveal.data.images.load import load_image
    from foveal.data.open import open_dataset

    dataset = open_dataset(data, split="train")
    detector = SMALL.build(dataset.classes).eval()
    for step in (1, 3):
        detector.load_state_dict(weights[step - 1][1])
        for record, stored in zip(dataset.records, proposals[step], strict=True):
            (found,) = detector.propose(detector.prepare([load_image(record.path)]), training=True)
            good = (found.boxes[:, 2:] > found.boxes[:, :2]).all(1)
            np.testing.assert_allclose(stored, found.boxes[good].numpy(), rtol=0, atol=1e-3)
        assert max(map(len, proposals[step])) > SMALL.test_proposals.after  # as many as a training run takes
    assert sorted(p.name for p in out.iterdir() if p.is_dir()) == ["checkpoints", "data_sets"]  # nothing else is kept
    assert len(load(out).predict_arrays([np.full((48, 64, 3), 90, np.uint8)])) == 1


def test_external_proposals_replace_the_rpn() -> None:
    """Losses are those of a Fast R-CNN of the same weights on the same proposals; the RPN alone has its own."""
    torch.manual_seed(0)
    faster = SMALL.build(["a", "b"])
    parts = {k: getattr(SMALL, k) for k in ("input", "backbone", "levels", "neck", "pool", "roi_head", "roi")}
    fast = FastRCNN(**parts, proposals=SlidingWindows()).build(["a", "b"])
    fast.load_state_dict(faster.state_dict(), strict=False)
    image = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    images = faster.prepare([image])
    targets = Targets.pad([Target(torch.tensor([[8.0, 8, 30, 34]]), torch.tensor([1]))])
    given = images.with_proposals([torch.tensor([[6.0, 6, 28, 30], [10, 2, 60, 40], [0, 0, 20, 20]])])

    def losses(detector: TwoStage, batch: Any, learning: str | None = None) -> dict[str, float]:
        found = detector(batch, targets, rng=torch.Generator().manual_seed(3), learning=learning)
        return {name: float(value.detach()) for name, value in found.items()}

    expected = losses(fast, given)
    assert losses(faster, given) == losses(faster, given, "roi") == expected and set(expected) == {"cls", "box"}
    all_losses = losses(faster, images)
    rpn = losses(faster, images, "rpn")
    assert rpn == {name: all_losses[name] for name in ("rpn.cls", "rpn.box")}
    assert set(losses(faster, images, "roi")) == {"cls", "box"}
    assert proposal_setting(faster) != proposal_setting(faster, training=True)


@pytest.mark.slow
def test_alternating_training_learns(tmp_path: Path) -> None:
    """80 drawn images, four steps of 300 iterations: a minute on one core. Measured: AP50 .107, .214, .237 after steps
    2 to 4; losses from first to last .60 to .04, 2.16 to .93, .60 to .04, 1.39 to .72."""
    make_shapes(tmp_path / "set", splits={"train": 80, "val": 16}, size=(64, 64), seed=1, masks=False)
    spec = replace(
        SMALL,
        input=Resize(64, 64, 1),
        backbone=SmallResNet((16, 32, 64)),
        rpn_head=RPNHead(channels=64),
        anchors=Anchors(((12, 20, 32),)),
        pool=RoIAlign(5, ratio=2),
        roi_head=RoIMLP(128),
        roi=replace(SMALL.roi, sampler=Balanced(32, 0.25)),
        train_proposals=Counts(200, 100),
        test_proposals=Counts(100, 50),
        fit=replace(
            SMALL.fit, epochs=30, batch=8, lr=4e-3, solver=AdamW(), schedule=Cosine(), warmup_steps=10, ema=0.98,
            clip=10.0, val_every=30,
        ),
    )  # fmt: skip
    run(tmp_path / "set", tmp_path / "run", spec)
    rows = lines(tmp_path / "run")
    for step in range(4):
        part = [row["loss"] for row in rows if row["split"] == "train" and (row["step"] - 1) // 300 == step]
        assert part[-1] < (0.2 if step in (0, 2) else 0.65) * part[0]
    assert [row["AP50"] for row in rows if row["split"] == "val"][-1] > 0.15


# --------------------------------------------------------------------------------------------- kill and resume
def killed(arguments: dict[str, Any]) -> None:
    """A subprocess: trains, and is killed in call number ``at`` of ``where``. Counts the proposals it generates."""
    multiprocessing.set_start_method("fork", force=True)
    torch.set_num_threads(1)
    from foveal.assembly.detector import Detector
    from foveal.external_proposals import cache as proposals
    from foveal.training.loop.loop import Loop

    proposals.PIECE = 3  # images: small enough to leave some behind
    places: dict[str, tuple[Any, str]] = {"propose": (Detector, "propose"), "update": (Loop, "_update")}
    out, where, at = Path(arguments["out"]), arguments.get("where"), arguments.get("at")

    def record_unused(name: str, original: Any) -> Any:
        calls = itertools.count()

        def call(*args: Any, **kwargs: Any) -> Any:
            if next(calls) == at and name == where:
                os.kill(os.getpid(), signal.SIGKILL)
            if name == "propose":
                with out.with_name(f"{out.name}-made").open("a") as file:
                    file.write("x")
            return original(*args, **kwargs)

        return call

    for name, (owner, method) in places.items():
        setattr(owner, method, record_unused(name, getattr(owner, method)))
    run(Path(arguments["data"]), out, resume=True, save_every=0.0)


@pytest.fixture(scope="module")
def server() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.training.stages.test_alternation", "foveal.training.run"])
    return context


def ended(server: Any, **arguments: Any) -> int:
    process = server.Process(target=killed, args=(arguments,))
    process.start()
    process.join()
    code: int = process.exitcode
    return code


@pytest.mark.parametrize(
    ("where", "at", "stored", "made"),
    [
        ("propose", 5, 1, 3),  # while generating for step 2: one shard of three images exists
        ("update", UPDATES, 1, 8),  # before step 2's first iteration
        ("update", UPDATES + 3, 1, 8),  # in the middle of step 2
        ("update", 2 * UPDATES + 5, 1, 8),  # in step 3
        ("propose", TRAIN + 7, 3, 14),  # while generating for step 4
        ("update", 3 * UPDATES + 6, 2, 16),  # in step 4
    ],
    ids=lambda v: str(v),
)
def test_killed_in_any_step_and_resumed_is_bit_equal(
    whole: Any, server: Any, data: Path, tmp_path: Path, where: str, at: int, stored: int, made: int
) -> None:
    """SIGKILL. What was stored before is not recomputed: ``made`` proposals of images are on the disk."""
    out = tmp_path / "run"
    assert ended(server, data=str(data), out=str(out), where=where, at=at) == -signal.SIGKILL
    assert len(list((out / "proposals").glob("*/*.safetensors"))) == stored
    assert (out / "start" / "step-0").is_dir()
    assert ended(server, data=str(data), out=str(out)) == 0
    expected, found = outcome(whole[2]), outcome(out)
    assert [key for key in expected if expected[key] != found[key]] == []
    again = at - made if where == "propose" else 0
    assert len((tmp_path / "run-made").read_text()) == 2 * TRAIN + again
    assert not (out / "start").exists() and not (out / "proposals").exists()


class Stop(Exception):
    pass


@pytest.fixture
def cut(data: Path, tmp_path: Path) -> Iterator[Path]:
    """A run that stopped in the middle of step 2."""
    from foveal.training.loop import loop

    original, calls = loop.Loop._update, iter(range(100))

    def update(self: Any, *args: Any) -> None:
        if next(calls) == UPDATES + 3:
            raise Stop
        original(self, *args)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stop):
        patch.setattr(loop.Loop, "_update", update)
        run(data, tmp_path / "cut", save_every=0.0)
    yield tmp_path / "cut"


def test_missing_input_of_a_step_is_named(cut: Path, data: Path) -> None:
    for path in (cut / "proposals").glob("*/*.safetensors"):
        path.unlink()
    with pytest.raises(FovealError, match=r"the stored proposals of this stage are missing.*new run"):
        run(data, cut, resume=True)


def test_damaged_initial_weights_are_named(cut: Path, data: Path) -> None:
    model = cut / "start" / "step-0" / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-1])
    with pytest.raises(FovealError, match=r"step-0: model.safetensors: the file is damaged"):
        run(data, cut, resume=True)


# -------------------------------------------------------------------------------------------------- the recipe
def test_recipe_with_four_segments_is_a_literal() -> None:
    assert [len(segment) for segment in SMALL.fit.segments] == [1, 1, 1, 1]
    assert parse_spec(show(SMALL)) == SMALL
    both = Recipe(
        stages=(OnImages(trains=("a",)), OnImages(), OnImages(task="rpn"), OnImages(begin=("a",), task="rpn"))
    )
    assert [len(segment) for segment in both.segments] == [2, 1, 1]
    assert [stage.learning for stage in SMALL.fit.stages] == ["rpn", "roi", "rpn", "roi"]


@pytest.mark.parametrize("name", ["faster_rcnn_vgg16_alternating", "faster_rcnn_mini_alternating"])
def test_presets_have_the_steps_of_the_paper(name: str) -> None:
    from foveal.training.stages.alternation import check_alternation

    spec = presets.get(name)
    with torch.device("meta"):
        detector = spec.build("ab")
    check_alternation(detector, spec.fit)
    assert frozen_random_parts(spec, detector) == []  # the head is trained in its own step
    if name == "faster_rcnn_vgg16_alternating":  # 5,011 images of VOC 2007 trainval; systems of one image, of two
        assert spec.fit.batch == 1 and spec.fit.epochs * 5011 == pytest.approx(80_000, rel=0.01)
        assert spec.fit.epochs * 5011 / 2 == pytest.approx(40_000, rel=0.01)
        assert [spec.fit.scaled_lr(1, stage) for stage in spec.fit.stages] == [0.001, 0.0005, 0.001, 0.0005]
        assert isinstance(spec, FasterRCNN) and spec.train_proposals.after == 2000


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ((OnImages(task="rpn"),), "leaves roi_head without a loss"),
        ((OnProposals(trains=("backbone", "rpn_head")),), "OnProposals leaves rpn_head"),
        ((OnImages(), OnImages(begin=("neck",))), "begin names 'neck'"),
        ((OnImages(begin=("backbone",)),), "begin is for later stages"),
        ((OnImages(), OnImages(trains=("spine",))), "starts with 'spine'"),
    ],
)
def test_invalid_stages_are_rejected_early(stages: tuple[Stage, ...], message: str, data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        run(data, tmp_path / "a", replace(SMALL, fit=replace(SMALL.fit, stages=stages)))
    assert not (tmp_path / "a").exists()


def test_detector_without_an_rpn_is_rejected(data: Path, tmp_path: Path) -> None:
    spec: Any = presets.retinanet_mini
    for stage in (OnProposals(), OnImages(task="rpn")):
        other = replace(spec, fit=replace(spec.fit, stages=(stage,)))
        with pytest.raises(UsageError, match=r"for a detector with an RPN and a second stage; RetinaNet is not one"):
            run(data, tmp_path / "a", other)


def test_contradictory_settings_are_rejected(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="task is 'head'"):
        OnImages(task="head")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="task"):
        OnProposals(task="roi")  # type: ignore[call-arg]
    with pytest.raises(UsageError, match="early_stop"):
        replace(SMALL.fit, early_stop=2)
    with pytest.raises(UsageError, match=r"--epochs and --max-time.*fit\.epochs"):
        run(data, tmp_path / "a", epochs=3)
