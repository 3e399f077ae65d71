"""Mask R-CNN's mask head: a small mask of the object in each RoI (He et al. 2017).

Letters: B images, K RoIs of an image, C classes, S side of a mask, R = B * K.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import FovealError, UsageError
from ...masks.targets import mask_targets
from ...types import Boxes, Images, Match, Targets
from ..layers.norms import NormKind, conv_block
from ..pooling.roi_align import Pool, RoIAlign, apply_pooled


@dataclass(frozen=True)
class MaskHead:
    """Convolutions on pooled features, a transposed convolution to twice the size, then one mask a class (figure 4,
    right).

    The loss is the binary cross entropy of the mask of the object's class, averaged over the pixels of all positive
    RoIs (section 3); the target is RoIAlign of the object's mask in the RoI (torchvision's rule).
    """

    pool: Pool = RoIAlign(14, ratio=2)
    convs: int = 4
    channels: int = 256
    norm: NormKind | None = None
    rows: int = 128  # positive RoIs of an image in training; a random sample where there are more
    threshold: float = 0.5  # pixels with a probability above this belong to the mask
    weight: float = 1.0  # of the loss

    def __post_init__(self) -> None:
        if self.convs < 1 or self.channels < 1 or self.rows < 1:
            raise UsageError(f"{self}: expected convs, channels and rows of at least 1")
        if not 0 <= self.threshold <= 1:
            raise UsageError(f"MaskHead: threshold is {self.threshold}, expected a number from 0 to 1")

    def build(self, channels: int, classes: int, pool: Pool) -> MaskBranch:
        """For feature maps of these channels; ``pool`` is :attr:`pool` with its levels known."""
        return MaskBranch(self, pool, channels, classes)


class MaskBranch(nn.Module):
    """The branch with its weights: ``loss`` in training, ``probabilities`` of final boxes."""

    def __init__(self, spec: MaskHead, pool: Pool, channels: int, classes: int) -> None:
        super().__init__()
        self.spec, self.pool = spec, pool
        inputs = [channels] + [spec.channels] * (spec.convs - 1)
        self.trunk = nn.Sequential(*(conv_block(c, spec.channels, norm=spec.norm) for c in inputs))
        self.predictor = MaskPredictor(spec.channels, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, features: list[Tensor], boxes: Tensor, labels: Tensor, strides: Sequence[int]) -> Tensor:
        """``boxes`` (B, K, 4), ``labels`` (B, K) -> logits (B, K, S, S) of the class of each RoI."""

        def predict(pooled: Tensor) -> Tensor:  # (R, c, s, s)
            logits: Tensor = self.predictor(self.trunk(pooled), labels.reshape(-1))
            return logits

        logits = apply_pooled(predict, self.pool, features, boxes, strides)
        return logits.view(*labels.shape, *logits.shape[1:])

    # ------------------------------------------------------------------------------------------- training
    def loss(
        self,
        features: list[Tensor],
        boxes: Tensor,
        match: Match,
        targets: Targets,
        images: Images,
        strides: Sequence[int],
        rng: torch.Generator | None,
    ) -> Tensor:
        """The scalar loss of matched RoIs ``boxes`` (B, P, 4). Objects without a mask do not count.

        Raises :class:`FovealError` where the targets have no masks at all.
        """
        if targets.masks is None:
            raise FovealError("the targets have no masks", fix="Annotate masks, or use a detector without a mask head")
        with torch.no_grad():
            has_mask = (targets.masks[..., 2] > targets.masks[..., 1]).any(-1)  # (B, G)
            index, sampled = self._sample(match.positive & has_mask.gather(1, match.gt), rng)  # (B, K)
            boxes = boxes.gather(1, index[..., None].expand(-1, -1, 4))
            gt = match.gt.gather(1, index)
        logits = self(features, boxes, targets.labels.gather(1, gt), strides).float()
        canvas = (int(images.pixels.shape[2]), int(images.pixels.shape[3]))
        target = mask_targets(targets.masks, gt, boxes, images.sizes, canvas, logits.shape[-1])
        losses = F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean((2, 3))  # (B, K)
        return (losses * sampled).sum() / sampled.sum().clamp(min=1) * self.spec.weight

    def _sample(self, positive: Tensor, rng: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """positive (B, P) -> index (B, K) and sampled (B, K) bool: a fixed number of RoIs, the sampled ones first.

        The others repeat them, so that norms with batch statistics see positive RoIs alone.
        """
        noise = torch.rand(positive.shape, generator=rng, device=positive.device)
        count = min(self.spec.rows, positive.shape[1])
        index = noise.masked_fill(~positive, -1.0).topk(count, dim=1).indices
        number = positive.sum(1, keepdim=True).clamp(max=count)
        slot = torch.arange(count, device=index.device).expand_as(index)
        return index.gather(1, slot % number.clamp(min=1)), slot < number

    # ------------------------------------------------------------------------------------------ inference
    @torch.no_grad()
    def probabilities(self, features: list[Tensor], detections: Boxes, strides: Sequence[int]) -> Tensor:
        """(B, n, S, S) inside the final boxes. On a CPU, where the time depends on it, n is the largest number of valid
        ones of an image; on a GPU it is N, without a sync."""
        valid = detections.valid
        n = int(valid.numpy().sum(1).max()) if valid.device.type == "cpu" else valid.shape[1]
        if n == 0:
            side = 2 * self.pool.size
            return detections.boxes.new_zeros(len(valid), 0, side, side)
        logits: Tensor = self(features, detections.boxes[:, :n], detections.labels[:, :n], strides)
        return logits.float().sigmoid()


class MaskPredictor(nn.Module):
    """RoIs (R, c, s, s) and their classes (R,) -> logits (R, 2 s, 2 s). Layers have torchvision's names."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.conv5_mask = nn.ConvTranspose2d(channels, channels, 2, stride=2)
        self.mask_fcn_logits = nn.Conv2d(channels, classes, 1)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        x = torch.relu_(self.conv5_mask(x))
        # of the last layer each RoI needs the weights of its own class alone
        weight, bias = self.mask_fcn_logits.weight[labels].flatten(2), self.mask_fcn_logits.bias
        assert bias is not None
        logits = weight.transpose(1, 2) @ x.flatten(2)  # (R, 1, c) x (R, c, 4 s s)
        return (logits + bias[labels][:, None, None]).view(len(x), x.shape[2], x.shape[3])
