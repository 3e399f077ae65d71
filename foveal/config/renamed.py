"""Earlier names of parts and their fields, so that the specs of stored runs can still be read.

A part that was replaced by several is rewritten as a call of one of them, by a function in :data:`REPLACED`.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping

PARTS: Mapping[str, str] = {
    "Cell": "GridCoder",
    "CellError": "YOLOBoxLoss",
    "Centreness": "Centerness",
    "Draw": "WindowSampling",
    "Fit": "Recipe",
    "KeptRows": "Sampled",
    "Margin": "SoftmaxOrSVM",
    "Prediction": "PredictionModule",
    "TwoTaps": "RCNNHead",
}

FIELDS: Mapping[str, Mapping[str, str]] = {  # part -> {earlier name of a field: its name}
    "Anchors": {"centre": "center"},
    "Cells": {"reach": "scale_xy"},
    "Letterbox": {"grey": "gray"},
    "PyramidAnchors": {"centre": "center"},
    "YOLOBoxLoss": {"centre": "center", "pull": "warmup_images", "small": "small_box_weight"},
}


def field_name(cls: type, name: str) -> str:
    """The current name of a part's field, given that or an earlier one."""
    return FIELDS.get(cls.__name__, {}).get(name, name)


def current_call(node: ast.Call, names: Mapping[str, type]) -> ast.Call:
    """The current form of a call, where the part that it names was replaced by several."""
    if not isinstance(node.func, ast.Name) or node.func.id in names or node.func.id not in REPLACED:
        return node
    return REPLACED[node.func.id](node)


# ------------------------------------------------------------------------------------------------- Stage
STAGES = {  # value of ``inputs`` of ``Stage`` -> the class, and the fields of ``Stage`` that it does not have
    "images": ("OnImages", {"draw"}),
    "windows": ("OnWindows", {"task"}),
    "maps": ("OnStoredMaps", {"task"}),
    "proposals": ("OnProposals", {"task", "draw"}),
    "features": ("Solve", {"task", "draw", "begin", "lr", "epochs"}),
}
STAGE_FIELDS = ("trains", "inputs", "task", "begin", "solver", "lr", "epochs", "draw")
NO_DRAW = {"positive": 0.25, "iou": 0.5, "low": 0.0, "per_image": 64}


def _stage(node: ast.Call) -> ast.Call:
    """``Stage(inputs=...)`` had the fields of all kinds of stages. Unset ones are dropped, others are left to fail."""
    fields = [*zip(STAGE_FIELDS, node.args, strict=False), *((k.arg, k.value) for k in node.keywords)]
    inputs = next((value for field, value in fields if field == "inputs"), ast.Constant("images"))
    if not isinstance(inputs, ast.Constant) or inputs.value not in STAGES or len(node.args) > len(STAGE_FIELDS):
        return node
    name, without = STAGES[inputs.value]
    remaining = [
        ast.keyword(field, value)
        for field, value in fields
        if field != "inputs" and not (field in without and _is_unset(value))
    ]
    return ast.Call(ast.Name(name, ast.Load()), [], remaining)


def _is_unset(value: ast.expr) -> bool:
    """``None``, ``()``, or the windows that a stage without windows had."""
    if isinstance(value, ast.Call):
        given = {k.arg: k.value.value for k in value.keywords if isinstance(k.value, ast.Constant)}
        return not value.args and len(given) == len(value.keywords) and given.items() <= NO_DRAW.items()
    return ast.unparse(value) in ("None", "()", "[]")


REPLACED: Mapping[str, Callable[[ast.Call], ast.Call]] = {"Stage": _stage}
