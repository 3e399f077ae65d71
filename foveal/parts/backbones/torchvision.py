"""Any torchvision classification network as a backbone.

The module tree has torchvision's names, so that an ImageNet file loads without a table of keys. A network is run as a
chain of links (``conv1``, ``bn1``, ..., ``layer4``; ``features.0``, ``features.1``, ...); links of equal stride form a
stage.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ...errors import FovealError, UsageError, nearest
from ...weights.state import load_state
from ..layers.norms import FrozenBatchNorm, NormKind, fuse_frozen, replace_norms
from ..resizing import CAFFE_PIXELS, IMAGENET_MEAN, IMAGENET_PIXELS, LEVELS, PixelStatistics
from .base import BackboneSpec, returned

_CONTAINERS = ("features", "layers", "trunk_output")  # their children are the links
_HEADS = ("avgpool", "fc", "classifier", "dropout", "head", "norm", "permute", "flatten")
_LEVELS = (2, 3, 4, 5)
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\.")
_PROBE = 1024  # pixels; on the meta device, where nothing is computed


@dataclass(frozen=True)
class Torchvision(BackboneSpec):
    """A classification network of torchvision without its classifier.

    ResNet, ResNeXt, Wide ResNet, VGG, MobileNet, SqueezeNet, EfficientNet, RegNet, ConvNeXt, DenseNet, Swin and the
    other convolutional ones. Vision transformers with a fixed input size are refused.
    """

    name: str = "resnet50"  # torchvision's name
    weights: str | None = None  # "imagenet", a file (.pth, .safetensors) or torchvision/NAME, read when training starts
    returns: tuple[str | int, ...] | None = None  # layer names, or l for the last layer of stride 2^l; None: 2 to 5
    frozen_stages: int = 2  # frozen stages of equal stride; 2: stem and layer1 / VGG's conv1 and conv2
    norm: NormKind = "frozen"  # what its batch norms become
    eps: float | None = None  # of the norms; None: the network's own (ResNet 1e-5, MobileNetV3 1e-3)
    ceil: bool = False  # pooling rounds up and does not pad, as in Caffe's networks
    dilated: bool = False  # the last stage is dilated instead of strided: ResNet's conv5, MobileNetV3's C5
    reduced: bool = False  # MobileNetV3: the last stage has half its channels (table 6 of its paper)
    stride_in_1x1: bool = False  # ResNet's first 1 x 1 convolution of a stage is strided, not its 3 x 3 one (MSRA's)

    def __post_init__(self) -> None:
        if self.frozen_stages < 0:
            raise UsageError(f"frozen_stages is {self.frozen_stages}", fix="Give a number of stages, 0 or more")
        if self.norm not in ("frozen", "batch", "group"):
            raise UsageError(f"norm {self.norm!r} is unknown", fix="Use 'frozen', 'batch' or 'group'")
        if self.norm == "group" and self.weights:
            raise UsageError("weights were trained with batch norm", fix="Use norm='frozen' or 'batch' with them")

    def build(self, levels: Sequence[int] = _LEVELS) -> Backbone:
        """The module, with random weights (see :meth:`load_pretrained`).

        ``levels``: what a detector requests where ``returns`` is None; those the network does not have are omitted.
        Raises ``UsageError`` for an unknown name, layer or level.
        """
        network = torchvision_network(self.name, dilated=self.dilated, reduced=self.reduced)
        if self.stride_in_1x1:
            _move_strides(network, self.name)
        known = frozenset(network.state_dict())
        replace_norms(network, self.norm, self.eps)
        for module in network.modules():
            if self.ceil and isinstance(module, nn.MaxPool2d) and module.stride not in (1, (1, 1)):
                module.ceil_mode, module.padding = True, 0
        opened = self._opened(network)
        links = list(_links(network, opened))
        is_nhwc = self.name.startswith("swin")
        shapes = _measure(links, is_nhwc)
        returnable = _returnable(links, shapes)
        by_level = {round(math.log2(stride)): path for path, (_, stride) in returnable.items()}  # the last one wins
        paths = returned(self.returns, levels, by_level, {path: path for path in returnable}, self.name)
        order = list(shapes)
        paths.sort(key=order.index)
        used = links[: order.index(paths[-1]) + 1]
        stages = sorted({stride for _, stride in shapes.values()})
        if self.frozen_stages > len(stages):
            raise UsageError(f"{self.name} has {len(stages)} stages, frozen_stages is {self.frozen_stages}")
        for path, link in used:
            if stages.index(shapes[path][1]) < self.frozen_stages:
                link.requires_grad_(False)
        body = Backbone(used, paths, [shapes[p] for p in paths], known, is_nhwc, opened)
        fuse_frozen(body)
        return body

    def load_pretrained(self, backbone: nn.Module, path: str | Path | None = None) -> None:
        """Loads ``weights`` (or ``path``) into ``backbone``; does nothing where neither is given.

        A name of ``foveal weights list`` stands for its fetched file. The classifier and the removed layers are
        ignored; everything else must fit. Raises ``FovealError``.
        """
        from ...weights.open import read_weights
        from ...weights.reading.entries import choose_state, covers, usual

        file = self._file(path or self.weights)
        if file:
            current = cast(Backbone, backbone)
            content, fits = read_weights(file), covers(current.state_dict())
            found = choose_state(content, lambda state: fits(_newest_names(state)), self.name) or usual(content)
            state = _newest_names(found.state)
            # classifiers of training alone
            aux = (key for key in state if key.startswith(("aux1.", "aux2.", "AuxLogits.")))
            load_state(backbone, state, path=file, known={*current.known, *aux}, what=self.name)
            if content.is_caffe and not self.stride_in_1x1 and self.name.startswith("resnet"):
                raise FovealError(
                    f"is Caffe's form of {self.name}, by its {content.is_caffe}: its 1 x 1 convolutions are strided",
                    path=file,
                    fix="Set backbone.stride_in_1x1=true",
                )

    @property
    def weights_file(self) -> str | None:
        """The file of ``weights``: a path, or the fetched file of ``"imagenet"`` or a name (``torchvision/NAME``)."""
        return self._file(self.weights)

    @property
    def pixels(self) -> PixelStatistics:
        """Those of torchvision's files; Caffe's for a published file from there, MSRA's for MSRA's form of a ResNet."""
        from ...weights.cache import PUBLISHED, TORCHVISION
        from ...weights.library_cards import torchvision_pixels

        name = self.weights or ""
        if self.stride_in_1x1:
            return IMAGENET_MEAN, LEVELS
        if any(e.caffe_pixels and (e.name == name or e.file == Path(name).name) for e in PUBLISHED.values()):
            return CAFFE_PIXELS
        return torchvision_pixels(name if name.startswith(TORCHVISION) else self.name) or IMAGENET_PIXELS

    @property
    def is_vgg(self) -> bool:
        return self.name.startswith("vgg")

    def _file(self, source: str | Path | None) -> str | None:
        """A path unchanged; for a published name, and the word ``imagenet``, the fetched file."""
        from ...weights.cache import PUBLISHED, TORCHVISION, published_file
        from ...weights.imagenet.packages import IMAGENET, imagenet_file

        name = None if source is None else str(source)
        if name == IMAGENET:
            return str(imagenet_file(self.name, self.name if self.name in PUBLISHED else TORCHVISION + self.name))
        if name and (name in PUBLISHED or name.startswith(TORCHVISION)) and not Path(name).exists():
            return str(published_file(name))
        return name

    def _opened(self, network: nn.Module) -> frozenset[str]:
        """The inverted residual blocks of which an inner layer is returned (SSDLite: "features.13.block.0")."""
        inner = {item.rpartition(".block.")[0] for item in self.returns or () if isinstance(item, str)}
        modules = dict(network.named_modules())
        return frozenset(path for path in inner if getattr(modules.get(path), "use_res_connect", True) is False)


def _newest_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """torchvision's DenseNets are published with "norm.1" for "norm1"."""
    return {_OLD_DENSENET.sub(r"\1\2.", key): value for key, value in state.items()}


class Backbone(nn.Module):
    """Pixels (B, 3, H, W) -> one feature map (B, c, H / stride, W / stride) for each returned layer."""

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    names: tuple[str, ...]  # the returned layers, in order
    known: frozenset[str]  # every key of the whole network's state, the classifier's included

    def __init__(
        self,
        links: Sequence[tuple[str, nn.Module]],
        names: Sequence[str],
        shapes: Sequence[tuple[int, int]],
        known: frozenset[str],
        is_nhwc: bool = False,
        opened: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__()
        self.names, self.known, self.is_nhwc, self.opened = tuple(names), known, is_nhwc, opened
        self.channels = tuple(c for c, _ in shapes)
        self.strides = tuple(s for _, s in shapes)
        for path, link in links:
            parent: nn.Module = self
            *folders, leaf = path.split(".")
            for folder in folders:
                if folder not in parent._modules:
                    parent.add_module(folder, nn.Sequential())
                parent = parent.get_submodule(folder)
            parent.add_module(leaf, link)
        for (path, _), (_, after) in pairwise(links):
            if path in self.names and getattr(after, "inplace", False):
                after.inplace = False  # type: ignore[assignment]  # it would overwrite a returned map

    def forward(self, pixels: Tensor) -> list[Tensor]:
        x, maps = pixels, []
        for path, link in _links(self, self.opened):
            x = link(x)
            if path in self.names:
                maps.append(x.permute(0, 3, 1, 2) if self.is_nhwc else x)
        return maps


def torchvision_network(name: str, *, dilated: bool = False, reduced: bool = False) -> nn.Module:
    """The whole classification network with random weights. Raises ``UsageError`` for an unknown name or form."""
    from torchvision import models  # late: doubles the time of `import torch`

    names = [n for n in models.list_models(module=models) if not n.startswith(("vit_", "maxvit"))]
    if name not in names:
        message = f"backbone {name!r} is not one of torchvision's convolutional networks"
        raise UsageError(message, fix=nearest(name, names, "networks"))
    extra: dict[str, Any] = {}
    mobile = name.startswith("mobilenet_v3")
    residual = name.startswith(("resne", "wide_resnet")) and name not in ("resnet18", "resnet34")
    if (dilated and not (mobile or residual)) or (reduced and not mobile):
        raise UsageError(f"{name} has no {'reduced' if reduced else 'dilated'} form")
    if name.startswith("vgg"):
        return _vgg(name)
    if mobile:
        extra = {"dilated": dilated, "reduced_tail": reduced}
    elif dilated:
        extra = {"replace_stride_with_dilation": (False, False, True)}
    if name in ("googlenet", "inception_v3"):
        extra = {"aux_logits": False, "init_weights": True}
    network: nn.Module = models.get_model(name, weights=None, **extra)
    return network


def _vgg(name: str) -> nn.Module:
    """torchvision's VGG, with its classifier on the meta device: half a gigabyte that is not used here."""
    from torchvision.models.vgg import VGG, cfgs, make_layers

    depth, _, norm = name.removeprefix("vgg").partition("_")
    features = make_layers(cfgs[{"11": "A", "13": "B", "16": "D", "19": "E"}[depth]], batch_norm=norm == "bn")
    for layer in features:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(cast(Tensor, layer.bias))
    with torch.device("meta"):
        network: nn.Module = VGG(features, init_weights=False)
    return network


def _move_strides(network: nn.Module, name: str) -> None:
    """Moves the strides of bottleneck blocks to their first convolution, as in the first ResNets (He et al. 2016)."""
    from torchvision.models.resnet import Bottleneck

    blocks = [module for module in network.modules() if isinstance(module, Bottleneck)]
    if not blocks:
        raise UsageError(f"{name} has no 1 x 1 convolution to move the stride to", where="stride_in_1x1")
    for block in blocks:
        block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride


def _links(network: nn.Module, opened: frozenset[str] = frozenset()) -> Iterator[tuple[str, nn.Module]]:
    for name, child in network.named_children():
        if name in _HEADS:
            continue
        if name in _CONTAINERS:
            for leaf, link in child.named_children():
                path = f"{name}.{leaf}"
                if path in opened:
                    block = link.get_submodule("block")
                    yield from ((f"{path}.block.{inner}", layer) for inner, layer in block.named_children())
                else:
                    yield path, link
        else:
            yield name, child


@torch.no_grad()
def _measure(links: Sequence[tuple[str, nn.Module]], is_nhwc: bool) -> dict[str, tuple[int, int]]:
    """Channels and stride after every link.

    The shapes come from running the chain on the meta device, which allocates and computes nothing and is exact for
    every network of the library, so that no table is needed.
    """
    shapes: dict[str, tuple[int, int]] = {}
    x = torch.empty(1, 3, _PROBE, _PROBE, device="meta")
    for path, link in links:
        state = {k: v.to("meta") for k, v in (*link.named_parameters(), *link.named_buffers())}
        x = torch.func.functional_call(link.eval(), state, (x,))
        link.train()
        channels, side = (x.shape[3], x.shape[1]) if is_nhwc else (x.shape[1], x.shape[2])
        shapes[path] = (int(channels), 2 ** round(math.log2(_PROBE / side)))
    return shapes


def _returnable(
    links: Sequence[tuple[str, nn.Module]], shapes: dict[str, tuple[int, int]]
) -> dict[str, tuple[int, int]]:
    """Without the convolutions that a norm follows: they have no output of their own once the two are fused."""
    norms = (nn.BatchNorm2d, nn.GroupNorm, FrozenBatchNorm)
    before = {path for (path, _), (_, after) in pairwise(links) if isinstance(after, norms)}
    return {path: shape for path, shape in shapes.items() if path not in before}
