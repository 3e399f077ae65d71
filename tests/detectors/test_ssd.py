"""SSD and DSSD: the loss computed by hand, their parts, any backbone, and unusual inputs."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from foveal import presets
from foveal.assembly.detector import Detector
from foveal.checkpoints.initial import frozen_random_parts, normalization_mismatch
from foveal.config.overrides import override
from foveal.errors import FovealError, UsageError
from foveal.parts.layers.residual import Residual
from foveal.parts.necks import ssd as ssd_parts
from foveal.parts.necks.dssd import Deconvolution, Gap
from foveal.parts.necks.ssd import Extra, Extras, L2Norm, ReducedFC
from foveal.parts.postprocess import NMS, Select
from foveal.parts.resizing import IMAGENET_MEAN, IMAGENET_STD
from foveal.recipe import OnImages
from foveal.training.loop.optimizers import freeze, frozen_norm_modules, set_training_mode
from foveal.types import Images, Predictions, Priors, Target, Targets
from foveal.weights.cache import PUBLISHED

MINI = ("ssd_mini", "dssd_mini")


# --------------------------------------------------------------------------------------------------- the loss
def row(*objects: tuple[float, ...]) -> Tensor:
    return torch.tensor(objects).reshape(-1, 4)


def by_hand() -> tuple[Predictions, Priors, Targets]:
    """Three images, eight priors 10 x 10 at x = 0, 20, ..., 140, two classes. Logits are logs, so that softmax gives
    fractions: (2, 1, 1) means 2/4, 1/4 and, for background, 1/4."""
    priors = Priors(torch.tensor([(20.0 * i, 0.0, 20.0 * i + 10, 10.0) for i in range(8)]), (8,))
    first = [(2, 1, 1), (1, 1, 2), (1, 2, 1), (3, 4, 1), (1, 1, 8), (2, 2, 1), (1, 1, 1), (1, 1, 18)]
    even = [(1, 1, 1)] * 8
    logits = torch.tensor([first, even, [(9, 9, 1)] * 8], dtype=torch.float32).log()
    deltas = torch.full((3, 8, 4), 7.0)  # priors assigned to no object do not matter
    deltas[0, 0] = torch.tensor([0.5, 0, 0, 0])
    deltas[1, 1:3] = 0
    targets = Targets.pad(
        [
            Target(row((0, 0, 10, 4)), torch.tensor([0])),
            Target(row((20, 0, 30, 10), (40, 0, 48, 10)), torch.tensor([1, 0])),
            Target(row(), torch.zeros(0).long()),
        ]
    )
    return Predictions(logits, deltas), priors, targets


def test_losses_by_hand() -> None:
    """The rules of ``multibox_loss_layer.cpp``, in order (systems.md, 1.2, 1.3, 3.14).

    Matching. Image 1: the object overlaps prior 0 by .4, less than .5, but each object takes a prior: 1 positive.
    Image 2: overlaps 1 with prior 1 and .8 with prior 2: 2 positives. Image 3: none. So N = 3.

    Mining. The loss of a negative is -ln p(background). Image 1 has room for 3 of 7: ln 2, ln 4, ln 8, ln 10/8, ln 5,
    ln 3, ln 20/18 for priors 1 to 7, so priors 3, 5 and 2: ln 8 + ln 5 + ln 4. Image 2 has room for 6, and 6 there
    are, ln 3 each. Image 3 has room for none, whatever its loss.

    Classes. Image 1: -ln(2/4) + ln 8 + ln 5 + ln 4 = ln 320. Image 2: eight times ln 3. Divided by N.

    Boxes, encoded with variances .1 and .2. Image 1: (2 - 5) / 10 / .1 = -3 and ln(4/10) / .2 = -4.58145 in y and h,
    0 in x and w. The head has .5, 0, 0, 0: smooth L1 is .5^2 / 2 + 2.5 + 0 + 4.08145. Image 2: prior 1 fits; prior 2
    has (44 - 45) / 10 / .1 = -1 and ln(8/10) / .2 = -1.11572, the head 0: .5 + .61572. Divided by N.
    """
    cls = (math.log(320) + 8 * math.log(3)) / 3
    box = (0.125 + 2.5 + (-math.log(0.4) / 0.2 - 0.5) + 0.5 + (-math.log(0.8) / 0.2 - 0.5)) / 3
    assert (cls, box) == pytest.approx((4.8524064, 2.6073909), rel=1e-6)
    for name in ("ssd300_vgg16_paper", "ssd300_vgg16", "ssd512_vgg16_paper", "dssd513_r101", *MINI):
        found = presets.get(name).task.losses(*by_hand())
        assert found["cls"].item() == pytest.approx(cls, rel=1e-5), name
        assert found["box"].item() == pytest.approx(box, rel=1e-5), name


def test_without_any_object_there_is_no_loss() -> None:
    predictions, priors, _ = by_hand()
    nothing = Targets.pad([Target(row(), torch.zeros(0).long())] * 3)
    predictions.logits.requires_grad_()
    found = presets.ssd300_vgg16_paper.task.losses(predictions, priors, nothing)
    assert found["cls"].item() == 0 and found["box"].item() == 0
    found["cls"].backward()
    assert not predictions.logits.grad.any()  # type: ignore[union-attr]


# ---------------------------------------------------------------------------------------------------- the parts
def test_l2norm_by_hand() -> None:
    x = torch.tensor([3.0, 4.0, 0.0]).view(1, 3, 1, 1)
    assert L2Norm().build(3)(x).flatten().tolist() == pytest.approx([12, 16, 0])  # 20 times (3, 4, 0) / 5
    assert L2Norm(eps=10.0, floor=True).build(3)(x).flatten().tolist() == pytest.approx([6, 8, 0])  # length 10
    assert L2Norm(eps=75.0).build(3)(x).flatten().tolist() == pytest.approx([6, 8, 0])  # sqrt(25 + 75)
    assert L2Norm().build(3)(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("spec", [L2Norm(), L2Norm(eps=1e-12, floor=True)])
def test_l2norm_of_zeros_has_a_finite_gradient(spec: L2Norm) -> None:
    """A single-color image can give only zeros after a ReLU."""
    x = torch.zeros(1, 3, 2, 2, requires_grad=True)
    spec.build(3)(x).sum().backward()
    assert torch.isfinite(x.grad).all()  # type: ignore[arg-type]


def fc_file(monkeypatch: pytest.MonkeyPatch, **changes: Tensor | None) -> None:
    """A VGG file whose fc6 entries encode their column, and fc7 entries their row and column."""
    state: dict[str, Any] = {
        "classifier.0.weight": torch.arange(25088.0).expand(4096, -1),
        "classifier.0.bias": torch.arange(4096.0),
        "classifier.3.weight": torch.arange(4096.0)[:, None] * 10_000 + torch.arange(4096.0),
        "classifier.3.bias": -torch.arange(4096.0),
    } | changes
    state = {k: v for k, v in state.items() if v is not None}
    monkeypatch.setattr(ssd_parts, "read_state", lambda *_, **__: state)


def test_fc6_and_fc7_are_subsampled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 4,096 neurons every fourth; of 7 x 7 locations rows and columns 0, 3 and 6 (Chen et al. 2015)."""
    fc_file(monkeypatch)
    trunk = ReducedFC().build(512)
    trunk.load_pretrained("vgg16.pth")
    place = torch.tensor([[0, 3, 6], [21, 24, 27], [42, 45, 48]])
    assert torch.equal(trunk.fc6.weight[5, 7], 7.0 * 49 + place)
    assert trunk.fc6.bias[:3].tolist() == [0, 4, 8]  # type: ignore[index]
    assert trunk.fc7.weight[2, :3, 0, 0].tolist() == [80_000, 80_004, 80_008]
    assert trunk.fc7.bias[-1].item() == -4092  # type: ignore[index]


@pytest.mark.parametrize(
    "changes", [{"classifier.3.bias": None}, {"classifier.0.bias": torch.full((4096,), torch.nan)}]
)
def test_file_without_fc6_is_rejected(changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision's ``vgg16_features`` holds only NaN there."""
    fc_file(monkeypatch, **changes)
    with pytest.raises(FovealError, match=r"vgg16\.pth.*no fully connected layers.*subsample=False"):
        ReducedFC().build(512).load_pretrained("vgg16.pth")
    ReducedFC(subsample=False).build(512).load_pretrained("vgg16.pth")


def test_pretrained_reaches_backbone_and_fc(monkeypatch: pytest.MonkeyPatch) -> None:
    from foveal.parts.backbones.torchvision import Torchvision

    seen: list[str] = []
    monkeypatch.setattr(Torchvision, "load_pretrained", lambda self, module, path=None: seen.append("backbone"))
    monkeypatch.setattr(ssd_parts.Trunk, "load_pretrained", lambda self, path: seen.append(str(path)))
    with torch.device("meta"):
        for change in (["backbone.weights=f.pth"], [], ['backbone=Torchvision("squeezenet1_0", weights="f.pth")']):
            spec = override(presets.ssd300_vgg16_paper, change)
            spec.load_pretrained(spec.build("a"))
    assert seen == ["backbone", "f.pth", "backbone", "backbone"]


@pytest.mark.parametrize(("side", "gap"), [(5, Gap(3, 1, 0)), (6, Gap(2, 2, 0)), (5, Gap(2, 2, 0)), (7, Gap(2, 2, 0))])
def test_deconvolution_restores_the_size(side: int, gap: Gap) -> None:
    """From 3 x 3: 3/1 gives 5, 2/2 gives 6; 5 was rounded up on the way down, 7 was rounded down."""
    down = Deconvolution(8, norm=None).build((4, 6), (gap,))
    assert down.channels == (8, 6)
    fine, coarse = down([torch.randn(1, 4, side, side), torch.randn(1, 6, 3, 3)])
    assert fine.shape == (1, 8, side, side) and coarse.shape == (1, 6, 3, 3)


def test_deconvolution_by_hand() -> None:
    """All weights 1 and biases 0, maps of ones, one channel each: up is 1 at each location (2/2 does not overlap); its
    3 x 3 sums 4 in the corner; skip: 4 in the corner, 6 at edges, 9 inside, then over the corner 4 + 6 + 6 + 9."""
    down = Deconvolution(1, norm=None).build((1, 1), (Gap(2, 2, 0),))
    for p in down.parameters():
        nn.init.constant_(p, float(p.dim() > 1))
    maps = [torch.ones(1, 1, 4, 4), torch.ones(1, 1, 2, 2)]
    assert down(maps)[0][0, 0, 0, 0].item() == 4 * (4 + 6 + 6 + 9)
    down = Deconvolution(1, norm=None, combine="sum").build((1, 1), (Gap(2, 2, 0),))
    for p in down.parameters():
        nn.init.constant_(p, float(p.dim() > 1))
    assert down(maps)[0][0, 0, 0, 0].item() == 4 + (4 + 6 + 6 + 9)


def test_residual_maps_and_shortcut_agree() -> None:
    for kernel, stride, padding, side in ((2, 2, 0, 5), (3, 1, 0, 8), (1, 1, 0, 10)):
        block = Residual(6, (4, 4, 12), (1, kernel, 1), stride, padding, "batch", 1e-3)
        assert block(torch.randn(2, 6, 10, 10)).shape == (2, 12, side, side)


# ----------------------------------------------------------------------------------------------- from SSD to DSSD
def test_dssd_starts_from_ssd_weights() -> None:
    """Backbone and extra maps have the same names and shapes; the first stage trains the new parameters."""
    with torch.device("meta"):
        first, second = presets.ssd321_r101.build("ab"), presets.dssd321_r101.build("ab")
    old, new = first.state_dict(), second.state_dict()
    shared = {k for k, v in old.items() if k in new and new[k].shape == v.shape}
    kept = {k for k in new if not k.startswith(("neck.deconv.", "head."))}
    assert kept <= shared
    (stage,) = presets.dssd321_r101.fit.stages
    trainable = frozenset(n for n, _ in second.named_parameters())
    freeze(second, stage, trainable)
    assert {n for n, p in second.named_parameters() if not p.requires_grad} == {n for n in kept if n in trainable}
    set_training_mode(second, trainable)
    for name, module in second.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.training is name.startswith(("neck.deconv.", "head.")), name
    freeze(second, presets.dssd513_r101.fit.stages[1], trainable)
    assert frozen_norm_modules(second, trainable) == ()
    set_training_mode(second, trainable)
    assert all(m.training for m in second.modules())


def test_norms_that_never_train_are_left_to_the_detector() -> None:
    detector = presets.retinanet_mini.build("a")
    names = frozenset(n for n, _ in detector.named_parameters())
    freeze(detector, OnImages(trains=("head",)), names)
    assert len(frozen_norm_modules(detector, names)) == sum(isinstance(m, nn.BatchNorm2d) for m in detector.modules())
    assert frozen_norm_modules(detector, frozenset()) == ()


# -------------------------------------------------------------------------------------------------- any backbone
def step(
    detector: Detector,
    height: int = 96,
    width: int = 96,
    objects: int = 1,
    color: bool = False,
    count: int = 2,
    frozen: Iterable[nn.Module] = (),
) -> float:
    """A training iteration and a prediction have finite values."""
    torch.manual_seed(0)
    size = torch.tensor([[height, width]] * count)
    pixels = torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8)
    if color:
        pixels = torch.full_like(pixels, 255)
    images = Images(pixels, size, torch.tensor([[1.0, 1, 0, 0]] * count), size)
    boxes = row((8, 8, 60, 50))[:objects]
    found = [Target(boxes, torch.zeros(len(boxes)).long()), Target(row(), torch.zeros(0).long())]
    targets = Targets.pad(found[:count])
    detector.train()
    for norm in frozen:
        norm.eval()
    losses = detector(images, targets)
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    for name, p in detector.named_parameters():
        assert not p.requires_grad or (p.grad is not None and torch.isfinite(p.grad).all()), name
    assert torch.isfinite(total)
    assert all(torch.isfinite(d.boxes).all() for d in detector.eval()(images))
    return total.item()


@pytest.mark.parametrize("preset", MINI)
@pytest.mark.parametrize("backbone", ["squeezenet1_0", "resnet18", "mobilenet_v3_small", "vgg11"])
def test_any_backbone_works(preset: str, backbone: str) -> None:
    spec = override(presets.get(preset), [f'backbone=Torchvision("{backbone}", norm="batch")'])
    detector = spec.build("ab")
    assert len(detector.strides) == len(detector.priors.per_location)
    assert step(detector, 100, 123) > 0


def test_another_backbone_in_the_configuration_of_the_paper() -> None:
    """SSD's neck on SqueezeNet: strides 8 and 16, six maps, fc6 and fc7 on the last of the backbone."""
    with torch.device("meta"):
        detector = override(presets.ssd300_vgg16, ['backbone=Torchvision("squeezenet1_0")']).build("ab")
    assert detector.strides == (8, 16, 32, 64, 64, 64)
    with pytest.raises(UsageError, match="6 levels, but there are 5"), torch.device("meta"):
        override(presets.ssd300_vgg16, ['backbone=Torchvision("squeezenet1_0", returns=(4,))']).build("ab")


@pytest.mark.parametrize("name", MINI)
def test_unusual_input(name: str) -> None:
    detector = presets.get(name).build(["only"])
    assert step(detector, objects=0) == 0.0
    assert step(detector, objects=1, color=True) > 0
    assert step(detector, 33, 65) > 0


def test_too_small_images_are_rejected_at_construction() -> None:
    with torch.device("meta"):
        with pytest.raises(UsageError, match=r"too small for this neck: extra map 3 of 4 .* kernel of 3.* is 4 x 2"):
            override(presets.ssd300_vgg16, ["input=Stretch(128, 200)"]).build("ab")
        with pytest.raises(UsageError, match="too small for the backbone"):
            override(presets.ssd300_vgg16, ["input=Stretch(2, 2)", "backbone.ceil=False"]).build("ab")
    spec = replace(presets.ssd_mini, neck=Extras((Extra(8, 8, kernel=3, padding=0),)))
    with pytest.raises(UsageError, match="extra map 1 of 1"):
        spec.build("ab")([torch.rand(3, 64, 64)] and Images(
            torch.zeros(1, 3, 64, 64), torch.tensor([[64, 64]]), torch.ones(1, 4), torch.tensor([[64, 64]])
        ))  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        "neck.norm=batch",
        "neck.deconv.norm=batch",
        "head.module.norm=batch",
        "head.module.norm=group",  # 32 groups of one channel
        "head=PerLevel(light=True)",
        "input=Stretch(16, 16)",  # the backbone's own
    ],
)
def test_norm_over_one_value_is_rejected(change: str) -> None:
    """Whichever part has the norm; a frozen norm is accepted."""
    detector = override(presets.dssd_mini, ["input=Stretch(64, 64)", "head.module.norm=None", change]).build("a")
    with pytest.raises(UsageError, match=r"a norm has a single value.*batches of two or more"):
        step(detector, 16, 16, count=1)
    if change == "head.module.norm=group":
        return
    detector.eval()([torch.rand(3, 16, 16)])
    frozen = tuple(m for m in detector.modules() if isinstance(m, nn.BatchNorm2d))
    assert step(detector, 16, 16, count=1, frozen=frozen) > 0


@pytest.mark.parametrize(
    "change, words",
    [
        ("neck.maps=(Extra(8, 8, stride=0),)", "Extra: stride is 0, expected 1 or more"),
        ("neck.maps=(Extra(8, 8, kernel=-1),)", "Extra: kernel is -1, expected 1 or more"),
        ("neck.maps=(Extra(0, 8),)", "Extra: middle is 0, expected 1 or more"),
        ("neck.maps=(Extra(8, 8, padding=-1),)", "Extra: padding is -1, expected 0 or more"),
        ("neck.fc=ReducedFC(dilation=0)", "ReducedFC: dilation is 0"),
        ("neck.rescale=L2Norm(eps=0.0)", "L2Norm: eps is 0"),
        ("neck.deconv=Deconvolution(0)", "Deconvolution: channels is 0"),
        ("head.module=PredictionModule(0, 8)", "PredictionModule: middle is 0"),
        ("input=Stretch(-4, 5)", "Stretch: width and height are pixels from 1 on"),
        ("task.select.per_class=0", "per_class of at least 1"),
    ],
)
def test_impossible_settings_are_rejected(change: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        override(presets.dssd_mini, [change])


def test_top_down_path_needs_two_maps() -> None:
    with pytest.raises(UsageError, match="only one map"):
        override(presets.dssd_mini, ["levels=(5,)", "neck.maps=()"]).build("a")


def test_boxes_for_another_image_size_are_rejected_at_construction() -> None:
    """SSD300's last level has one cell of 300 pixels; at 512 it would have four, centered up to 1,050."""
    with torch.device("meta"):
        with pytest.raises(
            UsageError, match=r"level 6 .* 4 cells in steps of 300 pixels, but the canvas has 512.*size"
        ):
            override(presets.ssd300_vgg16, ["input=Stretch(512, 512)"]).build("a")
        override(presets.ssd300_vgg16, ["input=Stretch(512, 512)", "priors.steps=None"]).build("a")
        override(presets.ssd300_vgg16, ["input=Stretch(320, 320)"]).build("a")


def test_frozen_random_parts_are_reported() -> None:
    with torch.device("meta"):
        detector = presets.dssd321_r101.build("a")
    assert frozen_random_parts(presets.dssd321_r101, detector) == ["backbone", "neck.extras"]
    read = override(presets.dssd321_r101, ["backbone.weights=resnet101"])
    assert frozen_random_parts(read, detector) == ["neck.extras"]
    assert frozen_random_parts(presets.ssd321_r101, detector) == []


def test_caffe_vgg_requires_caffe_normalization(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of both VGG-16 files, each with the normalization that it was trained on and with the other's."""
    monkeypatch.setattr("foveal.weights.cache.published_file", lambda name: PUBLISHED[name].file)
    for name in ("ssd300_vgg16", "ssd300_vgg16_paper"):
        for file, is_caffes in (("vgg16_features", True), ("vgg16", False)):
            caffe = override(presets.get(name), [f"backbone.weights={file}"])
            imagenet = override(caffe, [f"input=Stretch(300, 300, {IMAGENET_MEAN}, {IMAGENET_STD})"])
            right, wrong = (caffe, imagenet) if is_caffes else (imagenet, caffe)
            assert normalization_mismatch(right) is None
            advice = str(normalization_mismatch(wrong))
            assert normalization_mismatch(override(wrong, advice.partition("; set ")[2].split(" "))) is None


# ---------------------------------------------------------------------------------------------- post-processing
def test_candidates_of_each_class() -> None:
    """The best of each class over all levels, as torchvision's and the released code's loops over classes find them."""
    scores = torch.rand(2, 50, 3, generator=torch.Generator().manual_seed(0))
    found = Select(score=0.5, per_level=None, per_class=7).candidates(scores, (40, 10))
    assert found.values.shape == (2, 21) and found.level.tolist() == [0] * 21
    for image in range(2):
        for k in range(3):
            best = scores[image, :, k].sort(descending=True)
            mine = found.labels[image] == k
            assert torch.equal(found.values[image, mine], best.values[:7])
            assert torch.equal(found.priors[image, mine], best.indices[:7])
    logits = scores.logit()
    logits[0, :, 1] = -torch.inf
    again = Select(score=0.5, per_level=None, per_class=60).candidates(logits, (40, 10), torch.sigmoid)
    assert again.values.shape == (2, 150) and (again.values[0, 50:100] == -torch.inf).all()
    torch.testing.assert_close(again.values[1].view(3, 50), scores[1].t().sort(1, descending=True).values)
    with pytest.raises(UsageError, match="per_level=None"):
        Select(per_class=400)


def test_clipping_after_suppression() -> None:
    """Two boxes that differ only outside the image: equal once clipped, IoU 1/3 before."""
    task = presets.ssd300_vgg16_paper.task
    priors = Priors(row((-90, 0, 10, 10), (-290, 0, 10, 10)), (2,))
    predictions = Predictions(torch.tensor([[[2.0, 0, 0], [1, 0, 0]]]), torch.zeros(1, 2, 4))
    size = torch.tensor([[10, 10]])
    images = Images(torch.zeros(1, 3, 10, 10), size, torch.ones(1, 4), size)
    task = replace(task, select=Select(0.4, per_level=None, per_class=2), suppress=NMS(0.45, top=5))
    for clip, number in (("after", 2), ("before", 1)):
        found = replace(task, clip=clip).detect(predictions, priors, images)  # type: ignore[arg-type]
        assert found.valid.sum() == number
        assert found.boxes[0, :number].tolist() == [[0, 0, 10, 10]] * number
    with pytest.raises(UsageError, match="clip is 'never'"):
        replace(task, clip="never")  # type: ignore[arg-type]
