"""SSD300 and SSDLite against torchvision's own classes with the same (random) weights.

Tolerances: head outputs 1e-5 relative, boxes 1e-3 px, the same detections, losses 1e-5 relative. Reference: torchvision
0.29.2.
"""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.models import detection as peer

from foveal import presets
from foveal.cli import main as cli
from foveal.types import Detections
from foveal.weights.keys_torchvision import torchvision_to_ours
from tests.parity.test_torchvision import close, same_detections, sample_images, truth

NAMES = ("ssd300_vgg16", "ssdlite320_mobilenet_v3_large")
CLASSES = 7  # torchvision's count, background included: the function does not depend on it


def lively(model: nn.Module) -> None:
    """Statistics and weights that keep the outputs of random networks in range and different at every location."""
    g = torch.Generator().manual_seed(7)
    for name, m in model.named_modules():
        if isinstance(m, nn.BatchNorm2d):
            n = m.num_features
            m.weight.data = 0.8 + 0.4 * torch.rand(n, generator=g)
            m.bias.data = 0.1 * torch.randn(n, generator=g)
            m.running_mean = 0.1 * torch.randn(n, generator=g)
            m.running_var = 0.02 + 0.02 * torch.rand(n, generator=g)
        if name == "backbone.features.0" and isinstance(m, nn.Conv2d):
            m.weight.data /= 60  # pixels are levels from 0 to 255 here
        if isinstance(m, nn.Conv2d) and m.bias is not None and "module_list" in name:
            kind = 1.0 if "classification" in name else 0.3
            m.bias.data = kind * torch.randn(m.bias.shape, generator=g)
            m.weight.data *= 2


@pytest.fixture(scope="module", params=NAMES)
def both(request):
    name = request.param
    torch.manual_seed(3)
    theirs = getattr(peer, name)(weights=None, weights_backbone=None, num_classes=CLASSES)
    lively(theirs)
    ours = presets.get(name).build([f"c{i}" for i in range(CLASSES - 1)])
    ours.load_state_dict(torchvision_to_ours(theirs.state_dict()))  # no missing or unexpected keys
    return name, theirs.eval(), ours.eval()


def theirs_to_ours(logits: torch.Tensor) -> torch.Tensor:
    """Background from the first column to the last."""
    return logits.roll(-1, -1)


def test_heads_priors_and_detections(both) -> None:
    _, theirs, ours = both
    images = sample_images()
    seen: dict[str, object] = {}
    hooks = [
        theirs.head.register_forward_hook(lambda m, i, o: seen.update(head=o)),
        theirs.anchor_generator.register_forward_hook(lambda m, i, o: seen.update(priors=o)),
    ]
    with torch.inference_mode():
        expected = theirs(images)
        outputs = ours.outputs(ours.spec.input.batch_tensors(images))
        found = ours(images)
    for hook in hooks:
        hook.remove()
    assert (outputs.priors.boxes - seen["priors"][0]).abs().max() < 1e-3
    close(outputs.layers[-1].logits, theirs_to_ours(seen["head"]["cls_logits"]))
    close(outputs.layers[-1].deltas, seen["head"]["bbox_regression"])
    for e, f in zip(expected, found, strict=True):
        assert len(f) == len(e["scores"]) > 50
        torch.testing.assert_close(f.scores, e["scores"], rtol=0, atol=2e-5)
        same_detections(f, e["boxes"], e["scores"], e["labels"] - 1)


def test_losses(both) -> None:
    """In the second image two objects have the same best prior: torchvision assigns the later one."""
    _, theirs, ours = both
    theirs.train()
    for m in theirs.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.eval()
    boxes = [truth(0)[0]["boxes"], torch.tensor([[20.0, 40, 140, 200], [21, 41, 140, 200], [100, 5, 130, 40]])]
    labels = [torch.tensor([0, 4, 2]), torch.tensor([3, 1, 5])]
    ours_truth, theirs_truth = (
        [{"boxes": b, "labels": k + shift} for b, k in zip(boxes, labels, strict=True)] for shift in (0, 1)
    )
    with torch.no_grad():
        expected = theirs(sample_images(), theirs_truth)
        found = ours(sample_images(), ours_truth)
    theirs.eval()
    for k, v in {"cls": "classification", "box": "bbox_regression"}.items():
        assert found[k].item() == pytest.approx(expected[v].item(), rel=1e-5), k


def test_same_detections_from_the_command_line(both, tmp_path) -> None:
    """torchvision's checkpoint and an image file that needs no resizing (torchvision resizes floats, foveal bytes).

    The model for inference has its norms folded into its convolutions, hence the wider tolerances.
    """
    _, theirs, ours = both
    side = ours.spec.input.canvas(())[0]
    pixels = nn.functional.interpolate(sample_images()[0][None], (side, side), mode="bicubic")[0].clamp(0, 1)
    pixels = (pixels * 255).round().to(torch.uint8)
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(tmp_path / "image.png")
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    words = ["predict", str(tmp_path / "theirs.pth"), str(tmp_path / "image.png")]
    files = ["--out", str(tmp_path / "drawn"), "--json", str(tmp_path / "found.json")]
    assert cli.main([*words, *files, "--score", "0", "--precision", "32", "--device", "cpu"]) == 0
    (found,) = json.loads((tmp_path / "found.json").read_text())
    with torch.inference_mode():
        expected = theirs([pixels / 255])[0]
    assert len(found["detections"]) == len(expected["scores"]) > 50
    names = ["background", *(f"class {i}" for i in range(1, CLASSES))]
    answer = Detections(
        torch.tensor([d["box"] for d in found["detections"]]),
        torch.tensor([d["score"] for d in found["detections"]]),
        torch.tensor([names.index(d["label"]) for d in found["detections"]]),
        tuple(names),
    )
    same_detections(answer, expected["boxes"], expected["scores"], expected["labels"], 2e-3, 5e-5, most=0.98)
