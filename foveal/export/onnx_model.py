"""The ONNX model of a graph: by torch's exporter, its axes checked, its names short."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import torch

from ..errors import FovealError
from .graph import Axes, Graph, capture
from .operators import translations


def to_onnx(graph: Graph, axes: Axes) -> Any:
    """The ``onnx.ModelProto`` of a graph: opset 18 or later, weights inside, no operator of anybody's own.

    Raises :class:`FovealError` where an axis that should vary does not.
    """
    import onnx

    with _quiet():
        program = capture(graph, axes)
        exported = torch.onnx.export(
            program,
            (),
            dynamo=True,
            custom_translation_table=translations(),
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            verbose=False,
        )
        assert exported is not None
        model = exported.model_proto
    _short_names(model)
    _check_axes(model, graph, axes)
    onnx.checker.check_model(model)
    return model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' own progress and warnings."""
    levels = {name: logging.getLogger(name).level for name in ("torch", "onnxscript", "onnx_ir")}
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for name in levels:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)


def _short_names(model: Any) -> None:
    """Names for the axes that vary: torch's are formulas."""
    axes = {"pixels": ("batch", "channels", "height", "width")}
    for value in (*model.graph.input, *model.graph.output):
        names = axes.get(value.name, ("batch", "proposals" if value.name.startswith("proposals") else "boxes"))
        for dim, name in zip(value.type.tensor_type.shape.dim, names, strict=False):
            if dim.HasField("dim_param"):
                dim.dim_param = name
    del model.graph.value_info[:]  # intermediate shapes: names a line long, and nobody needs them


def _check_axes(model: Any, graph: Graph, axes: Axes) -> None:
    """torch's exporter fixes an axis that it cannot keep, without an error."""
    expected: dict[str, list[int | None]] = {
        "pixels": [axes.batch, 3, *(axes.size or (None, None))],
        "sizes": [axes.batch, 2],
        "proposals": [axes.batch, None, 4],
        "proposals_valid": [axes.batch, None],
    }
    for value in model.graph.input:
        dims = [None if d.HasField("dim_param") else d.dim_value for d in value.type.tensor_type.shape.dim]
        if dims != expected[value.name]:
            raise FovealError(f"the axes of the input {value.name!r} are {dims}, expected {expected[value.name]}")
