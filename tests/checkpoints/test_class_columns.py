"""Columns of classes that the weights know by name: outputs of these classes are those of the trained detector."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import detection as tv

from foveal import presets
from foveal.assembly.detector import Detector
from foveal.checkpoints.class_columns import COCO_80, class_key, same_classes
from foveal.checkpoints.initial import darknet_names, find_spec, load_weights
from foveal.checkpoints.transfer import transfer
from foveal.config.overrides import override
from foveal.detectors.darknet import DarknetDetector
from foveal.detectors.detr import DETR
from foveal.parts.darknet.cfg import read_names
from foveal.parts.heads.transformer import Transformer
from foveal.parts.resizing import Resize
from foveal.types import Images
from foveal.weights.coco_names import COCO_NAMES
from foveal.weights.keys_detr import detr_to_theirs

THERE = ("unused 0", "cat", "aeroplane", "unused 3", "Traffic Light", "dog")
HERE = ("dog", "zebra", "airplane", "traffic_light")
SAME = {0: 5, 2: 2, 3: 4}
SMALL_DETR = DETR(
    input=Resize(64, 96, multiple=1), head=Transformer(queries=5, width=64, heads=2, encoder=1, decoder=1, hidden=32)
)


def test_names_are_compared_without_case_spaces_and_with_exact_synonyms() -> None:
    assert same_classes(HERE, THERE) == SAME
    assert class_key("TV monitor") == class_key("tv") and class_key("sofa") == class_key("Couch")
    assert class_key("cats") != class_key("cat") and class_key("motor") != class_key("motorcycle")


def test_darknets_names_of_coco_are_the_80_of_the_91_columns(data: Path) -> None:
    """Its spelling differs in six: motorbike, aeroplane, sofa, pottedplant, diningtable, tvmonitor."""
    names = read_names(data / "weights/yolo-fastest/coco.names")
    found = same_classes(names, COCO_NAMES)
    assert len(found) == 80 and list(found.values()) == sorted(found.values())
    assert [COCO_NAMES[k] for k in found.values()] == list(COCO_80)


def pair(spec: object) -> tuple[Detector, Detector, list[str]]:
    """The trained detector, one for HERE that starts from it, and the notes of the report."""
    torch.manual_seed(0)
    trained, fresh = (spec.build(classes).eval() for classes in (THERE, HERE))  # type: ignore[attr-defined]
    for parameter in trained.parameters():
        parameter.data += 0.01 * torch.randn_like(parameter)
    report = transfer(fresh, trained.state_dict(), "w", THERE)
    assert not report.new and not report.unused
    return trained, fresh, list(report.notes)


def same(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    """Equal but for the order of additions, which depends on the number of outputs and of threads."""
    return torch.allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "name", ["retinanet_mini", "softmax", "fcos_mini", "ssd_mini", "yolo_v2_mini", "yolo_v3_mini", "detr"]
)
@torch.no_grad()
def test_one_stage_outputs_of_known_classes_are_equal(name: str) -> None:
    softmax = override(presets.get("retinanet_mini"), ["task.cls_loss=CrossEntropy()"])
    spec = {"detr": SMALL_DETR, "softmax": softmax}.get(name) or presets.get(name)
    trained, fresh, notes = pair(spec)
    assert notes == ["3 of 4 classes keep their columns of the 6 there: dog, airplane, traffic_light; "
                     "newly initialized: zebra"]  # fmt: skip
    size = torch.tensor([[256, 256]])
    images = Images(torch.randn(1, 3, 256, 256), size, torch.tensor([[1.0, 1, 0, 0]]), size)
    theirs, ours = (detector.outputs(images).layers[-1] for detector in (trained, fresh))
    for here, there in SAME.items():
        assert same(ours.logits[..., here], theirs.logits[..., there])
    assert not same(ours.logits[..., 1], theirs.logits[..., 1])  # cat's column is not zebra's
    assert same(ours.deltas, theirs.deltas)
    if ours.logits.shape[-1] > len(HERE):  # background
        assert same(ours.logits[..., -1], theirs.logits[..., -1])
    if ours.quality is not None and theirs.quality is not None:
        assert same(ours.quality, theirs.quality)


@torch.no_grad()
def test_two_stage_outputs_of_known_classes_are_equal() -> None:
    """Softmax with a background, a box for each class, and masks."""
    trained, fresh, _ = pair(presets.get("mask_rcnn_mini"))
    theirs, ours = (d.get_submodule("roi_head.predictor") for d in (trained, fresh))
    vectors = torch.randn(3, 256)
    (scores, boxes), (their_scores, their_boxes) = ours(vectors), theirs(vectors)
    assert boxes.shape == (3, 4, 4)
    for here, there in SAME.items():
        assert same(scores[:, here], their_scores[:, there])
        assert same(boxes[:, here], their_boxes[:, there])
        masks = [d.get_parameter("mask_head.predictor.mask_fcn_logits.weight") for d in (fresh, trained)]
        assert same(masks[0][here], masks[1][there])
    assert same(scores[:, -1], their_scores[:, -1])


def test_nothing_is_taken_where_no_name_is_known_or_rows_are_not() -> None:
    spec = presets.get("retinanet_mini")
    state = spec.build(THERE).state_dict()
    report = transfer(spec.build(["horse"]), state, "w", THERE)
    assert list(report.new) == ["1 classes here, 6 there"] and not report.notes
    softmax = override(spec, ["task.cls_loss=CrossEntropy()"])  # a background here, none there
    report = transfer(softmax.build(["dog"]), state, "w", THERE)
    assert list(report.new) == ["1 classes here, 6 there"] and not report.notes
    grid = override(presets.get("yolo_v1_mini"), ["head=GridHead(side=20, hidden=8)"])  # classes of all cells first
    report = transfer(grid.build(["dog"]), grid.build(THERE).state_dict(), "w", THERE)
    assert list(report.new) == ["1 classes here, 6 there"]


def test_a_darknet_file_gets_its_names_from_beside_it_or_from_coco(data: Path, tmp_path: Path) -> None:
    folder = data / "weights/yolo-fastest"
    file, unnamed = folder / "yolo-fastest-1.1.weights", tuple(f"class {k}" for k in range(80))
    names, note = darknet_names(file, unnamed, 3)
    assert names == read_names(folder / "coco.names") and note and "names file" in note
    names, note = darknet_names(tmp_path / "x.weights", unnamed, 3)
    assert names == COCO_80 and note and "taken for COCO's" in note
    assert darknet_names(file, unnamed, 80) == (unnamed, None)  # as many: of the data, as ever
    (tmp_path / "bad.names").write_text("")
    assert darknet_names(tmp_path / "x.weights", unnamed[:20], 3) == (unnamed[:20], None)


def test_a_coco_detector_fine_tunes_on_three_of_its_classes(data: Path) -> None:
    folder = data / "weights/yolo-fastest"
    spec = DarknetDetector.from_cfg(folder / "yolo-fastest-1.1.cfg")
    fresh = spec.build(["cat", "dog", "car"])
    report = load_weights(fresh, folder / "yolo-fastest-1.1.weights")
    assert not report.new and "3 of 3 classes keep their columns of the 80 there: cat, dog, car" in report.notes


def test_files_of_91_columns(tmp_path: Path) -> None:
    """torchvision's, where the background is the column of COCO's id 0, and DETR's."""
    model = tv.fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None, num_classes=91)
    torch.save(model.state_dict(), tmp_path / "own_320.pth")
    fresh = find_spec(tmp_path / "own_320.pth")[0].build(["Dog", "wolf", "person"])
    report = load_weights(fresh, tmp_path / "own_320.pth")
    assert "2 of 3 classes keep their columns of the 90 there: Dog, person; newly initialized: wolf" in report.notes
    score = fresh.get_parameter("roi_head.predictor.cls_score.weight")
    for row, column in ((0, 18), (2, 1), (3, 0)):  # COCO's ids of dog and person; torchvision's background
        assert torch.equal(score[row], model.roi_heads.box_predictor.cls_score.weight[column])
    box = fresh.get_parameter("roi_head.predictor.bbox_pred.bias").view(3, 4)
    assert torch.equal(box[0], model.roi_heads.box_predictor.bbox_pred.bias.view(91, 4)[18])

    trained = SMALL_DETR.build(COCO_NAMES)
    save_file(detr_to_theirs(trained.state_dict(), "original"), tmp_path / "detr.safetensors")
    fresh = find_spec(tmp_path / "detr.safetensors")[0].build(["tie", "cat"])
    report = load_weights(fresh, tmp_path / "detr.safetensors")
    assert "2 of 2 classes keep their columns of the 91 there: tie, cat" in report.notes
    embed = fresh.get_parameter("head.class_embed.weight")
    assert torch.equal(embed, trained.get_parameter("head.class_embed.weight")[[32, 17, 91]])


def test_values_that_are_not_finite_are_refused_in_columns_too() -> None:
    spec = replace(presets.get("retinanet_mini"))
    state = spec.build(THERE).state_dict()
    state["head.classification_head.cls_logits.bias"][5] = torch.nan  # of the dog
    with pytest.raises(Exception, match="not finite: head"):
        transfer(spec.build(["dog"]), state, "w", THERE)
