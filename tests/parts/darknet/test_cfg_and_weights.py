"""Darknet's files: parsing cfgs and counting their weights; reading, rejecting and writing weights."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from foveal.errors import FovealError
from foveal.parts.darknet.cfg import read_cfg_text, read_names, read_sections
from foveal.parts.darknet.cfg_graph import cfg_text, read_net
from foveal.parts.darknet.module import DarknetNetwork
from foveal.parts.darknet.weights import read_darknet, read_weights_header, write_darknet
from foveal.weights.state import load_state

NET = "[net]\nwidth=32\nheight=32\n"
CONV = "[convolutional]\nfilters={}\nsize=1\nactivation=linear\n"
BATCH = "[convolutional]\nbatch_normalize=1\nfilters=4\nsize=3\nstride=2\npad=1\nactivation=leaky\n"
EIGHT, GOOD = NET + CONV.format(8), NET + CONV.format(14)
YOLO = "[yolo]\nmask=0,1\nanchors=1,2, 3,4, 5,6\nclasses=2\nnum=3\n"
REGION = "[region]\nanchors=1,2, 3,4\nclasses=2\nnum=2\n"


# ---------------------------------------------------------------------------------------------------------- cfg
def test_floats_of_every_real_cfg(data: Path) -> None:
    """``float_counts.json`` leaves yolov1.cfg out (its local layer); systems.md has 197,301,875 parameters for it, to
    which the mean and variance of 13,184 normalized channels come."""
    counts = json.loads((data / "weights/darknet-cfg/float_counts.json").read_text())["cfg"]
    assert len(counts) == 10
    for name, expected in counts.items():
        path = data / "weights/darknet-cfg" / name
        net = read_net(read_cfg_text(path), path)
        kinds = [layer.kind for layer in net.layers]
        assert net.floats == expected["floats"], name
        assert {kind: kinds.count(kind) for kind in kinds} == expected["layers"], name
        assert net.shape(-1) == tuple(expected["input_chw"]), name
    net = read_net(read_cfg_text(data / "weights/darknet-cfg/yolov1.cfg"))
    assert net.floats == 197_301_875 + 2 * 13_184
    assert [layer.shape for layer in net.heads] == [(1715, 1, 1)]


def test_floats_by_layer() -> None:
    """By hand: 3 x 3 x 3 x 4 weights + 4 x 4 of the norm; 4 x 14 + 14; connected 14 x 16 x 16 x 5 + 5; local
    (5 x 9 + 1) x 2."""
    connected = "[connected]\noutput=5\nactivation=linear\n"
    local = "[local]\nfilters=2\nsize=3\npad=1\nactivation=leaky\n"
    net = read_net(NET + BATCH + CONV.format(14) + connected + local)
    assert [layer.floats for layer in net.layers] == [124, 70, 17925, 92]
    assert [layer.shape for layer in net.layers] == [(4, 16, 16), (14, 16, 16), (5, 1, 1), (2, 1, 1)]
    grouped = read_net(NET + BATCH + BATCH.replace("filters=4", "filters=8\ngroups=4"))
    assert grouped.layers[1].floats == 8 * 9 + 4 * 8


def test_cfg_syntax_matches_darknet() -> None:
    text = "# a comment\n\n [net]\n w i d t h = 3 2 ; more\nheight=32\nheight=64\n" + CONV.format(7)
    net = read_net(text)
    assert (net.width, net.height, net.layers[0].shape) == (32, 32, (7, 32, 32))
    assert read_sections(text)[1][0].line == 7


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("<!DOCTYPE html>\n", "line 1: '<!DOCTYPE html>', expected \\[net\\]"),
        ("[convolutional]\n", "line 1 \\[convolutional\\]: the first section is not \\[net\\]"),
        (NET, "no layer"),
        (NET + "what\n", "line 4: 'what', expected a key=value line"),
        (NET.replace("32", "0") + CONV, "line 2 \\[net\\]: width is 0, expected 1 or more"),
        ("[net]\nwidth=32\n" + CONV, "line 1 \\[net\\]: height is missing"),
        ("[net]\nwidth=32\nheight=-4\n" + CONV, "line 3 \\[net\\]: height is -4"),
        (NET.replace("32", "wide", 1) + CONV, "line 2 \\[net\\]: width is 'wide', expected a number"),
        (NET.replace("32", "32.5", 1) + CONV, "width is 32.5, expected a whole number"),
        (NET.replace("32", "nan") + CONV, "width is 'nan', expected a number|height is 'nan', expected a number"),
        (NET.replace("32", "1e999") + CONV, "is '1e999', expected a number"),
        (NET + "channels=1\n" + CONV, "line 4 \\[net\\]: channels is 1; images are RGB"),
        (NET + "\n[capsule]\n", "line 5 \\[capsule\\]: layer 'capsule' is not known. Use one of activation, avgpool"),
        (NET + "[convolutional]\nsize=3\n", "line 4 \\[convolutional\\]: filters is missing"),
        (NET + CONV.format("many"), "line 5 \\[convolutional\\]: filters is 'many', expected a number"),
        (NET + CONV.format(0), "filters is 0, expected 1 or more"),
        (EIGHT.replace("linear", "bent"), "line 7 .*activation 'bent' is not known. Use one of linear"),
        (EIGHT + "groups=3\n", "groups is 3, which does not divide"),
        (EIGHT.replace("size=1", "size=3") + "dilation=2\n", "line 8 .*dilation=2 with size=3 and 0 pixels of padding"),
        (EIGHT + "coordconv=1\n", "coordconv=1 is not supported, only coordconv=0"),
        (EIGHT.replace("size=1", "size=40"), "leaves nothing of a map of 3 x 32 x 32"),
        (EIGHT + "[route]\nlayers=-2\n", "line 9 \\[route\\]: layers names layer -2, which is not before"),
        (EIGHT + "[route]\nlayers=-1,1\n", "layers names layer 1, which is not before it. Use 0 to 0"),
        (EIGHT + "[route]\n", "layers is missing"),
        (EIGHT + BATCH + "[route]\nlayers=0,1\n", "maps of different sizes \\(0: 32 x 32, 1: 16 x 16\\)"),
        (EIGHT + "[shortcut]\nfrom=5\n", "line 9 \\[shortcut\\]: from names layer 5"),
        (EIGHT + BATCH.replace("=2", "=3") + "[shortcut]\nfrom=-2\n", "adds 8 x 32 x 32 \\(from\\) to 4 x 11 x 11"),
        (EIGHT + "[reorg]\nstride=3\n", "stride 3 does not divide a map of 8 x 32 x 32"),
        (GOOD + YOLO.replace("mask=0,1", "mask=0,3"), "line 9 \\[yolo\\]: mask names anchor 3, .* 3"),
        (GOOD + YOLO.replace("num=3", "num=4"), "line 10 \\[yolo\\]: anchors has 3 pairs, num is 4"),
        (GOOD + YOLO.replace("5,6", "5"), "anchors has 5 numbers, expected pairs"),
        (GOOD + YOLO.replace("5,6", "5,0"), "a side that is not above 0"),
        (NET + CONV.format(15) + YOLO, "2 boxes of 5 \\+ 2 classes need 14 channels, the layer before has 15"),
        (NET + CONV.format(15) + REGION, "need 14 channels, the layer before has 15. Set filters=14 there"),
        (GOOD + YOLO + BATCH, "line 13 .*reads layer 1, \\[yolo\\] of line 8, which ends a branch"),
        (GOOD + "[detection]\nclasses=2\nside=3\nnum=1\nsqrt=1\n", "need 63 outputs, the layer before has 14336"),
        (GOOD + REGION + "tree=x\n", "line 12 \\[region\\]: tree: YOLO9000's"),
        (GOOD + "[softmax]\ngroups=4\n", "groups=4 is not supported"),
    ],
)  # fmt: skip
def test_cfg_errors_name_the_line(text: str, words: str) -> None:
    with pytest.raises(FovealError, match=words) as caught:
        read_net(text, "my.cfg")
    assert str(caught.value).startswith("my.cfg: ")
    assert "\n" not in str(caught.value)


def test_truncated_or_corrupted_files_raise_only_foveal_errors(data: Path) -> None:
    """Every truncation of a real cfg, and every byte of it replaced: read, or rejected by name."""
    text = (data / "weights/darknet-cfg/yolov3-tiny.cfg").read_text()
    rng = np.random.default_rng(0)
    for length in range(0, len(text), 17):
        changed = text[:length] + chr(rng.integers(32, 127)) + text[length + 1 :]
        for broken in (text[:length], changed):
            try:
                read_net(broken, "x.cfg")
            except FovealError as error:
                assert str(error).startswith("x.cfg"), error


def test_a_path_becomes_the_text(tmp_path: Path) -> None:
    (tmp_path / "a.cfg").write_text(NET + BATCH)
    assert cfg_text(str(tmp_path / "a.cfg")) == NET + BATCH == cfg_text(NET + BATCH)
    with pytest.raises(FovealError, match=r"b\.cfg.*cannot be read"):
        cfg_text(str(tmp_path / "b.cfg"))
    (tmp_path / "c.cfg").write_bytes(bytes(100))
    with pytest.raises(FovealError, match=r"c\.cfg.*is not a Darknet cfg"):
        cfg_text(str(tmp_path / "c.cfg"))


def test_names(tmp_path: Path, data: Path) -> None:
    assert len(read_names(data / "weights/darknet-cfg/coco.names")) == 80
    assert read_names(data / "weights/yolo-lite/voc.names")[-1] == "tvmonitor"
    file = tmp_path / "my.names"
    cases = {"": "has no names", "a\n\nb\n": "line 2: is empty", "a\nb\na\n": "line 3: 'a' is in line 1"}
    for text, words in cases.items():
        file.write_text(text)
        with pytest.raises(FovealError, match=words):
            read_names(file)
    file.write_text("a \r\nb c\r\n\r\n")
    assert read_names(file) == ("a", "b c")


# ------------------------------------------------------------------------------------------------------ weights
PAIRS = {  # cfg, weights, version, header bytes, images seen (data/README.md)
    "tiny-darknet/tiny": ("tiny-darknet/tiny", (0, 1, 0), 16, 204_800_000),
    "yolo-lite/tiny-yolov2-trial3": ("yolo-lite/tiny-yolov2-trial3", (0, 1, 0), 16, 10_598_400),
    "yolo-lite/tiny-yolov2-trial3-noBatch": ("yolo-lite/tiny-yolov2-trial3-noBatch", (0, 1, 0), 16, 15_833_600),
    "yolo-lite/coco-trial6": ("yolo-lite/coco-trial6_653550", (0, 1, 0), 16, 41_827_200),
    "yolo-fastest/yolo-fastest-1.1": ("yolo-fastest/yolo-fastest-1.1", (0, 2, 5), 20, 14_231_680),
    "yolo-fastest/yolo-fastest-1.1-xl": ("yolo-fastest/yolo-fastest-1.1-xl", (0, 2, 5), 20, 16_000_000),
    "mobilenetv2-yolov3-nano/MobileNetV2-YOLOv3-Nano-voc": (
        "mobilenetv2-yolov3-nano/MobileNetV2-YOLOv3-Nano-voc", (0, 2, 5), 20, 1_648_384
    ),
}  # fmt: skip


@pytest.mark.parametrize("cfg", PAIRS)
def test_every_real_cfg_and_weights_pair_round_trips(cfg: str, data: Path, tmp_path: Path) -> None:
    name, version, size, seen = PAIRS[cfg]
    file = data / "weights" / f"{name}.weights"
    net = read_net(read_cfg_text(data / "weights" / f"{cfg}.cfg"))
    header, state = read_darknet(file, net)
    assert (header.major, header.minor, header.revision) == version
    assert (header.bytes, header.seen) == (size, seen)
    network = DarknetNetwork(net, [len(net.layers) - 1 if not net.heads else net.heads[-1].sources[0]])
    load_state(network, state, path=file, what=cfg)
    write_darknet(tmp_path / "back.weights", net, network.state_dict(), seen=seen)
    assert (tmp_path / "back.weights").read_bytes()[20:] == file.read_bytes()[size:]
    assert read_weights_header(tmp_path / "back.weights").seen == seen


def test_mismatched_pair_is_rejected_with_both_counts(data: Path) -> None:
    base = data / "weights/yolo-lite/MISMATCH-tiny-yolov2-trial8"
    net = read_net(read_cfg_text(base.with_suffix(".cfg")), base.with_suffix(".cfg"))
    with pytest.raises(FovealError, match=r"MISMATCH.*has 572,317 floats.*MISMATCH.*\.cfg needs 574,189"):
        read_darknet(base.with_suffix(".weights"), net)


def test_truncated_empty_or_foreign_files(data: Path, tmp_path: Path) -> None:
    net, file = read_net(NET + BATCH + CONV.format(14) + YOLO), tmp_path / "x.weights"
    good = struct.pack("<3iq", 0, 2, 5, 640) + np.linspace(0.1, 1, net.floats, dtype="<f4").tobytes()
    file.write_bytes(good)
    header, state = read_darknet(file, net)
    assert header.seen == 640
    assert sum(v.numel() for v in state.values()) == net.floats == 194
    other = data / "photos/darknet/dog.jpg"
    cases = (
        (good[:-4], "has 193 floats after its header, the cfg needs 194.*cut off"),
        (good[:-1], "has 193 floats and 3 bytes after its header, the cfg needs 194"),
        (good + bytes(4), "has 195 floats"),
        (good[:18], "is cut off in its header"),
        (good[:7], "not Darknet weights"),
        (b"", "is an empty file"),
        (b"no weights\n", "is a text file"),
        (bytes(800), "is a file of zeros"),
        (other.read_bytes(), "is a JPEG image"),
        (struct.pack("<f", 3.7) * 99, "is of an unknown format"),
    )
    for content, words in cases:
        file.write_bytes(content)
        with pytest.raises(FovealError, match=words) as caught:
            read_darknet(file, net)
        assert str(caught.value).startswith(str(file))
    with pytest.raises(FovealError, match="no such file"):
        read_darknet(tmp_path / "none.weights", net)
    numbers = np.linspace(0.1, 1, net.floats, dtype="<f4")
    numbers[14] = -1  # 4 biases, 4 scales, 4 means, then the variances
    file.write_bytes(good[:20] + numbers.tobytes())
    with pytest.raises(FovealError, match=r"layer 0 \[convolutional\] would have a negative variance"):
        read_darknet(file, net)


@pytest.mark.parametrize(
    ("version", "counter", "size"),  # int64 from 0.2 on, but not in the first files, whose version is above 1000
    [
        ((0, 1, 0), "<i", 16),
        ((0, 2, 0), "<q", 20),
        ((1, 0, 0), "<q", 20),
        ((2013, 7, 1), "<i", 16),
        ((0, 1001, 0), "<i", 16),
    ],
)
def test_header_versions(version: tuple[int, int, int], counter: str, size: int, tmp_path: Path) -> None:
    """Of a connected layer of 2 outputs over 3 numbers: the first files hold its weights as [in][out]."""
    net = read_net(NET.replace("32", "1") + "[connected]\noutput=2\nactivation=linear\n")
    file = tmp_path / "f.weights"
    floats = np.array([10, 20, 1, 2, 3, 4, 5, 6], "<f4")
    file.write_bytes(struct.pack("<3i", *version) + struct.pack(counter, 77) + floats.tobytes())
    if version[0] == 1:  # no Darknet wrote such a file
        with pytest.raises(FovealError, match="unknown format"):
            read_weights_header(file)
        return
    header, state = read_darknet(file, net)
    assert (header.bytes, header.seen, header.transposed) == (size, 77, max(version) > 1000)
    assert state["layers.0.linear.bias"].tolist() == [10, 20]
    rows = [[1, 3, 5], [2, 4, 6]] if header.transposed else [[1, 2, 3], [4, 5, 6]]
    assert state["layers.0.linear.weight"].tolist() == rows


def test_partial_weights(tmp_path: Path) -> None:
    """``darknet53.conv.74`` and the like: allowed where it is asked for, and only up to the end of a layer."""
    net, file = read_net(NET + BATCH + BATCH + CONV.format(9)), tmp_path / "x.conv.2"
    floats = [layer.floats for layer in net.layers]
    for held, needed, fits in ((2, 1, True), (2, 2, False), (1, 1, False), (1, 0, True)):
        values = torch.ones(sum(floats[:held])).numpy()
        file.write_bytes(struct.pack("<3ii", 0, 1, 0, 0) + values.tobytes())
        if fits:
            _, state = read_darknet(file, net, needed=needed)
            assert {int(re.findall(r"\d+", key)[0]) for key in state} == set(range(held))
        else:
            with pytest.raises(FovealError, match="floats after its header"):
                read_darknet(file, net, needed=needed)
    with pytest.raises(FovealError, match="floats after its header"):
        read_darknet(file, net)
