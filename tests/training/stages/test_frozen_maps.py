"""Training with the maps of frozen layers stored: the direct way's losses, in stages too; an interruption or another
limit changes nothing; a changed image is noticed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from foveal.assembly.detector import Spec
from foveal.config.parse import parse_spec
from foveal.config.show import show
from foveal.data.augment.combine import MixUp
from foveal.data.augment.transforms import Expand, PhotometricDistortion
from foveal.data.loader.map_cache import ViewStore
from foveal.data.synthetic.shapes import make_shapes
from foveal.errors import UsageError
from foveal.parts.backbones.small import SmallResNet
from foveal.parts.backbones.torchvision import Torchvision
from foveal.parts.resizing import Stretch
from foveal.presets.mini import faster_rcnn_mini, ssd_mini
from foveal.recipe import FrozenMaps, OnImages, Recipe
from foveal.training.loop import loop
from foveal.training.stages.frozen_maps import FOLDER
from tests.helpers.stages_tiny import SMALL_FIT, Stop, outcome, run, stopped

HEAD, LAST = ("neck", "head"), ("neck", "head", "backbone.stages.2")
FIT = replace(SMALL_FIT, epochs=3, batch=4, val_every=3, stages=(OnImages(trains=HEAD),), frozen_maps=FrozenMaps())
ONE_STAGE = replace(ssd_mini, input=Stretch(64, 64), backbone=SmallResNet((8, 8, 16)), levels=(3, 4), fit=FIT)
TWO_STAGE = replace(
    faster_rcnn_mini,
    input=Stretch(96, 64),
    backbone=SmallResNet((8, 8, 16)),
    levels=(3, 4),
    fit=replace(FIT, stages=(OnImages(trains=("neck", "rpn_head", "roi_head")),)),
)
# The head alone, then the last stage of the backbone with it, at a tenth of the learning rate.
RELEASED = replace(
    ONE_STAGE,
    fit=replace(
        FIT, backbone_lr=0.1, stages=(OnImages(trains=HEAD, epochs=2), OnImages(trains=LAST, lr=0.002, epochs=2))
    ),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("frozen") / "set"
    make_shapes(out, splits={"train": 10, "val": 2}, size=(96, 72), seed=1, masks=False)
    return out


def fit_of(spec: Spec, **changes: Any) -> Spec:
    return replace(spec, fit=replace(spec.fit, **changes))  # type: ignore[type-var]


def losses_of(out: Path) -> list[float]:
    rows = [row for row in outcome(out)["lines"] if row["split"] == "train"]
    return [row[name] for row in rows for name in sorted(row) if name == "loss" or "cls" in name or "box" in name]


@pytest.mark.parametrize("spec", [ONE_STAGE, TWO_STAGE, RELEASED], ids=["one-stage", "two-stage", "released"])
def test_losses_are_those_of_the_direct_way(spec: Spec, data: Path, tmp_path: Path) -> None:
    """In fp32 on maps of fp32: what differs is the batch in which a convolution adds. fp16 rounds to 2^-11."""
    direct = fit_of(spec, frozen_maps=None)
    run(direct, data, tmp_path / "direct")
    run(fit_of(spec, frozen_maps=FrozenMaps(precision="32")), data, tmp_path / "exact")
    run(spec, data, tmp_path / "half")
    expected = losses_of(tmp_path / "direct")
    assert len(expected) >= 9
    assert losses_of(tmp_path / "exact") == pytest.approx(expected, rel=1e-4)
    assert losses_of(tmp_path / "half") == pytest.approx(expected, rel=5e-3)
    assert losses_of(tmp_path / "half") != losses_of(tmp_path / "exact")
    assert not (tmp_path / "half" / FOLDER).exists()
    assert parse_spec(show(spec)) == spec


def kept(patch: pytest.MonkeyPatch) -> list[str]:
    """The views that are computed from now on."""
    views, write = [], ViewStore.write

    def noted(self: ViewStore, index: int, view: str, maps: Any) -> None:
        views.append(f"{index}-{view}")
        write(self, index, view, maps)

    patch.setattr(ViewStore, "write", noted)
    return views


@pytest.mark.parametrize("at", [1, 3, 5], ids=["first epoch", "later", "next stage"])
def test_killed_and_resumed_is_bit_equal(at: int, data: Path, tmp_path: Path) -> None:
    """As after ``kill -9``: only the files on the disk remain, and what they hold is not computed again."""
    run(RELEASED, data, tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        before = kept(patch)
        stopped(patch, loop.Loop, "_update", at)
        with pytest.raises(Stop):
            run(RELEASED, data, tmp_path / "run", save_every=0.0)
    assert (tmp_path / "run" / FOLDER / "key").exists()
    with pytest.MonkeyPatch.context() as patch:
        after = kept(patch)
        run(RELEASED, data, tmp_path / "run", resume=True)
    expected, found = outcome(tmp_path / "whole"), outcome(tmp_path / "run")
    assert [key for key in ("model", "best", "results") if expected[key] != found[key]] == []
    if at < 4:  # in a later stage other layers are frozen, and the views are computed once more
        assert len(set(before)) == len(before)
        rest = after[: next(i for i, view in enumerate(after) if view in before)]
        assert len(before) + len(rest) <= 20 and len(set(rest)) == len(rest)


def test_the_limit_changes_nothing(data: Path, tmp_path: Path) -> None:
    run(ONE_STAGE, data, tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        views = kept(patch)
        run(fit_of(ONE_STAGE, frozen_maps=FrozenMaps(gigabytes=1e-5)), data, tmp_path / "small")
    assert len(views) > len(set(views))  # computed again
    assert outcome(tmp_path / "whole")["model"] == outcome(tmp_path / "small")["model"]


def test_a_changed_image_is_noticed(data: Path, tmp_path: Path) -> None:
    """Its maps, and all others, are computed again when the run is resumed."""
    shutil.copytree(data, tmp_path / "set")
    with pytest.MonkeyPatch.context() as patch:
        before = kept(patch)
        stopped(patch, loop.Loop, "_update", 4)
        with pytest.raises(Stop):
            run(ONE_STAGE, tmp_path / "set", tmp_path / "run", save_every=0.0)
    key = (tmp_path / "run" / FOLDER / "key").read_text()
    images = sorted(path for path in (tmp_path / "set").rglob("*.jpg"))
    images[0].write_bytes(images[1].read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        after = kept(patch)
        stopped(patch, loop.Loop, "_update", 0)
        with pytest.raises(Stop):
            run(ONE_STAGE, tmp_path / "set", tmp_path / "run", resume=True, accept=["data"])
    assert (tmp_path / "run" / FOLDER / "key").read_text() != key
    assert set(after) & set(before)


BROKEN: list[tuple[Callable[[], Spec], str]] = [
    (
        lambda: fit_of(ONE_STAGE, augment=(Expand(), PhotometricDistortion())),
        r"PhotometricDistortion in .*views=4",
    ),
    (lambda: fit_of(ONE_STAGE, augment=(MixUp(),)), "MixUp in fit.augment combines images"),
    (lambda: fit_of(ONE_STAGE, stages=(OnImages(),)), "no layer that is frozen .*frozen_stages=2"),
    (
        lambda: fit_of(
            replace(ONE_STAGE, backbone=Torchvision("squeezenet1_1", frozen_stages=0)), stages=(OnImages(),)
        ),
        "no layer that is frozen",
    ),
    (
        lambda: fit_of(
            replace(ONE_STAGE, backbone=Torchvision("resnet18", norm="batch", frozen_stages=2)), stages=(OnImages(),)
        ),
        "statistics of the batch norm backbone.bn1 move.*backbone.norm=frozen",
    ),
]


@pytest.mark.parametrize(("spec", "message"), BROKEN, ids=["augment", "combination", "learns", "none frozen", "norms"])
def test_what_cannot_be_stored_is_refused(spec: Callable[[], Spec], message: str, data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        run(spec(), data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("wrong", [{"gigabytes": 0.0}, {"views": 0}, {"precision": "8"}])
def test_settings_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"must be|not one of"):
        FrozenMaps(**wrong)
    assert Recipe().frozen_maps is None


def test_augmentation_in_a_number_of_views(data: Path, tmp_path: Path) -> None:
    """Each of two views is computed once an image, in four epochs."""
    fit = {"augment": (Expand(), PhotometricDistortion()), "frozen_maps": FrozenMaps(views=2), "epochs": 4}
    with pytest.MonkeyPatch.context() as patch:
        views = kept(patch)
        run(fit_of(ONE_STAGE, **fit), data, tmp_path / "run")
    assert len(views) == len(set(views)) <= 20 and {view.split("-")[1] for view in views} == {"0.0", "1.0"}
