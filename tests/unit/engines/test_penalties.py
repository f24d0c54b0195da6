"""Laws of biases and n-gram penalties: the formula against a brute-force reading of it, rows on their own, exemptions."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from selfalign.engines.base import GenerateRequest, NgramPenalty, Sampling
from selfalign.engines.huggingface import HuggingFaceEngine
from selfalign.engines.model import ModelSettings, load_model, raw_tokenizer
from selfalign.engines.penalties import Vocabulary, shifted
from selfalign.errors import StageError
from tests.unit.engines.word_models import WORDS

PIECES = ["<unk>", "▁a", "b", "▁c", ",", "▁d", "▁", "Ġe", "▁f▁", "▁g", "5", "Ġh"]
STARTS = {"▁a", "▁c", "▁d", "Ġe", "▁g", "Ġh"}
ALL = NgramPenalty(word_starts_only=False, first_id=-1)
"""A penalty from which nothing is exempt; words of the random models have no mark of a space."""


def vocabulary(pieces=PIECES, ends=()) -> Vocabulary:
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(pieces)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return Vocabulary(tokenizer, ends)


def request(name="r", *, seed=0, prompt="", **sampling) -> GenerateRequest:
    return GenerateRequest(name, prompt, Sampling(**sampling), seed=seed)


def brute_force(logits: list[float], written: list[int], penalty: NgramPenalty, bias: dict[str, float]) -> list[float]:
    """Every token's logit by the formula alone: each n-gram is looked for in the whole text written so far."""
    found = []
    for token, logit in enumerate(logits):
        value = logit + bias.get(PIECES[token], 0.0)
        if token > penalty.first_id and (PIECES[token] in STARTS or not penalty.word_starts_only):
            weights = (penalty.unigram, penalty.bigram, penalty.trigram, penalty.quadgram)
            for size, weight in enumerate(weights, start=1):
                ngram = [*written[len(written) - size + 1 :], token] if len(written) >= size - 1 else []
                places = range(len(written) - size + 1)
                value -= weight * sum(written[at : at + size] == ngram for at in places)
        found.append(value)
    return found


def test_the_fast_shifts_are_the_formula_on_random_logits_and_histories():
    import torch

    draw, noise = random.Random(0), torch.Generator().manual_seed(0)
    shifted_places = 0
    for trial in range(12):
        weights = [draw.choice([0.0, 0.3, 1.0, 2.5, -0.5]) for _ in range(4)]
        penalties = [
            NgramPenalty(*weights, word_starts_only=trial % 2 == 0, first_id=draw.choice([-1, 2, 4])),
            NgramPenalty(quadgram=2.0, trigram=1.0, first_id=-1),
            NgramPenalty(),
        ]
        biases = [{"▁c": -3.0, ",": 1.5}, {}, {"▁a": 0.25}]
        asked = [request(ngram_penalty=p, logit_bias=b) for p, b in zip(penalties, biases, strict=True)]
        shifts = [vocabulary().shift(one) for one in asked]
        written: list[list[int]] = [[], [], []]
        for _ in range(40):
            logits = torch.randn(3, len(PIECES), generator=noise)
            before = logits.clone()
            found = shifted(logits, shifts)
            assert torch.equal(logits, before), "the given logits are not the shifts' to change"
            for row in range(3):
                expected = torch.tensor(brute_force(logits[row].tolist(), written[row], penalties[row], biases[row]))
                torch.testing.assert_close(found[row], expected, rtol=0, atol=1e-5)
                same = expected == logits[row]
                assert torch.equal(found[row][same], logits[row][same]), "who is exempt keeps its logit to the bit"
                shifted_places += int((~same).sum())
            # Few tokens are likely, so that n-grams of every size come again.
            tokens = [draw.choices(range(len(PIECES)), [9, 9, 9, 9, 9, 1, 1, 1, 1, 1, 1, 1])[0] for _ in range(3)]
            for one, token in zip(shifts, tokens, strict=True):
                if one:
                    one.add(token)
            written = [[*row, token] for row, token in zip(written, tokens, strict=True)]
    assert shifted_places > 2000


def test_a_word_start_has_a_mark_of_a_space_and_something_behind_it():
    pieces = [*PIECES, "▁▁", "Ġ", "ĠiĠ", "j▁", "▁kk", "Ġ▁"]
    found = vocabulary(pieces).word_starts
    assert {pieces[token] for token in found} == {*STARTS, "▁kk", "Ġ▁"}


def test_tokens_that_are_no_word_starts_or_have_small_ids_are_never_penalised():
    import torch

    penalty = NgramPenalty(unigram=5.0, bigram=5.0, first_id=3)
    shift = vocabulary().shift(request(ngram_penalty=penalty))
    for token in [*range(len(PIECES)), *range(len(PIECES))]:
        shift.add(token)
    logits = torch.randn(1, len(PIECES), generator=torch.Generator().manual_seed(3))
    lower = (shifted(logits, [shift]) < logits)[0].nonzero()[:, 0].tolist()
    assert {PIECES[token] for token in lower} == {"▁d", "Ġe", "▁g", "Ġh"}


def test_rows_that_leave_take_their_history_with_them():
    import torch

    penalty = replace(ALL, unigram=1.0, trigram=2.0)
    asked = [request(ngram_penalty=replace(penalty, unigram=1.0 + row)) for row in range(4)]
    together, alone = ([vocabulary().shift(one) for one in asked] for _ in range(2))
    draw, live = random.Random(5), [0, 1, 2, 3]
    for step in range(30):
        logits = torch.randn(4, len(PIECES), generator=torch.Generator().manual_seed(step))
        tokens = [draw.randrange(4) for _ in range(4)]
        if step in (7, 19):
            kept = [0, 2, 3] if step == 7 else [2, 0]
            live = [live[row] for row in kept]
        apart = [shifted(logits[row : row + 1], [alone[row]]) for row in live]
        assert torch.equal(shifted(logits[live], [together[row] for row in live]), torch.cat(apart))
        for row in live:
            together[row].add(tokens[row])
            alone[row].add(tokens[row])


def test_a_request_that_asks_for_nothing_has_no_shift():
    asked = [request(), request(ngram_penalty=NgramPenalty(word_starts_only=False, first_id=0))]
    assert [vocabulary().shift(one) for one in asked] == [None, None]
    assert vocabulary().shift(request(logit_bias={"b": 1.0})) is not None


# ------------------------------------------------------------------------------------------- which tokens a text means


def sentencepiece():
    from tokenizers import Tokenizer, models, pre_tokenizers

    pieces = ["<unk>", "▁", "▁x", "x", "\n", "▁Sorry", "Sorry", "▁am", "S", "I", "▁I"]
    tokenizer = Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces], unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    return tokenizer


def byte_level(*merges):
    from tokenizers import Tokenizer, models, pre_tokenizers

    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(pair) for pair in merges)]
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


@pytest.mark.parametrize(
    ("tokenizer", "text", "expected"),
    [
        (sentencepiece, "Sorry", {"▁Sorry", "Sorry"}),
        (sentencepiece, "I am", {"▁I", "I"}),
        (lambda: byte_level(("H", "i"), ("Ġ", "Hi")), "Hi", {"Hi", "ĠHi"}),
        # A text of several tokens means its first one, with all that begins with it.
        (lambda: byte_level(("Ġ", "H")), "Hi", {"H", "ĠH"}),
        # Where the space is a token of its own, it is not banned with the word.
        (byte_level, "Hi", {"H"}),
        (byte_level, "\n", {"Ċ"}),
        (byte_level, "é", {"Ã"}),
        (lambda: byte_level(("H", "i"), ("Ġ", "Hi")), " Hi", {"ĠHi"}),
    ],
)
def test_a_text_means_its_first_token_behind_a_space_and_at_a_lines_beginning(tokenizer, text, expected):
    tokens = tokenizer()
    found = Vocabulary(tokens, ()).first_tokens(text)
    assert {tokens.id_to_token(token) for token in found} == expected


def test_two_texts_that_begin_with_one_token_add_their_values():
    import torch

    shift = vocabulary().shift(request(logit_bias={"b": 1.0, "b ▁d": 0.5}))
    found = shifted(torch.zeros(1, len(PIECES)), [shift])[0]
    assert {PIECES[i]: value for i, value in enumerate(found.tolist()) if value} == {"b": 1.5}


@pytest.mark.parametrize("text", ["", "  ", "<eos>"])
def test_a_text_without_tokens_is_an_error_that_names_it(text):
    with pytest.raises(StageError, match=f"'r7'.*found {text!r}"):
        vocabulary().shift(request("r7", logit_bias={"b": -1.0, text: -100.0}))


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        ({"logit_bias": {"b": float("-inf")}}, r"logit_bias\['b'\] = -inf"),
        ({"ngram_penalty": NgramPenalty(trigram=float("nan"))}, "size 3 = nan"),
    ],
)
def test_a_value_that_is_no_number_is_an_error_that_names_it(sampling, message):
    with pytest.raises(StageError, match=f"'r7'.*{message}"):
        vocabulary().shift(request("r7", **sampling))


# ---------------------------------------------------------------------------------------------------- in the engine


def prompts(count: int = 8) -> list[str]:
    shared = " ".join(random.Random(99).choices(WORDS, k=12))
    return [f"{shared} {' '.join(random.Random(i).choices(WORDS, k=1 + i))}" for i in range(count)]


def texts(engine, asked) -> list[str]:
    found = {completion.id: completion.text for completion in engine.generate(asked)}
    return [found[one.id] for one in asked]


def test_a_repeated_ngram_is_what_a_penalty_prevents_at_temperature_0(engine):
    def ngrams(text: str, size: int) -> list[tuple[str, ...]]:
        words = text.split()
        return list(zip(*(words[start:] for start in range(size)), strict=False))

    plain = [request(str(i), prompt=prompt, max_new_tokens=90, temperature=0) for i, prompt in enumerate(prompts())]
    found = texts(engine, plain)
    for size, name in enumerate(("unigram", "bigram", "trigram", "quadgram"), start=1):
        repeats = [text for text in found if len(set(ngrams(text, size))) < len(ngrams(text, size))]
        penalty = replace(ALL, **{name: 1000.0})
        asked = [replace(one, sampling=replace(one.sampling, ngram_penalty=penalty)) for one in plain]
        once = texts(engine, asked)
        assert repeats or size > 2, "the plain texts must have something to prevent"
        assert all(len(set(ngrams(text, size))) == len(ngrams(text, size)) for text in once)


def mixed() -> list[GenerateRequest]:
    """Requests of every sort, of uneven lengths, so that rows leave the batch at several points."""
    sorts = [
        {},
        {"ngram_penalty": replace(ALL, unigram=2.0, bigram=1.0)},
        {"logit_bias": {"w001": 4.0, "w002": -100.0}},
        {"ngram_penalty": replace(ALL, trigram=3.0, quadgram=1.0), "logit_bias": {"w003": 6.0}, "temperature": 0.0},
    ]
    options = {"temperature": 1.0, "top_p": 0.9}
    return [
        request(f"r{i}", prompt=prompt, seed=70 + i, **{**options, **sorts[i % 4], "max_new_tokens": 6 + 5 * (i % 5)})
        for i, prompt in enumerate(prompts())
    ]


def test_batch_mates_and_rows_that_leave_change_no_row(engine):
    together = texts(engine, mixed())
    assert [texts(engine, [one])[0] for one in mixed()] == together
    assert texts(engine, mixed()[::-1]) == together[::-1]


def test_shifts_change_the_rows_that_ask_for_them_and_no_other(engine):
    plain = [
        replace(one, sampling=replace(one.sampling, logit_bias={}, ngram_penalty=NgramPenalty())) for one in mixed()
    ]
    changed = [before != after for before, after in zip(texts(engine, plain), texts(engine, mixed()), strict=True)]
    assert not any(changed[0::4])
    assert sum(changed) >= 4


def test_a_bias_bans_a_token_or_calls_it(engine):
    (prompt, *_) = prompts()
    free = request(prompt=prompt, max_new_tokens=12, temperature=0)
    word = texts(engine, [free])[0].split()[2]
    for temperature in (0.0, 1.0):
        banned = replace(free, sampling=replace(free.sampling, temperature=temperature, logit_bias={word: -100.0}))
        called = replace(
            free, id="called", sampling=replace(free.sampling, temperature=temperature, logit_bias={word: 100.0})
        )
        without, only = texts(engine, [banned, called])
        assert word not in without.split() and set(only.split()) == {word}


def test_a_text_whose_end_is_banned_runs_to_the_length(llama, engine):
    (prompt, *_) = prompts()
    free = request(prompt=prompt, max_new_tokens=15, temperature=0)
    model = load_model(ModelSettings(str(llama)))
    # The word that the model would write fifth ends a text from now on.
    end = raw_tokenizer(llama).token_to_id(texts(engine, [free])[0].split()[4])
    model.generation_config.eos_token_id = end
    other = HuggingFaceEngine(model, llama, context_length=128)
    banned = replace(free, sampling=replace(free.sampling, logit_bias={"<eos>": -100.0}))
    found = list(other.generate([free, banned]))
    assert [(one.finish, one.new_tokens) for one in found] == [("eos", 5), ("length", 15)]
    assert found[1].text.split()[:4] == found[0].text.split()
