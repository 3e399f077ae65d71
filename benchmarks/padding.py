"""Effect of padding on a DETR: the same images on canvases that are larger on the right and at the bottom.

    python benchmarks/padding.py RUN --data DATA --split val

The mask excludes the padding from attention and positions; the backbone has none. Printed for each amount: AP50, AP,
and how far the boxes of detections above .5 move on average, relative to the image.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import torch
from torch.nn import functional as F

import foveal
from foveal.assembly.task import to_detections
from foveal.data.images.load import load_image
from foveal.data.open import open_dataset
from foveal.evaluation import DetectionTable, GroundTruth, score_detections
from foveal.types import Images


def padded(images: Images, pixels: int) -> Images:
    return replace(images, pixels=F.pad(images.pixels, (0, pixels, 0, pixels)))


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("run")
    p.add_argument("--data", required=True)
    p.add_argument("--split", default="val")
    p.add_argument("--pixels", default="0,1,16,32,64,160")
    args = p.parse_args()
    detector = foveal.load(args.run, device="cpu", precision="32")
    dataset = open_dataset(args.data, split=args.split)
    prepared = [detector.prepare([load_image(r.path)]) for r in dataset.records]
    plain = []
    print("| padding, pixels | AP50 | AP | boxes move by |\n|---|---|---|---|")
    for pixels in map(int, args.pixels.split(",")):
        found, moved = [], []
        with torch.inference_mode():
            for i, images in enumerate(prepared):
                wider = padded(images, pixels)
                outputs = detector.outputs(wider)
                layer = outputs.layers[-1]
                if len(plain) == i:
                    plain.append(layer)
                sure = detector.task.cls_loss.scores(plain[i].logits).amax(-1) > 0.5
                moved.append((layer.deltas - plain[i].deltas).abs()[sure].flatten())
                boxes = detector.detections(outputs, wider)
                found += [d.cpu() for d in to_detections(boxes, wider, detector.classes)]
        scores = score_detections(GroundTruth.of(dataset), DetectionTable.of(found), "coco").to_dict()
        print(f"| {pixels} | {scores['AP50']:.3f} | {scores['AP']:.3f} | {float(torch.cat(moved).mean()):.4f} |")


if __name__ == "__main__":
    main()
