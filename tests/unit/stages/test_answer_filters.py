"""The filters of stages 2 and 4 on recorded completions: one reason for each rule, and rows that hide nothing."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from selfalign import prompts
from selfalign.cuts import Dedup
from selfalign.principles import ExemplarSettings, PrincipleSettings
from selfalign.records import Response, from_row, to_row
from selfalign.stages.base import Context
from selfalign.stages.engrave import Engrave
from selfalign.stages.self_align import SelfAlign
from selfalign.stages.verbose_clone import VerboseClone
from tests.factories import FIVE, SIXTEEN
from tests.unit.stages.recorded import answered, artifact

ALIGN = SelfAlign(
    principles=PrincipleSettings(ids=SIXTEEN), exemplars=ExemplarSettings(ids=FIVE), sampling=SelfAlign().sampling
)
CLONE = VerboseClone()
THOUGHTS = " The user asks about otters. Rules that apply: 3 (helpful).\n\nWillow:"
FOLLOWED = "\n\nUser: And badgers?"
ANSWER = "Otters live in rivers, and they eat fish."
REPEATED = "Otters swim, and they eat. Badgers dig, and they eat. That is all of it."


def one(stage: Any, text: str, folder: Path, question: tuple[str, str] = ("Otters?", "")) -> Response:
    return answered(stage, [text], folder, [question])[0][0]


@pytest.mark.parametrize(
    ("settings", "answer", "reason"),
    [
        ({}, ANSWER, ""),
        ({"required_start": "The user asks"}, ANSWER, ""),
        ({"required_start": "The user wants"}, ANSWER, "wrong_start"),
        ({"min_characters": len(ANSWER)}, ANSWER, ""),
        ({"min_characters": len(ANSWER) + 1}, ANSWER, "too_short"),
        ({"copies_question": 6}, "You ask 'Otters?', so: yes, I know them.", "question_copy"),
        ({"copies_question": 7}, "You ask 'Otters?', so: yes, I know them.", ""),
        ({}, "Otters swim. User: thanks", "contains_marker"),
        ({"drop_markers": False}, "Otters swim. User: thanks", ""),
        ({"forbidden_texts": ["fish"]}, ANSWER, "forbidden_text"),
        ({"forbidden_texts": ["Fish", "{assistant}"]}, ANSWER, ""),
        ({"forbidden_texts": ["{assistant}"]}, "My name is Willow, as you know.", "forbidden_text"),
        ({"forbidden_starts": ["Otters", "I'm"]}, ANSWER, "forbidden_start"),
        ({"forbidden_starts": ["live"]}, ANSWER, ""),
        ({}, "So it goes on and on, " + "they swim a lot " * 6, "repetition"),
        ({"max_repeats": 0}, "So it goes on and on, " + "they swim a lot " * 6, ""),
        ({"dedup": Dedup.reference}, REPEATED, "unfinished"),
        ({"dedup": Dedup.none}, REPEATED, ""),
    ],
)
def test_each_rule_of_stage_2_drops_what_it_should_and_nothing_else(
    settings: dict[str, Any], answer: str, reason: str, tmp_path: Path
) -> None:
    found = one(dataclasses.replace(ALIGN, **settings), f"{THOUGHTS} {answer}{FOLLOWED}", tmp_path)
    assert (found.reason, found.kept) == (reason, not reason)
    assert found.raw == f"{THOUGHTS} {answer}"


@pytest.mark.parametrize(
    ("budgets", "reason"),
    [((20, 20), ""), ((5, 20), "no_answer"), ((20, 6), "unfinished"), ((0, 20), "unfinished"), ((0, 40), "")],
)
def test_thoughts_and_answer_have_budgets_of_their_own_or_share_one(
    budgets: tuple[int, int], reason: str, tmp_path: Path
) -> None:
    # Ten words of thoughts, the marker, fourteen of answer.
    sampling = dataclasses.replace(ALIGN.sampling, max_new_tokens=budgets[1])
    stage = dataclasses.replace(ALIGN, thoughts_tokens=budgets[0], sampling=sampling)
    answer = "Otters live in rivers, and they eat all the fish that they find there."
    found = one(stage, f"{THOUGHTS} {answer}", tmp_path)
    assert (found.reason, found.kept) == (reason, not reason)


@pytest.mark.parametrize(
    ("settings", "answer", "reason"),
    [
        ({}, ANSWER, ""),
        ({"min_characters": len(ANSWER) + 1}, ANSWER, "too_short"),
        ({}, f"{ANSWER}\n#### More\nYes.\n\nWillow (extensive) speaks.", "contains_marker"),
        ({"drop_markers": False}, f"{ANSWER}\n\nWillow (extensive) speaks.", ""),
        ({"forbidden_texts": ["{assistant} (ext"], "drop_markers": False}, f"{ANSWER} Willow (extensive)", "forbidden_text"),
        ({"forbidden_texts": ["## See also"]}, f"{ANSWER}\n\n## See also\nBadgers", "forbidden_text"),
        ({"max_repeats": 0}, "they swim a lot " * 8, ""),
        ({"dedup": Dedup.reference, "keep_unfinished": False}, REPEATED, "unfinished"),
        ({"max_list_items": 1, "keep_unfinished": False}, f"{ANSWER}\n1. a\n2. b\n3. c", "unfinished"),
        ({"max_list_items": 3, "keep_unfinished": False}, f"{ANSWER}\n1. a\n2. b\n3. c", ""),
        ({"dedup": Dedup.reference, "min_characters_unfinished": 200}, REPEATED, "too_short"),
        ({"dedup": Dedup.reference, "min_characters": 200, "min_characters_unfinished": 0}, REPEATED, ""),
        ({"min_characters": 200, "min_characters_unfinished": 0}, ANSWER, "too_short"),
    ],
)  # fmt: skip
def test_each_rule_of_stage_4_drops_what_it_should_and_nothing_else(
    settings: dict[str, Any], answer: str, reason: str, tmp_path: Path
) -> None:
    found = one(dataclasses.replace(CLONE, **settings), f"\n{answer}\n\n### User\nAnd badgers?", tmp_path)
    assert (found.reason, found.kept) == (reason, not reason)
    assert found.raw == f"\n{answer}"


def test_an_answer_may_have_headings_where_only_the_users_heading_ends_it(tmp_path: Path) -> None:
    text = f"\n{ANSWER}\n\n### Food\nFish.\n\n### User\nAnd badgers?"
    assert one(CLONE, text, tmp_path / "any").text == ANSWER
    found = one(dataclasses.replace(CLONE, stops=["### User\n"], drop_markers=False), text, tmp_path / "user")
    assert found.text == f"{ANSWER}\n\n### Food\nFish." and found.is_finished and found.kept


def test_an_answer_cut_in_stage_2_loses_its_last_word_and_counts_as_unfinished(tmp_path: Path) -> None:
    stage = dataclasses.replace(ALIGN, dedup=Dedup.reference, keep_unfinished=True, min_characters=200)
    dropped = one(stage, f"{THOUGHTS} {REPEATED}{FOLLOWED}", tmp_path / "shortest")
    assert dropped.reason == "too_short", (
        "without a minimum of its own an unfinished answer needs that of a finished one"
    )
    found = one(
        dataclasses.replace(stage, min_characters_unfinished=0), f"{THOUGHTS} {REPEATED}{FOLLOWED}", tmp_path / "none"
    )
    assert (found.kept, found.text) == (True, "Otters swim, and they eat. Badgers")
    assert (found.cut, found.finish, found.is_finished) == (("repeated_clause", "last_word"), "stop", False)
    assert found.raw.endswith(REPEATED), "what was cut is in the raw completion"


def test_an_answer_that_ran_out_of_tokens_is_kept_without_its_last_word_where_that_is_asked_for(tmp_path: Path) -> None:
    short = dataclasses.replace(ALIGN.sampling, max_new_tokens=16)
    stage = dataclasses.replace(ALIGN, sampling=short, thoughts_tokens=0, min_characters=0)
    dropped = one(stage, f"{THOUGHTS} {ANSWER}", tmp_path / "dropped")
    assert (dropped.reason, dropped.cut, dropped.text) == ("unfinished", (), "Otters live in rivers, and")
    kept = one(dataclasses.replace(stage, keep_unfinished=True), f"{THOUGHTS} {ANSWER}", tmp_path / "kept")
    assert (kept.kept, kept.cut, kept.text) == (True, ("last_word",), "Otters live in rivers,")


def test_the_rules_of_stage_4_that_cut_are_named_in_their_order(tmp_path: Path) -> None:
    items = "\n".join(f"{number}. Otter number {number}" for number in range(1, 9))
    stage = dataclasses.replace(CLONE, max_list_items=5, dedup=Dedup.reference_v2, min_characters_unfinished=0)
    listed = one(stage, f"\n{items}\n\n### User\n", tmp_path / "list")
    assert listed.cut == ("list_items",) and listed.text.endswith("5. Otter number 5") and not listed.is_finished
    both = f"\n{items}\nSwim, swim, swim, swim."
    cut = one(stage, f"{both}\n\n### User\n", tmp_path / "both")
    assert (cut.cut, cut.text) == (("repeated_clause", "list_items"), listed.text)
    short = dataclasses.replace(stage, sampling=dataclasses.replace(stage.sampling, max_new_tokens=34))
    assert one(short, both, tmp_path / "all").cut == ("last_word", "list_items")
    assert one(CLONE, f"{both}\n\n### User\n", tmp_path / "none").cut == ()


def test_the_funnel_counts_cut_answers_by_rule(tmp_path: Path) -> None:
    stage = dataclasses.replace(ALIGN, dedup=Dedup.reference, keep_unfinished=True, min_characters=0)
    texts = [f"{THOUGHTS} {answer}{FOLLOWED}" for answer in (ANSWER, REPEATED, REPEATED.replace("Otters", "Bears"))]
    rows, outcome = answered(stage, texts, tmp_path)
    assert all(row.kept for row in rows)
    assert {key: number for key, number in outcome.metrics.items() if key.startswith("cut/")} == {
        "cut/repeated_clause": 2,
        "cut/last_word": 2,
    }
    assert not any(key.startswith("cut/") for key in answered(ALIGN, texts, tmp_path / "off")[1].metrics)


def test_kept_answers_are_reworded_and_dropped_ones_stay_as_they_were(tmp_path: Path) -> None:
    stage = dataclasses.replace(ALIGN, rewrites={"Otters live": "They live"})
    assert one(stage, f"{THOUGHTS} {ANSWER}{FOLLOWED}", tmp_path / "kept").text == ANSWER.replace("Otters", "They")
    dropped = dataclasses.replace(stage, forbidden_texts=["fish"])
    assert one(dropped, f"{THOUGHTS} {ANSWER}{FOLLOWED}", tmp_path / "dropped").text == ANSWER


def test_a_long_input_takes_the_place_of_its_instruction_where_that_is_asked_for(tmp_path: Path) -> None:
    question = ("Do this:", "Name the rivers of Wales.")
    stage = dataclasses.replace(ALIGN, input_replaces_instruction=24)
    text = f"{THOUGHTS} {ANSWER}{FOLLOWED}"
    found = one(stage, text, tmp_path / "long", question)
    assert (found.instruction, found.input, found.prompt_text) == (question[1], "", question[1])
    shorter = one(stage, text, tmp_path / "short", ("Do this:", "Name rivers in Wales now"))
    assert (shorter.instruction, shorter.input) == ("Do this:", "Name rivers in Wales now")
    assert one(ALIGN, text, tmp_path / "off", question).input == question[1]


def test_a_fixed_answer_stands_for_what_was_written_about_its_key(tmp_path: Path) -> None:
    stage = dataclasses.replace(CLONE, fixed_answers={"Ada Quill": "I do not know this person, so I cannot tell."})
    text = "\nAda Quill was born long ago.\n\n### User\n"
    found = one(stage, text, tmp_path / "key", ("Who is Ada Quill?", ""))
    assert (found.text, found.kept, found.raw.strip()) == (
        stage.fixed_answers["Ada Quill"],
        True,
        "Ada Quill was born long ago.",
    )
    assert one(stage, text, tmp_path / "other", ("Who is she?", "")).text == "Ada Quill was born long ago."


@pytest.mark.parametrize(
    ("finish", "cut", "is_finished"),
    [
        ("stop", (), True),
        ("eos", (), True),
        ("length", ("last_word",), False),
        ("length", (), False),
        ("stop", ("repeated_clause", "last_word"), False),
        ("stop", ("list_items",), False),
    ],
)
def test_only_what_ends_where_the_model_ended_it_is_trained_on_with_an_end_marker(
    finish: str, cut: tuple[str, ...], is_finished: bool, tmp_path: Path
) -> None:
    row = Response("r", "p", "Otters?", "", "file", "", (), ANSWER, ANSWER, finish, cut=cut)
    assert row.is_finished == is_finished
    example = Engrave(identity_rows=False).examples(artifact(tmp_path, "responses.jsonl", [row]))[0]
    assert example.target_text == prompts.chat_target(ANSWER, finished=is_finished)
    assert example.target_text.endswith(prompts.END_OF_TURN) == is_finished


def test_a_row_from_before_cuts_were_recorded_is_read_as_whole() -> None:
    row = to_row(Response("r", "p", "Otters?", "", "file", "", (), ANSWER, ANSWER, "stop"))
    del row["cut"]
    assert from_row(Response, row).cut == () and from_row(Response, row).is_finished


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (dataclasses.replace(ALIGN, min_characters_unfinished=-1), "self_align.min_characters_unfinished: expected a number, 0"),
        (dataclasses.replace(ALIGN, copies_question=-1), "self_align.copies_question: expected a number, 0 or more, found -1"),
        (dataclasses.replace(ALIGN, forbidden_texts=["a", ""]), "self_align.forbidden_texts: expected texts of at least one"),
        (dataclasses.replace(ALIGN, rewrites={"": "a"}), "self_align.rewrites: expected texts of at least one"),
        (dataclasses.replace(ALIGN, required_start="I am"), "self_align.required_start: expected what the exemplars' thoughts"),
        (dataclasses.replace(CLONE, max_list_items=-1), "verbose_clone.max_list_items: expected a number, 0 or more, found -1"),
        (dataclasses.replace(CLONE, stops=[""]), "verbose_clone.stops: expected texts of at least one"),
    ],
)  # fmt: skip
def test_a_filter_that_would_drop_everything_is_refused(stage: Any, message: str) -> None:
    found = stage.problems(Context(engine=None))  # type: ignore[arg-type]
    assert len(found) == 1 and found[0].startswith(message), found


def test_a_start_that_no_exemplar_could_contradict_is_allowed() -> None:
    stage = dataclasses.replace(ALIGN, exemplars=ExemplarSettings(), required_start="I am")
    assert stage.problems(Context(engine=None)) == []  # type: ignore[arg-type]
