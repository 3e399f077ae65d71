"""R-CNN's class loss: a softmax for fine-tuning whose layer is replaced by linear SVMs afterwards."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .classification import ClassLoss, CrossEntropy
from .normalizers import Normalizer, Sampled


@dataclass(frozen=True)
class SoftmaxOrSVM(ClassLoss):
    """Trained as softmax cross entropy over C + 1 columns, background last; class c scores sigmoid(z_c - z_background).

    After softmax training that score is p_c / (p_c + p_background), the class against background alone. A stage that
    fits SVMs writes their weights into the same columns and zero into the last: then it is the sigmoid of the class's
    margin. So both share one layer and one prediction path.
    """

    normalizer: Normalizer = Sampled()
    weight: float = 1.0

    @property
    def monotone(self) -> bool:
        return False

    def channels(self, classes: int) -> int:
        return classes + 1

    def __call__(self, logits: Tensor, labels: Tensor, positive: Tensor) -> Tensor:
        return CrossEntropy()(logits, labels, positive)

    def scores(self, logits: Tensor) -> Tensor:
        logits = logits.float()
        return (logits[..., :-1] - logits[..., -1:]).sigmoid()
