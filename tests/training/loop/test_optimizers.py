"""Parameter groups, EMA weights and optimizer steps, against numbers computed by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from foveal.errors import UsageError
from foveal.recipe import SGD, AdamW, OnImages, Recipe
from foveal.runtime import processes as environment
from foveal.training.loop.log import Clock
from foveal.training.loop.optimizers import (
    build_optimizer,
    freeze,
    optimizer_tensors,
    parameter_groups,
    restore_optimizer,
)
from foveal.training.loop.update import EMA, Updater, derive_seed, set_lr


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
        self.head = nn.Linear(2, 1)
        self.predictor = nn.Sequential(nn.Linear(1, 1))


def groups_by_name(net: nn.Module, fit: Recipe) -> dict[str, tuple[float, float]]:
    names = {p: n for n, p in net.named_parameters()}
    groups = parameter_groups(net, fit, OnImages())
    return {names[p]: (g["scale"], g["weight_decay"]) for g in groups for p in g["params"]}


def test_every_parameter_is_in_one_group_with_its_rules() -> None:
    rates: dict[str, float] = {"bias_lr": 2.0, "backbone_lr": 0.1, "predictor_lr": 10.0}
    fit = Recipe(solver=SGD(weight_decay=0.5), norm_decay=False, bias_decay=False, **rates)  # type: ignore[arg-type]
    assert groups_by_name(Net(), fit) == {
        "backbone.0.weight": (0.1, 0.5),
        "backbone.0.bias": (pytest.approx(0.2), 0.0),
        "backbone.1.weight": (0.1, 0.0),
        "backbone.1.bias": (0.1, 0.0),  # a norm's shift is no bias of a layer
        "head.weight": (1.0, 0.5),
        "head.bias": (2.0, 0.0),
        "predictor.0.weight": (10.0, 0.5),
        "predictor.0.bias": (20.0, 0.0),
    }
    assert set(groups_by_name(Net(), Recipe(solver=SGD(weight_decay=0.5))).values()) == {(1.0, 0.5)}


def test_stage_freezes_parameters_it_does_not_name() -> None:
    net = Net()
    net.backbone[0].weight.requires_grad_(False)
    trainable = frozenset(n for n, p in net.named_parameters() if p.requires_grad)
    freeze(net, OnImages(trains=("backbone",)), trainable)
    learning = {n for n, p in net.named_parameters() if p.requires_grad}
    assert learning == {"backbone.0.bias", "backbone.1.weight", "backbone.1.bias"}
    freeze(net, OnImages(), trainable)
    assert {n for n, p in net.named_parameters() if p.requires_grad} == trainable
    with pytest.raises(UsageError, match="'neck'"):
        freeze(net, OnImages(trains=("neck",)), trainable)


def test_ema_by_hand() -> None:
    net = nn.Linear(1, 1, bias=False)
    net.register_buffer("seen", torch.tensor(0.0))
    net.weight.data.fill_(0.0)
    average = EMA(net, decay=0.5)
    net.weight.data.fill_(10.0)
    net.seen.fill_(7.0)
    average.update(net, 0)  # d = min(0.5, 1/10): 0.1 * 0 + 0.9 * 10
    assert average.module.weight.item() == pytest.approx(9.0)
    assert average.module.seen.item() == 7.0
    net.weight.data.fill_(20.0)
    average.update(net, 8)  # d = min(0.5, 9/18): 0.5 * 9 + 0.5 * 20
    assert average.module.weight.item() == pytest.approx(14.5)
    net.weight.data.fill_(0.0)
    average.update(net, 1000)  # d = 0.5
    assert average.module.weight.item() == pytest.approx(7.25)


def test_the_horizon_of_the_average_follows_the_iterations() -> None:
    """With a share of .5 all iterations, and the start, count alike; by hand for that and a third."""
    for share in (0.5, 1 / 3):
        net = nn.Linear(1, 1, bias=False)
        net.weight.data.fill_(0.0)
        average = EMA(net, 0.9999, share)
        seen = []
        for step, value in enumerate((8.0, 10.0, 9.5)):
            net.weight.data.fill_(value)
            average.update(net, step)
            seen.append(average.module.weight.item())
        if share == 0.5:  # n = 0: 1/2 of 0 and 8; then 2/3 and 1/3; then 3/4 and 1/4
            want = [4.0, 4 * 2 / 3 + 10 / 3, 6.0 * 3 / 4 + 9.5 / 4]
        else:  # 1/3, 2/4, 3/5
            want = [16 / 3, 16 / 6 + 5, (16 / 6 + 5) * 3 / 5 + 9.5 * 2 / 5]
        assert seen == pytest.approx(want)


def test_learning_rates_by_depth() -> None:
    """A backbone of three layers: the factor falls from its last to its first, a norm and a bias with their layer."""
    net = nn.Module()
    net.backbone = nn.Sequential(
        nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2)
    )
    net.head = nn.Linear(2, 1)
    rates = {
        name: scale for name, (scale, _) in groups_by_name(net, Recipe(backbone_lr=0.5, backbone_decay=0.01)).items()
    }
    layers = (("0.weight", "1.weight", "1.bias"), ("2.weight", "2.bias"), ("3.weight", "3.bias", "4.weight", "4.bias"))
    for names, rate in zip(layers, (0.005, 0.05, 0.5), strict=True):  # .5 x .01, .5 x .1, .5
        assert [rates[f"backbone.{name}"] for name in names] == pytest.approx([rate] * len(names))
    assert rates["head.weight"] == rates["head.bias"] == 1.0
    wide = nn.Module()
    wide.backbone = nn.Sequential(*(nn.Linear(1, 1) for _ in range(60)))
    assert len(parameter_groups(wide, Recipe(backbone_decay=0.1), OnImages())) == 11  # steps of a tenth


@pytest.mark.parametrize("solver", [SGD(), AdamW()])
def test_optimizer_state_round_trips(solver: Any) -> None:
    """Two iterations, state copied, a third on both: bitwise equal. Channels-last weights keep their layout."""

    def make() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        net = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        return net, build_optimizer(net, Recipe(solver=solver), OnImages())

    def advance(net: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
        optimizer.zero_grad()
        net(torch.full((1, 3, 4, 4), 1.0 + step)).square().sum().backward()
        set_lr(optimizer, 0.01)
        optimizer.step()

    net, optimizer = make()
    for step in range(2):
        advance(net, optimizer, step)
    saved = {k: v.clone() for k, v in optimizer_tensors(optimizer, net).items()}
    assert {k.split("/")[0] for k in saved} == {"weight", "bias"}
    other, fresh = make()
    other.load_state_dict(net.state_dict())
    restore_optimizer(fresh, other, saved)
    advance(net, optimizer, 2)
    advance(other, fresh, 2)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))


class Scale(nn.Module):
    """Loss = weight * pixel; the gradient is the pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0]))

    def forward(self, images: Tensor, targets: Tensor, rng: Any) -> dict[str, Tensor]:
        return {"a": (self.weight * images).sum(), "b": targets.sum()}


def updater(clip: float | None = None, solver: Any = None) -> tuple[Updater, Scale]:
    fabric = environment.launch(torch.device("cpu"), None, "32")
    net = Scale()
    optimizer = build_optimizer(net, Recipe(solver=solver or SGD(momentum=0.9, weight_decay=0.0)), OnImages())
    set_lr(optimizer, 0.1)
    model = fabric.setup_module(net)
    return Updater(fabric, model, optimizer, seed=0, clip=clip, clock=Clock(torch.device("cpu"))), net


def test_optimizer_step_by_hand() -> None:
    update, net = updater()
    result = update([(torch.tensor([2.0]), torch.tensor([0.5]))], 0)  # type: ignore[list-item]
    assert net.weight.item() == pytest.approx(1 - 0.1 * 2)
    assert {k: v.item() for k, v in result.losses.items()} == {"a": 2.0, "b": 0.5}
    assert result.nonfinite.item() == 0
    update([(torch.tensor([2.0]), torch.tensor([0.5]))], 1)  # type: ignore[list-item]
    assert net.weight.item() == pytest.approx(0.8 - 0.1 * (0.9 * 2 + 2))


def test_accumulated_micro_batches_are_averaged() -> None:
    update, net = updater()
    parts = [(torch.tensor([2.0]), torch.tensor([1.0])), (torch.tensor([4.0]), torch.tensor([3.0]))]
    result = update(parts, 0)  # type: ignore[arg-type]
    assert net.weight.item() == pytest.approx(1 - 0.1 * 3)
    assert {k: v.item() for k, v in result.losses.items()} == {"a": 3.0, "b": 2.0}


def test_clipping_by_hand() -> None:
    update, net = updater(clip=0.5)
    update([(torch.tensor([2.0]), torch.tensor([0.0]))], 0)  # type: ignore[list-item]
    assert net.weight.item() == pytest.approx(1 - 0.1 * 0.5)
    update, net = updater(clip=5.0)
    update([(torch.tensor([2.0]), torch.tensor([0.0]))], 0)  # type: ignore[list-item]
    assert net.weight.item() == pytest.approx(1 - 0.1 * 2)


@pytest.mark.parametrize("solver", [SGD(weight_decay=0.1), AdamW(weight_decay=0.1)])
@pytest.mark.parametrize(("pixel", "other"), [(torch.nan, 0.0), (torch.inf, 0.0), (1.0, torch.nan), (1.0, -torch.inf)])
def test_nonfinite_loss_changes_nothing(solver: Any, pixel: float, other: float) -> None:
    """Neither weights (decay and momentum included) nor the optimizer state."""
    update, net = updater(solver=solver, clip=1.0)
    update([(torch.tensor([2.0]), torch.tensor([0.5]))], 0)  # type: ignore[list-item]
    weight = net.weight.detach().clone()
    state = {k: v.clone() for k, v in optimizer_tensors(update.optimizer, net).items()}
    result = update([(torch.tensor([pixel]), torch.tensor([other]))], 1)  # type: ignore[list-item]
    assert result.nonfinite.item() == 1
    assert torch.equal(net.weight, weight)
    after = optimizer_tensors(update.optimizer, net)
    assert all(torch.equal(after[k], v) for k, v in state.items())


def test_derived_seeds_are_distinct_and_stable() -> None:
    places = [
        derive_seed(1, 0, 0, 0),
        derive_seed(1, 0, 0, 1),
        derive_seed(1, 0, 1, 0),
        derive_seed(1, 1, 0, 0),
        derive_seed(2, 0, 0, 0),
    ]
    assert len(set(places)) == 5
    assert derive_seed(1, 7, 3, 0) == derive_seed(1, 7, 3, 0)


def test_fp16_loss_scaler_steps_and_skips() -> None:
    fabric = environment.launch(torch.device("cpu"), None, "16")
    net = Scale()
    optimizer = build_optimizer(net, replace(Recipe(), solver=SGD(weight_decay=0.0)), OnImages())
    set_lr(optimizer, 0.1)
    update = Updater(fabric, fabric.setup_module(net), optimizer, seed=0, clip=1.0, clock=Clock(torch.device("cpu")))
    update([(torch.tensor([2.0]), torch.tensor([0.5]))], 0)  # type: ignore[list-item]
    assert net.weight.item() == pytest.approx(1 - 0.1 * 1.0, abs=1e-5)  # clipped from 2 to 1
    before = net.weight.item()
    result = update([(torch.tensor([torch.nan]), torch.tensor([0.5]))], 1)  # type: ignore[list-item]
    assert result.nonfinite.item() == 1
    assert net.weight.item() == before
