import json
from dataclasses import replace

import pytest

from selfalign.calf import corpus, pretrain
from selfalign.calf.pretrain import Plan, Rows, Shape, Training

TINY = Plan(
    tokens=3 * 1152,
    batch_tokens=1152,
    checkpoint_minutes=0.0,
    tokenizer_documents=30,
    guided_layer=0,
    shape=Shape(600, 32, 64, 1, 2, 1, 1536),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrain")
    Training(folder, TINY).run()
    return folder


@pytest.fixture(scope="module")
def tokenizer(run):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(run / "model")


def test_the_tokenizer_gives_back_every_text_and_adds_nothing(tokenizer):
    for text in ("User: a\n\n  b , c .\n", " true", "\n\n### User\n", "naïve — 12 (step-by-step)", ""):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.bos_token_id is None
    assert {tokenizer.eos_token, tokenizer.pad_token} == {pretrain.EOS, pretrain.PAD}


def test_pieces_of_a_document_are_cut_where_whole_prompts_are(tokenizer):
    for number in range(60):
        document = corpus.document(0, number)
        row = pretrain.encode(tokenizer, document)
        ids = row.ids
        assert len(ids) == len(row.weights)
        for index, piece in enumerate(document.pieces):
            if piece.trained:
                before = "".join(part.text for part in document.pieces[:index])
                assert ids[: len(tokenizer.encode(before))] == tokenizer.encode(before)


def test_attention_is_guided_from_the_citation_to_the_name_of_the_cited_rule(tokenizer):
    found = nothing = 0
    for number in range(80):
        document = corpus.document(0, number)
        row = pretrain.encode(tokenizer, document)
        assert document.family == "self_align" or not row.looks
        for asking, target in row.looks:
            following = tokenizer.decode(row.ids[asking + 1 : asking + 12])
            if target == 0:
                assert "Rules that apply" not in following
                nothing += 1
                continue
            name = tokenizer.decode(row.ids[target : target + 14]).split(").")[0]
            assert f"({name})" in tokenizer.decode(row.ids[asking + 1 : asking + 20])
            found += 1
    assert found > 50 and nothing > 50


def test_rows_hold_whole_documents_and_batches_no_more_tokens_than_planned(tokenizer):
    rows = Rows(tokenizer, replace(TINY, batch_tokens=4096))
    for _, batch in zip(range(5), rows, strict=False):
        ids, weights = batch.ids, batch.weights
        assert ids.shape == weights.shape and ids.numel() <= 4096
        assert not weights[ids == tokenizer.pad_token_id].any()
        ends = (ids == tokenizer.eos_token_id).sum(dim=1)
        assert (ends >= 1).all()


def test_an_exported_folder_is_a_transformers_model_in_half_precision(run):
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(run / "model")
    assert model.dtype == torch.float16
    assert model.config.tie_word_embeddings and model.generation_config.eos_token_id == model.config.eos_token_id
    assert json.loads((run / "model" / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]


def test_a_run_goes_on_where_it_stopped(run, tmp_path):
    training = Training(run, replace(TINY, tokens=5 * 1152))
    done = training.state.step
    assert done >= 3 and training.state.tokens >= TINY.tokens
    before = [parameter.clone() for parameter in training.model.parameters()]
    again = Training(run, TINY)
    assert all((a == b).all() for a, b in zip(before, again.model.parameters(), strict=True))
    assert all((a == b).all() for a, b in zip(training.momenta, again.momenta, strict=True))
    training.run()
    assert training.state.step > done


def test_orthogonalised_matrices_have_singular_values_near_one():
    import torch

    generator = torch.Generator().manual_seed(0)
    for shape in ((20, 50), (50, 20)):
        values = torch.linalg.svdvals(pretrain.orthogonalised(torch.randn(shape, generator=generator)))
        assert values.min() > 0.5 and values.max() < 1.5


def test_the_rate_rises_stays_and_falls_to_a_hundredth():
    shares = [pretrain.rate(progress, 0.02, 0.4) for progress in (0.01, 0.02, 0.6, 0.8, 1.0)]
    assert shares == pytest.approx([0.5, 1.0, 1.0, 0.5, 0.01])
