"""Odd spellings of a cfg and of names: read as meant, or refused in one sentence with the line."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from foveal.errors import FovealError
from foveal.parts.darknet.cfg import read_cfg_text, read_names
from foveal.parts.darknet.cfg_graph import read_net
from foveal.parts.darknet.notes import cfg_notes

GOOD = (
    "[net]\nwidth=32\nheight=64\nchannels=3\n\n[convolutional]\nfilters=14\nsize=1\nstride=1\nactivation=linear\n\n"
    "[yolo]\nmask=0,1\nanchors=1,2, 3,4\nclasses=2\nnum=2\n"
)


def read(path: Path) -> tuple[object, ...]:
    net = read_net(read_cfg_text(path), path)
    return net.width, net.height, *(layer.what for layer in net.layers)


EXPECTED = read_net(GOOD)


@pytest.mark.parametrize(
    "content",
    [
        GOOD.encode(),
        GOOD.replace("\n", "\r\n").encode(),
        GOOD.replace("\n", "\r").encode(),
        b"\xef\xbb\xbf" + GOOD.encode(),
        GOOD.encode("utf-16"),
        GOOD.replace("=", "\t = \t").replace("\n", "  \n").encode(),
        GOOD.replace("=", " = ").replace("[", " [ ").replace("]", " ] ").encode(),
        GOOD.replace("\n", " # a comment; with = and [brackets]\n").encode(),
        GOOD.replace("\n", " ; a comment # of the other kind\n").encode(),
        GOOD.replace("[net]", "# first\n;second\n\n[network]").encode(),
        GOOD.replace("[net]", "[NET]").replace("[yolo]", "[Yolo]").encode(),
        GOOD.replace("[convolutional]", "[conv]").encode(),
        GOOD.replace("channels=3\n", "").encode(),
        GOOD.replace("channels=3", "channels=3\nbatch=64\nsubdivisions=8\nhue=\nlearning_rate=.1").encode(),
        GOOD.replace("width=32", "width=32\nwidth=416").encode(),
        GOOD.replace("width=32", "wi dth = 3 2").encode(),
        GOOD.replace("width=32", "width=+32.0").encode(),
        GOOD.replace("0,1", "0, 1,").encode(),
        GOOD.replace("1,2, 3,4", "1,2 3,4").encode(),
        GOOD.replace("mask=0,1", "mask = 0 1").encode(),
        GOOD.replace("1,2, 3,4", "1.0,2.,3,4.00, 9,9").encode(),
        GOOD.rstrip().encode(),
        (GOOD + "\n\n\x0c\n# end").encode(),
        GOOD.replace("[yolo]", "# caf\xe9\n[yolo]").encode("latin-1"),
        GOOD.replace("=", "\xa0=\xa0").encode(),
    ],
)  # fmt: skip
def test_spellings_that_mean_the_same(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.cfg"
    path.write_bytes(content)
    assert read(path) == (EXPECTED.width, EXPECTED.height, *(layer.what for layer in EXPECTED.layers))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ((), None),
        (("[net]", "[convolution]"), r"line 1 \[convolution\]: the first section is not \[net\]\. Begin with \[net\]"),
        (("[net]\n", ""), r"line 1: 'width=32', expected \[net\]\. Begin the cfg with \[net\]"),
        (("[net]\n", "classes=2\n[net]\n"), r"line 1: 'classes=2', expected \[net\]\. This is a \.data file"),
        (("[net]\n", "<!DOCTYPE html>\n[net]\n"), r"expected \[net\]\. This is a web page"),
        (("[net]\n", "version https://git-lfs.github.com/spec/v1\n"), r"expected \[net\]\. This is a git-lfs pointer"),
        (("filters=14", "filters="), r"line 7 \[convolutional\]: filters has no value\. Write filters= and a number"),
        (("filters=14", "filters"), r"line 7: 'filters', expected a key=value line"),
        (("filters=14", "filters=fourteen"), r"line 7 .*filters is 'fourteen', expected a number"),
        (("filters=14\n", "filters=14 "), r"line 7: 'filters=14 size=1' sets two keys\. Write one setting on a line"),
        (("filters=14", "filters=1_4"), r"line 7 .*filters is '1_4', expected a number"),
        (
            ("filters=14", "filters=14 // three per anchor"),
            r"line 7 .*filters is '14//threeperanchor', expected a number",
        ),
        (("filters=14", "filters=21"), r"line 12 \[yolo\]: 2 boxes of 5 \+ 2 classes need 14 channels, .* has 21"),
        (("classes=2", "classes=3"), r"need 16 channels, the layer before has 14\. Set filters=16 there"),
        (("mask=0,1", "mask=0,2"), r"line 13 \[yolo\]: mask names anchor 2, there are 2\. Use 0 to 1"),
        (("mask=0,1", "mask=0,-1"), r"line 13 \[yolo\]: mask names anchor -1"),
        (("mask=0,1", "mask=0,,1"), r"line 13 \[yolo\]: mask is '0,,1', expected a number"),
        (("mask=0,1", "mask=0 - 1"), r"line 13 \[yolo\]: mask is '0-1', expected a number"),
        (("num=2", "num=3"), r"line 14 \[yolo\]: anchors has 2 pairs, num is 3"),
        (("1,2, 3,4", "1,2, 3"), r"line 14 \[yolo\]: anchors has 3 numbers, expected pairs"),
        (("1,2, 3,4", "1,2,\n3,4"), r"line 15: '3,4', expected a key=value line"),
        (("1,2, 3,4", "1,2, 3,0"), r"line 14 \[yolo\]: anchors has a side that is not above 0"),
        (("1,2, 3,4", "1,2, 3,x"), r"line 14 \[yolo\]: anchors is '1,2,3,x', expected a number"),
        (("[yolo]", "[yolo"), r"line 12: '\[yolo' is not a section\. Write \[name\]"),
        (("[yolo]", "[yol]"), r"line 12 \[yol\]: layer 'yol' is not known\. Did you mean yolo\?"),
        (
            ("[yolo]", "[net]\n[yolo]"),
            r"line 12 \[net\]: layer 'net' is not known\. Remove it, or the layers before it",
        ),
        (("=linear", "=Linear"), r"line 10 .*activation 'Linear' is not known\. Did you mean linear\?"),
        (("channels=3", "channels=1"), r"line 4 \[net\]: channels is 1; images are RGB here"),
        (("height=64", "height=-64"), r"line 3 \[net\]: height is -64, expected 1 or more"),
        (("height=64", ""), r"line 1 \[net\]: height is missing"),
    ],
)
def test_what_cannot_be_meant_is_refused(changed: tuple[str, ...], words: str | None, tmp_path: Path) -> None:
    path = tmp_path / "my net.cfg"
    path.write_text(GOOD.replace(*changed, 1) if changed else GOOD)
    if words is None:
        read(path)
        return
    with pytest.raises(FovealError, match=words) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: line ") and "\n" not in str(caught.value)


def test_sides_that_are_no_multiples_of_the_stride() -> None:
    """33 pixels: 17 and 9 cells, which twice 9 does not meet; a network without a second branch takes any side."""
    block = "[convolutional]\nfilters=14\nsize=3\nstride=2\npad=1\nactivation=linear\n"
    odd = "[net]\nwidth=33\nheight=33\n" + block + block
    assert read_net(odd).layers[-1].shape == (14, 9, 9)
    with pytest.raises(
        FovealError, match=r"joins maps of different sizes \(2: 18 x 18, 0: 17 x 17\)\. Set input sides"
    ):
        read_net(odd + "[upsample]\n[route]\nlayers=-1,0\n")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"cat\ndog\n", ("cat", "dog")),
        (b"\xef\xbb\xbfcat\r\ndog\r\n\r\n", ("cat", "dog")),
        ("chat\nchien d'eau\n".encode("utf-16"), ("chat", "chien d'eau")),
        (b"cat \n\tdog", ("cat", "dog")),
        ("猫\n犬\n".encode(), ("猫", "犬")),
    ],
)
def test_names_of_any_editor(content: bytes, expected: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "my.names"
    path.write_bytes(content)
    assert read_names(path) == expected


def test_other_files_are_no_names(tmp_path: Path) -> None:
    path = tmp_path / "my.names"
    path.write_text(GOOD)
    with pytest.raises(FovealError, match=r"my\.names: is a cfg, not a list of names\. Give it as --cfg"):
        read_names(path)


# ------------------------------------------------------------------------------------------------- random edits
BLOCK = "[convolutional]\nbatch_normalize=1\nfilters=8\nsize=3\nstride=2\npad=1\nactivation=leaky\n\n"
LARGER = (
    "# a network of two branches\n[net]\nbatch=64\nwidth=64\nheight=64\nchannels=3\nlearning_rate=0.001\n\n" + BLOCK * 3
    + "[shortcut]\nfrom=-1\nactivation=linear\n\n[maxpool]\nsize=2\nstride=1\n\n[convolutional]\nfilters=14\nsize=1\n"
    "stride=1\npad=1\nactivation=linear\n\n[yolo]\nmask = 2,3\nanchors = 4,6,  8,8,  16,12,  24,30\nclasses=2\nnum=4\n"
    "ignore_thresh=.6\nscale_x_y=1.1\n\n[route]\nlayers = -3, 2\n\n[upsample]\nstride=2\n\n[route]\nlayers=-1, 1\n\n"
    "[convolutional]\nfilters=14\nsize=1\nstride=1\npad=1\nactivation=linear\n\n[yolo]\nmask = 0,1\n"
    "anchors = 4,6,  8,8,  16,12,  24,30\nclasses=2\nnum=4\nignore_thresh=.6\nscale_x_y=1.1\n"
)  # fmt: skip


def edited(text: str, rng: random.Random) -> str:
    """A line of the text spelled in another way, rightly or not."""
    lines = text.split("\n")
    i = rng.randrange(len(lines) - 1)
    line = lines[i]
    j = rng.randrange(len(line) + 1)
    key, equals, value = line.partition("=")
    k = rng.randrange(len(key)) if key else 0
    variants: list[list[str]] = [
        [line, line],
        [line.swapcase()],
        [line[:j] + rng.choice(" \t\xa0") + line[j:]],
        [line.replace(" ", "")],
        [line + rng.choice((" # was 3", "; x=1", "\r", " "))],
        [line.replace("=", " ")],
        [line.replace("=", ":")],
        [line + " " + lines[i + 1]],
        [key + equals],
        [key[:k] + key[k + 1 :] + equals + value],
        [key + equals + equals + value],
        [value + equals + key],
    ]
    new = rng.choice(variants)
    rest = lines[i + 2 :] if new == [line + " " + lines[i + 1]] else lines[i + 1 :]
    return "\n".join([*lines[:i], *new, *rest])


def test_random_spellings_are_never_silent() -> None:
    """1,500 edits: the same network, a refusal in one sentence, or a note that the plain cfg has not."""
    rng = random.Random(5)

    def seen(text: str) -> tuple[object, ...]:
        net = read_net(text, "x.cfg")
        return net.width, net.height, *((layer.kind, layer.what) for layer in net.layers)

    usual, outcomes = seen(LARGER), {"same": 0, "refused": 0, "noted": 0}
    assert cfg_notes(LARGER) == []
    for _ in range(1500):
        text = edited(LARGER, rng)
        try:
            found = seen(text)
        except FovealError as error:
            assert str(error).startswith("x.cfg: ") and "\n" not in str(error)
            outcomes["refused"] += 1
            continue
        notes = cfg_notes(text)
        assert found == usual or notes, text
        outcomes["noted" if notes else "same"] += 1
    assert min(outcomes.values()) > 100, outcomes
