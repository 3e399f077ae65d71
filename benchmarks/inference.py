"""From a file to boxes, batch 1, against torchvision's classes with the same weights."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

import numpy as np
import torch
from common import parser, race, setup
from peers import FIXED, PRESET, pair, random_images
from PIL import Image

from foveal.checkpoints.load import ready
from foveal.data.images.load import load_image
from foveal.runtime.precision import fast_bf16


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--short", type=int, default=800)
    args = setup(p)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "image.jpg")
        pixels = random_images(1, 480, 640)[0].permute(1, 2, 0).mul(255).byte().numpy()
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=92)
        file.write_bytes(buffer.getvalue())
        for name in PRESET:
            if args.only not in name:
                continue
            theirs, plain = pair(name, args.short)
            theirs.eval()
            ours = ready(plain, "cpu", "32")

            def reference(model: torch.nn.Module = theirs) -> list[dict[str, torch.Tensor]]:
                with torch.inference_mode():
                    array = np.asarray(Image.open(file).convert("RGB"))
                    return model([torch.from_numpy(array.copy()).permute(2, 0, 1).float() / 255])

            contenders = {
                "torchvision fp32": reference,
                "foveal fp32": lambda m=ours: m.predict_arrays([load_image(file)]),
            }
            if fast_bf16(torch.device("cpu")):
                quick = ready(plain, "cpu", "bf16")
                contenders["foveal bf16 (the default here)"] = lambda m=quick: m.predict_arrays([load_image(file)])
            expected, detections = reference()[0], ours.predict_arrays([load_image(file)])[0]
            n = min(len(detections), len(expected["scores"]))
            worst = (detections.scores[:n] - expected["scores"][:n]).abs().max() if n else 0
            print(
                f"{name}: {len(expected['scores'])} and {len(detections)} detections, "
                f"scores differ by {float(worst):.1e}"
            )
            race(f"inference, {name}, {FIXED.get(name, args.short)} px", contenders, rounds=args.rounds)


if __name__ == "__main__":
    main()
