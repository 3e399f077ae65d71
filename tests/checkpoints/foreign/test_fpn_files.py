"""Files of Detectron2 and MMDetection: equal outputs with networks rebuilt from their facts, shapes, settings."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou

from foveal import presets
from foveal.assembly.proposers import Counts
from foveal.checkpoints.export import export
from foveal.checkpoints.initial import load_weights
from foveal.checkpoints.load import ResolvedModel, find, load
from foveal.errors import FovealError, UsageError
from foveal.parts.resizing import IMAGENET_MEAN, IMAGENET_STD, LEVELS
from foveal.weights.fpn.detectron2 import detectron2_to_ours, ours_to_detectron2
from foveal.weights.fpn.mmdetection import mmdetection_to_ours, ours_to_mmdetection
from foveal.weights.open import read_weights
from tests.helpers.fpn_reference import BLOCKS, TOOLS, Tool, detect, nonempty, random_state

SIZE = (120, 150)
CLASSES = 4
PROPOSALS = 150


def state_of(tool: str, kind: str) -> tuple[Tool, dict[str, Tensor]]:
    described = TOOLS[tool](3 if kind == "retinanet" else 2)
    return described, random_state(described, kind, CLASSES)


def empty_state(tool: str, kind: str) -> dict[str, Tensor]:
    """The keys and shapes, small as a file: each tensor has one number."""
    described = TOOLS[tool](3 if kind == "retinanet" else 2)
    return {k: torch.ones(1).expand(v.shape) for k, v in random_state(described, kind, CLASSES).items()}


def written(state: dict[str, Tensor], tool: str, folder: Path, **beside: Any) -> Path:
    """The file as the tool writes it: published by Detectron2 as a pickle, by training as PyTorch's."""
    if tool == "detectron2" and all(value.is_contiguous() for value in state.values()):
        file = folder / "model_final.pkl"
        content = {"model": {k: v.numpy() for k, v in state.items()}, "__author__": "Detectron2 Model Zoo", **beside}
        file.write_bytes(pickle.dumps(content))
        return file
    if tool == "detectron2":
        torch.save({"model": state, "optimizer": {"state": {}}, "iteration": 9, **beside}, folder / "model_final.pth")
        return folder / "model_final.pth"
    file = folder / ("r50_caffe_fpn.pth" if "caffe" in tool else "r50_fpn.pth")
    torch.save({"meta": {"epoch": 12}, "state_dict": state, "optimizer": {"state": {}}, **beside}, file)
    return file


def picture() -> Tensor:
    """A smooth random image (H, W, 3) uint8."""
    coarse = torch.rand(1, 3, 9, 11, generator=torch.Generator().manual_seed(1))
    smooth = torch.nn.functional.interpolate(coarse, size=SIZE, mode="bicubic").clamp(0, 1)
    return (smooth[0].permute(1, 2, 0) * 255).byte()


@pytest.mark.parametrize("kind", ["retinanet", "mask_rcnn"])
@pytest.mark.parametrize("tool", TOOLS)
def test_a_file_detects_as_the_network_that_wrote_it(tool: str, kind: str, tmp_path: Path) -> None:
    """Pixels, strides, anchors, pooling, class order, boxes and masks, from a file to the detections of an image.

    The image has the size of the network's input. Of 100 detections in the order of their scores two neighbors may
    change places by rounding.
    """
    described, state = state_of(tool, kind)
    image = picture()
    boxes, scores, labels, masks = detect(described, state, kind, image, PROPOSALS)
    model = find(written(state, tool, tmp_path))
    spec: Any = model.spec()
    spec = replace(spec, input=replace(spec.input, short=SIZE[0], long=SIZE[1]))
    if kind != "retinanet":
        spec = replace(spec, test_proposals=Counts(1000, PROPOSALS))
    detector = model.build(spec).eval()
    with torch.no_grad():
        batch = detector.prepare([image.numpy()])
        found = detector.detections(detector.outputs(batch), batch)
    valid = found.valid[0]
    real, theirs = nonempty(found.boxes[0][valid]), nonempty(boxes)
    ours = [t[0][valid][real] for t in (found.boxes, found.scores, found.labels)]
    boxes, scores, labels = boxes[theirs], scores[theirs], labels[theirs]
    assert len(boxes) > 50 and abs(len(ours[0]) - len(boxes)) <= 1
    alike = (labels[:, None] == ours[2]) & ((scores[:, None] - ours[1]).abs() < 1e-3)
    overlap = (box_iou(boxes, ours[0]) * alike).max(1)
    assert (overlap.values > 0.999).float().mean() >= 0.98
    assert len(set(labels.tolist())) > 1
    if masks is not None:
        assert found.masks is not None
        same = overlap.values > 0.999
        assert (
            found.masks[0][real[: len(found.masks[0])]][overlap.indices[same]] - masks[theirs][same]
        ).abs().max() < 1e-3


@pytest.mark.parametrize("kind", ["faster_rcnn", "mask_rcnn", "retinanet"])
def test_keys_and_shapes_there_and_back(kind: str) -> None:
    """From our names to theirs and back; theirs are those of the rebuilt networks."""
    name = "retinanet_r50_fpn_paper" if kind == "retinanet" else f"{kind}_r50_fpn"
    with torch.device("meta"):
        ours = presets.get(name).build([f"class {i}" for i in range(CLASSES)]).state_dict()
    theirs = ours_to_detectron2(ours, kind)  # type: ignore[arg-type]
    found = detectron2_to_ours(theirs)
    assert found.state.keys() == ours.keys() and all(found.state[k] is ours[k] for k in ours)
    assert found.layout.blocks == BLOCKS
    mm = ours_to_mmdetection(ours, kind)  # type: ignore[arg-type]
    back = mmdetection_to_ours(mm)[1]
    assert back.keys() == ours.keys() and all(back[k] is ours[k] for k in ours)
    for state, tool in ((theirs, "detectron2"), (mm, "mmdetection")):
        shapes = {k: v.shape for k, v in empty_state(tool, kind).items()}
        assert {k: v.shape for k, v in state.items()} == shapes


# ---------------------------------------------------------------------------------------------- Detectron2
def found_in(folder: Path, kind: str = "faster_rcnn", tool: str = "detectron2", **more: Any) -> ResolvedModel:
    return find(written({**empty_state(tool, kind), **more}, tool, folder))


def test_detectron2_without_a_config_is_told(tmp_path: Path) -> None:
    model = found_in(tmp_path)
    spec: Any = model.spec()
    assert spec.backbone.stride_in_1x1 and spec.input.std == pytest.approx(LEVELS)
    assert spec.input.mean == pytest.approx(IMAGENET_MEAN) and spec.pool.aligned and spec.pool.ratio == 0
    assert model.classes == ("class 1", "class 2", "class 3", "class 4")
    (line,) = model.notes
    assert "no settings" in line and "config.yaml" in line and "1 x 1" in line


def test_detectron2_buffers_of_pixels_and_anchors_count(tmp_path: Path) -> None:
    rgb = {"pixel_mean": torch.tensor([123.675, 116.28, 103.53]), "pixel_std": torch.tensor([58.395, 57.12, 57.375])}
    spec: Any = found_in(tmp_path, **{k: v.view(3, 1, 1) for k, v in rgb.items()}).spec()
    assert spec.input.mean == pytest.approx(IMAGENET_MEAN) and spec.input.std == pytest.approx(IMAGENET_STD, rel=1e-3)
    assert not spec.backbone.stride_in_1x1
    wide, high = 16 * 2**0.5, 8 * 2**0.5
    cell = torch.tensor([[-wide, -high, wide, high], [-16, -16, 16, 16], [-high, -wide, high, wide]])
    key = "proposal_generator.anchor_generator.cell_anchors.0"
    assert found_in(tmp_path, **{key: cell}).spec()
    with pytest.raises(FovealError, match=r"model_final\.pth: has other anchors at level 0.*config\.yaml"):
        found_in(tmp_path, **{key: 2 * cell})


CONFIG = """
MODEL:
  META_ARCHITECTURE: GeneralizedRCNN
  PIXEL_MEAN: [123.675, 116.28, 103.53]
  PIXEL_STD: [58.395, 57.12, 57.375]
  RESNETS: {STRIDE_IN_1X1: false, RES5_DILATION: 1}
  FPN: {FUSE_TYPE: sum}
  ANCHOR_GENERATOR: {NAME: DefaultAnchorGenerator, SIZES: [[16], [32], [64], [128], [256]], OFFSET: 0.5}
  RPN: {NMS_THRESH: 0.6, PRE_NMS_TOPK_TEST: 500, BBOX_REG_WEIGHTS: [2.0, 2.0, 1.0, 1.0]}
  ROI_HEADS: {NAME: StandardROIHeads, SCORE_THRESH_TEST: 0.1, NMS_THRESH_TEST: 0.4}
  ROI_BOX_HEAD: {POOLER_TYPE: ROIAlign, POOLER_RESOLUTION: 7, POOLER_SAMPLING_RATIO: 2}
INPUT: {FORMAT: RGB, MIN_SIZE_TEST: 640, MAX_SIZE_TEST: 1000}
TEST: {DETECTIONS_PER_IMAGE: 50}
"""


def test_detectron2_config_beside_the_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG)
    model = found_in(tmp_path)
    spec: Any = model.spec()
    assert (spec.input.short, spec.input.long) == (640, 1000)
    assert spec.input.std == pytest.approx(IMAGENET_STD, rel=1e-3) and not spec.backbone.stride_in_1x1
    assert spec.anchors.sizes[0] == (16.0,) and spec.anchors.center == 0.5
    assert (spec.rpn.suppress.iou, spec.rpn.coder.weights) == (0.6, (2.0, 2.0, 1.0, 1.0))
    assert spec.test_proposals == Counts(500, 1000)
    assert (spec.roi.select.score, spec.roi.suppress.iou, spec.roi.suppress.top) == (0.1, 0.4, 50)
    assert not spec.pool.aligned and spec.pool.ratio == 2
    assert "config.yaml" in model.notes[0]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("FUSE_TYPE: sum", "FUSE_TYPE: avg", r"config\.yaml: .*FUSE_TYPE is 'avg', expected 'sum'"),
        ("FORMAT: RGB", "FORMAT: L", "INPUT.FORMAT is 'L'"),
        ("RES5_DILATION: 1", "RES5_DILATION: 2", "RES5_DILATION is '2'"),
        ("POOLER_TYPE: ROIAlign,", "POOLER_TYPE: ROIPool,", "POOLER_TYPE is 'ROIPool'"),
        ("NAME: StandardROIHeads", "NAME: CascadeROIHeads", "NAME is 'CascadeROIHeads'"),
        ("NMS_THRESH: 0.6", "NMS_THRESH: high", "NMS_THRESH is 'high', expected a number"),
        ("[2.0, 2.0, 1.0, 1.0]", "[2.0, 2.0]", "expected 4 numbers above 0"),
        ("[[16], [32], [64], [128], [256]]", "[16, 32]", "expected lists of numbers above 0"),
        ("PRE_NMS_TOPK_TEST: 500", "PRE_NMS_TOPK_TEST: .inf", "expected a number"),
        ("NAME: StandardROIHeads", "NAME: StandardROIHeads, IN_FEATURES: [p2, p3]", "IN_FEATURES"),
        ("GeneralizedRCNN", "RetinaNet", "META_ARCHITECTURE is 'RetinaNet'"),
    ],
)
def test_detectron2_settings_that_differ_are_refused(old: str, new: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG.replace(old, new))
    with pytest.raises(FovealError, match=words):
        found_in(tmp_path)


def test_other_layers_are_refused_by_name(tmp_path: Path) -> None:
    keypoints = {"roi_heads.keypoint_head.conv_fcn1.weight": torch.ones(1)}
    with pytest.raises(FovealError, match=r"layers that are not supported \(roi_heads\.keypoint_head"):
        found_in(tmp_path, **keypoints)
    with pytest.raises(FovealError, match=r"MMDetection model with layers .*norm"):
        found_in(tmp_path, tool="mmdetection", **{"neck.lateral_convs.0.bn.weight": torch.ones(1)})
    with pytest.raises(FovealError, match=r"MMDetection 1\.x, whose background is the first class"):
        found_in(tmp_path, tool="mmdetection", **{"bbox_head.fc_cls.weight": torch.ones(1)})
    with pytest.raises(UsageError, match="faster_rcnn_r50_fpn computes another function"):
        find(written(empty_state("detectron2", "faster_rcnn"), "detectron2", tmp_path), "faster_rcnn_r50_fpn")


def test_norms_without_statistics_are_refused(tmp_path: Path) -> None:
    """A group norm in the backbone alone has the names of a batch norm without statistics."""
    state = {k: v for k, v in empty_state("detectron2", "retinanet").items() if "running" not in k}
    with pytest.raises(FovealError, match=r"no statistics \(group norm\)"):
        find(written(state, "detectron2", tmp_path))


# --------------------------------------------------------------------------------------------- MMDetection
MM_CONFIG = """
model = dict(
    type='RetinaNet',
    data_preprocessor=dict(type='DetDataPreprocessor', mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0],
        bgr_to_rgb=False, pad_size_divisor=32),
    backbone=dict(type='ResNet', depth=50, frozen_stages=1, style='caffe'),
    neck=dict(type='FPN', start_level=1, add_extra_convs='on_input', num_outs=5, relu_before_extra_convs=True),
    bbox_head=dict(type='RetinaHead',
        anchor_generator=dict(type='AnchorGenerator', octave_base_scale=2, scales_per_octave=3,
            ratios=[0.5, 1.0, 2.0], strides=[8, 16, 32, 64, 128]),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_means=[.0, .0, .0, .0], target_stds=[1.0, 1.0, 1.0, 1.0]),
        loss_cls=dict(type='FocalLoss', use_sigmoid=True)),
    test_cfg=dict(nms_pre=500, min_bbox_size=0, score_thr=0.1, nms=dict(type='nms', iou_threshold=0.6),
        max_per_img=50))
test_pipeline = [
    dict(type='LoadImageFromFile', backend_args=None),
    dict(type='Resize', scale=(1000, 600), keep_ratio=True),
]
custom_hooks = [dict(type='EMAHook', momentum=lambda x: x)]
"""


def with_meta(folder: Path, kind: str, meta: Any, **more: Any) -> ResolvedModel:
    return find(written({**empty_state("mmdetection", kind), **more}, "mmdetection", folder, meta=meta))


def test_mmdetection_config_and_classes_in_the_file_are_read(tmp_path: Path) -> None:
    names = ("a", "b", "c", "d")
    model = with_meta(tmp_path, "retinanet", {"cfg": MM_CONFIG, "dataset_meta": {"classes": names}})
    spec: Any = model.spec()
    assert model.classes == names and model.notes == ()
    assert spec.backbone.stride_in_1x1 and spec.neck.p7_relu and spec.input.std == pytest.approx(LEVELS)
    assert (spec.input.short, spec.input.long, spec.anchors.scale) == (600, 1000, 2.0)
    assert spec.input.multiple == 32
    unpadded = MM_CONFIG.replace(", pad_size_divisor=32", "")
    assert cast(Any, with_meta(tmp_path, "retinanet", {"cfg": unpadded}).spec()).input.multiple == 1
    assert (spec.task.select.score, spec.task.select.per_level, spec.task.suppress.iou) == (0.1, 500, 0.6)
    assert with_meta(tmp_path, "retinanet", {"CLASSES": names}).classes == names  # of 2.x
    with pytest.raises(FovealError, match="has 4 classes, but 3 names are stored with it"):
        with_meta(tmp_path, "retinanet", {"CLASSES": names[:3]})


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("type='AnchorGenerator'", "type='LegacyAnchorGenerator'", "type is 'LegacyAnchorGenerator'"),
        ("type='nms'", "type='soft_nms'", "nms.type is 'soft_nms'"),
        ("add_extra_convs='on_input'", "add_extra_convs='on_lateral'", "add_extra_convs is 'on_lateral'"),
        ("depth=50", "depth=50, dilations=(1, 1, 2, 4)", "dilations"),
        ("keep_ratio=True", "keep_ratio=False", "keep_ratio"),
        ("num_outs=5", "num_outs=5, upsample_cfg=dict(mode='bilinear')", "upsample_cfg.mode is 'bilinear'"),
        ("octave_base_scale=2", "octave_base_scale=0", "expected a number above 0"),
        ("target_stds=[1.0, 1.0, 1.0, 1.0]", "target_stds=[1.0, 0.0, 1.0, 1.0]", "expected 4 numbers above 0"),
        ("max_per_img=50", "max_per_img=1.5", "expected a whole number"),
        ("type='RetinaNet'", "type='ATSS'", "model.type is 'ATSS', expected 'RetinaNet'"),
        ("use_sigmoid=True", "use_sigmoid=False", "use_sigmoid is False"),
    ],
)
def test_mmdetection_settings_that_differ_are_refused(old: str, new: str, words: str, tmp_path: Path) -> None:
    assert old in MM_CONFIG
    with pytest.raises(FovealError, match=rf"r50_fpn\.pth: .*{words}"):
        with_meta(tmp_path, "retinanet", {"cfg": MM_CONFIG.replace(old, new)})


def test_mmdetection_without_a_config_goes_by_the_name(tmp_path: Path) -> None:
    plain: Any = found_in(tmp_path, "retinanet", "mmdetection")
    assert not plain.spec().backbone.stride_in_1x1 and "torchvision's ResNet" in plain.notes[0]
    caffe: Any = found_in(tmp_path, "retinanet", "mmdetection-caffe")
    assert caffe.spec().backbone.stride_in_1x1 and "Caffe's ResNet" in caffe.notes[0]
    with pytest.raises(FovealError, match=r"is of MMDetection 1\.2\.0"):
        with_meta(tmp_path, "retinanet", {"mmdet_version": "1.2.0"})


# ------------------------------------------------------------------------------------------- every door
def test_weights_of_another_function_are_refused_with_the_settings(tmp_path: Path) -> None:
    file = written(empty_state("detectron2", "retinanet"), "detectron2", tmp_path)
    preset = presets.retinanet_r50_fpn_paper
    with torch.device("meta"):
        fresh = preset.build(["a", "b"])
    with pytest.raises(FovealError, match=r"Detectron2's and need other .*1x1=True.*anchors\.center=0\.0"):
        load_weights(fresh, file)


def test_own_classes_start_from_a_file(tmp_path: Path) -> None:
    _, state = state_of("detectron2", "retinanet")
    file = written(state, "detectron2", tmp_path)
    fresh = find(file).spec().build(["a", "b"])
    report = load_weights(fresh, file)
    assert report.unused == () and list(report.new) == ["2 classes here, 4 there"]
    assert any("no settings" in line for line in report.lines())
    body = state["backbone.bottom_up.stem.conv1.weight"].flip(1)  # BGR there, RGB here
    assert torch.equal(fresh.state_dict()["backbone.conv1.weight"], body)


def test_load_logs_the_assumptions_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _, state = state_of("mmdetection", "retinanet")
    load(written(state, "mmdetection", tmp_path), device="cpu")
    assert len(caplog.records) == 1 and "the file has no config" in caplog.text


@pytest.mark.parametrize("kind", ["faster_rcnn", "retinanet"])
@pytest.mark.parametrize("tool", TOOLS)
def test_export_gives_the_file_back(tool: str, kind: str, tmp_path: Path) -> None:
    """Theirs, ours, theirs: the same tensors, and the same spec and classes from the new file."""
    _, state = state_of(tool, kind)
    names = ("a", "b", "c", "d")
    model = find(written(state, tool, tmp_path, meta={"CLASSES": names}))
    form: Any = tool.removesuffix("-caffe")
    export(tmp_path / "back.pth", form, model.spec(), names, model.state)
    back = read_weights(tmp_path / "back.pth")
    (found,) = back.entries.values()
    assert all(torch.equal(found[k], v) for k, v in state.items())
    assert found.keys() - state.keys() <= {"pixel_mean", "pixel_std"}
    again = find(tmp_path / "back.pth")
    assert again.spec() == model.spec()
    assert again.classes == (names if form == "mmdetection" else ("class 1", "class 2", "class 3", "class 4"))


def test_export_of_another_function_is_refused(tmp_path: Path) -> None:
    spec = presets.retinanet_r50_fpn_paper
    state = spec.build(["a"]).state_dict()
    with pytest.raises(UsageError, match=r"Detectron2 would compute other detections with .*anchors\.center"):
        export(tmp_path / "x.pth", "detectron2", spec, ["a"], state)
    with pytest.raises(UsageError, match="MMDetection has no FCOS"):
        export(tmp_path / "x.pth", "mmdetection", presets.fcos_mini, ["a"], state)
    small = presets.retinanet_mini
    with pytest.raises(UsageError, match="has layers that Detectron2's detectors lack"):
        export(tmp_path / "x.pth", "detectron2", small, ["a"], small.build(["a"]).state_dict())
    assert not (tmp_path / "x.pth").exists()
