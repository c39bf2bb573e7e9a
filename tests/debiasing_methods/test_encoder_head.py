"""The last layers of an encoder: ``e = ln(v)W + b``."""

from __future__ import annotations

import pytest
import torch
from torch.nn import LayerNorm, Linear

from debiasing_methods.encoder_head import EncoderHead


@pytest.mark.parametrize("with_bias", [False, True])
def test_embeddings_are_those_of_torchs_layers(with_bias: bool) -> None:
    torch.manual_seed(0)
    norm, linear = LayerNorm(6, eps=1e-3), Linear(6, 4, bias=with_bias)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    bias = linear.bias.detach() if with_bias else None
    head = EncoderHead(norm.weight.detach(), norm.bias.detach(), norm.eps, linear.weight.detach().T, bias)
    v = 3 * torch.randn(5, 6)
    torch.testing.assert_close(head.embeddings(v), linear(norm(v)).detach())
    assert head.features(v).shape == (5, 6 + with_bias)
    assert head.projection.shape == (6 + with_bias, 4)
    assert head.width == 6


def test_shapes_that_do_not_go_together() -> None:
    with pytest.raises(
        ValueError, match=r"a projection \(6, 4\) needs a layer norm \(6,\), got \(5,\), \(6,\)"
    ):
        EncoderHead(torch.ones(5), torch.zeros(6), 1e-5, torch.ones(6, 4))
