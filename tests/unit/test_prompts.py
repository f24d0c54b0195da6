from __future__ import annotations

import os
import random
import re
from pathlib import Path

import pytest
import yaml

from selfalign import filters, prompts, resources
from selfalign.errors import ConfigError, DataError
from selfalign.principles import (
    ExemplarSettings,
    PrincipleSettings,
    available,
    load_principle,
    resolve,
    resolve_exemplars,
)
from selfalign.prompts import Assistant, Parsing, Task, TopicSeed
from tests.factories import FIVE, SIXTEEN

GOLDEN = Path(__file__).parents[1] / "golden"
LAYOUT = prompts.load_layout()
CRITIQUE = prompts.load_critique_layout()
RULES = resolve(PrincipleSettings(ids=SIXTEEN))


def layouts() -> dict[str, str]:
    """Every layout once, with the project's own texts."""
    me = Assistant()
    stem = prompts.self_align_stem(LAYOUT, RULES, resolve_exemplars(ExemplarSettings(ids=FIVE), RULES), me)
    seeds = prompts.load_topic_seeds()
    verbose = prompts.chat_prompt(prompts.load_text("verbose_clone"), me, "Why is the sky blue?", verbose=True)
    chats = {
        f"chat_{name}": prompts.chat_prompt(prompts.load_text(name), me, "Why is the sky blue?")
        + prompts.chat_target("It is.")
        for name in ("concise", "standard", "verbose")
    }
    critique = prompts.critique_prompt(
        prompts.critique_stem(CRITIQUE, me),
        CRITIQUE,
        me,
        prompts.fill(RULES.rules[0].text, me),
        "Why is the sky blue?",
        "It is.",
    )
    return {
        "critique": critique,
        "revision": prompts.revision_prompt(critique, CRITIQUE, me, "The answer gives no reason."),
        "self_align": prompts.self_align_prompt(stem, LAYOUT, me, "Why is the sky blue?\n\nIn one line."),
        "self_instruct": prompts.self_instruct_prompt(
            prompts.load_text("self_instruct"), prompts.load_seed_tasks()[:5], 20
        ),
        "topics": prompts.topics_prompt(prompts.load_text("topics"), seeds[0].question_type, ["Wedding", "Dance"], 10),
        "questions": prompts.questions_prompt(prompts.load_text("questions"), seeds[:2], seeds[2:4]),
        "verbose_clone": verbose,
        "true_false": prompts.true_false_question("Is it?", "It is.") + prompts.TRUE_FALSE_LEAD,
        "choice": prompts.choice_question("Which?", "This.", "That.") + prompts.CHOICE_LEAD,
        **chats,
    }


@pytest.mark.parametrize("name", sorted(layouts()))
def test_a_layout_is_what_it_was(name: str) -> None:
    # After a wanted change: UPDATE_GOLDEN=1 make test, and read the difference. It renames what depends on it.
    path, text = GOLDEN / f"{name}.txt", layouts()[name]
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text


def test_every_golden_file_belongs_to_a_layout() -> None:
    assert {path.stem for path in GOLDEN.glob("*.txt")} == set(layouts()) and len(layouts()) >= 10


def test_no_placeholder_is_left_in_any_layout() -> None:
    for name, text in layouts().items():
        assert not any(slot in text for slot in ("{assistant}", "{maker}", "{cutoff}", "{total}", "{hints}")), name


def test_the_assistants_name_comes_from_the_settings() -> None:
    me = Assistant(name="Zephyrine")
    stem = prompts.self_align_stem(LAYOUT, RULES, resolve_exemplars(ExemplarSettings(ids=FIVE), RULES), me)
    assert "Willow" not in stem and stem.startswith("# Zephyrine")


def test_braces_in_a_question_stay() -> None:
    assert "{x} and {assistant}s" in prompts.chat_prompt("### User", Assistant(), "{x} and {assistant}s")


# --------------------------------------------------------------------------------------------------------- critique


def test_the_exemplars_of_critique_show_no_principle() -> None:
    texts = {load_principle(name).text for name in available()}
    assert len(CRITIQUE.exemplars) >= 2 and not texts & {shown.principle for shown in CRITIQUE.exemplars}
    names = {load_principle(name).name for name in available()}
    stem = prompts.critique_stem(CRITIQUE, Assistant()).lower()
    assert not [name for name in names if name in stem]


def test_an_exemplar_of_critique_changes_an_answer_and_another_leaves_it_alone() -> None:
    assert {shown.answer == shown.revision for shown in CRITIQUE.exemplars} == {True, False}


def test_exemplars_of_critique_are_kept_by_their_own_stops_and_markers_whole() -> None:
    for shown in CRITIQUE.exemplars:
        for text in (shown.critique, shown.revision):
            assert not any(stop in text for stop in prompts.critique_stops(CRITIQUE, Assistant()))
            assert not any(marker in text for marker in prompts.critique_markers(CRITIQUE, Assistant()))


def test_what_the_model_is_shown_about_an_answer_stays_as_it_is() -> None:
    me = Assistant()
    stem = prompts.critique_stem(CRITIQUE, me)
    asked = prompts.critique_prompt(stem, CRITIQUE, me, "Be kind.", "What is {assistant}?", "A {slot} and {}.")
    text = prompts.revision_prompt(asked, CRITIQUE, me, "{critique}")
    assert text.startswith(asked) and asked.startswith(stem)
    assert (
        "Question: What is {assistant}?" in text
        and "First answer: A {slot} and {}." in text
        and "Critique: {critique}" in text
    )
    assert "{assistant}" not in stem


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a mapping with the fields title, heading"),
        ("title: [", "expected YAML, found a mistake"),
        ("titel: x", "did you mean 'title'"),
        ("exemplars: 5", "exemplars: expected a mapping with the fields principle, question"),
        ("exemplars: [{principle: x}]", "exemplars: field 'question' is missing"),
        ('closing: ""', "expected a text in every field, found none in closing"),
    ],
)
def test_a_bad_file_of_critique_texts_is_explained(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "principles" / "mine" / "prompts" / "critique.yaml"
    path.parent.mkdir(parents=True)
    whole = yaml.safe_load((resources.shipped_root() / "principles/prompts/critique.yaml").read_text(encoding="utf-8"))
    try:
        change = yaml.safe_load(text)
        path.write_text(yaml.safe_dump(whole | change) if change else text, encoding="utf-8")
    except yaml.YAMLError:
        path.write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=re.escape(message)):
        prompts.load_critique_layout("mine")


def test_a_set_takes_from_selfalign_what_the_reference_knows_nothing_of_unless_it_brings_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError):
        prompts.load_critique_layout("mine")
    (tmp_path / "principles" / "mine" / "seeds").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert prompts.load_critique_layout("mine") == prompts.load_critique_layout()
    assert prompts.load_topic_seeds("mine", "harmful") == prompts.load_topic_seeds("", "harmful")
    with pytest.raises(ConfigError):
        prompts.load_topic_seeds("mine")
    own = tmp_path / "principles" / "mine" / "seeds" / "harmful.jsonl"
    own.write_text('{"topic": "Locks", "question_type": "Questions about locks", "question": "How do I pick one?"}\n')
    assert prompts.load_topic_seeds("mine", "harmful") == [
        TopicSeed("Locks", "Questions about locks", "How do I pick one?")
    ]


# ------------------------------------------------------------------------------------------------ parsing: responses


def parse(text: str) -> prompts.ParsedResponse:
    return prompts.parse_response(LAYOUT, RULES, Assistant(), text)


def test_thoughts_citations_and_answer_come_apart() -> None:
    found = parse(" The user asks. Rules that apply: 3 (helpful), 7 (candor).\n\nWillow: Yes.\n\nIt is.")
    assert found.thoughts == "The user asks. Rules that apply: 3 (helpful), 7 (candor)."
    assert (found.cited, found.answer) == (("helpful", "candor"), "Yes.\n\nIt is.")


@pytest.mark.parametrize(
    ("cited", "expected"),
    [
        ("3 (helpful), 3 (helpful)", ("helpful",)),
        ("99 (helpful)", ("helpful",)),
        ("7 (kandor)", ("candor",)),
        ("99 (nonsense)", ("#99",)),
        ("6 (Multi-Aspect)", ("multi_aspect",)),
        ("none", ()),
        ("in 1999 (a year)", ()),
    ],
)
def test_a_citation_counts_for_its_name_then_its_number(cited: str, expected: tuple[str, ...]) -> None:
    assert parse(f" Rules that apply: {cited}.\n\nWillow: Yes.").cited == expected


def test_without_an_answer_marker_there_is_no_answer() -> None:
    assert parse(" I think and think").answer is None


def garbage(count: int) -> list[str]:
    """Malformed completions: truncated, empty, wrong numbers, control characters, other scripts, layouts in a mess."""
    draw = random.Random(0)
    pieces = [
        "", " ", "\n\n", "###", "6. Instruction:", "7. Input:", "9999999999. Input: x", "\x00\x07\x1b[31m", "日本語の質問", "שלום",
        "Willow:", "\n\nWillow: ", "(internal thoughts):", "User:", "1 (", "7 (candor", "type: , topic: ", ", instruction:",
        "<noinput>", "\u2028", "\ufeff", "a" * 500, "-3. Instruction: minus", "6. instruction: small", "\r\n###\r\n", "}{", "%s %d",
        " Name a bird of the park.\n6. Input:\n<noinput>\n", "\n###\n7. Instruction: Add up.\n7. Input:\n3, 4\n",
    ]  # fmt: skip
    return ["".join(draw.choice(pieces) for _ in range(draw.randrange(1, 12))) for _ in range(count)]


TOPICS = [TopicSeed("Wedding", "Questions that require x"), TopicSeed("Dance", "Questions that require y")]
BOTH = [(truncated, parsing) for truncated in (True, False) for parsing in Parsing]


def bare(text: str, layout: str = r"$^") -> str:
    """A text without white space and without the pieces of its layout."""
    return "".join(re.sub(layout, " ", text, flags=re.IGNORECASE).split())


@pytest.mark.parametrize(("truncated", "parsing"), BOTH)
def test_no_text_of_a_malformed_list_of_tasks_is_lost(truncated: bool, parsing: Parsing) -> None:
    layout, reasons = r"###|\d+\s*\.\s*(?:Instruction|Input):|<noinput>", set()
    for text in garbage(1000):
        tasks = prompts.parse_tasks(text, 6, truncated=truncated, parsing=parsing)
        assert bare("###".join(f"{task.instruction}###{task.input}" for task in tasks), layout) == bare(text, layout)
        # What was parsed but says too little, the stage's first filter drops.
        reasons |= {task.reason or filters.word_count(task.instruction, 4, 150) for task in tasks}
        assert all(task.instruction or task.input or not task.reason for task in tasks)
    last = {"truncated"} if truncated or parsing is Parsing.reference else set()
    assert reasons == {"", "malformed", "too_few_words", *last}


@pytest.mark.parametrize(("truncated", "parsing"), BOTH)
def test_every_line_of_a_malformed_list_of_topics_comes_out_with_a_topic_or_a_reason(
    truncated: bool, parsing: Parsing
) -> None:
    seen = set()
    for text in garbage(1000):
        found = prompts.parse_topics(text, truncated=truncated, parsing=parsing)
        lines = [line.strip() for line in text.split("\n")]
        if parsing is Parsing.lenient:
            assert [topic for topic, _ in found] == [
                topic for line in lines if (topic := re.sub(r"^\d+\s*\.\s*", "", line).strip())
            ]
        else:
            assert len(found) == sum(bool(line.split(". ", 1)[-1].strip()) for line in lines)
        assert all(reason or (topic[0].isupper() and len(topic.split()) <= 3) for topic, reason in found)
        seen |= {reason for _, reason in found}
    assert {"no_capital", "ends_in_punctuation"} < seen


@pytest.mark.parametrize(("truncated", "parsing"), BOTH)
def test_every_line_of_a_malformed_list_of_questions_comes_out_with_a_question_or_a_reason(
    truncated: bool, parsing: Parsing
) -> None:
    for text in garbage(1000):
        found = prompts.parse_questions(text, TOPICS, 6, truncated=truncated, parsing=parsing, seeds=TOPICS[:1])
        opened = f"{prompts.topic_hint(6, TOPICS[0])}, instruction:{text}"
        assert len(found) == sum(bool(line.strip()) for line in opened.split("\n"))
        assert all(seed.question for seed, _ in found)
        assert all(reason or seed.topic == "Wedding" for seed, reason in found)
        if truncated or parsing is Parsing.reference:
            assert found[-1][1] == "truncated" or not text.split("\n")[-1].strip()


def test_no_text_of_a_malformed_response_is_lost() -> None:
    answered = 0
    for text in garbage(1000):
        found = parse(text)
        rest = "" if found.answer is None else f"Willow:{found.answer}"
        assert bare(found.thoughts + rest) == bare(text)
        answered += found.answer is not None
    assert 100 < answered < 900


# ----------------------------------------------------------------------------------------------------- parsing: lists


def test_tasks_are_read_back_from_the_layout_they_are_written_in() -> None:
    tasks = [Task("Name a bird."), Task("Sum these numbers.", "3, 4\n5"), Task("Why is rain wet?")]
    text = prompts.self_instruct_prompt("List:", tasks, 20)
    body = text.split("1. Instruction:", 1)[1].removesuffix("###\n4. Instruction:")
    assert prompts.parse_tasks(body, 1, truncated=False) == tasks


def test_a_misnumbered_task_costs_itself_and_not_its_successors() -> None:
    text = (
        " Name a bird.\n6. Input:\n<noinput>\n###\n9. Instruction: Bad.\n8. Input:\nx\n"
        "###\n8. Instruction: Good.\n8. Input:\n<NoInput>\n"
    )
    found = prompts.parse_tasks(text, 6, truncated=False)
    assert [task.reason for task in found] == ["", "malformed", ""]
    assert found[2] == Task("Good.")


MISCOUNTED = "".join(
    f"{opening} {text}\n{number}. Input:\n<noinput>\n"
    for opening, text, number in (
        ("", "Name a bird.", 6),
        ("###\n8. Instruction:", "Name a fish.", 8),
        ("###\n9. Instruction:", "Name a tree.", 9),
        ("###\n10. Instruction:", "Name a town.", 10),
    )
)
"""A list that leaves the number 7 out."""


@pytest.mark.parametrize(
    ("parsing", "reasons"),
    [(Parsing.lenient, ["", "", "", ""]), (Parsing.reference, ["", "malformed", "malformed", "truncated"])],
)
def test_a_number_left_out_costs_the_reference_all_later_tasks(parsing: Parsing, reasons: list[str]) -> None:
    assert [task.reason for task in prompts.parse_tasks(MISCOUNTED, 6, truncated=False, parsing=parsing)] == reasons


def test_a_finished_list_loses_its_last_task_under_the_references_parsing_alone() -> None:
    text = MISCOUNTED.replace("10.", "9.").replace(
        "9. Instruction: Name a tree.\n9.", "8. Instruction: Name a tree.\n8."
    )
    text = text.replace("8. Instruction: Name a fish.\n8.", "7. Instruction: Name a fish.\n7.")
    read = {parsing: prompts.parse_tasks(text, 6, truncated=False, parsing=parsing) for parsing in Parsing}
    assert [task.reason for task in read[Parsing.lenient]] == ["", "", "", ""]
    assert [task.reason for task in read[Parsing.reference]] == ["", "", "", "truncated"]
    assert read[Parsing.reference][:3] == read[Parsing.lenient][:3]


def test_the_references_parsing_splits_a_task_at_hashes_and_keeps_its_lines() -> None:
    text = " Rename this\nheading.\n6. Input:\n### Old\n###\n7. Instruction: Name it.\n7. Input:\nx\n###\n"
    lenient = prompts.parse_tasks(text, 6, truncated=False)
    assert lenient == [Task("Rename this heading.", "### Old"), Task("Name it.", "x")]
    strict = prompts.parse_tasks(text, 6, truncated=False, parsing=Parsing.reference)
    assert [task.reason for task in strict] == ["", "malformed", "malformed"]
    assert (strict[0].instruction, strict[0].input) == ("Rename this\nheading.", "")


def test_a_truncated_last_task_is_kept_as_a_dropped_row() -> None:
    found = prompts.parse_tasks(
        " Name a bird.\n6. Input:\n<noinput>\n###\n7. Instruction: Tell me ab", 6, truncated=True
    )
    assert [task.reason for task in found] == ["", "truncated"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("2. Silver", ""), ("2. Great Barrier Reef", ""), ("2. one two three four", "too_many_words"), ("2. silver", "no_capital"),
        ("2. Silver.", "ends_in_punctuation"), ("2. 銀", "no_capital"),
    ],
)  # fmt: skip
def test_topics_follow_the_references_rules(line: str, reason: str) -> None:
    assert [found[1] for found in prompts.parse_topics(f" Gold\n{line}\n", truncated=False)] == ["", reason]


def test_the_references_topics_are_the_first_twenty_lines_whatever_stands_before_the_full_stop() -> None:
    lines = [" Gold", "Well. Silver", "3 Iron", "Café!", "Zürich"] + [f"{n}. Metal {n}" for n in range(6, 24)]
    found = prompts.parse_topics("\n".join(lines), truncated=True, parsing=Parsing.reference)
    assert [reason for _, reason in found[:5]] == ["", "", "no_capital", "ends_in_punctuation", ""]
    assert found[1][0] == "Silver" and [reason for _, reason in found[20:]] == ["too_many_lines"] * 3
    cut_off = prompts.parse_topics(" Gold\n2. Silv", truncated=True, parsing=Parsing.reference)
    assert cut_off == [("Gold", ""), ("Silv", "")]
    assert prompts.parse_topics(" Gold\n2. Silv", truncated=True)[1] == ("Silv", "truncated")


def test_the_references_questions_take_hints_of_seeds_and_hints_without_a_question() -> None:
    seed = TopicSeed("Rain", "Questions that require z", "Why?")
    text = (
        " How do we marry?\n7. type: Instructions that require y, topic: Dance\n"
        "1. type: Instructions that require z, topic: Rain, instruction: Is rain wet?\n"
        "9. type: Instructions that require y, topic: Song, instruction: Who sings?\n"
        "7. type: Instructions that require y, topic: Dance, instruction: Who dances?\nlast"
    )
    found = prompts.parse_questions(text, TOPICS, 6, truncated=False, parsing=Parsing.reference, seeds=[seed])
    assert [reason for _, reason in found] == ["", "", "", "unasked", "", "truncated"]
    assert found[1][0] == TopicSeed(
        "Dance", TOPICS[1].question_type, "7. type: Instructions that require y, topic: Dance"
    )
    assert found[2][0] == TopicSeed("Rain", seed.question_type, "Is rain wet?")
    assert found[4][0].question == "Who dances?"


def test_questions_need_the_hint_they_were_asked_for() -> None:
    topics = TOPICS
    text = (
        " How do we marry?\n7. type: Instructions that require y, topic: Dance, instruction: Who dances?\n"
        "8. type: Instructions that require y, topic: Song, instruction: Who sings?\n9. type: Instructions, topic: Rain\n"
    )
    found = prompts.parse_questions(text, topics, 6, truncated=False)
    assert [reason for _, reason in found] == ["", "", "unasked", "malformed"]
    assert found[1][0] == TopicSeed("Dance", "Questions that require y", "Who dances?")


def test_bare_slots_of_the_reference_take_the_last_values() -> None:
    assert prompts.fill_slots("kind {}:", total="10", question_type="y") == "kind y:"
    assert prompts.fill_slots("{} / {}", total="10", hints="a", instructions="b") == "a / b"
    assert prompts.fill_slots("{total} {hints}", total="10", hints="{}") == "10 {}"


# -------------------------------------------------------------------------------------------------------- human texts


def test_the_seed_files_have_the_references_shape() -> None:
    tasks, topics = prompts.load_seed_tasks(), prompts.load_topic_seeds()
    assert len(tasks) == 175 and len({task.instruction for task in tasks}) == 175
    assert len(topics) == 20 and len({seed.question_type for seed in topics}) == 20
    harmful = prompts.load_topic_seeds("", "harmful")
    assert len(harmful) >= 5 and len({seed.question_type for seed in harmful}) == len(harmful)
    assert all(seed.question_type.startswith("Questions that ask for help with ") for seed in harmful)
    assert not {seed.question_type for seed in harmful} & {seed.question_type for seed in topics}
    # Their topics pass the filter that the model's own will meet.
    assert [found for seed in [*topics, *harmful] for found in prompts.parse_topics(seed.topic, truncated=False)] == [
        (seed.topic, "") for seed in [*topics, *harmful]
    ]


def test_identity_rows_name_the_configured_assistant() -> None:
    rows = prompts.load_identity(Assistant(name="Zephyrine"))
    assert len(rows) >= 20 and any("Zephyrine" in answer for _, answer in rows)
    assert not any("{" in text for row in rows for text in row)
