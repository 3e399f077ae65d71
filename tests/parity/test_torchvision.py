"""Complete detectors against torchvision's classes with the same (random) weights.

Tolerances: head outputs 1e-5 relative, boxes 1e-3 px, the same detections, losses 1e-5 relative. Reference: torchvision
0.29.2.
"""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.models import detection as peer

from foveal import presets
from foveal.assembly.proposers import Counts
from foveal.cli import main as cli
from foveal.parts.samplers import All
from foveal.types import Detections, Images
from foveal.weights.keys_torchvision import torchvision_to_ours

FRCNN = ("fasterrcnn_resnet50_fpn", "fasterrcnn_resnet50_fpn_v2", "fasterrcnn_mobilenet_v3_large_fpn",
         "fasterrcnn_mobilenet_v3_large_320_fpn")  # fmt: skip
RETINA = ("retinanet_resnet50_fpn", "retinanet_resnet50_fpn_v2", "fcos_resnet50_fpn")  # K sigmoids, 0 included
PRESET = {
    "fasterrcnn_resnet50_fpn": "faster_rcnn_r50_fpn",
    "fasterrcnn_resnet50_fpn_v2": "faster_rcnn_r50_fpn_v2",
    "fasterrcnn_mobilenet_v3_large_fpn": "faster_rcnn_mobilenet_v3_large_fpn",
    "fasterrcnn_mobilenet_v3_large_320_fpn": "faster_rcnn_mobilenet_v3_large_320_fpn",
    "retinanet_resnet50_fpn": "retinanet_r50_fpn",
    "retinanet_resnet50_fpn_v2": "retinanet_r50_fpn_v2",
    "fcos_resnet50_fpn": "fcos_r50_fpn",
}
CLASSES = 11  # torchvision's count, background or unused 0 included: the function does not depend on it
SHORT, LONG = 128, 224


def lively(model: nn.Module) -> None:
    """Random batch-norm statistics in range, and last layers whose outputs differ by location."""
    g = torch.Generator().manual_seed(7)
    has_group_norm = any(isinstance(m, nn.GroupNorm) for m in model.modules())
    for name, m in model.named_modules():
        if isinstance(m, nn.BatchNorm2d):
            n = m.num_features
            # small gains keep a residual network of random weights from exploding
            m.weight.data = 0.35 + 0.1 * torch.rand(n, generator=g)
            m.bias.data = 0.1 * torch.randn(n, generator=g)
            m.running_mean = 0.1 * torch.randn(n, generator=g)
            m.running_var = 0.8 + 0.4 * torch.rand(n, generator=g)
        if name.endswith(("cls_logits", "cls_score")):
            m.weight.data *= 3.0 if has_group_norm else 12.0
            m.bias.data = torch.randn(m.bias.shape, generator=g) * 0.5 - (1.0 if name.endswith("cls_logits") else 0.0)


def pair(name: str):
    torch.manual_seed(3)
    theirs = getattr(peer, name)(weights=None, weights_backbone=None, num_classes=CLASSES)
    lively(theirs)
    theirs.transform.min_size, theirs.transform.max_size = (SHORT,), LONG
    spec = presets.get(PRESET[name])
    spec = replace(spec, input=replace(spec.input, short=SHORT, long=LONG))
    if name in FRCNN:  # fewer proposals than the defaults: the same code in a fraction of the time
        theirs.rpn._pre_nms_top_n = theirs.rpn._post_nms_top_n = {"training": 150, "testing": 150}
        spec = replace(spec, train_proposals=Counts(150, 150), test_proposals=Counts(150, 150))
    names = [f"c{i}" for i in range(CLASSES - name.startswith("faster"))]
    ours = spec.build(names)
    missing, unexpected = ours.load_state_dict(torchvision_to_ours(theirs.state_dict()), strict=False)
    assert not [k for k in missing if not k.endswith("num_batches_tracked")]
    assert not [k for k in unexpected if not k.endswith("num_batches_tracked")]
    return theirs.eval(), ours.eval()


def sample_images() -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    big = [torch.randn(1, 3, 12, 16, generator=g), torch.randn(1, 3, 16, 11, generator=g)]
    sizes = [(150, 230), (220, 160)]
    return [
        nn.functional.interpolate(x, s, mode="bicubic").sigmoid()[0].contiguous()
        for x, s in zip(big, sizes, strict=True)
    ]


def truth(shift: int) -> list[dict[str, torch.Tensor]]:
    boxes = [
        torch.tensor([[10.0, 12, 90, 120], [60, 30, 200, 140], [100, 5, 130, 40]]),
        torch.tensor([[20.0, 40, 140, 200]]),
    ]
    labels = [torch.tensor([0, 4, 2]), torch.tensor([7])]
    return [{"boxes": b, "labels": k + shift} for b, k in zip(boxes, labels, strict=True)]


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-5) -> None:
    scale = b.abs().max().clamp(min=1e-6)
    assert ((a - b).abs().max() / scale) <= tolerance, f"{((a - b).abs().max() / scale):.2e}"


def same_detections(
    found: Detections,
    boxes: torch.Tensor,
    scores: torch.Tensor,
    labels: torch.Tensor,
    pixels=1e-3,
    score=2e-5,
    most=1.0,
) -> None:
    """One to one: equal label, box and score within tolerance. Order may differ where scores tie.

    ``most``: the share that has to be found. Random weights make hundreds of nearly equal scores, and where rounding
    exchanges two of them, suppression keeps the other one.
    """
    missed = []
    free = torch.ones(len(found), dtype=torch.bool)
    for box, p, label in zip(boxes, scores, labels, strict=True):
        near = (found.boxes - box).abs().amax(1) <= pixels
        near &= ((found.scores - p).abs() <= score) & (found.labels == label) & free
        if near.any():
            free[near.nonzero()[0]] = False
        else:
            missed.append((box, p, label))
    assert len(missed) <= (1 - most) * len(found) + 1e-9, missed


@pytest.fixture(scope="module", params=[*FRCNN, *RETINA])
def both(request):
    return request.param, *pair(request.param)


def test_heads(both) -> None:
    name, theirs, ours = both
    images = sample_images()
    seen: dict[str, object] = {}
    head = theirs.rpn.head if name in FRCNN else theirs.head
    hook = head.register_forward_hook(lambda m, i, o: seen.update(head=o))
    with torch.inference_mode():
        theirs(images)
        batch: Images = ours.spec.input.batch_tensors(images)
        outputs = ours.outputs(batch)
    hook.remove()
    if name in FRCNN:
        logits, deltas = seen["head"]
        logits = torch.cat([x.permute(0, 2, 3, 1).reshape(2, -1, 1) for x in logits], 1)
        deltas = torch.cat([d.unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).reshape(2, -1, 4) for d in deltas], 1)
    else:
        logits, deltas = seen["head"]["cls_logits"], seen["head"]["bbox_regression"]
        if name.startswith("fcos"):
            close(outputs.layers[-1].quality[..., None], seen["head"]["bbox_ctrness"])
    close(outputs.layers[-1].logits, logits)
    close(outputs.layers[-1].deltas, deltas)


def test_detections_in_float64(both) -> None:
    """In float64, from torchvision's own resized pixels. In float32 random weights give nearly equal scores and IoUs
    that rounding (another number of threads, another CPU) exchanges; NMS then keeps the other box."""
    name, theirs, ours = both
    images, seen, shift = [x.double() for x in sample_images()], {}, int(name in FRCNN)
    hook = theirs.transform.register_forward_hook(lambda m, i, o: seen.update(pixels=o[0].tensors))
    try:
        theirs.double()
        ours.double()
        with torch.inference_mode():
            expected = theirs(images)
            batch: Images = ours.spec.input.batch_tensors([x.float() for x in images])
            torch.testing.assert_close(batch.pixels.double(), seen["pixels"], rtol=0, atol=1e-5)
            found = ours(replace(batch, pixels=seen["pixels"]))
    finally:
        hook.remove()
        theirs.float()
        ours.float()  # exactly the initial weights
    for e, f in zip(expected, found, strict=True):
        assert len(f) == len(e["scores"]) > 0
        torch.testing.assert_close(f.scores.double(), e["scores"], rtol=0, atol=1e-6)
        same_detections(f, e["boxes"], e["scores"], e["labels"] - shift)


def test_losses(both) -> None:
    name, theirs, ours = both
    images, shift = sample_images(), int(name in FRCNN)
    theirs.train()
    for m in theirs.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.eval()
    everything = 10**9
    if name in FRCNN:
        theirs.rpn.fg_bg_sampler.batch_size_per_image = everything
        theirs.roi_heads.fg_bg_sampler.batch_size_per_image = everything
        saved = ours.proposer, ours.roi
        ours.proposer = replace(ours.proposer, task=replace(ours.proposer.task, sampler=All()))
        ours.roi = replace(ours.roi, sampler=All())
    expected = theirs(images, truth(shift))
    found = ours(images, truth(0))
    if name in FRCNN:
        ours.proposer, ours.roi = saved
        pairs = {
            "rpn.cls": "loss_objectness",
            "rpn.box": "loss_rpn_box_reg",
            "cls": "loss_classifier",
            "box": "loss_box_reg",
        }
    else:
        pairs = {"cls": "classification", "box": "bbox_regression"}
    if name.startswith("fcos"):
        pairs["quality"] = "bbox_ctrness"
    theirs.eval()
    for k, v in pairs.items():
        assert found[k].item() == pytest.approx(expected[v].item(), rel=1e-5), k


def test_same_detections_from_the_command_line(both, tmp_path) -> None:
    """torchvision's checkpoint and an image file that needs no resizing (torchvision resizes floats, foveal bytes).

    The model for inference has its norms folded into its convolutions, hence the wider tolerances.
    """
    name, theirs, _ = both
    pixels = (sample_images()[0][:, :SHORT, :SHORT + 64] * 255).round().to(torch.uint8)  # fmt: skip
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(tmp_path / "image.png")
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    settings = [f"input.short={SHORT}", f"input.long={LONG}"]
    if name in FRCNN:
        settings.append("test_proposals=Counts(150, 150)")
    words = ["predict", str(tmp_path / "theirs.pth"), str(tmp_path / "image.png"), "--preset", PRESET[name]]
    files = ["--out", str(tmp_path / "drawn"), "--json", str(tmp_path / "found.json")]
    assert cli.main([*words, *files, "--score", "0", "--precision", "32", "--device", "cpu", *settings]) == 0
    (found,) = json.loads((tmp_path / "found.json").read_text())
    with torch.inference_mode():
        expected = theirs([pixels / 255])[0]
    assert len(found["detections"]) == len(expected["scores"]) > 0
    names = ["unused 0" if name in RETINA else "background", *(f"class {i}" for i in range(1, CLASSES))]
    labels = torch.tensor([names.index(d["label"]) for d in found["detections"]])
    answer = Detections(
        torch.tensor([d["box"] for d in found["detections"]]),
        torch.tensor([d["score"] for d in found["detections"]]),
        labels,
        tuple(names),
    )
    same_detections(answer, expected["boxes"], expected["scores"], expected["labels"], 2e-3, 5e-5, most=0.98)
