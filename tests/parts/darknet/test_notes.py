"""What of a cfg is ignored or not carried out is said, once each."""

from __future__ import annotations

import pytest

from foveal.parts.darknet.cfg_graph import read_net
from foveal.parts.darknet.notes import cfg_notes

NET = "[net]\nwidth=32\nheight=32\n"
CONV = "[convolutional]\nfilters=14\nsize=1\nactivation=linear\n"
YOLO = "[yolo]\nmask=0,1\nanchors=1,2, 3,4, 5,6\nclasses=2\nnum=3\n"


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
        "lines 7, 11 [convolutional]: activaton is not a setting of this layer and is ignored. Did you mean activation?"
    ]
    many = NET + (CONV + "colour=1\n") * 5
    assert notes(many) == [
        "lines 8, 13, 18 and 2 more [convolutional]: colour is not a setting of this layer and is ignored."
    ]
    assert notes(NET + "widht=64\n" + CONV)[0].endswith("Did you mean width?")
    assert "line 8 [convolutional]: anchors is not" in notes(NET + CONV + "anchors=1,2\n")[0]


def test_repeated_settings() -> None:
    """The first counts, as in Darknet; the same value twice is nothing to say, nor is a setting that is not read."""
    text = NET.replace("height=32", "height=32\nheight=64\nwidth=32\nbatch=1\nbatch=64") + CONV + "filters=255\n"
    assert notes(text) == [
        "line 4 [net]: height is set again and ignored; height=32 of line 3 counts",
        "line 12 [convolutional]: filters is set again and ignored; filters=14 of line 9 counts",
    ]


def test_lists_of_anchors() -> None:
    assert notes(NET + CONV + YOLO.replace("1,2, 3,4, 5,6", "1,2 3,4\t5,6")) == [
        "line 10: anchors has numbers without a comma between them, which are read as separate numbers; Darknet "
        "joins their digits"
    ]
    assert notes(NET + CONV + "[route]\nlayers=-1 0\n" + CONV + YOLO.replace("mask=0,1", "mask=0 1"))[0].startswith(
        "line 9: layers has numbers without a comma between them"
    )
    assert notes(NET + CONV + YOLO.replace("num=3", "num=2")) == [
        "line 10: anchors has 3 pairs where num is 2; the first 2 are used"
    ]
    beyond = YOLO.replace("num=3", "num=2").replace("mask=0,1", "mask=1,2")
    assert read_net(NET + CONV + beyond).layers[1].what.anchors == ((1, 2), (3, 4), (5, 6))  # type: ignore[attr-defined]
    assert notes(NET + CONV + beyond) == [
        "line 10: anchors has 3 pairs where num is 2; all are used, as mask needs them"
    ]


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("counters_per_class=10,20", "line 13: counters_per_class is not carried out: classes weigh alike"),
        ("focal_loss=1", "line 13: focal_loss is not carried out: every class entry weighs alike"),
        ("focal_loss=0", ""),
        ("truth_thresh=1.0", ""),
        (
            "truth_thresh=.9",
            "line 13: truth_thresh is not carried out: boxes that overlap an object more learn nothing else",
        ),
        ("label_smooth_eps=0.1", "line 13: label_smooth_eps is not carried out: classes are learned as 0 and 1"),
        ("iou_thresh_kind=giou", "line 13: iou_thresh_kind is not carried out: iou_thresh compares IoUs"),
        ("cls_normalizer=.5", ""),  # it counts with counters_per_class alone, in Darknet too
        ("stopbackward=800", "line 13: stopbackward is carried out for 1 alone, not for a number of iterations"),
        ("stopbackward=1", ""),
        ("learning_rate=.1", "line 13: learning_rate is not carried out"),
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
        "line 8: assisted_excitation is not carried out",
        "line 20: [contrastive] computes no loss",
    ]
