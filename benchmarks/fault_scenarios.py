"""Commands of ``foveal`` on tiny inputs, for :mod:`faults`: what each needs, runs, writes, and how it is continued."""

from __future__ import annotations

import hashlib
import http.server
import os
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the detectors of the tests

QUIET = ["--device", "cpu", "--precision", "32"]
TRAIN = [*QUIET, "--workers", "0", "--no-tensorboard", "--save-every", "0.001"]
PARTS = ["--parts", "tests.helpers.train_tiny"]


@dataclass(frozen=True)
class Scenario:
    """``prepare`` fills the working folder, in which ``command`` runs; ``again`` is what a user runs after a fault."""

    name: str
    prepare: Callable[[], None]
    command: Sequence[str]
    outputs: Sequence[str]  # files and folders that it writes
    again: Sequence[str] | None = None  # default: the same command
    makes_new: bool = False  # whether it refuses to write what is there already
    finds_errors: bool = False  # whether its status 1 is a report of errors in the data
    resumed: bool = False  # whether a run with checkpoints lies in the folder "run" before

    @property
    def trains(self) -> bool:
        """Whether it may end at another iteration than without a fault."""
        return self.outputs == ["run"]

    @property
    def after(self) -> Sequence[str]:
        return self.command if self.again is None else self.again


def tiny_data() -> None:
    from tests.helpers.train_tiny import make_data

    make_data(Path("data"), train=8, val=4)


def shapes() -> None:
    from foveal.data.synthetic.shapes import make_shapes

    make_shapes("shapes", splits={"train": 4, "val": 2}, size=(96, 72), seed=1, masks=False)


def store(name: str, spec: Any, classes: Sequence[str], seed: int = 0) -> None:
    """A checkpoint with the initial weights of a spec, which a training run can be started from."""
    import torch

    from foveal.checkpoints import folder
    from foveal.checkpoints.content import Content
    from foveal.config.show import show
    from foveal.config.table import custom_parts

    torch.manual_seed(seed)
    described = {"spec": show(spec), "classes": list(classes), "versions": {}, "parts": custom_parts(spec)}
    state = {"step": 0, "best": None}
    content = Content(spec.build(tuple(classes)).state_dict(), {}, {}, state, described)
    folder.save(Path(name) / "checkpoints", 0, content)


def tiny_model() -> None:
    from tests.helpers.train_tiny import FIT, TinySpec

    tiny_data()
    store("model", TinySpec(fit=replace(FIT, epochs=2)), ("red", "green"))


def tiny_run(epochs: int = 1) -> None:
    from tests.helpers.train_tiny import FIT, TinySpec, train_tiny

    tiny_model()
    train_tiny(Path("data"), Path("run"), TinySpec(fit=replace(FIT, epochs=epochs)), save_every=0.001)


def stopped_run() -> None:
    """A run of two epochs that was stopped after one and a half."""
    from foveal.training.loop.loop import Loop
    from tests.helpers.train_tiny import FIT, TinySpec, train_tiny

    class Stop(BaseException):
        pass

    tiny_model()
    original = Loop._update

    def update(self: Loop, parts: Any, files: Any) -> None:
        if self.state.step == 3:
            raise Stop
        original(self, parts, files)

    Loop._update = update  # type: ignore[method-assign]
    try:
        train_tiny(Path("data"), Path("run"), TinySpec(fit=replace(FIT, epochs=2)), save_every=0.0, weights="model")
    except Stop:
        pass
    finally:
        Loop._update = original  # type: ignore[method-assign]


def staged(which: str) -> Callable[[], None]:
    def prepare() -> None:
        from foveal.data.synthetic.shapes import CLASSES
        from tests.helpers.stages_tiny import RCNN_SMALL, SPP_SMALL
        from tests.training.stages import test_alternation, test_frozen_maps

        spec: Any = {
            "rcnn": RCNN_SMALL,
            "spp_net": SPP_SMALL,
            "alternation": test_alternation.SMALL,
            "frozen_maps": test_frozen_maps.ONE_STAGE,
        }[which]
        shapes()
        store("model", replace(spec, fit=replace(spec.fit, epochs=1, val_every=1)), CLASSES)

    return prepare


def small_model() -> None:
    """A small RetinaNet with its initial weights, and the shapes that it is for."""
    from foveal.data.synthetic.shapes import CLASSES
    from tests.golden.make import spec_of

    shapes()
    store("model", spec_of("retinanet"), CLASSES)


def small_run() -> None:
    """A run of it, which is complete."""
    from foveal.training.run import train

    small_model()
    quiet: Any = {"device": "cpu", "precision": "32", "workers": 0, "progress": False, "tensorboard": False}
    train("model", data="shapes", out="run", **quiet)


PAYLOAD = bytes(range(256)) * 9000


def serve() -> str:
    """The address of a file on a server of this process."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            start = int(asked[6:-1]) if asked else 0
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(PAYLOAD) - 1}/{len(PAYLOAD)}")
            self.send_header("Content-Length", str(len(PAYLOAD) - start))
            self.end_headers()
            self.wfile.write(PAYLOAD[start:])

        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}/small-{hashlib.sha256(PAYLOAD).hexdigest()[:8]}.pth"


def scenarios(address: str) -> dict[str, Scenario]:
    tiny = ["train", "model", "--data", "data/train.json", "--val", "data/val.json", "--out", "run", *PARTS, *TRAIN]
    small = ["train", "model", "--data", "shapes", "--out", "run", *TRAIN]
    data, images = ["--data", "shapes"], "shapes/JPEGImages"
    listed = [
        Scenario("train", tiny_model, [*tiny, "--no-report"], ["run"], [*tiny, "--no-report", "--resume"]),
        Scenario("resume", stopped_run, [*tiny, "--no-report", "--resume"], ["run"], resumed=True),
        Scenario("report", small_run, [*small, "--resume"], ["run"], resumed=True),
        *(
            Scenario(name, staged(name), [*small, "--no-report"], ["run"], [*small, "--no-report", "--resume"])
            for name in ("rcnn", "spp_net", "alternation", "frozen_maps")
        ),
        Scenario(
            "proposals",
            shapes,
            ["proposals", "--data", "shapes", "--out", "found", "--method", "SlidingWindows(top=40, sizes=(0.7, 0.4))"],
            ["found", "cache"],
        ),
        Scenario("fetch", os.getcwd, ["weights", "fetch", address, "--cache", "cache"], ["cache"]),
        Scenario("eval", small_model, ["eval", "model", *data, *QUIET, "--json", "it.json"], ["it.json"]),
        Scenario(
            "predict",
            small_model,
            ["predict", "model", images, "--out", "drawn", "--json", "it.json", *QUIET],
            ["drawn", "it.json"],
        ),
        Scenario(
            "inspect",
            small_model,
            ["inspect", "model", f"{images}/000001.jpg", *data, "--out", "pages", *QUIET],
            ["pages"],
        ),
        Scenario(
            "doctor",
            tiny_data,
            ["doctor", "data", "--html", "page.html", "--json", "page.json"],
            ["page.html", "page.json"],
            finds_errors=True,
        ),
        Scenario("make", os.getcwd, ["data", "make", "shapes", "made", "--images", "3"], ["made"], makes_new=True),
        Scenario(
            "convert",
            tiny_data,
            ["data", "convert", "data/train.json", "--to", "yolo", "--out", "it"],
            ["it"],
            makes_new=True,
        ),
        Scenario("split", tiny_data, ["data", "split", "data/train.json", "--out", "it"], ["it"], makes_new=True),
        Scenario(
            "export",
            small_model,
            ["weights", "export", "model", "--out", "it.safetensors"],
            ["it.safetensors"],
            makes_new=True,
        ),
        Scenario("compare", tiny_run, ["compare", "run", "run", "--out", "compared"], ["compared"]),
    ]
    return {scenario.name: scenario for scenario in listed}
