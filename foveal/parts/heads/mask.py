"""The third branch of Mask R-CNN: a small mask of every box's object, beside its class and its box (He et al. 2017).

Letters: B images, K rows (boxes) of an image, C classes, S side of a mask.
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
from ..pooling.roi_align import Pool, RoIAlign, look_at


@dataclass(frozen=True)
class MaskHead:
    """Convolutions on pooled features, twice the size by a transposed one, then one mask a class (figure 4, right).

    The loss is the binary cross entropy of the object's own class' mask, its mean over the pixels of all rows that hold
    an object (section 3), against RoIAlign of the object's mask in the row's box (torchvision's rule).
    """

    pool: Pool = RoIAlign(14, ratio=2)
    convs: int = 4
    channels: int = 256
    norm: NormKind | None = None
    rows: int = 128  # of an image in training: rows that hold an object, a random choice where there are more
    threshold: float = 0.5  # a pixel whose probability is above this belongs to the mask
    weight: float = 1.0  # of the loss

    def __post_init__(self) -> None:
        if self.convs < 1 or self.channels < 1 or self.rows < 1:
            raise UsageError(f"{self}: convs, channels and rows are counts from 1 on")
        if not 0 <= self.threshold <= 1:
            raise UsageError(f"MaskHead: threshold is {self.threshold}; it must lie in [0, 1]")

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
        """``boxes`` (B, K, 4), ``labels`` (B, K) -> logits (B, K, S, S) of each row's own class."""

        def look(pooled: Tensor) -> Tensor:  # (B * K, c, s, s)
            found: Tensor = self.predictor(self.trunk(pooled), labels.reshape(-1))
            return found

        logits = look_at(look, self.pool, features, boxes, strides)
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
        """The loss over rows ``boxes`` (B, R, 4), matched. Objects nobody drew a mask of have no part in it.

        Raises :class:`FovealError` where the targets have no masks at all.
        """
        if targets.masks is None:
            raise FovealError("the targets have no masks", fix="Give one for each object, or use a box detector")
        with torch.no_grad():
            drawn = (targets.masks[..., 2] > targets.masks[..., 1]).any(-1)  # (B, G)
            index, kept = self._rows(match.positive & drawn.gather(1, match.gt), rng)  # (B, K)
            boxes = boxes.gather(1, index[..., None].expand(-1, -1, 4))
            gt = match.gt.gather(1, index)
        logits = self(features, boxes, targets.labels.gather(1, gt), strides).float()
        canvas = (int(images.pixels.shape[2]), int(images.pixels.shape[3]))
        goal = mask_targets(targets.masks, gt, boxes, images.sizes, canvas, logits.shape[-1])
        rows = F.binary_cross_entropy_with_logits(logits, goal, reduction="none").mean((2, 3))
        return (rows * kept).sum() / kept.sum().clamp(min=1) * self.spec.weight

    def _rows(self, positive: Tensor, rng: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """positive (B, R) -> index (B, K), kept (B, K): a fixed number of rows, the kept ones first.

        The others repeat them, so that norms that look at the batch see rows with objects alone.
        """
        noise = torch.rand(positive.shape, generator=rng, device=positive.device)
        count = min(self.spec.rows, positive.shape[1])
        index = noise.masked_fill(~positive, -1.0).topk(count, dim=1).indices
        number = positive.sum(1, keepdim=True).clamp(max=count)
        place = torch.arange(count, device=index.device).expand_as(index)
        return index.gather(1, place % number.clamp(min=1)), place < number

    # ------------------------------------------------------------------------------------------ inference
    @torch.no_grad()
    def probabilities(self, features: list[Tensor], found: Boxes, strides: Sequence[int]) -> Tensor:
        """(B, n, S, S) inside the final boxes. On a processor, where each row costs, n is that of the image with most;
        an accelerator is not asked."""
        n = int(found.valid.numpy().sum(1).max()) if found.valid.device.type == "cpu" else found.valid.shape[1]
        if n == 0:
            side = 2 * self.pool.size
            return found.boxes.new_zeros(len(found.boxes), 0, side, side)
        logits: Tensor = self(features, found.boxes[:, :n], found.labels[:, :n], strides)
        return logits.float().sigmoid()


class MaskPredictor(nn.Module):
    """Rows (R, c, s, s) and their classes (R,) -> logits (R, 2 s, 2 s). Layers carry torchvision's names."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.conv5_mask = nn.ConvTranspose2d(channels, channels, 2, stride=2)
        self.mask_fcn_logits = nn.Conv2d(channels, classes, 1)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        x = torch.relu_(self.conv5_mask(x))
        # of the last layer each row needs the weights of its own class alone
        weight, bias = self.mask_fcn_logits.weight[labels].flatten(2), self.mask_fcn_logits.bias
        assert bias is not None
        rows = weight.transpose(1, 2) @ x.flatten(2)  # (R, 1, c) x (R, c, 4 s s)
        return (rows + bias[labels][:, None, None]).view(len(x), x.shape[2], x.shape[3])
