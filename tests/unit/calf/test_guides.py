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


HEADS = [place for guide in GUIDES.values() for place in guide.heads]
IDS = torch.arange(24).reshape(2, 12)


def looks(*rows):
    return torch.tensor([(list(GUIDES).index(guide), *rest, -1) for guide, *rest in rows])


@pytest.mark.parametrize("guide", GUIDES)
def test_the_loss_is_minus_the_log_of_the_attention_that_the_model_itself_pays(model, guide):
    guides = Guides(model)
    guides.looks = looks((guide, 0, 7, 3), (guide, 1, 11, 0), (guide, 1, 4, 4))
    attentions = model(IDS, output_attentions=True).attentions
    paid = torch.stack([attentions[layer][:, head] for layer, head in GUIDES[guide].heads])
    expected = -torch.stack([paid[:, 0, 7, 3], paid[:, 1, 11, 0], paid[:, 1, 4, 4]]).log().mean()
    assert guides.loss().item() == pytest.approx(expected.item(), rel=1e-4)


def layer_input(model, layer):
    """What the attention of a layer reads: `[batch, seq, hidden]`."""
    hidden = model(IDS, output_hidden_states=True).hidden_states[layer]
    return model.model.layers[layer].input_layernorm(hidden)


@pytest.mark.parametrize("guide", [name for name, guide in GUIDES.items() if guide.says])
def test_a_head_that_says_a_word_is_charged_for_what_it_would_hand_on(model, guide):
    guides, without = Guides(model), looks((guide, 0, 7, 3))
    guides.looks = without
    model(IDS)
    looking = guides.loss().item()
    guides.looks = without.clone()
    guides.looks[:, 4] = 21
    model(IDS)
    charged, guides.looks = guides.loss().item(), None
    expected = 0.0
    for layer, head in GUIDES[guide].heads:
        attention = model.model.layers[layer].self_attn
        handed = torch.zeros(48)
        handed[head * 8 : head * 8 + 8] = attention.v_proj(layer_input(model, layer)[0, 3])[head // 2 * 8 :][:8]
        expected -= model.lm_head(attention.o_proj(handed)).log_softmax(-1)[21].item() / len(GUIDES[guide].heads)
    assert charged - looking == pytest.approx(expected, rel=1e-4)


def test_a_token_that_is_to_know_a_word_is_charged_for_what_it_knows_before_it_looks(model):
    guides = Guides(model)
    guides.looks = looks(("rule", 0, 7, 3))
    model(IDS)
    looking = guides.loss().item()
    guides.looks[:, 4] = 21
    model(IDS)
    charged, guides.looks = guides.loss().item(), None
    layer = GUIDES["rule"].heads[0][0]
    expected = -model.lm_head(layer_input(model, layer)[0, 7]).log_softmax(-1)[21].item()
    assert charged - looking == pytest.approx(expected, rel=1e-4)


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
    assert len({(layer, head // 2) for layer, head in HEADS}) == len(HEADS)
