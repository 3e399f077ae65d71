"""EfficientNet-PyTorch's keys, with timm's networks as the source of the names."""

from __future__ import annotations

import pytest

from foveal.weights.imagenet.efficientnet_keys import _names

timm = pytest.importorskip("timm", reason="timm is not installed")


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "tf_efficientnet_lite4", "tf_efficientnet_b0"])
def test_every_key_has_one_name(name: str) -> None:
    known = list(timm.create_model(name).state_dict())
    names = _names(known)
    assert list(names) == known and len(set(names.values())) == len(known)


def test_names_of_blocks() -> None:
    """Lite0 has 1, 2, 2, 3, 3, 4, 1 blocks: the eighth (7) is the last of the fourth stage."""
    names = _names(list(timm.create_model("tf_efficientnet_b0").state_dict()))
    assert names["blocks.0.0.conv_pw.weight"] == "_blocks.0._project_conv.weight"
    assert names["blocks.0.0.bn1.bias"] == "_blocks.0._bn1.bias"
    assert names["blocks.3.2.conv_pw.weight"] == "_blocks.7._expand_conv.weight"
    assert names["blocks.3.2.bn1.running_mean"] == "_blocks.7._bn0.running_mean"
    assert names["blocks.3.2.bn3.running_var"] == "_blocks.7._bn2.running_var"
    assert names["blocks.3.2.se.conv_reduce.bias"] == "_blocks.7._se_reduce.bias"
    assert names["bn1.weight"] == "_bn0.weight" and names["bn2.weight"] == "_bn1.weight"
    assert names["classifier.bias"] == "_fc.bias"
