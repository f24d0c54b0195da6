"""Laws of the sampler: exact frequencies, filters in order, rows on their own; and of the text that tokens become."""

from __future__ import annotations

import pytest

from selfalign.engines.base import GenerateRequest, Sampling
from selfalign.engines.model import ModelSettings, model_folder, raw_tokenizer
from selfalign.engines.rows import Row


def sampler(samplings, seeds=None):
    import torch

    from selfalign.engines.sampling import Draw, Sampler

    seeds = seeds or range(len(samplings))
    asked = [GenerateRequest(str(s), "", sampling, seed=s) for s, sampling in zip(seeds, samplings, strict=True)]
    return Sampler([Draw(request) for request in asked], torch.device("cpu"))


def kept(logits, sampling) -> list[int]:
    import torch

    rows = sampler([sampling])._kept(torch.tensor([logits]) / (sampling.temperature or 1))
    return rows[0].isfinite().nonzero()[:, 0].tolist()


def test_drawn_frequencies_are_the_probabilities():
    import torch

    probability = torch.tensor([0.5, 0.3, 0.15, 0.05])
    draw = sampler([Sampling(temperature=1.0)] * 2000)
    logits = probability.log().expand(2000, -1)
    tokens = torch.tensor([draw(logits) for _ in range(10)]).flatten()
    found = tokens.bincount(minlength=4) / len(tokens)
    assert (found - probability).abs().max() < 0.015


def test_temperature_sharpens():
    import torch

    logits = torch.tensor([0.5, 0.3, 0.2]).log().expand(2000, -1)
    tokens = torch.tensor(sampler([Sampling(temperature=0.5)] * 2000)(logits))
    squares = torch.tensor([0.25, 0.09, 0.04])
    assert (tokens.bincount(minlength=3) / 2000 - squares / squares.sum()).abs().max() < 0.03


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(temperature=1, top_k=2), [1, 3]),
        (Sampling(temperature=1, top_p=0.49), [1]),
        (Sampling(temperature=1, top_p=0.51), [1, 3]),
        (Sampling(temperature=1, top_p=1.0), [0, 1, 2, 3]),
        # After top_k the two left have 0.625 and 0.375: the first alone reaches 0.6, of all four it would not.
        (Sampling(temperature=1, top_k=2, top_p=0.6), [1]),
        (Sampling(temperature=1, min_p=0.2), [1, 2, 3]),
        (Sampling(temperature=1, min_p=0.5), [1, 3]),
        (Sampling(temperature=1, min_p=1.0), [1]),
        # The temperature comes first: the third is left with 0.06 of the likeliest instead of 0.24.
        (Sampling(temperature=0.5, min_p=0.2), [1, 3]),
        # The temperature comes first: it gives the likeliest 0.82, so that it reaches 0.8 alone.
        (Sampling(temperature=0.4, top_p=0.7), [1]),
    ],
)
def test_filters_keep_the_likeliest_in_the_order_temperature_top_k_top_p_min_p(sampling, expected):
    import torch

    logits = torch.tensor([0.08, 0.5, 0.12, 0.3]).log().tolist()
    assert kept(logits, sampling) == expected


def test_top_p_beyond_the_candidates_sorts_the_whole_vocabulary():
    import torch

    flat = torch.linspace(0, 0.5, 4000)
    order = flat.softmax(0).sort(descending=True).values
    expected = int((order.cumsum(0) - order < 0.9).sum())
    assert len(kept(flat.tolist(), Sampling(temperature=1, top_p=0.9))) == pytest.approx(expected, abs=1)


def test_rows_draw_by_their_own_seed_whatever_their_mates():
    import torch

    logits = torch.randn(4, 50, generator=torch.Generator().manual_seed(1))
    mixed = [Sampling(temperature=1), Sampling(temperature=0), Sampling(temperature=0.7, top_p=0.8), Sampling(top_k=3)]
    together = sampler(mixed)
    steps = [together(logits) for _ in range(5)]
    for row, sampling in enumerate(mixed):
        alone = sampler([sampling], seeds=[row])
        assert [alone(logits[row : row + 1])[0] for _ in range(5)] == [step[row] for step in steps]
    assert {step[1] for step in steps} == {int(logits[1].argmax())}


def test_rows_go_on_drawing_where_others_leave_and_come():
    import torch

    from selfalign.engines.sampling import Draw, Sampler

    def draws():
        return [Draw(GenerateRequest(str(row), "", Sampling(temperature=1), seed=row)) for row in range(4)]

    logits = torch.randn(4, 50, generator=torch.Generator().manual_seed(2))
    cpu, rows = torch.device("cpu"), draws()
    whole = Sampler(draws(), cpu)
    first, second = whole(logits), whole(logits)
    assert Sampler(rows[:3], cpu)(logits[:3]) == first[:3]
    assert Sampler([rows[2], rows[3], rows[0]], cpu)(logits[[2, 3, 0]]) == [second[2], first[3], second[0]]


@pytest.fixture
def byte_tokenizer(tmp_path, monkeypatch):
    monkeypatch.setenv("SELFALIGN_HOME", str(tmp_path))
    return raw_tokenizer(model_folder(ModelSettings("tiny_random")))


def spell(tokenizer, written: bytes, stop: tuple[str, ...] = (), prompt: str = "ask:", budget: int = 100, **more):
    """What the text is after every byte that is written, and the row at the end."""
    # The byte alphabet of GPT-2: printable bytes are themselves, the others follow from 256 on.
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}
    ids = {byte: tokenizer.token_to_id(letter) for byte, letter in letters.items()}
    request = GenerateRequest("r", prompt, Sampling(max_new_tokens=3), stop, **more)
    row = Row(request, tokenizer, tokenizer.encode(prompt).ids, budget)
    seen = []
    for byte in written:
        row.add(ids[byte], frozenset())
        seen.append(row.text)
    return seen, row


def test_a_character_appears_only_when_its_last_byte_is_there(byte_tokenizer):
    seen, _ = spell(byte_tokenizer, "aé€.".encode())
    assert seen == ["a", "a", "aé", "aé", "aé", "aé€", "aé€."]


def test_a_character_cut_by_the_budget_is_left_out(byte_tokenizer):
    _, row = spell(byte_tokenizer, "a€".encode(), budget=3)
    assert (row.text, row.finish) == ("a", "length")


def test_bytes_that_are_no_text_become_replacement_characters(byte_tokenizer):
    _, row = spell(byte_tokenizer, b"a\xc3b\xa9\xa9 c")
    assert row.text == b"a\xc3b\xa9\xa9 c".decode(errors="replace")


def test_a_stop_string_is_found_across_tokens_and_only_after_the_prompt(byte_tokenizer):
    _, row = spell(byte_tokenizer, b"\nUser: x", stop=("\n\nUser:", "User:"), prompt="text\n")
    assert (row.text, row.finish) == ("\n", "stop")
    assert row.completion().new_tokens == len("\nUser:")


def test_a_marker_is_found_across_tokens_and_only_after_the_prompt(byte_tokenizer):
    _, row = spell(byte_tokenizer, "\n: é: abcdef".encode(), prompt="é:", until="é:", until_tokens=9)
    assert (row.text, row.finish) == ("\n: é: ab", "length")
    assert row.completion().new_tokens == len("\n: é:".encode()) + 3
