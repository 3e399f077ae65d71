"""DETR checkpoints: import and export in the formats of the original code and of transformers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from foveal.checkpoints.export import export
from foveal.checkpoints.foreign.detr import import_detr, label_names
from foveal.checkpoints.load import find
from foveal.config.overrides import override
from foveal.errors import FovealError, UsageError
from foveal.parts.backbones.torchvision import Torchvision
from foveal.parts.resizing import Resize
from foveal.types import Images
from foveal.weights.coco_names import COCO_NAMES
from foveal.weights.keys_detr import detr_to_theirs
from tests.checkpoints.test_huggingface import CLASSES, SMALL, same


@pytest.fixture(scope="module")
def detr() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return SMALL.build(CLASSES).state_dict()


def test_transformers_reads_a_detr(detr: dict[str, Tensor], tmp_path: Path) -> None:
    """The folder alone, both namings of the ResNet inside: equal logits and boxes. Reference: transformers 5.23.0."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    ours = SMALL.build(CLASSES).eval()
    ours.load_state_dict(detr)
    pixels = torch.randn(1, 3, 64, 96)
    for inner in ("timm", "transformers"):
        export(tmp_path / inner, "hf", SMALL, CLASSES, detr, inner=inner)  # type: ignore[arg-type]
        theirs = transformers.DetrForObjectDetection.from_pretrained(tmp_path / inner).eval()
        assert theirs.config.id2label == dict(enumerate(CLASSES))
        with torch.inference_mode():
            expected = theirs(pixels)
            size = torch.tensor([[64, 96]])
            found = ours.outputs(Images(pixels, size, torch.tensor([[1.0, 1, 0, 0]]), size)).layers[-1]
        assert (found.logits - expected.logits).abs().max() <= 1e-5 * expected.logits.abs().max()
        assert (found.deltas - expected.pred_boxes).abs().max() <= 1e-5


def test_names_of_a_config() -> None:
    assert label_names({"0": "N/A", "1": "person", "2": "N/A", "3": "person"}, "c") == (
        "unused 0", "person", "unused 2", "person (3)",
    )  # fmt: skip
    for bad in ({"0": "a", "2": "b"}, ["a"], {"x": "a"}, None):
        with pytest.raises(FovealError, match="id2label"):
            label_names(bad, "c")


def test_unsupported_config_settings_are_rejected(detr: dict[str, Tensor]) -> None:
    """Settings that would be computed differently are rejected in one line, and so are invalid numbers."""
    theirs = detr_to_theirs(detr, "transformers")
    file = "m/model.safetensors"
    for config, words in (
        ({"activation_function": "gelu"}, "activation_function is 'gelu'"),
        ({"position_embedding_type": "learned"}, "'learned', only 'sine'"),
        ({"decoder_attention_heads": 2.5}, "decoder_attention_heads is 2.5, expected a number"),
        ({"dropout": "no"}, "dropout is 'no', expected a number"),
        ({"decoder_attention_heads": 3}, "expected width a multiple of heads"),
        ({"encoder_ffn_dim": 7}, "encoder_ffn_dim is 7, the decoder's is 48"),
    ):
        with pytest.raises(FovealError, match=rf"^{file}: .*{words}"):
            import_detr(theirs, file, config=config)
    for processor, words in (
        ({"do_normalize": False}, "do_normalize is False, only True"),
        ({"resample": 3}, "resample is 3, only 2"),
        ({"rescale_factor": 1 / 128}, "rescale_factor"),
        ({"size": {"height": 800, "width": 800}}, "height"),
        ({"size": {"shortest_edge": None, "longest_edge": 9}}, "shortest_edge"),
        ({"image_mean": [0.5]}, "image_mean"),
        ({"image_std": [1, 1, 0]}, "image_std"),
        ({"image_std": "x"}, "image_std"),
    ):
        with pytest.raises(FovealError, match=rf"^{file}: .*{words}"):
            import_detr(theirs, file, processor=processor)


def test_missing_config_settings_take_transformers_defaults(detr: dict[str, Tensor]) -> None:
    theirs = detr_to_theirs(detr, "transformers")
    assert import_detr(theirs, "m")[0].head.heads == 2  # of width 64, by the published forms' 32 a head
    assert import_detr(theirs, "m", config={"model_type": "detr"})[0].head.heads == 8
    old = import_detr(theirs, "m", processor={"size": 480, "max_size": 640})[0].input
    assert isinstance(old, Resize) and (old.short, old.long) == (480, 640)


def test_coco_names_of_a_bare_state_dict(tmp_path: Path) -> None:
    state = SMALL.build(COCO_NAMES).state_dict()
    save_file(detr_to_theirs(state, "original"), tmp_path / "detr.safetensors")
    found = find(tmp_path / "detr.safetensors")
    assert found.classes == COCO_NAMES and found.spec().backbone == Torchvision("resnet50")


@pytest.mark.parametrize("change", ["task.cls_loss=Focal()", "neck.index=-2", "backbone.eps=1e-3", "input.multiple=32"])
def test_unsupported_detr_is_not_exported_to_transformers(change: str, tmp_path: Path) -> None:
    """No column for "no object", another feature map, other norms: files that would be misread."""
    spec = override(SMALL, [change])
    state = spec.build(CLASSES).state_dict()
    if not change.startswith("input"):  # a state dict has no image sizes
        with pytest.raises(UsageError, match=rf"{change.partition('=')[0]}=.*other projects have no such setting"):
            export(tmp_path / "m.pth", "detr", spec, CLASSES, state)
    export(tmp_path / "m", "hf", spec, CLASSES, state)
    assert json.loads((tmp_path / "m" / "config.json").read_text())["model_type"] == "foveal"
    found = find(tmp_path / "m")
    assert found.spec() == spec.with_pixels() and same(found.state, state)
