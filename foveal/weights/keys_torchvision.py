"""Converts torchvision's detection checkpoints: keys, class columns, class names, and the preset they fit.

Source: torchvision 0.29's ``models/detection``. foveal's detectors have ``backbone``, ``neck`` and ``head`` (one stage)
or ``backbone``, ``neck``, ``rpn_head``, ``roi_head`` and optionally ``mask_head`` (each a ``trunk`` and a
``predictor``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..errors import FovealError
from .cache import PUBLISHED, digest
from .coco_names import COCO_NAMES
from .keys_torchvision_ssd import check_ssd, is_ssd, recognize_ssd, ssd_columns, ssd_to_ours, ssd_to_torchvision
from .open import StateDict, is_classifier, read_state

# Renamed in torchvision 0.13. The left sides cannot occur in a new file: there every block has one more index.
_OLD = (
    (r"^rpn\.head\.conv\.(weight|bias)$", r"rpn.head.conv.0.0.\1"),
    (r"^backbone\.fpn\.(inner|layer)_blocks\.(\d+)\.(weight|bias)$", r"backbone.fpn.\1_blocks.\2.0.\3"),
)
_OLD_MASK = re.compile(r"^roi_heads\.mask_head\.mask_fcn([1-9])\.(weight|bias)$")  # counted from 1
_FLAT_TOWER = re.compile(r"^(head\.(?:classification|regression)_head\.conv\.)(\d+)\.(weight|bias)$")
# FCOS: convolution, norm and ReLU are one list, 0 to 11; here blocks, as in RetinaNet v2
_FCOS = "head.regression_head.bbox_ctrness.weight"
_FCOS_BLOCK = re.compile(r"^(head\.(?:classification|regression)_head\.conv\.)(\d+)\.(\d+)\.(weight|bias)$")
_PREFIXES = (
    (r"^backbone\.body\.(\d)", r"backbone.features.\1"),  # MobileNet: the body is the list of features
    (r"^backbone\.body\.", "backbone."),
    (r"^backbone\.fpn\.", "neck."),
    (r"^rpn\.head\.", "rpn_head."),
    (r"^roi_heads\.box_head\.", "roi_head.trunk."),
    (r"^roi_heads\.box_predictor\.", "roi_head.predictor."),
    (r"^roi_heads\.mask_head\.", "mask_head.trunk."),
    (r"^roi_heads\.mask_predictor\.", "mask_head.predictor."),
)
_CLASSES, _BOXES = "roi_head.predictor.cls_score.", "roi_head.predictor.bbox_pred."
_MASKS = "mask_head.predictor.mask_fcn_logits."
_RETINA_LOGITS = "head.classification_head.cls_logits.bias"
_RETINA_BOXES = "head.regression_head.bbox_reg.bias"


@dataclass(frozen=True)
class Imported:
    """A converted checkpoint, ready for ``preset.build(classes).load_state_dict(state)``."""

    preset: str  # name of the preset that it fits
    classes: tuple[str, ...]
    state: StateDict
    eps: float | None  # of the frozen norms, where it differs from the preset's


def read_torchvision(
    path: str | Path, *, names: Sequence[str] | None = None, state: StateDict | None = None
) -> Imported:
    """Reads a torchvision detector's file.

    ``names``: of the classes, without background; None: COCO's for 91 columns, otherwise ``class 1``, ``class 2``, ...
    ``state``: the content of the file, if it was read already.
    Raises ``FovealError`` where the file is not a weights file, or not of a supported detector.
    """
    state = upgrade(read_state(path) if state is None else state)
    preset = recognize_network(state, path)
    ours = torchvision_to_ours(state)
    classes = _class_names(ours, names, path)
    return Imported(preset, classes, ours, 0.0 if _needs_zero_eps(Path(path)) else None)


def is_torchvision(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the keys of a supported detector of torchvision; of an SSD, also of a damaged one."""
    if recognize_ssd(state) is not None:
        return True
    if not any(key in state for key in ("rpn.head.cls_logits.weight", _FCOS, _RETINA_LOGITS)):
        return False
    try:
        recognize_network(upgrade(state), "")
    except FovealError:
        return False
    return True


def upgrade(state: Mapping[str, Tensor]) -> StateDict:
    """The keys of torchvision up to 0.12 -> the current ones. FCOS is newer than that."""
    if _FCOS in state:
        return dict(state)
    new: StateDict = {}
    for key, value in state.items():
        for old, now in _OLD:
            key = re.sub(old, now, key)
        mask = _OLD_MASK.match(key)
        if mask:
            key = f"roi_heads.mask_head.{int(mask[1]) - 1}.0.{mask[2]}"
        tower = _FLAT_TOWER.match(key)  # convolutions and ReLUs were one list: 0, 2, 4, 6
        new[f"{tower[1]}{int(tower[2]) // 2}.0.{tower[3]}" if tower else key] = value
    return new


def recognize_network(state: Mapping[str, Tensor], path: str | Path) -> str:
    """The preset that an upgraded state fits. Raises ``FovealError`` with what the file seems to be instead."""
    ssd = recognize_ssd(state)
    if ssd is not None:
        check_ssd(state, path)
        return ssd
    is_resnet = _bottlenecks(state) == (3, 4, 6, 3)
    if "rpn.head.cls_logits.weight" in state and "roi_heads.box_predictor.cls_score.weight" in state:
        if "backbone.body.16.0.weight" in state and "backbone.body.13.block.0.0.weight" in state:
            small = "320" in Path(path).name  # the two differ only in the size of the input
            return "faster_rcnn_mobilenet_v3_large_320_fpn" if small else "faster_rcnn_mobilenet_v3_large_fpn"
        if is_resnet and "backbone.fpn.inner_blocks.0.0.weight" in state:
            name = "mask" if "roi_heads.mask_predictor.conv5_mask.weight" in state else "faster"
            return f"{name}_rcnn_r50_fpn" + ("_v2" if "roi_heads.box_head.5.weight" in state else "")
    if _FCOS in state and is_resnet:
        return "fcos_r50_fpn"
    if _RETINA_LOGITS in state and is_resnet:
        return "retinanet_r50_fpn_v2" if "head.classification_head.conv.0.1.weight" in state else "retinanet_r50_fpn"
    raise FovealError(
        f"is {_guess(state)}, not a supported detector",
        path=path,
        fix="Give one of Faster R-CNN (ResNet-50-FPN v1, v2; MobileNetV3 FPN), Mask R-CNN and RetinaNet (ResNet-50-FPN "
        "v1, v2), FCOS, SSD300, SSDLite; DETR (ResNet-50, 101); Faster R-CNN, Mask R-CNN and RetinaNet with FPN of "
        "Detectron2 and MMDetection",
    )


def torchvision_to_ours(state: Mapping[str, Tensor]) -> StateDict:
    """An upgraded torchvision state under foveal's keys, the background column moved from the front to the back."""
    if recognize_ssd(state):
        return ssd_to_ours(state)
    new: StateDict = {}
    for key, value in state.items():
        for old, now in _PREFIXES:
            key = re.sub(old, now, key, count=1)
        if key.startswith(_CLASSES):
            value = value.roll(-1, 0)
        elif key.startswith(_BOXES):
            value = value[4:].clone()  # the background has no box here
        elif key.startswith(_MASKS):
            value = value[1:].clone()  # nor a mask
        tower = _FLAT_TOWER.match(key) if _FCOS in state else None
        if tower:
            key = f"{tower[1]}{int(tower[2]) // 3}.{int(tower[2]) % 3}.{tower[3]}"
        new[key] = value
    return new


def to_torchvision(state: Mapping[str, Tensor], *, features: bool = False) -> StateDict:
    """The inverse of :func:`torchvision_to_ours`; ``features``: the backbone is a MobileNet. The background's box and
    mask are zero."""
    if is_ssd(state):
        return ssd_to_torchvision(state)
    back = (
        ("backbone.features." if features else "backbone.", "backbone.body."),
        ("neck.", "backbone.fpn."),
        ("rpn_head.", "rpn.head."),
        ("roi_head.trunk.", "roi_heads.box_head."),
        ("roi_head.predictor.", "roi_heads.box_predictor."),
        ("mask_head.trunk.", "roi_heads.mask_head."),
        ("mask_head.predictor.", "roi_heads.mask_predictor."),
    )
    new: StateDict = {}
    for key, value in state.items():
        if key.startswith(_CLASSES):
            value = value.roll(1, 0)
        elif key.startswith(_BOXES):
            value = torch.cat([value.new_zeros(4, *value.shape[1:]), value])
        elif key.startswith(_MASKS):
            value = torch.cat([value.new_zeros(1, *value.shape[1:]), value])
        block = _FCOS_BLOCK.match(key) if _FCOS in state else None
        if block:
            key = f"{block[1]}{3 * int(block[2]) + int(block[3])}.{block[4]}"
        name = next((now + key[len(old) :] for old, now in back if key.startswith(old)), key)
        new[name] = value
    return new


def _class_names(state: Mapping[str, Tensor], names: Sequence[str] | None, path: str | Path) -> tuple[str, ...]:
    """The name of every column. torchvision's index is COCO's id; RetinaNet has a column for id 0 too."""
    if _CLASSES + "bias" in state:
        first, count = 1, state[_CLASSES + "bias"].shape[0] - 1
    elif is_ssd(state):
        first, count = 1, ssd_columns(state) - 1
    else:
        priors = state[_RETINA_BOXES].shape[0] // 4
        first, count = 0, state[_RETINA_LOGITS].shape[0] // priors
    if names is not None:
        classes = tuple(names)
        if first == 0 and len(classes) == count - 1:
            classes = ("unused 0", *classes)
        if len(classes) != count:
            raise FovealError(f"has {count} classes, but {len(classes)} names were given", path=path)
        return classes
    if first + count == len(COCO_NAMES):
        return COCO_NAMES[first:]
    return tuple(f"class {i}" if i else "unused 0" for i in range(first, first + count))


def _needs_zero_eps(path: Path) -> bool:
    """Whether the file is one of the published ones that were trained with an epsilon of 0 (torchvision #2933)."""
    size = path.stat().st_size
    for entry in PUBLISHED.values():
        if entry.zero_eps and abs(size - entry.bytes) < 0.01 * entry.bytes:
            return digest(path).startswith(entry.sha256)
    return False


def _bottlenecks(state: Mapping[str, Tensor]) -> tuple[int, ...]:
    """The number of bottleneck blocks in each stage of the ResNet of a state."""
    blocks = [0, 0, 0, 0]
    for key in state:
        match = re.match(r"^backbone\.body\.layer([1-4])\.(\d+)\.conv3\.weight$", key)
        if match:
            blocks[int(match[1]) - 1] = max(blocks[int(match[1]) - 1], int(match[2]) + 1)
    return tuple(blocks)


# the names by which a state of another kind of model is known: a pattern of a key, what it is
_FAMILIES = (
    (
        r"(gpu_\d/)?(res\d_\d+_branch\w|conv_rpn|fpn_inner)",
        "a Detectron or Caffe2 file",
    ),
    (r"backbone\.bottom_up\.|backbone\.stem\.conv1\.norm|backbone\.res[2-5]\.", "a Detectron2 model of another kind"),
    (r"(stem\.conv1\.norm|res[2-5]\.\d+\.conv1\.norm)\.", "a backbone under Detectron2's names"),
    (r"(neck\.lateral_convs|bbox_head|roi_head\.bbox_head|mask_head\.convs)\.", "an MMDetection model of another kind"),
    (r"model\.\d+\.(conv|cv\d|m\.\d+|dfl)\b", "an Ultralytics YOLO, which foveal does not have"),
    (r"backbone\.backbone\.(stem|dark\d)\.", "a YOLOX, which foveal does not have"),
    (r"(bi)?fpn\.(cell|bifpn)|class_net\.|box_net\.", "an EfficientDet, which foveal does not have"),
    (r"transformer\.(level_embed|encoder|decoder)\.?", "a transformer detector other than DETR"),
    (
        r"(roi_head\.trunk|neck\.inner_blocks|rpn_head\.conv)\.",
        "a state of one of foveal's detectors without its spec (with its preset it is --weights of train)",
    ),
    (r"(vision_model|text_model|visual\.|transformer\.resblocks)", "a CLIP-like model"),
    (r"\w+\._(mean|variance)$", "a PaddlePaddle model"),
    (r"(unet|first_stage_model|vae|diffusion_model)\b", "an image generator"),
    (r"(bert|roberta|gpt|lm_head|model\.layers\.\d+\.self_attn)\b", "a language model"),
)


def _guess(state: Mapping[str, Tensor]) -> str:
    if is_classifier(dict(state)):
        return "a classification network (give it as the backbone's weights)"
    for pattern, what in _FAMILIES:
        if any(re.search(rf"(^|\.)({pattern})", key) for key in state):
            return what
    first = ", ".join(list(state)[:3])
    return f"a state of {len(state)} tensor{'s' * (len(state) != 1)} ({first}, ...)"
