"""What of a cfg is ignored or not carried out is said, once each."""

from __future__ import annotations

import pytest

from foveal.parts.darknet.cfg_graph import read_net
from foveal.parts.darknet.notes import cfg_notes

NET = "[net]\nwidth=32\nheight=32\n"
CONV = "[convolutional]\nfilters=14\nsize=1\nstride=1\nactivation=linear\n"
YOLO = "[yolo]\nmask=0,1\nanchors=1,2, 3,4, 5,6\nclasses=2\nnum=3\nignore_thresh=.5\n"


def notes(text: str, *, training: bool = False) -> list[str]:
    read_net(text)  # it is valid
    return cfg_notes(text, training=training)


def test_a_plain_cfg_has_no_notes() -> None:
    assert notes(NET + CONV + YOLO, training=True) == []
    assert notes(NET + "batch=64\nsubdivisions=16\n" + CONV + YOLO) == []


def test_unknown_settings_with_the_nearest_one() -> None:
    """Darknet prints "Unused field", and uses the default in its place."""
    text = NET + CONV.replace("activation", "activaton") + CONV.replace("activation", "activaton") + YOLO
    assert notes(text) == [
        "lines 8, 13 [convolutional]: activaton is not a setting of this layer and is ignored. "
        "Did you mean activation?",
        "lines 4, 9 [convolutional]: activation is missing; Darknet's default, logistic, is used",
    ]
    many = NET + (CONV + "colour=1\n") * 5
    assert notes(many) == [
        "lines 9, 15, 21 and 2 more [convolutional]: colour is not a setting of this layer and is ignored."
    ]
    assert notes(NET + "widht=64\n" + CONV)[0].endswith("Did you mean width?")
    assert "line 9 [convolutional]: anchors is not" in notes(NET + CONV + "anchors=1,2\n")[0]


def test_settings_of_another_layer() -> None:
    text = NET + CONV.replace("[convolutional]\n", "") + CONV
    assert notes(text) == [
        "line 4 [net]: filters, size, stride, activation are not settings of this layer and are ignored. "
        "Is a [section] line missing before it?"
    ]


def test_repeated_settings() -> None:
    """The first counts, as in Darknet; of a setting that is not read there is nothing to say."""
    text = NET.replace("height=32", "height=32\nheight=64\nwidth=32\nbatch=1\nbatch=64") + CONV + "filters=255\n"
    assert notes(text) == [
        "line 4 [net]: height is set again and ignored; height=32 of line 3 counts",
        "line 5 [net]: width is set again and ignored; width=32 of line 2 counts",
        "line 13 [convolutional]: filters is set again and ignored; filters=14 of line 9 counts",
    ]
    assert notes(NET + CONV + CONV.replace("[convolutional]\n", "")) == [
        "line 9 [convolutional]: filters, size, stride, activation are set again and ignored. "
        "Is a [section] line missing before it?"
    ]


def test_keys_in_other_capitals() -> None:
    """They are ignored, as in Darknet."""
    assert notes(NET + CONV + "PAD=1\n") == [
        "line 9 [convolutional]: PAD is not a setting of this layer and is ignored. Did you mean pad?"
    ]


def test_lists_of_anchors() -> None:
    assert notes(NET + CONV + YOLO.replace("1,2, 3,4, 5,6", "1,2 3,4\t5,6")) == [
        "line 11: anchors has numbers without a comma between them, which are read as separate numbers; Darknet "
        "joins their digits"
    ]
    assert notes(NET + CONV + "[route]\nlayers=-1 0\n" + CONV + YOLO.replace("mask=0,1", "mask=0 1"))[0].startswith(
        "line 10: layers has numbers without a comma between them"
    )
    assert notes(NET + CONV + YOLO.replace("num=3", "num=2")) == [
        "line 11: anchors has 3 pairs where num is 2; the first 2 are used"
    ]
    beyond = YOLO.replace("num=3", "num=2").replace("mask=0,1", "mask=1,2")
    assert read_net(NET + CONV + beyond).layers[1].what.anchors == ((1, 2), (3, 4), (5, 6))  # type: ignore[attr-defined]
    assert notes(NET + CONV + beyond) == [
        "line 11: anchors has 3 pairs where num is 2; all are used, as mask needs them"
    ]


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("counters_per_class=10,20", "line 15: counters_per_class is not carried out: classes weigh alike"),
        ("focal_loss=1", "line 15: focal_loss is not carried out: every class entry weighs alike"),
        ("focal_loss=0", ""),
        ("truth_thresh=1.0", ""),
        (
            "truth_thresh=.9",
            "line 15: truth_thresh is not carried out: boxes that overlap an object more learn nothing else",
        ),
        ("label_smooth_eps=0.1", "line 15: label_smooth_eps is not carried out: classes are learned as 0 and 1"),
        ("iou_thresh_kind=giou", "line 15: iou_thresh_kind is not carried out: iou_thresh compares IoUs"),
        ("cls_normalizer=.5", ""),  # it counts with counters_per_class alone, in Darknet too
        ("stopbackward=800", "line 15: stopbackward is carried out for 1 alone, not for a number of iterations"),
        ("stopbackward=1", ""),
        ("learning_rate=.1", "line 15: learning_rate is not carried out"),
    ],
)
def test_training_settings(setting: str, said: str) -> None:
    text = NET + CONV + YOLO + setting + "\n"
    assert notes(text, training=True) == ([said] if said else [])
    assert notes(text) == []


def test_the_recipe_is_not_the_cfgs() -> None:
    net = NET + "batch=64\nlearning_rate=.001\nburn_in=1000\nsteps=1,2\nscales=.1,.1\nmosaic=1\nhue=.1\nblur=0\n"
    assert notes(net + CONV + YOLO + "jitter=.3\nrandom=1\n", training=True) == [
        "its schedule (batch, learning_rate, burn_in, steps, ...) and augmentation (hue, jitter, mosaic, random) "
        "are not used; the recipe is `fit` and the options of train"
    ]


def test_losses_of_other_layers() -> None:
    text = (
        NET
        + CONV
        + "assisted_excitation=1\n"
        + CONV
        + YOLO
        + "[route]\nlayers=1\n[contrastive]\nclasses=1\nyolo_layer=-2\n"
    )
    assert notes(text, training=True) == [
        "line 9: assisted_excitation is not carried out",
        "line 23: [contrastive] computes no loss",
    ]


def test_missing_settings() -> None:
    """Darknet says "Using default"; every published cfg states them."""
    text = NET + "[convolutional]\nfilters=14\n[maxpool]\nsize=2\nstride_x=1\nstride_y=1\n[maxpool]\nsize=1\n" + CONV
    assert notes(text + YOLO.replace("ignore_thresh=.5\n", "")) == [
        "line 4 [convolutional]: size is missing; Darknet's default, 1, is used",
        "line 4 [convolutional]: stride is missing; Darknet's default, 1, is used",
        "line 4 [convolutional]: activation is missing; Darknet's default, logistic, is used",
        "line 10 [maxpool]: stride is missing; Darknet's default, 1, is used",
        "line 17 [yolo]: ignore_thresh is missing; Darknet's default, 0.5, is used",
    ]
    wide = CONV.replace("size=1", "size=3")
    assert notes(NET + wide) == ["line 4 [convolutional]: pad is missing; Darknet's default, 0, is used"]
    assert notes(NET + wide + "pad=0\n") == notes(NET + wide + "padding=1\n") == []


def test_a_convolution_without_a_norm() -> None:
    block = "[convolutional]\nbatch_normalize=1\nfilters=8\nsize=1\nstride=1\nactivation=leaky\n"
    odd = block.replace("batch_normalize=1\n", "")
    assert notes(NET + block * 3 + odd + block + CONV + YOLO) == [
        "line 22 [convolutional]: batch_normalize is missing, which the other activated convolutions have"
    ]
    for usual in (block * 2 + odd, odd * 2, block * 4 + "[avgpool]\n" + odd + "[scale_channels]\nfrom=-3\n"):
        assert notes(NET + usual + CONV + YOLO) == []
