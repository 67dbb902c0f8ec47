"""torch's functions by other kernels: the same numbers, in this thread, while the block lasts."""

import threading

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tiny
from ovseg.runtime.kernels import Kernels, half_linear, onednn_linear, uses_onednn

pytestmark = pytest.mark.skipif(not uses_onednn(), reason="this torch was built without oneDNN")


class Counted:
    """`F.linear` that remembers how often it was asked."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, tokens: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        self.calls += 1
        return F.linear(tokens, weight, bias)


def attention(width: int = 24, heads: int = 3) -> nn.MultiheadAttention:
    torch.manual_seed(3)
    out = nn.MultiheadAttention(width, heads, batch_first=True).eval().requires_grad_(False)
    for parameter in out.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    return out


@pytest.mark.parametrize(
    "tokens",
    [
        torch.randn(2, 61, 24),
        torch.randn(61, 24),
        torch.randn(24, 61).mT,  # columns first in memory
        torch.randn(2, 61, 72)[..., 24:48],
        torch.randn(61, 2, 24).transpose(0, 1),
        torch.randn(2, 0, 24),
    ],
    ids=["batch", "rows", "turned", "part", "batch second", "none"],
)
def test_linear_layer_equals_torchs_own_however_its_input_lies_in_memory(tokens: Tensor) -> None:
    weight, bias = torch.randn(72, 24), torch.randn(72)
    for rows, offset in ((weight, bias), (weight[24:48], bias[24:48]), (weight, None)):
        torch.testing.assert_close(onednn_linear(tokens, rows, offset), F.linear(tokens, rows, offset))


def test_gradient_flows_where_one_is_asked() -> None:
    tokens, weight = torch.randn(2, 5, 24, requires_grad=True), torch.randn(7, 24)
    onednn_linear(tokens, weight).square().sum().backward()
    mine, tokens.grad = tokens.grad, None
    F.linear(tokens, weight).square().sum().backward()
    assert mine is not None
    torch.testing.assert_close(mine, tokens.grad)


def test_double_precision_stays_double() -> None:
    tokens, weight = torch.randn(5, 24, dtype=torch.float64), torch.randn(7, 24, dtype=torch.float64)
    torch.testing.assert_close(onednn_linear(tokens, weight), F.linear(tokens, weight), rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["self", "own token alone", "three different"])
def test_attention_equals_torchs_own(kind: str) -> None:
    network, counted = attention(), Counted()
    tokens, others, third = torch.randn(2, 61, 24), torch.randn(2, 13, 24), torch.randn(2, 13, 24)
    given = {"self": (tokens,) * 3, "own token alone": (tokens[:, :1], tokens, tokens)}
    query, key, value = given.get(kind, (tokens, others, third))
    wanted = network(query, key, value, need_weights=False)[0]
    with Kernels(counted):
        found, weights = network(query, key, value, need_weights=False)
    assert weights is None and counted.calls == (2 if kind == "self" else 4)
    torch.testing.assert_close(found, wanted)


def test_causal_attention_of_a_text_tower_equals_torchs_own() -> None:
    network, tokens, counted = attention(), torch.randn(2, 61, 24), Counted()
    mask = torch.full((61, 61), float("-inf")).triu(1)
    wanted = network(tokens, tokens, tokens, attn_mask=mask, need_weights=False)[0]
    with Kernels(counted):
        found = network(tokens, tokens, tokens, attn_mask=mask, need_weights=False)[0]
    assert counted.calls == 2
    torch.testing.assert_close(found, wanted)


def test_attention_that_is_masked_or_asks_its_weights_back_is_left_to_torch() -> None:
    network, tokens = attention(), torch.randn(2, 61, 24)
    mask = torch.randn(61, 61) > 0
    masked = network(tokens, tokens, tokens, attn_mask=mask, need_weights=False)[0]
    weighted = network(tokens, tokens, tokens)
    padding = torch.arange(61)[None] > torch.tensor([[7], [50]])
    padded = network(tokens, tokens, tokens, key_padding_mask=padding, need_weights=False)[0]
    with Kernels():
        torch.testing.assert_close(network(tokens, tokens, tokens, attn_mask=mask, need_weights=False)[0], masked)
        for found, wanted in zip(network(tokens, tokens, tokens), weighted, strict=True):
            torch.testing.assert_close(found, wanted)
        found = network(tokens, tokens, tokens, key_padding_mask=padding, need_weights=False)[0]
        torch.testing.assert_close(found, padded)


def test_every_linear_layer_of_a_tower_is_asked_and_the_answer_stays() -> None:
    model, counted, pixels = tiny.model(), Counted(), torch.randn(2, 3, 48, 48)
    with torch.inference_mode():
        wanted = model.encode_image(pixels)
        with Kernels(counted):
            model.encode_image(pixels)
        with Kernels():
            found = model.encode_image(pixels)
        again = model.encode_image(pixels)
    assert counted.calls == 4 * 3  # q k v, out and the MLP's two, in each of three blocks
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    assert torch.equal(again, wanted)


def test_block_is_left_behind_when_it_ends_in_an_error() -> None:
    counted = Counted()
    with pytest.raises(ZeroDivisionError), Kernels(counted):
        _ = 1 // 0
    F.linear(torch.ones(1, 2), torch.ones(3, 2))
    assert counted.calls == 0


def test_another_thread_computes_as_before() -> None:
    counted, seen = Counted(), []
    tokens, weight = torch.ones(1, 2), torch.ones(3, 2)

    def other() -> None:
        F.linear(tokens, weight)
        seen.append(counted.calls)

    with Kernels(counted):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        F.linear(tokens, weight)
    assert seen == [0] and counted.calls == 1


def test_half_linear_takes_the_cast_weight_of_the_original() -> None:
    tokens, weight, bias = torch.randn(5, 24), torch.randn(7, 24), torch.randn(7)
    found = half_linear({})(tokens, weight, bias)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), F.linear(tokens, weight, bias), atol=0.1, rtol=0.05)
    doubled = half_linear({id(weight): 2 * weight.bfloat16()})(tokens, weight)
    torch.testing.assert_close(doubled.float(), 2 * F.linear(tokens, weight), atol=0.2, rtol=0.05)
