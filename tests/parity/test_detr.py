"""DETR against transformers' ``DetrForObjectDetection`` with the same random weights, its own ResNet or timm's.

Tolerances: logits and relative boxes 1e-5, losses 1e-5 relative. Reference: transformers 5.23.0.

One behavior of the reference is bypassed: with ``auxiliary_loss=True`` its decoder gives the *normalized* state to the
next layer, unlike the original code (and the reference without auxiliary losses). So the states of the layers come
from a pass without, and the reference's loss function is called on the outputs of its heads for them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from foveal import presets
from foveal.assembly.detector import Detector
from foveal.detectors.detr import DETR
from foveal.parts.backbones.torchvision import Torchvision
from foveal.parts.heads.transformer import Transformer
from foveal.parts.losses.box import L1, GIoU
from foveal.parts.losses.normalizers import Positives
from foveal.parts.resizing import Resize
from foveal.types import Images, Target, Targets
from foveal.weights.keys_detr import detr_to_ours, detr_to_theirs

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

CLASSES, QUERIES, LAYERS = 7, 12, 3
HEAD = Transformer(queries=QUERIES, width=64, heads=4, encoder=2, decoder=LAYERS, hidden=96)
SIZES = [(96, 128), (75, 100), (128, 64)]  # height and width of the images of one batch


def peer_model(inner: str) -> nn.Module:
    """Small but for the ResNet-50, in evaluation."""
    body: dict[str, Any] = (
        {"backbone_config": transformers.ResNetConfig(out_features=["stage4"])}
        if inner == "transformers"
        else {"backbone": "resnet50", "use_timm_backbone": True, "dilation": True}
    )
    config = transformers.DetrConfig(
        d_model=64, encoder_layers=2, decoder_layers=LAYERS, encoder_attention_heads=4, decoder_attention_heads=4,
        encoder_ffn_dim=96, decoder_ffn_dim=96, num_queries=QUERIES, num_labels=CLASSES, **body,
    )  # fmt: skip
    torch.manual_seed(3)
    model: nn.Module = transformers.DetrForObjectDetection(config)
    enliven(model)
    return model.eval()


@torch.no_grad()
def enliven(model: nn.Module) -> None:
    """Weights that vary like trained ones: with the initial ones all locations and queries give equal outputs."""
    g = torch.Generator().manual_seed(7)
    for name, value in model.state_dict().items():
        if "backbone" in name:
            if name.endswith(("bn3.weight", "layer.2.normalization.weight")):
                value.fill_(0.25)  # fifty layers of random weights would make a large difference of a rounding
            continue
        if "norm" in name or name.endswith("bias"):
            value.add_(0.2 * torch.randn(value.shape, generator=g))
        else:
            spread = 2.0 if ".q_proj" in name or "bbox" in name else 1.0
            spread /= 1.0 if "query" in name else value.shape[1] ** 0.5
            value.copy_(spread * torch.randn(value.shape, generator=g))
    norms = [m for m in model.modules() if type(m).__name__ == "DetrFrozenBatchNorm2d"]

    def set_statistics(norm: Any, inputs: tuple[Tensor]) -> None:
        norm.running_mean.copy_(inputs[0].mean((0, 2, 3)))
        norm.running_var.copy_(inputs[0].var((0, 2, 3)))

    hooks = [norm.register_forward_pre_hook(set_statistics) for norm in norms]
    seen = batch(SIZES, (128, 128))
    model.model.backbone(seen.pixels, pixel_mask(seen))
    for hook in hooks:
        hook.remove()


@pytest.fixture(scope="module", params=["transformers", "timm"])
def both(request: pytest.FixtureRequest) -> tuple[nn.Module, Detector]:
    theirs = peer_model(request.param)
    spec = DETR(
        input=Resize(96, 128, multiple=1),
        backbone=Torchvision("resnet50", dilated=request.param == "timm"),
        head=HEAD,
    )
    ours = spec.build([f"c{i}" for i in range(CLASSES)]).eval()
    ours.load_state_dict(detr_to_ours(theirs.state_dict()))
    return theirs, ours


@pytest.fixture(scope="module")
def images() -> Images:
    return batch(SIZES, (128, 128))


def batch(sizes: list[tuple[int, int]], canvas: tuple[int, int], first: int = 0) -> Images:
    pixels = torch.zeros(len(sizes), 3, *canvas)
    for i, (h, w) in enumerate(sizes):
        pixels[i, :, :h, :w] = sample_image(i + first, h, w)
    size = torch.tensor(sizes)
    return Images(pixels, size, torch.tensor([[1.0, 1, 0, 0]] * len(sizes)), size)


def sample_image(seed: int, height: int, width: int) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, 3, 9, 11, generator=g)
    return nn.functional.interpolate(coarse, (height, width), mode="bicubic")[0]


def pixel_mask(images: Images) -> Tensor:
    h, w = images.pixels.shape[-2:]
    down, across = torch.arange(h) < images.sizes[:, :1], torch.arange(w) < images.sizes[:, 1:]
    return (down[:, :, None] & across[:, None]).long()


def truth() -> list[Target]:
    boxes = [[[10.0, 12, 70, 80], [60, 30, 120, 90], [90, 5, 110, 40]], [], [[4.0, 20, 50, 120]]]
    labels = [[0, 4, 2], [], [6]]
    return [
        Target(torch.tensor(b).reshape(-1, 4), torch.tensor(k, dtype=torch.int64))
        for b, k in zip(boxes, labels, strict=True)
    ]


def test_logits_and_boxes(both: tuple[nn.Module, Detector], images: Images) -> None:
    theirs, ours = both
    with torch.inference_mode():
        expected = theirs(images.pixels, pixel_mask(images))
        found = ours.outputs(images).layers[-1]
    assert expected.logits.std(1).mean() > 0.05 and expected.pred_boxes.std(1).mean() > 0.01  # queries differ
    assert (found.logits - expected.logits).abs().max() <= 1e-5 * expected.logits.abs().max()
    assert (found.deltas - expected.pred_boxes).abs().max() <= 1e-5


def test_postprocessed_results(both: tuple[nn.Module, Detector], images: Images) -> None:
    """One class and score for every query; ours are sorted by score and clipped to the image."""
    theirs, ours = both
    with torch.inference_mode():
        answer = theirs(images.pixels, pixel_mask(images))
        found = ours(images)
    expected = transformers.DetrImageProcessor().post_process_object_detection(answer, 0.0, images.sizes)
    for e, f, (height, width) in zip(expected, found, SIZES, strict=True):
        order = e["scores"].argsort(descending=True, stable=True)
        limit = torch.tensor([width, height, width, height])
        torch.testing.assert_close(f.scores, e["scores"][order], rtol=0, atol=1e-5)
        assert len(f) == QUERIES
        for box, score, label in zip(e["boxes"].clamp(min=0).minimum(limit), e["scores"], e["labels"], strict=True):
            near = (f.boxes - box).abs().amax(1) <= 1e-5 * 128 * 2
            assert (near & (f.labels == label) & ((f.scores - score).abs() <= 1e-5)).any()


def test_losses_of_every_layer(both: tuple[nn.Module, Detector], images: Images) -> None:
    from transformers.loss.loss_for_object_detection import HungarianMatcher, ImageLoss

    theirs, ours = both
    with torch.no_grad():
        answer = theirs(images.pixels, pixel_mask(images), output_hidden_states=True)
        hidden = answer.decoder_hidden_states[1:-1]  # behind each layer but the last
        states = torch.stack([theirs.model.decoder.layernorm(h) for h in hidden])
        logits, boxes = theirs.class_labels_classifier(states), theirs.bbox_predictor(states).sigmoid()
        layers = [{"logits": k, "pred_boxes": b} for k, b in zip(logits, boxes, strict=True)]
        layers.append({"logits": answer.logits, "pred_boxes": answer.pred_boxes})
        labels = []
        for target, (h, w) in zip(truth(), SIZES, strict=True):
            x1, y1, x2, y2 = (target.boxes / torch.tensor([w, h, w, h])).unbind(1)
            relative = torch.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], 1)
            labels.append({"class_labels": target.labels, "boxes": relative})
        criterion = ImageLoss(HungarianMatcher(1, 5, 2), CLASSES, 0.1, ["labels", "boxes"])
        expected = criterion({**layers[-1], "auxiliary_outputs": layers[:-1]}, labels)

        outputs, targets = ours.outputs(images), Targets.pad(truth())
        whole = ours.losses(outputs, images, targets, None)
        saved = ours.task
        parts = {}
        for name, loss in (("loss_bbox", L1(Positives())), ("loss_giou", GIoU(Positives()))):
            ours.task = replace(saved, box_loss=loss)
            parts[name] = ours.losses(outputs, images, targets, None)
        ours.task = saved
    assert len(whole) == 2 * LAYERS
    for i in (*range(LAYERS - 1), None):
        ending, theirs_ending = ("", "") if i is None else (f".{i}", f"_{i}")
        for key, name in (("cls", "loss_ce"), ("box", "loss_bbox"), ("box", "loss_giou")):
            value = whole[key + ending] if key == "cls" else parts[name][key + ending]
            assert value.item() == pytest.approx(expected[name + theirs_ending].item(), rel=1e-5), (name, i)
        total = 5 * expected["loss_bbox" + theirs_ending] + 2 * expected["loss_giou" + theirs_ending]
        assert whole["box" + ending].item() == pytest.approx(total.item(), rel=1e-5)


def test_single_image_with_batch_padding_matches_the_batch(both: tuple[nn.Module, Detector], images: Images) -> None:
    _, ours = both
    with torch.inference_mode():
        together = ours.outputs(images).layers[-1]
        for i, size in enumerate(SIZES):
            alone = ours.outputs(batch([size], (128, 128), first=i)).layers[-1]
            assert (alone.logits[0] - together.logits[i]).abs().max() <= 1e-5 * together.logits.abs().max()
            assert (alone.deltas[0] - together.deltas[i]).abs().max() <= 1e-5


@pytest.mark.parametrize("inner", ["timm", "transformers"])
@pytest.mark.parametrize("form", ["original", "transformers", "transformers-4"])
def test_import_and_export_are_inverses(both: tuple[nn.Module, Detector], form: Any, inner: Any) -> None:
    """Every format: bit-equal tensors under the same keys, in either direction."""
    ours = both[1].state_dict()
    theirs = detr_to_theirs(ours, form, inner)
    back = detr_to_ours(theirs)
    assert back.keys() == ours.keys() and all(torch.equal(back[k], ours[k]) for k in ours)
    again = detr_to_theirs(back, form, inner)
    assert again.keys() == theirs.keys() and all(torch.equal(again[k], theirs[k]) for k in theirs)


def test_exported_keys_match_transformers(both: tuple[nn.Module, Detector]) -> None:
    theirs, ours = both
    inner: Any = "transformers" if any("embedder" in k for k in theirs.state_dict()) else "timm"
    exported = detr_to_theirs(ours.state_dict(), "transformers", inner)
    theirs.load_state_dict(exported)  # strict
    old = detr_to_theirs(ours.state_dict(), "transformers-4", inner)
    assert "model.backbone.conv_encoder.model." in next(k for k in old if "backbone" in k)
    assert "model.encoder.layers.0.fc1.weight" in old and "model.encoder.layers.0.self_attn.out_proj.bias" in old


def test_original_keys() -> None:
    """The names of facebookresearch/detr, from its modules: ``DETR``, ``Transformer``, ``Joiner``."""
    with torch.device("meta"):
        state = presets.detr_r50.build([f"c{i}" for i in range(91)]).state_dict()
    names = set(detr_to_theirs(state, "original"))
    assert {
        "transformer.encoder.layers.5.self_attn.in_proj_weight", "class_embed.bias",
        "transformer.decoder.layers.5.multihead_attn.out_proj.bias",
        "transformer.decoder.norm.weight", "transformer.decoder.layers.0.norm3.bias", "class_embed.weight",
        "bbox_embed.layers.2.bias", "query_embed.weight", "input_proj.weight", "backbone.0.body.layer4.2.conv3.weight",
        "backbone.0.body.bn1.running_mean", "transformer.encoder.layers.0.linear2.weight",
    } <= names  # fmt: skip
