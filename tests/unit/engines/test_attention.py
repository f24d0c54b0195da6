"""Laws of attention over segments: one softmax over all parts, and a model is only taken where it proves to be the same."""

from __future__ import annotations

import logging

import pytest

from selfalign.engines.attention import Segment, Sight, UnsharedError, attention, share
from selfalign.engines.base import GenerateRequest, Sampling
from selfalign.engines.huggingface import HuggingFace
from selfalign.engines.model import Dtype, ModelSettings, load_model


class Layer:
    """Stands for a model's attention module."""

    layer_idx = 0


def tensors(*shape, seed: int = 0):
    import torch

    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def plain(query, key, value, mask):
    """softmax(QK' / sqrt(d) + mask) V in float64, heads repeated for grouped queries."""
    share_of = query.shape[1] // key.shape[1]
    key, value = (one.double().repeat_interleave(share_of, 1) for one in (key, value))
    scores = query.double() @ key.transpose(2, 3) / query.shape[3] ** 0.5 + mask
    return (scores.softmax(-1) @ value).transpose(1, 2)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("new", [1, 5])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_attention_over_parts_is_attention_over_all_of_them(kv_heads, new, device, monkeypatch):
    import torch

    from selfalign.engines import attention as module

    if device == "meta":
        # The way of other devices, on this one.
        part = module._part
        monkeypatch.setattr(module, "SCORES", 40)

        def elsewhere(query, *rest, **named):
            class Elsewhere:
                type = "cuda"

            class Query(torch.Tensor):
                device = Elsewhere()

            return tuple(
                one.as_subclass(torch.Tensor) for one in part(query.as_subclass(Query), *rest, **named)
            )  # fmt: skip

        monkeypatch.setattr(module, "_part", elsewhere)
    query, key, value = tensors(3, 4, new, 8), tensors(3, kv_heads, 6, 8, seed=1), tensors(3, kv_heads, 6, 8, seed=2)
    segments = [
        (rows, Segment([(tensors(kv_heads, size, 8, seed=seed), tensors(kv_heads, size, 8, seed=seed + 1))]))
        for rows, size, seed in ((None, 7, 10), (torch.tensor([0, 2]), 3, 20), (torch.tensor([2]), 4, 30))
    ]
    mask = torch.zeros(3, 1, new, 6).masked_fill_(torch.rand(3, 1, new, 6) < 0.3, float("-inf"))
    mask[..., 0] = 0.0
    found, _ = attention(Layer(), query, key, value, None, sight=Sight(mask, segments))
    for row in range(3):
        seen = [one for rows, one in segments if rows is None or row in rows.tolist()]
        keys = torch.cat([*(one.layers[0][0] for one in seen), key[row]], 1)[None]
        values = torch.cat([*(one.layers[0][1] for one in seen), value[row]], 1)[None]
        open_mask = torch.cat([torch.zeros(1, 1, new, sum(map(len, seen))), mask[row : row + 1]], -1)
        expected = plain(query[row : row + 1], keys, values, open_mask)
        torch.testing.assert_close(found[row : row + 1].double(), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("kv_heads", [2, 4])
def test_without_a_mask_new_tokens_see_those_before_them(kv_heads):
    import torch

    query, key, value = tensors(2, 4, 6, 8), tensors(2, kv_heads, 6, 8, seed=1), tensors(2, kv_heads, 6, 8, seed=2)
    found, _ = attention(Layer(), query, key, value, None, sight=Sight())
    causal = torch.full((6, 6), float("-inf")).triu(1)
    torch.testing.assert_close(found.double(), plain(query, key, value, causal), rtol=0, atol=2e-6)


@pytest.mark.parametrize("asked", [{"softcap": 30.0}, {"sliding_window": 8}, {"s_aux": 1}, {"sight": None}])
def test_attention_that_is_something_else_is_refused(asked):
    given = [tensors(1, 2, 1, 4, seed=seed) for seed in range(3)]
    with pytest.raises(UnsharedError):
        attention(Layer(), *given, None, **{"sight": Sight(), **asked})


@pytest.mark.parametrize(
    ("kind", "shared"),
    [
        ("llama", True),
        ("qwen2", True),
        ("gpt_neox", True),
        ("gpt2", True),
        ("falcon", False),
        ("mistral_window", False),
    ],
)
def test_models_share_where_their_attention_allows_it_and_say_why_not(random_model, caplog, kind, shared):
    with (
        caplog.at_level(logging.INFO, "selfalign"),
        HuggingFace(ModelSettings(str(random_model(kind)))).open() as engine,
    ):
        assert (engine._forest is not None) == shared
    lines = [record.message for record in caplog.records if "copied to every row" in record.message]
    assert len(lines) == (not shared)


def test_a_model_whose_logits_come_out_otherwise_keeps_its_own_attention(llama, monkeypatch):
    from selfalign.engines import attention as module

    model = load_model(ModelSettings(str(llama)))
    own = model.config._attn_implementation
    monkeypatch.setattr(module, "attention", lambda *given, **named: (attention(*given, **named)[0] * 1.01, None))
    assert "logits differ" in share(model)
    assert model.config._attn_implementation == own


def test_a_model_in_bfloat16_shares_too(llama):
    with HuggingFace(ModelSettings(str(llama), dtype=Dtype.bfloat16)).open() as engine:
        assert engine._forest is not None
        asked = [GenerateRequest(str(i), "w001 w002 w003", Sampling(8, 0.0), seed=i) for i in range(3)]
        assert len({completion.text for completion in engine.generate(asked)}) == 1
