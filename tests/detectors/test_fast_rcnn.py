"""Fast R-CNN: the second stage on external proposals, RoI sampling, truncated SVD of its fully connected layers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from foveal import boxes as box_ops
from foveal import presets
from foveal.assembly.two_stage import TwoStage
from foveal.checkpoints.compress import compress, truncated
from foveal.checkpoints.content import Content
from foveal.checkpoints.folder import save
from foveal.checkpoints.load import load
from foveal.cli import main as cli
from foveal.config.overrides import override
from foveal.detectors.fast_rcnn import FAST_TASK, FastRCNN
from foveal.errors import FovealError, UsageError
from foveal.parts.backbones.caffe import CaffeNet
from foveal.parts.backbones.image_pyramid import ImagePyramid
from foveal.parts.backbones.small import SmallResNet
from foveal.parts.heads.roi import RoIMLP, VGGTail
from foveal.parts.losses.box import SmoothL1
from foveal.parts.losses.normalizers import Sampled
from foveal.parts.necks.fpn import Identity, SingleLevel
from foveal.parts.pooling.roi_align import RoIPool
from foveal.parts.resizing import Resize
from foveal.parts.selective_search import SlidingWindows
from foveal.recipe import Recipe
from foveal.runtime.processes import versions
from foveal.types import Images, Priors, Target, Targets

TINY = FastRCNN(
    input=Resize(96, 128),
    proposals=SlidingWindows(top=60),
    backbone=SmallResNet((8, 8, 16, 16)),
    levels=(4,),
    neck=SingleLevel(),
    pool=RoIPool(3),
    roi_head=RoIMLP(24),
    fit=Recipe(epochs=1, batch=2),
)
IMAGE = np.random.default_rng(0).integers(0, 255, (96, 128, 3), dtype=np.uint8)


def built(spec: FastRCNN = TINY) -> TwoStage:
    torch.manual_seed(0)
    return spec.build(["a", "b"])


# ------------------------------------------------------------------------------------------------ proposals
def test_matches_the_second_stage_of_faster_rcnn() -> None:
    """Both from one set of weights; the RPN's proposals are passed to a Fast R-CNN as external proposals."""
    torch.manual_seed(0)
    faster = presets.faster_rcnn_mini.build(["a", "b"]).eval()
    parts = {k: getattr(faster.spec, k) for k in ("input", "backbone", "levels", "neck", "pool", "roi_head", "roi")}
    fast = FastRCNN(**parts, proposals=SlidingWindows()).build(["a", "b"]).eval()
    missing = fast.load_state_dict(faster.state_dict(), strict=False)
    assert not missing.missing_keys and {k.split(".")[0] for k in missing.unexpected_keys} == {"rpn_head"}
    with torch.no_grad():
        images = faster.prepare([IMAGE, IMAGE[:, ::-1]])
        proposed = faster.proposals(faster.outputs(images), images)
        given = replace(images, proposals=proposed.boxes, proposals_valid=proposed.valid)
        for ours, theirs in zip(fast(given), faster(images), strict=True):
            assert len(ours) == len(theirs) > 0
            torch.testing.assert_close(ours.boxes, theirs.boxes, rtol=0, atol=1e-4)
            torch.testing.assert_close(ours.scores, theirs.scores, rtol=0, atol=1e-6)


def test_source_is_used_without_explicit_proposals() -> None:
    detector = built().eval()
    images = detector.prepare([IMAGE, IMAGE[:48]])
    assert images.proposals is not None and images.proposals_valid is not None
    assert images.proposals_valid.sum(1).tolist() == [60, 60]  # top
    wanted = torch.from_numpy(SlidingWindows()(IMAGE[:48]).boxes[:60])
    torch.testing.assert_close(images.proposals[1], wanted * images.frame[1, :2].repeat(2), rtol=1e-5, atol=1e-4)
    asked = detector.predict_arrays([IMAGE])[0]
    given = detector.predict_arrays([IMAGE], proposals=[SlidingWindows()(IMAGE).boxes[:60]])[0]
    tensors = detector([torch.from_numpy(IMAGE).permute(2, 0, 1) / 255])[0]
    for other in (given, tensors):
        torch.testing.assert_close(asked.boxes, other.boxes, rtol=0, atol=1e-3)
    with pytest.raises(UsageError, match="needs external proposals, and the batch has none"):
        detector(replace(images, proposals=None))


def test_image_without_proposals_has_no_detections() -> None:
    detector = built().eval()
    boxes = [np.array([[5, 5, 90, 80]], np.float32), np.zeros((0, 4), np.float32)]
    some, none = detector.predict_arrays([IMAGE] * 2, 2, boxes)
    assert len(some) > 0 and len(none) == 0


# ------------------------------------------------------------------------------------------------ RoI sampling
def test_roi_sampling_of_the_paper() -> None:
    """systems.md 3.3: 64 RoIs an image, 16 of them positive (IoU from .5), background from .1 to .5."""
    seen: list[tuple[Tensor, Tensor, Tensor]] = []
    detector = built(override(TINY, ["proposals=SlidingWindows(top=2000, stride=.1)"]))
    truth = torch.tensor([[20.0, 20, 80, 80]])
    images = detector.prepare([IMAGE, IMAGE])
    targets = Targets.pad([Target(truth, torch.tensor([1]))] * 2)
    plain = detector.roi.losses

    class Watched:
        sampler, matcher = detector.roi.sampler, detector.roi.matcher

        def losses(self, predictions: Any, rows: Priors, *args: Any, match: Any, sample: Tensor, **more: Any) -> Any:
            seen.append((rows.boxes, match.positive, sample))
            return plain(predictions, rows, *args, match=match, sample=sample, **more)

    detector.roi = Watched()  # type: ignore[assignment]
    losses = detector(images, targets)
    boxes, positive, kept = seen[0]
    assert boxes.shape == (2, 64, 4) and kept.sum(1).tolist() == [64, 64]
    assert positive.sum(1).tolist() == [16, 16]
    iou = box_ops.pairwise_iou(boxes.flatten(0, 1), truth).view(2, 64)
    assert (iou[positive] >= 0.5).all() and (iou[~positive] >= 0.1).all() and (iou[~positive] < 0.5).all()
    assert set(losses) == {"cls", "box"}


def test_losses_are_means_over_all_rois() -> None:
    """systems.md 1.3: both losses are divided by the RoIs of the batch (128); sigma 1, only the true class."""
    assert FAST_TASK.box_loss == SmoothL1(beta=1.0, normalizer=Sampled())
    assert FAST_TASK.cls_loss.normalizer == Sampled() and FAST_TASK.cls_loss.weight == 1.0


def test_initialization_of_the_predictors() -> None:
    with torch.device("meta"):
        predictor = presets.fast_rcnn_vgg16.roi_head.predictor
    assert (predictor.cls_std, predictor.box_std) == (0.01, 0.001)
    fit = presets.fast_rcnn_vgg16.fit
    assert (fit.batch, fit.lr, fit.solver.weight_decay, fit.bias_lr, fit.bias_decay) == (2, 0.001, 5e-4, 2.0, False)


def test_detections_of_a_class_are_limited_before_suppression() -> None:
    """At most 100 a class go to NMS, whatever their scores: of 2 classes and 300 distant boxes 200 are returned."""
    x, y = np.meshgrid(np.arange(20.0) * 6, np.arange(15.0) * 6)
    grid = np.stack([x, y, x + 5, y + 5], -1).reshape(-1, 4).astype(np.float32)
    detector = built().eval()
    with torch.no_grad():
        detector.get_submodule("roi_head").predictor.bbox_pred.weight.zero_()  # type: ignore[union-attr, operator]
    found = detector.predict_arrays([IMAGE], proposals=[grid])[0]
    assert len(found) == 200 and found.labels.bincount().tolist() == [100, 100]


# -------------------------------------------------------------------------------------------- the small network
def test_connected_layers_are_loaded_from_a_caffe_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    file = tmp_path / "caffenet.safetensors"
    backbone = CaffeNet(weights=str(file), returns=("conv5",), padded=True)
    spec = replace(TINY, backbone=backbone, pool=RoIPool(2), roi_head=VGGTail(16))
    source, detector = spec.build("ab"), spec.build("ab")
    trunk = {k: torch.randn_like(v) for k, v in source.roi_head.trunk.state_dict().items()}  # type: ignore[union-attr]
    fc8 = {"fc8.weight": torch.randn(10, 16), "fc8.bias": torch.randn(10)}
    save_file({**source.backbone.state_dict(), **trunk, **fc8}, file)
    spec.load_pretrained(detector)
    for name, value in trunk.items():
        assert torch.equal(detector.state_dict()[f"roi_head.trunk.{name}"], value)
    assert torch.equal(detector.backbone.conv5.weight, source.backbone.conv5.weight)  # type: ignore[union-attr]
    with pytest.raises(FovealError, match=r"of another shape fc6\.weight"):
        other = replace(spec, pool=RoIPool(3))
        other.load_pretrained(other.build("ab"))


def test_five_scales_in_testing_and_one_in_training() -> None:
    """With the weights of one scale: a box is pooled where the single-scale detector of that size would pool it."""
    torch.manual_seed(0)
    pyramid = ImagePyramid(TINY.backbone, (96, 48), in_training=False)
    spec = replace(TINY, backbone=pyramid, neck=Identity(), pool=RoIPool(3, area=40), input=Resize(96, 128, 1))
    several = spec.build(["a", "b"]).eval()
    small = replace(TINY, input=Resize(48, 64, 1)).build(["a", "b"]).eval()
    small.load_state_dict({k.replace("backbone.body.", "backbone."): v for k, v in several.state_dict().items()})
    uniform_image = np.full((96, 128, 3), 120, np.uint8)  # one color: both ways to halve it agree
    large = np.array([[0, 0, 90, 90]], np.float32)
    with torch.no_grad():
        rows = []
        for detector in (several, small):
            images = detector.prepare([uniform_image], [large])
            outputs = detector.outputs(images)
            rows.append(detector._run_head(outputs.features, outputs.priors.boxes, images.sizes).logits)
        torch.testing.assert_close(rows[0], rows[1], rtol=0, atol=1e-5)
        assert len(several.outputs(images).features) == 2 and len(several.train().outputs(images).features) == 1
    targets = Targets.pad([Target(torch.tensor([[20.0, 20, 80, 80]]), torch.tensor([1]))])
    losses = several(several.prepare([IMAGE]), targets)
    assert torch.stack(list(losses.values())).sum().isfinite()


# ----------------------------------------------------------------------------------------------- truncated SVD
def test_svd_error_equals_the_dropped_singular_values() -> None:
    """Eckart and Young: in the spectral norm the first one left out, in Frobenius' the root of their squares."""
    weight = torch.randn(24, 40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    values = torch.linalg.svdvals(weight)
    for rank in (1, 7, 23, 24):
        outer, inner = truncated(weight, rank)
        assert outer.shape == (24, rank) and inner.shape == (rank, 40)
        rest = weight - outer @ inner
        wanted = values[rank] if rank < 24 else torch.zeros((), dtype=torch.float64)
        torch.testing.assert_close(torch.linalg.matrix_norm(rest, 2), wanted, rtol=0, atol=1e-10)
        torch.testing.assert_close(rest.norm(), values[rank:].norm(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("head", [RoIMLP(24), VGGTail(24)])
def test_at_full_rank_nothing_changes(head: Any) -> None:
    spec = replace(TINY, roi_head=head)
    detector = built(spec).eval()
    smaller_spec, state = compress(spec, detector.state_dict(), (24, 24))
    smaller = smaller_spec.build(["a", "b"]).eval()
    smaller.load_state_dict(state)
    rows = torch.randn(50, 16, 3, 3)
    with torch.no_grad():
        whole, two = (d.get_submodule("roi_head")(rows, 1) for d in (detector, smaller))
    torch.testing.assert_close(two.logits, whole.logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(two.deltas, whole.deltas, rtol=0, atol=1e-5)


def test_command_writes_a_loadable_file(tmp_path: Path) -> None:
    from foveal.config.show import show

    detector = built()
    described = {"spec": show(TINY), "classes": ["a", "b"], "versions": versions()}
    save(tmp_path / "run" / "checkpoints", 0, Content(detector.state_dict(), {}, {}, {"step": 0}, described))
    out = tmp_path / "small.safetensors"
    words = ["weights", "export", str(tmp_path / "run"), "--out", str(out), "--svd"]
    assert cli.main([*words, "9,5"]) == 0
    small = load(out, device="cpu", precision="32")
    assert small.spec == replace(TINY, roi_head=RoIMLP(24, ranks=(9, 5))).with_pixels()
    assert small.get_submodule("roi_head.trunk.fc6.inner").weight.shape == (9, 16 * 9)  # type: ignore[union-attr]
    assert small.predict_arrays([IMAGE])[0].boxes.isfinite().all()
    for ranks, status in (("9", 2), ("9,25", 2), ("0,5", 2), ("9;5", 2)):
        assert cli.main(["weights", "export", str(tmp_path / "run"), "--out", f"{out}2", "--svd", ranks]) == status
    assert not Path(f"{out}2").exists()


def test_incompressible_detectors_are_rejected() -> None:
    detector = built()
    spec, state = compress(TINY, detector.state_dict(), (9, 5))
    with pytest.raises(UsageError, match="already"):
        compress(spec, state, (9, 5))
    with pytest.raises(UsageError, match="RetinaNet has no fully connected layers"):
        compress(presets.retinanet_mini, {}, (9, 5))
    with pytest.raises(UsageError, match="expected 2 numbers"):
        replace(TINY, roi_head=RoIMLP(24, ranks=(9,))).build("ab")
    with pytest.raises(UsageError, match="for a trained detector"):
        VGGTail(ranks=(9, 5)).load_pretrained(built().get_submodule("roi_head"), "vgg16.pth")  # type: ignore[arg-type]


# ----------------------------------------------------------------------------------------------- training run
def test_train_evaluate_and_predict_generate_the_proposals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the cache, or from a file, which must contain the images."""
    from foveal.checkpoints.folder import load_checkpoint
    from foveal.evaluation.scoring import evaluate
    from foveal.inference.predict import predict
    from foveal.training.run import train
    from tests.helpers.data_sets import image, voc

    monkeypatch.setenv("FOVEAL_CACHE", str(tmp_path / "cache"))
    data = voc(tmp_path / "voc")
    for name in ("train", "val"):
        words = ["proposals", "--data", str(data), "--split", name, "--method", "sliding_windows"]
        assert cli.main([*words, "--out", str(tmp_path / name)]) == 0
    spec: Any = replace(TINY, input=Resize(48, 64))
    runs = [train(spec, data=data, out=tmp_path / "run", epochs=1, progress=False, precision="32")]
    assert len(load_checkpoint(tmp_path / "run").state_dict) > 0 and len(evaluate(runs[0], data=data).to_dict()) > 0
    found = predict(runs[0].path, [str(data / "JPEGImages" / "c.jpg")], json=tmp_path / "f.json", score=0.0)
    assert len(found.images) == 1
    given = tmp_path / "val" / "proposals.safetensors"
    predict(runs[0].path, [str(data / "JPEGImages" / "c.jpg")], proposals=given)
    asked: list[Any] = []
    source = SlidingWindows.__call__
    monkeypatch.setattr(SlidingWindows, "__call__", lambda self, image: asked.append(image) or source(self, image))
    new = image(tmp_path / "new.jpg", seed=9)
    files = [str(data / "JPEGImages" / "c.jpg"), str(new)]
    plain = load(runs[0].path, device="cpu", precision="32")
    first = predict(plain, files, score=0.0)
    again = predict(plain, files[::-1], score=0.0)
    assert len(asked) == 1  # only the image that was not cached, and only once
    assert [p.to_dict() for p in first.images] == [p.to_dict() for p in again.images[::-1]]
    with pytest.raises(FovealError, match="has no proposals for"):
        predict(runs[0].path, [str(data / "JPEGImages" / "a.jpg")], proposals=given)
    assert len(evaluate(runs[0], data=data, split="val", proposals=given).to_dict()) > 0
    with pytest.raises(FovealError, match="no proposals for 2 of the 2 images"):
        train(spec, data=data, out=tmp_path / "other", epochs=1, progress=False, proposals=given)
    with pytest.raises(UsageError, match="takes no external proposals"):
        train(presets.retinanet_mini, data=data, out=tmp_path / "other", epochs=1, progress=False, proposals=given)


def test_resume_with_other_proposals_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from foveal.training.loop import loop
    from tests.helpers.data_sets import voc
    from tests.helpers.stages_tiny import Stop, run, stopped

    monkeypatch.setenv("FOVEAL_CACHE", str(tmp_path / "cache"))
    data = voc(tmp_path / "voc")
    spec: Any = replace(TINY, input=Resize(48, 64))
    with pytest.MonkeyPatch.context() as patch:
        stopped(patch, loop.Loop, "_update", 1)
        with pytest.raises(Stop):
            run(spec, data, tmp_path / "run", epochs=2, batch=2, save_every=0.0)
    files = []
    for name in ("train", "val"):
        words = ["proposals", "--data", str(data), "--split", name, "--method", "SlidingWindows(stride=.5)"]
        assert cli.main([*words, "--out", str(tmp_path / name)]) == 0
        files.append(tmp_path / name)
    with pytest.raises(UsageError, match="proposals of the training data changed since the run began"):
        run(spec, data, tmp_path / "run", epochs=2, batch=2, resume=True, proposals=files)
    run(spec, data, tmp_path / "run", epochs=2, batch=2, resume=True)


def test_images_pad_and_move_their_proposals() -> None:
    sizes = torch.tensor([[50, 100], [50, 100]])
    frame = torch.tensor([[2.0, 1.0, 3.0, 0.0], [1.0, 1.0, 0.0, 0.0]])
    images = Images(torch.zeros(2, 3, 50, 100), sizes, frame, sizes)
    filled = images.with_proposals([torch.tensor([[1.0, 2, 3, 4]]), torch.zeros(0, 4)])
    assert filled.proposals is not None and filled.proposals_valid is not None
    assert filled.proposals.tolist() == [[[5, 2, 9, 4]], [[0, 0, 0, 0]]]  # x: 2 x + 3
    assert filled.proposals_valid.tolist() == [[True], [False]]
