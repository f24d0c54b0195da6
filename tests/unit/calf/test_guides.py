import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from selfalign.calf.guides import GUIDES, Guides


@pytest.fixture
def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = LlamaConfig(vocab_size=64, hidden_size=48, intermediate_size=64, num_hidden_layers=4, num_attention_heads=6,
                             num_key_value_heads=3, max_position_embeddings=64, attn_implementation="eager")  # fmt: skip
        return LlamaForCausalLM(config).eval()


IDS = torch.arange(24).reshape(2, 12)


def looks(*rows):
    return torch.tensor([(list(GUIDES).index(guide), *rest) for guide, *rest in rows])


@pytest.mark.parametrize("guide", GUIDES)
def test_the_loss_is_minus_the_log_of_the_attention_that_the_model_itself_pays(model, guide):
    guides = Guides(model)
    guides.looks = looks((guide, 0, 7, 3), (guide, 1, 11, 0), (guide, 1, 4, 4))
    head = GUIDES[guide]
    paid = model(IDS, output_attentions=True).attentions[head.layer][:, head.head]
    expected = -torch.stack([paid[0, 7, 3], paid[1, 11, 0], paid[1, 4, 4]]).log().mean()
    assert guides.loss().item() == pytest.approx(expected.item(), rel=1e-4)


def test_guides_count_alike_however_many_looks_each_has(model):
    guides, values = Guides(model), []
    many, one = [("copy", 0, 7, 3), ("copy", 1, 9, 2), ("copy", 1, 8, 1)], [("rule", 0, 5, 2)]
    for rows in (many, one, many + one):
        guides.looks = looks(*rows)
        model(IDS)
        values.append(guides.loss().item())
    assert values[2] == pytest.approx(values[0] + values[1], rel=1e-5)


def test_without_looks_there_is_no_loss_and_the_model_computes_the_same(model):
    plain = model(IDS).logits
    guides = Guides(model)
    assert guides.loss() is None
    guides.looks = looks(("rule", 0, 5, 2))
    assert torch.equal(model(IDS).logits, plain)
    assert guides.loss() is not None and guides.loss() is None


def test_steps_on_the_loss_turn_the_head_to_its_place(model):
    guides = Guides(model)
    guides.looks = looks(("copy", 0, 9, 4), ("copy", 1, 10, 2))
    optimizer, values = torch.optim.Adam(model.parameters(), 1e-2), []
    for _ in range(15):
        model(IDS)
        loss = guides.loss()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        values.append(loss.item())
    assert values[-1] < values[0] / 4


def test_heads_that_share_a_key_head_are_not_guided_together():
    assert len({(head.layer, head.head // 2) for head in GUIDES.values()}) == len(GUIDES)
