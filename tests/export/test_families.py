"""Every family through torch.export and the ONNX exporter: varying axes, and torch's boxes from ONNX Runtime.

Weights are random, so scores lie close together: a few boxes in a hundred may change places at NMS. The proof of a
trained detector allows none (``test_write.py``).
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from foveal import presets
from foveal.export.compare import Differences, as_flat
from foveal.export.graph import Graph, axes_of
from foveal.export.onnx_model import to_onnx
from foveal.export.write import add_metadata, metadata_of
from foveal.parts.layers.norms import fold_norms
from foveal.runner.onnx_detector import OnnxDetector

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

FAMILIES = ["retinanet", "fcos", "faster_rcnn", "mask_rcnn", "fast_rcnn", "spp_net", "rcnn", "ssd", "detr"]
FAMILIES += ["yolo_v1", "yolo_v2", "yolo_v3"]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_gives_the_same_boxes(family: str) -> None:
    torch.manual_seed(0)
    detector = presets.get(f"{family}_mini").build(["a", "b", "c"]).eval()
    spread = 20 if family in ("retinanet", "fcos") else 3
    with torch.no_grad():  # scores that NMS has work with
        for name, layer in detector.named_modules():
            if "head" in name and isinstance(layer, torch.nn.Conv2d) and layer.out_channels < 40:
                layer.weight.mul_(spread)
    folded = fold_norms(detector)
    axes = axes_of(detector)
    model = to_onnx(Graph(folded), axes)
    shape = [dim.dim_param or dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    canvas = detector.spec.input.fixed_canvas
    assert shape == ["batch", 3, *(canvas or ("height", "width"))]
    add_metadata(model, metadata_of(detector, axes))
    runner = OnnxDetector(model.SerializeToString(), threads=1)
    differences = Differences()
    for (height, width), number in (((240, 320), 2), ((300, 200), 1), ((97, 333), 5)):
        arrays = [np.random.default_rng(i).integers(0, 256, (height, width, 3), dtype=np.uint8) for i in range(number)]
        boxes = None
        if detector.source is not None:
            corner = np.random.default_rng(0).uniform(0, 80, (number, 200, 2))
            sides = np.random.default_rng(1).uniform(8, 90, (number, 200, 2))
            boxes = list(np.concatenate([corner, corner + sides], 2).astype(np.float32))
        ours = folded.predict_arrays(arrays, number, boxes)
        theirs = runner.predict_arrays(arrays, number, boxes)
        for first, second in zip(as_flat(ours, [333] * number), as_flat(theirs, [333] * number), strict=True):
            differences.add(first, second, detector.threshold)
    assert differences.boxes > 20
    assert differences.matched >= 0.98 * differences.boxes, differences
    assert differences.pixels < 0.01 and differences.score < 1e-4
