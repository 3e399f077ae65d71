"""Reading weights files, mapping torchvision's detectors, and downloading by name (from a local server)."""

from __future__ import annotations

import argparse
import hashlib
import math
import pickle
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import detection as tv

from foveal.checkpoints.foreign.torchvision import import_weights
from foveal.errors import FovealError, UsageError
from foveal.weights import cache as published
from foveal.weights.coco_names import COCO_NAMES
from foveal.weights.keys_torchvision import (
    read_torchvision,
    recognize_network,
    to_torchvision,
    torchvision_to_ours,
    upgrade,
)
from foveal.weights.open import read_state

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2, dtype=torch.float16)}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# ------------------------------------------------------------------------------------------------------ reading
@pytest.mark.parametrize(
    "wrapped",
    [
        STATE,
        {"state_dict": STATE, "best_prec1": 91.78},
        {"model": STATE, "epoch": 3, "args": argparse.Namespace(lr=0.1)},  # torchvision's reference script
        {"module." + k: v for k, v in STATE.items()},
        {"state_dict": {"module._orig_mod." + k: v for k, v in STATE.items()}},
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_every_checkpoint_wrapper_is_read(wrapped: dict[str, Any], zipped: bool, tmp_path: Path) -> None:
    file = tmp_path / "w.bin"  # the name is not informative
    torch.save(wrapped, file, _use_new_zipfile_serialization=zipped)
    assert same(read_state(file), STATE)


def test_safetensors_are_recognized_by_content(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "w.pth")
    assert same(read_state(tmp_path / "w.pth"), STATE)


def test_real_files(data: Path) -> None:
    resnet20 = read_state(data / "weights/torch/resnet20-cifar10-12fca82f.th")
    # data/README.md counts 271,098 floats in all, the counters of the norms apart
    assert sum(v.numel() for k, v in resnet20.items() if "num_batches" not in k) == 271_098
    assert "conv1.weight" in resnet20
    squeezenet = read_state(data / "weights/torch/squeezenet1_0-deepcompression.pth")
    assert sum(v.numel() for v in squeezenet.values()) == 1_248_424


class Evil:
    def __reduce__(self) -> Any:
        return (exec, ("open('touched', 'w')",))


def _files(folder: Path) -> dict[str, tuple[bytes, str]]:
    """Broken files and the expected messages."""
    torch.save(STATE, folder / "good")
    save_file(STATE, folder / "good.st")
    torch.save(STATE, folder / "old", _use_new_zipfile_serialization=False)
    torch.save(nn.Linear(1, 1), folder / "whole")
    torch.save([1, 2], folder / "list")
    torch.save({}, folder / "empty")
    torch.save({"a": 1.0}, folder / "number")
    torch.save({1: torch.ones(1)}, folder / "unnamed")
    good, old, st = ((folder / n).read_bytes() for n in ("good", "old", "good.st"))
    return {
        "text": (b"these are no weights\n", "is a text file"),
        "utf16": ("weights".encode("utf-16"), "of an unknown format"),
        "lfs": (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
            "git-lfs pointer.*git lfs pull",
        ),
        "html": (b"\n<!DOCTYPE html><html>404</html>", "is a web page"),
        "nothing": (b"", "an empty file"),
        "png": (b"\x89PNG\r\n\x1a\n" + bytes(64), "a PNG image"),
        "zeros": (bytes(4096), "a file of zeros"),
        "darknet": (b"\0\0\0\0\2\0\0\0\5\0\0\0" + bytes(8) + b"\1\2\3\4" * 9, "a Darknet file.*--cfg"),
        "cut-zip": (good[: len(good) // 2], "truncated, damaged"),
        "cut-old": (old[: len(old) // 2], "truncated, damaged|cannot|can be read"),
        "cut-safetensors": (st[: len(st) - 3], "damaged safetensors"),
        "zip": (b"PK\x03\x04" + bytes(100), "truncated, damaged"),
        "code": (pickle.dumps({"a": Evil()}, 2), r"contains code \(([\w.]*\.)?exec\), which is never executed"),
        "whole": ((folder / "whole").read_bytes(), r"contains code \(torch\.nn\.modules\.linear\.Linear\).*state_dict"),
        "list": ((folder / "list").read_bytes(), "contains a list, not weights"),
        "empty": ((folder / "empty").read_bytes(), "contains no weights"),
        "number": ((folder / "number").read_bytes(), "entry 'a' is a float, not a tensor"),
        "unnamed": ((folder / "unnamed").read_bytes(), "entry 1 has no name"),
    }


def test_other_files_are_rejected_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, (content, words) in _files(tmp_path).items():
        file = tmp_path / f"{name}.weights"
        file.write_bytes(content)
        with pytest.raises(FovealError) as caught:
            read_state(file)
        text = str(caught.value)
        assert text.startswith(str(file)), name
        assert re.search(words, text), f"{name}: {text}"
        assert "\n" not in text, name
    assert not (tmp_path / "touched").exists()


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(FovealError, match=r"none\.pth.*no such file"):
        read_state(tmp_path / "none.pth")
    with pytest.raises(FovealError, match="is a folder"):
        read_state(tmp_path)


def test_truncated_files_are_rejected(tmp_path: Path) -> None:
    """Every tenth length of both PyTorch forms and of safetensors: read in full or refused, never a bare exception."""
    file = tmp_path / "cut.pth"
    for form in ("zip", "old", "safetensors"):
        if form == "safetensors":
            save_file(STATE, file)
        else:
            torch.save(STATE, file, _use_new_zipfile_serialization=form == "zip")
        whole = file.read_bytes()
        for length in range(0, len(whole) - 1, max(1, len(whole) // 60)):
            file.write_bytes(whole[:length])
            with pytest.raises(FovealError, match="cut"):
                read_state(file)


# ------------------------------------------------------------------------------------------------- torchvision
DETECTORS = {
    "faster_rcnn_r50_fpn": tv.fasterrcnn_resnet50_fpn,
    "faster_rcnn_r50_fpn_v2": tv.fasterrcnn_resnet50_fpn_v2,
    "faster_rcnn_mobilenet_v3_large_fpn": tv.fasterrcnn_mobilenet_v3_large_fpn,
    "retinanet_r50_fpn": tv.retinanet_resnet50_fpn,
    "retinanet_r50_fpn_v2": tv.retinanet_resnet50_fpn_v2,
    "ssd300_vgg16": tv.ssd300_vgg16,
    "ssdlite320_mobilenet_v3_large": tv.ssdlite320_mobilenet_v3_large,
}


def peer_state(preset: str, classes: int = 91) -> dict[str, Tensor]:
    """The keys and shapes of torchvision's model; the values differ from row to row only, which makes a small file."""
    with torch.device("meta"):
        shapes = DETECTORS[preset](weights=None, weights_backbone=None, num_classes=classes).state_dict()
    rng = torch.Generator().manual_seed(0)
    state = {}
    for key, value in shapes.items():
        rows = torch.rand(value.shape[:1], generator=rng).to(value.dtype)
        state[key] = rows.view(-1, *[1] * (value.dim() - 1)).expand(value.shape) if value.dim() else rows
    return state


@pytest.mark.parametrize("preset", DETECTORS)
def test_mapped_keys_match_the_model_keys(preset: str, tmp_path: Path) -> None:
    """The whole path, into a detector built from the preset: no key is missing or left over."""
    state = peer_state(preset)
    file = tmp_path / "model.pth"
    torch.save(state, file)
    spec, classes, ours = import_weights(file)
    with torch.device("meta"):
        detector = spec.build(classes)
    detector.load_state_dict(ours, assign=True)
    assert len(classes) == (91 if preset.startswith("retina") else 90)
    assert classes[-90:] == COCO_NAMES[1:]
    back = to_torchvision(ours, features="mobilenet" in preset)
    assert back.keys() == state.keys()
    for key, value in state.items():
        if not key.startswith("roi_heads.box_predictor.bbox_pred"):
            assert torch.equal(back[key], value), key
        else:
            assert torch.equal(back[key][4:], value[4:])


def test_file_with_frozen_norms_builds_frozen_norms(tmp_path: Path) -> None:
    """torchvision's published MobileNet detectors hold constants, whatever the preset trains with."""
    state = peer_state("faster_rcnn_mobilenet_v3_large_fpn", 3)
    torch.save({k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}, tmp_path / "m.pth")
    spec, classes, ours = import_weights(tmp_path / "m.pth")
    assert spec.backbone.norm == "frozen"
    with torch.device("meta"):
        detector = spec.build(classes)
    detector.load_state_dict(ours, assign=True)


def test_background_moves_to_the_last_column() -> None:
    state = {
        "roi_heads.box_predictor.cls_score.weight": torch.arange(3.0)[:, None],
        "roi_heads.box_predictor.cls_score.bias": torch.arange(3.0),
        "roi_heads.box_predictor.bbox_pred.weight": torch.arange(12.0)[:, None],
        "roi_heads.box_predictor.bbox_pred.bias": torch.arange(12.0),
    }
    ours = torchvision_to_ours(state)
    assert ours["roi_head.predictor.cls_score.bias"].tolist() == [1, 2, 0]
    assert ours["roi_head.predictor.cls_score.weight"][:, 0].tolist() == [1, 2, 0]
    assert ours["roi_head.predictor.bbox_pred.bias"].tolist() == list(range(4, 12))


def test_names_before_0_13() -> None:
    old = {
        "rpn.head.conv.weight": "rpn.head.conv.0.0.weight",
        "backbone.fpn.inner_blocks.2.bias": "backbone.fpn.inner_blocks.2.0.bias",
        "backbone.fpn.layer_blocks.0.weight": "backbone.fpn.layer_blocks.0.0.weight",
        "backbone.fpn.extra_blocks.p6.weight": "backbone.fpn.extra_blocks.p6.weight",
        "head.classification_head.conv.0.weight": "head.classification_head.conv.0.0.weight",
        "head.classification_head.conv.6.bias": "head.classification_head.conv.3.0.bias",
        "head.regression_head.conv.4.weight": "head.regression_head.conv.2.0.weight",
        "head.regression_head.conv.1.0.weight": "head.regression_head.conv.1.0.weight",  # a new file stays
        "rpn.head.conv.0.0.weight": "rpn.head.conv.0.0.weight",
    }
    for before, after in old.items():
        assert list(upgrade({before: torch.ones(1)})) == [after]


def test_own_classes_and_names(tmp_path: Path) -> None:
    torch.save(peer_state("faster_rcnn_mobilenet_v3_large_fpn", 4), tmp_path / "own_320.pth")
    found = read_torchvision(tmp_path / "own_320.pth")
    assert found.preset == "faster_rcnn_mobilenet_v3_large_320_fpn"  # by its name; the weights do not differ
    assert found.classes == ("class 1", "class 2", "class 3")
    assert found.eps is None
    assert read_torchvision(tmp_path / "own_320.pth", names=["a", "b", "c"]).classes == ("a", "b", "c")
    with pytest.raises(FovealError, match="has 3 classes, but 2 names"):
        read_torchvision(tmp_path / "own_320.pth", names=["a", "b"])


def test_coco_names() -> None:
    """COCO's ids, with the gaps of systems.md section 2.1 named."""
    assert len(COCO_NAMES) == 91
    assert (COCO_NAMES[1], COCO_NAMES[17], COCO_NAMES[90]) == ("person", "cat", "toothbrush")
    gaps = [i for i, n in enumerate(COCO_NAMES) if n.startswith("unused")]
    assert gaps == [0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83]
    assert COCO_NAMES[12] == "unused 12"


def test_zero_epsilon_only_for_the_published_legacy_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "renamed.pth"
    torch.save(peer_state("retinanet_r50_fpn"), file)
    assert read_torchvision(file).eps is None
    entry = published.PUBLISHED["retinanet_resnet50_fpn"]
    size = file.stat().st_size / 2**20
    like = replace(entry, url=f"x/y-{published.digest(file)[:8]}.pth", megabytes=size)
    monkeypatch.setitem(published.PUBLISHED, entry.name, like)
    assert read_torchvision(file).eps == 0.0
    spec, _, _ = import_weights(file)
    assert spec.backbone.eps == 0.0
    assert [e.name for e in published.PUBLISHED.values() if e.zero_eps] == [
        "fasterrcnn_resnet50_fpn",
        "maskrcnn_resnet50_fpn",
        "retinanet_resnet50_fpn",
    ]


def test_other_networks_are_named(tmp_path: Path) -> None:
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "r18.pth")
    with pytest.raises(FovealError, match=r"r18\.pth.*classification network.*one of Faster"):
        read_torchvision(tmp_path / "r18.pth")
    with pytest.raises(FovealError, match="Mask R-CNN"):  # among the known counts; this is none of them
        recognize_network({"roi_heads.mask_head.0.0.weight": torch.ones(1)}, "m.pth")
    with pytest.raises(UsageError, match="no preset 'nothing'"):
        torch.save(peer_state("faster_rcnn_mobilenet_v3_large_fpn", 2), tmp_path / "m.pth")
        import_weights(tmp_path / "m.pth", "nothing")


# --------------------------------------------------------------------------------------------------- published
@pytest.mark.parametrize("change", ["no heads", "no boxes", "odd logits", "one column", "contradiction", "a number"])
def test_broken_ssd_files_are_rejected(change: str, tmp_path: Path) -> None:
    def level(columns: int, boxes: int = 4) -> dict[str, torch.Tensor]:
        sizes = {"classification": 4 * columns, "regression": 4 * boxes}
        return {
            f"head.{branch}_head.module_list.0.{kind}": torch.zeros(n, *[1] * 3 * (kind == "weight"))
            for branch, n in sizes.items()
            for kind in ("weight", "bias")
        }

    other = {key.replace("list.0", "list.1"): value for key, value in level(4).items()}
    heads = {
        "no heads": {},
        "no boxes": level(3, 0),
        "odd logits": level(3) | {"head.classification_head.module_list.0.weight": torch.zeros(7, 1, 1, 1)},
        "one column": level(1),
        "contradiction": level(3) | other,
        "a number": level(3) | {"head.classification_head.module_list.0.bias": torch.tensor(1.0)},
    }
    torch.save({"backbone.scale_weight": torch.ones(512), **heads[change]}, tmp_path / "m.pth")
    with pytest.raises(FovealError, match=r"m\.pth: is an SSD whose prediction layers .* inconsistent"):
        import_weights(tmp_path / "m.pth")


def test_preset_on_another_architecture_is_rejected(tmp_path: Path) -> None:
    state = tv.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3).state_dict()
    torch.save(state, tmp_path / "m.pth")
    with pytest.raises(UsageError, match=r"ssd_mini is not on one of torchvision's.*ssdlite320_mobilenet_v3_large"):
        import_weights(tmp_path / "m.pth", "ssd_mini")


def test_weights_table_matches_torchvision() -> None:
    for entry in published.PUBLISHED.values():
        if "pytorch.org" not in entry.url:
            continue
        base = entry.name.removesuffix("_v2").removesuffix("_features") if entry.preset is None else entry.name
        found = [w for w in torchvision.models.get_model_weights(base) if w.url == entry.url]
        assert len(found) == 1, entry.name
        meta = found[0].meta
        assert (entry.parameters, entry.megabytes) == (meta["num_params"], meta["_file_size"])
        numbers = next(iter(meta["_metrics"].values()))
        score = numbers["acc@1" if entry.preset is None else "box_map"]
        assert entry.score == (None if math.isnan(score) else score)
        assert re.fullmatch(r"[0-9a-f]{8}", entry.sha256)
    assert published.find_published("accurate").score == 46.7
    assert published.find_published("fast").preset == "faster_rcnn_mobilenet_v3_large_320_fpn"
    assert published.find_published("retinanet_r50_fpn").name == "retinanet_resnet50_fpn"


def test_aliases_name_detectors() -> None:
    assert published.is_alias("accurate")
    assert published.is_alias("retinanet_resnet50_fpn_v2")
    assert not published.is_alias("resnet50")
    assert not published.is_alias("photo.jpg")
    with pytest.raises(UsageError, match="Did you mean accurate"):
        published.find_published("acurate")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[tuple[published.Published, bytes]]:
    """A small file in place of a published one, and the user's cache in a folder of the test."""
    content = bytes(range(256)) * 9000  # more than two blocks
    entry = published.PUBLISHED["fasterrcnn_resnet50_fpn_v2"]
    name = f"small-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    (tmp_path / "server").mkdir()
    (tmp_path / "server" / name).write_bytes(content)
    monkeypatch.setenv("FOVEAL_CACHE", str(tmp_path / "cache"))
    handler = partial(QuietHandler, directory=str(tmp_path / "server"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        fake = replace(entry, url=f"http://127.0.0.1:{server.server_port}/{name}")
        monkeypatch.setitem(published.PUBLISHED, entry.name, fake)
        yield fake, content
        server.shutdown()
        thread.join()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


def test_fetch_and_use(small: tuple[published.Published, bytes]) -> None:
    entry, content = small
    with pytest.raises(FovealError, match=r"not in the cache yet.*weights fetch accurate.*Without a network: download"):
        published.published_file("accurate")
    seen: list[tuple[int, int]] = []
    path = published.fetch("accurate", progress=lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == content
    assert path == published.published_file("accurate") == published.weights_folder() / entry.file
    assert seen[-1] == (len(content), len(content))
    assert len(seen) >= 3
    seen.clear()
    assert published.fetch("accurate", progress=lambda *a: seen.append(a)) == path  # type: ignore[arg-type]
    assert not seen  # from the cache
    path.write_bytes(content[:-1])
    with pytest.raises(FovealError, match="Delete it and fetch it again"):
        published.published_file("accurate")
    assert published.fetch("accurate").read_bytes() == content  # repaired
    assert [p.name for p in path.parent.iterdir()] == [entry.file]


def test_fetch_from_a_file_url(small: tuple[published.Published, bytes], tmp_path: Path) -> None:
    entry, content = small
    path = published.fetch("accurate", tmp_path / "other", url=(tmp_path / "server" / entry.file).as_uri())
    assert path.parent == tmp_path / "other"
    assert path.read_bytes() == content


def test_wrong_content_never_enters_the_cache(small: tuple[published.Published, bytes], tmp_path: Path) -> None:
    entry, _ = small
    (tmp_path / "server" / entry.file).write_bytes(b"<html>Sign in</html>")
    with pytest.raises(FovealError, match=r"is not small-.*SHA-256 starts with .* not "):
        published.fetch("accurate")
    assert list(published.weights_folder().iterdir()) == []


def test_offline_download_error(small: tuple[published.Published, bytes], tmp_path: Path) -> None:
    entry, _ = small
    nowhere = f"http://127.0.0.1:1/{entry.file}"
    with pytest.raises(FovealError) as caught:
        published.fetch("accurate", url=nowhere)
    assert re.search(rf"could not be fetched from {nowhere}.*copy it to .*{entry.file}", str(caught.value))
    with pytest.raises(FovealError, match="404"):
        published.fetch("accurate", url=entry.url + "x")
    assert list(published.weights_folder().iterdir()) == []


def test_backbone_by_published_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from foveal.parts.backbones.torchvision import Torchvision

    monkeypatch.setenv("FOVEAL_CACHE", str(tmp_path))
    spec = Torchvision("squeezenet1_0", weights="squeezenet1_0")
    with pytest.raises(FovealError, match="weights fetch squeezenet1_0"):
        spec.load_pretrained(spec.build())


def test_import_of_the_table_needs_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys; from foveal.weights.cache import PUBLISHED, is_alias; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
