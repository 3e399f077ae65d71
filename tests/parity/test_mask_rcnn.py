"""Mask R-CNN against torchvision 0.29.2 with the same random weights, from the reference's checkpoint file.

Tolerances: mask logits 1e-5 relative, boxes 1e-3 px, masks equal on 99.9 % of the pixels, losses 1e-5 relative. The
images need no resizing: torchvision resizes masks by half a pixel to the lower right, ours go with their boxes.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models import detection as peer

from foveal.assembly.proposers import Counts
from foveal.checkpoints.foreign.torchvision import import_weights
from foveal.parts.samplers import All
from foveal.weights.keys_torchvision import recognize_network, to_torchvision, torchvision_to_ours, upgrade
from tests.parity.test_torchvision import close, lively, same_detections

NAMES = ("maskrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn_v2")
CLASSES, COUNT = 7, 100
SIZES = ((128, 200), (224, 128))  # short 128, long 224 at most: a scale of one


@pytest.fixture(scope="module", params=NAMES)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    torch.manual_seed(3)
    theirs = getattr(peer, request.param)(weights=None, weights_backbone=None, num_classes=CLASSES)
    lively(theirs)
    theirs.transform.min_size, theirs.transform.max_size = (128,), 224
    theirs.rpn._pre_nms_top_n = theirs.rpn._post_nms_top_n = {"training": COUNT, "testing": COUNT}
    with torch.inference_mode():  # random weights predict all or nothing inside: center the logits of each class
        last, seen = theirs.roi_heads.mask_predictor.mask_fcn_logits, []
        hook = last.register_forward_hook(lambda m, i, o: seen.append(o))
        theirs.eval()(sample_images())
        hook.remove()
        last.bias -= seen[0].transpose(0, 1).flatten(1).median(1).values
    file = tmp_path_factory.mktemp("weights") / "theirs.pth"
    torch.save(theirs.state_dict(), file)
    spec, classes, state = import_weights(file)
    counts = Counts(COUNT, COUNT)
    spec = replace(spec, input=replace(spec.input, short=128, long=224), train_proposals=counts, test_proposals=counts)
    ours = spec.build(classes)
    missing, unexpected = ours.load_state_dict(state, strict=False)
    assert not [k for k in (*missing, *unexpected) if not k.endswith("num_batches_tracked")]
    return request.param, theirs.eval(), ours.eval()


def sample_images() -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    return [
        nn.functional.interpolate(torch.randn(1, 3, h // 12, w // 12, generator=g), (h, w), mode="bicubic").sigmoid()[0]
        for h, w in SIZES
    ]


def truth(shift: int) -> list[dict[str, torch.Tensor]]:
    """Ellipses in their boxes, one of them with a piece cut out."""
    boxes = [
        torch.tensor([[10.0, 12, 90, 120], [60, 30, 200, 110], [100, 5, 130, 40]]),
        torch.tensor([[20.0, 40, 120, 200]]),
    ]
    labels = [torch.tensor([0, 4, 2]), torch.tensor([5])]
    targets = []
    for own, label, (h, w) in zip(boxes, labels, SIZES, strict=True):
        y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
        center, half = (own[:, :2] + own[:, 2:]) / 2, (own[:, 2:] - own[:, :2]) / 2
        u = (x + 0.5 - center[:, 0, None, None]) / half[:, 0, None, None]
        v = (y + 0.5 - center[:, 1, None, None]) / half[:, 1, None, None]
        masks = u**2 + v**2 < 1
        masks[0, : int(center[0, 1]), : int(center[0, 0])] = False
        targets.append({"boxes": own, "labels": label + shift, "masks": masks.to(torch.uint8)})
    return targets


def test_heads_boxes_and_masks(both: Any) -> None:
    _, theirs, ours = both
    images = sample_images()
    seen: dict[str, Any] = {}
    hooks = [
        theirs.roi_heads.register_forward_hook(lambda m, i, o: seen.update(roi=o[0])),
        theirs.roi_heads.mask_predictor.register_forward_hook(lambda m, i, o: seen.update(logits=o)),
    ]
    with torch.inference_mode():
        expected = theirs(images)
        batch = ours.spec.input.batch_tensors(images)
        outputs = ours.outputs(batch)
        found = ours(images)
    for hook in hooks:
        hook.remove()
    # the head on the boxes of the reference
    own = seen["roi"]
    longest = max(len(r["labels"]) for r in own)
    boxes, labels = torch.zeros(2, longest, 4), torch.zeros(2, longest, dtype=torch.int64)
    valid = torch.zeros(2, longest, dtype=torch.bool)
    for i, r in enumerate(own):
        n = len(r["labels"])
        assert n > 5
        boxes[i, :n], labels[i, :n], valid[i, :n] = r["boxes"], r["labels"] - 1, True
    with torch.inference_mode():
        logits = ours.mask_head(outputs.features, boxes, labels, ours.strides)[valid]
    close(logits, seen["logits"][torch.arange(len(logits)), labels[valid] + 1])
    # all of it
    for e, f in zip(expected, found, strict=True):
        assert len(f) == len(e["scores"])
        same_detections(f, e["boxes"], e["scores"], e["labels"] - 1)
        distance = (f.boxes[:, None] - e["boxes"]).abs().amax(2) + 1e3 * (f.labels[:, None] != e["labels"] - 1)
        which = distance.argmin(1)
        masks = e["masks"][which, 0] > 0.5
        assert f.masks is not None
        equal = (torch.from_numpy(f.masks.dense()) == masks).double().mean()
        assert equal >= 0.999 and 0.001 < masks.double().mean() < 0.999, equal


def test_losses(both: Any) -> None:
    _, theirs, ours = both
    theirs.train()
    for m in theirs.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.eval()
    saved = theirs.rpn.fg_bg_sampler.batch_size_per_image, theirs.roi_heads.fg_bg_sampler.batch_size_per_image
    theirs.rpn.fg_bg_sampler.batch_size_per_image = theirs.roi_heads.fg_bg_sampler.batch_size_per_image = 10**9
    tasks = ours.proposer, ours.roi
    ours.proposer = replace(ours.proposer, task=replace(ours.proposer.task, sampler=All()))
    ours.roi = replace(ours.roi, sampler=All())
    expected = theirs(sample_images(), truth(1))
    found = ours(sample_images(), truth(0))
    ours.proposer, ours.roi = tasks
    theirs.eval()
    theirs.rpn.fg_bg_sampler.batch_size_per_image, theirs.roi_heads.fg_bg_sampler.batch_size_per_image = saved
    names = {
        "rpn.cls": "loss_objectness",
        "rpn.box": "loss_rpn_box_reg",
        "cls": "loss_classifier",
        "box": "loss_box_reg",
        "mask": "loss_mask",
    }
    assert set(found) == set(names)
    for k, v in names.items():
        assert found[k].item() == pytest.approx(expected[v].item(), rel=1e-5), k


def test_weights_round_trip(both: Any, tmp_path: Path) -> None:
    name, theirs, _ = both
    state = theirs.state_dict()
    assert recognize_network(state, "x.pth") == "mask_rcnn" + name.removeprefix("maskrcnn").replace("resnet", "r")
    back = to_torchvision(torchvision_to_ours(state))
    assert back.keys() == state.keys()
    for key, value in state.items():  # the background's mask and box are dropped, and nothing reads them
        first = {"mask_fcn_logits": 1, "bbox_pred": 4}.get(key.split(".")[-2], 0)
        assert torch.equal(back[key][first:] if first else back[key], value[first:] if first else value), key
    if name.endswith("v2"):
        return
    old = {}
    for key, value in state.items():  # torchvision 0.12 and before
        key = re.sub(r"mask_head\.(\d)\.0\.", lambda m: f"mask_head.mask_fcn{int(m[1]) + 1}.", key)
        old[key.replace("rpn.head.conv.0.0.", "rpn.head.conv.")] = value
    assert upgrade(old).keys() == state.keys()
