import pytest

from selfalign.calf import corpus, rows
from selfalign.calf.guides import GUIDES
from selfalign.resources import PACKAGE


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(PACKAGE / "calf" / "weights")


DOCUMENTS = [corpus.document(3, number) for number in range(60)]


def test_a_row_is_its_document_and_the_end_token(tokenizer):
    for document in DOCUMENTS:
        row = rows.encode(tokenizer, document)
        assert tokenizer.decode(row.ids[:-1]) == document.text and row.ids[-1] == tokenizer.eos_token_id
        assert len(row.ids) == len(row.weights) and row.weights[-1] == 1


def test_every_look_goes_back_and_names_of_one_word_are_one_token(tokenizer):
    guides, seen = list(GUIDES), set()
    for document in DOCUMENTS:
        row = rows.encode(tokenizer, document)
        tokens = [tokenizer.decode([token]).strip().lower() for token in row.ids]
        for guide, asking, target, said in row.looks:
            assert 0 <= target <= asking < len(row.ids) - 1
            seen.add(guides[guide])
            if guides[guide] == "copy":
                # A word at the start of a line may be more tokens than behind a space.
                found = (tokens[asking + 1], tokens[target])
                assert found[0] in found[1] or found[1] in found[0]
                assert said == row.ids[asking + 1]
            elif guides[guide] == "number":
                # A number begins a line of the header, and stands behind a space where it is cited.
                assert tokens[target].isdigit() and tokenizer.decode([said]).startswith(f" {tokens[target][:1]}")
            elif guides[guide] in ("rule", "cited"):
                expected = row.ids[target if guides[guide] == "rule" else asking + 1] if target else -1
                assert said == expected
            elif guides[guide] == "verdict":
                assert tokens[asking + 1] in ("true", "false") and tokens[target] == "."
    assert seen == set(GUIDES)


def test_questions_weigh_a_little_and_a_tasks_number_much_whatever_piece_they_stand_in(tokenizer):
    seen = set()
    for document in DOCUMENTS:
        row = rows.encode(tokenizer, document)
        weights, at = {}, 0
        for token, weight in zip(row.ids[:-1], row.weights, strict=False):
            text = tokenizer.decode([token])
            weights |= dict.fromkeys(range(at, at + len(text)), weight)
            at += len(text)
        for stress in document.stresses:
            seen.add((document.family, stress.weight))
            found = {weights[place] for place in range(stress.at, stress.at + stress.length)}
            copied = {rows.COPY_WEIGHT * stress.weight}
            assert found - copied == {stress.weight} or (document.family == "tasks" and found == copied)
        # The end of a question is the last that weighs: what the layout puts behind it is only read.
        if document.family in ("self_align", "chat") and document.stresses:
            assert weights[document.stresses[0].at + document.stresses[0].length] == 0
    assert {
        ("self_align", corpus.QUESTION_WEIGHT),
        ("chat", corpus.QUESTION_WEIGHT),
        ("tasks", corpus.NUMBER_WEIGHT),
    } <= seen


def test_a_shard_holds_every_document_once_and_is_the_same_each_time(tokenizer):
    batches = rows.shard(tokenizer, 3, 2, documents=40, batch_tokens=2048)
    again = rows.shard(tokenizer, 3, 2, documents=40, batch_tokens=2048)
    assert all(
        a.ids.equal(b.ids) and a.weights.equal(b.weights) and a.looks.equal(b.looks)
        for a, b in zip(batches, again, strict=True)
    )
    few = corpus.few_rules(1.0)
    expected = sorted(corpus.document(3, number, few).text for number in range(80, 120))
    found = [
        tokenizer.decode([t for t in row if t != tokenizer.pad_token_id][:-1])
        for b in batches
        for row in b.ids.tolist()
    ]
    assert sorted(found) == expected
    assert any(
        a.ids.shape != b.ids.shape
        for a, b in zip(batches, rows.shard(tokenizer, 3, 3, documents=40, batch_tokens=2048), strict=False)
    )


def test_batches_keep_to_their_tokens_and_leave_out_what_is_too_long(tokenizer):
    batches = rows.shard(tokenizer, 3, 0, documents=60, batch_tokens=1000, max_tokens=700)
    assert all(batch.ids.numel() <= 1000 and batch.ids.shape[1] <= 700 for batch in batches)
    assert sum(len(batch.ids) for batch in batches) < 60


def test_padding_is_not_trained_on(tokenizer):
    for batch in rows.shard(tokenizer, 3, 0, documents=60):
        assert not batch.weights[batch.ids == tokenizer.pad_token_id].any()
        assert (batch.weights > 0).any(1).all()
