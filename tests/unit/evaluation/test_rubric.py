"""Laws of adherence by a judge with a rubric: verdicts are read strictly, and a judge that does not look gives no number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from selfalign import jsonl, prompts
from selfalign.artifacts import Store
from selfalign.engines.scripted import ScriptedEngine, ScriptedSettings
from selfalign.errors import ConfigError
from selfalign.evaluation import rubric
from selfalign.pipeline import NodeResult, run
from selfalign.principles import available, load_principle
from selfalign.stages.assess import Assess
from selfalign.stages.base import Context


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Verdict: follows", "follows"),
        ("It asks for the town.\n\nVerdict: breaks\n", "breaks"),
        ("verdict: DOES NOT APPLY.", "does not apply"),
        ("Verdict: follows\nVerdict: follows", "follows"),
        ("Verdict: follows\nNo, wait.\nVerdict: breaks", None),
        ("Verdict: follows\nBecause it says so.", None),
        ("I think that it follows", None),
        ("Verdict: follows mostly", None),
        ("Verdict: unsure", None),
        ("follows", None),
        ("", None),
    ],
)
def test_a_verdict_is_the_last_line_and_the_only_one_of_its_kind(text: str, expected: str | None) -> None:
    assert rubric.verdict(text) == expected


def test_what_an_answer_says_is_never_taken_for_a_slot() -> None:
    template = "{question}|{answer}|{name}|{rule}|{rubric}"
    values = {"question": "{answer}", "answer": "{rule} {rubric}", "name": "n", "rule": "r {name}", "rubric": "{x}"}
    assert rubric.fill_prompt(template, **values) == "{answer}|{rule} {rubric}|n|r {name}|{x}"
    with pytest.raises(ConfigError, match="missing {rubric}"):
        rubric.fill_prompt("{question}{answer}{name}{rule}", **values)


def test_the_shipped_prompt_has_every_slot_and_shows_the_three_verdicts_as_they_are_read() -> None:
    text = rubric.fill_prompt(prompts.load_text("rubric"), **dict.fromkeys(rubric.SLOTS, "x"))
    lines = [line for line in text.splitlines() if rubric.verdict(line)]
    assert [rubric.verdict(line) for line in lines] == list(rubric.Verdict)


@pytest.mark.parametrize("name", available())
def test_every_principle_has_a_rubric_of_its_own(name: str) -> None:
    text = load_principle(name).rubric
    assert all(words in text for words in ("Applies ", "follows the rule when", "breaks the rule when"))
    assert 40 <= len(text.split()) <= 100 and "{" not in text and "Willow" not in text
    assert text != load_principle(name).text


def said(verdicts: dict[str, str]) -> list[dict[str, Any]]:
    """Rows of verdicts: principle -> a letter an item, f(ollows), b(reaks), n(ot applying) or - (unread)."""
    words = {"f": "follows", "b": "breaks", "n": "does not apply", "-": ""}
    return [
        {"principle": name, "item": f"i{number}", "verdict": words[letter], "prompt_tokens": 9, "new_tokens": 2}
        for name, letters in verdicts.items()
        for number, letter in enumerate(letters)
    ]


def test_a_share_is_of_the_answers_to_which_the_principle_applies() -> None:
    found = {one.metric: one for one in rubric.scores("base", said({"candor": "fbnf-", "static": "nnnnf"}))}
    assert (found["candor"].value, found["candor"].n, found["static"].value, found["static"].n) == (2 / 3, 3, 1.0, 1)
    # Items 0 and 3 follow all that applies to them, 1 nothing, 2 has nothing, 4 its only one.
    assert (found["all"].value, found["all"].n) == (0.75, 4)
    assert all(one.valid and one.task == "adherence" and one.protocol == "rubric" for one in found.values())
    counted = rubric.metrics(said({"candor": "fbnf-", "static": "nnnnf"}))
    assert (counted["follows"], counted["breaks"], counted["does_not_apply"], counted["no_verdict"]) == (3, 1, 5, 1)
    assert (counted["prompt_tokens"], counted["new_tokens"], counted["invalid"]) == (90, 20, "")


@pytest.mark.parametrize("letter", "fbn")
def test_a_judge_that_always_says_the_same_gives_no_number(letter: str) -> None:
    found = rubric.scores("base", said({"candor": letter * 4, "static": letter * 4}))
    assert all(one.value is None and not one.valid and "does not look at the answers" in one.reason for one in found)


def test_mostly_unread_verdicts_give_no_number_and_some_give_one() -> None:
    assert "5 of 8 judgements have no verdict" in rubric.broken(said({"candor": "fb-----f"}))
    assert rubric.broken(said({"candor": "fb----ff"})) == ""


def test_a_principle_that_applies_to_nothing_has_a_reason_and_no_number() -> None:
    found = {one.metric: one for one in rubric.scores("base", said({"candor": "nn", "static": "fb"}))}
    assert found["candor"].reason == "it applies to no answer" and found["static"].value == 0.5


# ------------------------------------------------------------------------------------------------------------- the stage

ITEMS = [
    {"task": "vicuna_questions", "protocol": "generate", "item": f"i{n}", "category": "c", "question": f"Q{n}?",
     "answer": f"Answer {n}{' does not know' if n % 2 else ''}."}
    for n in range(6)
]  # fmt: skip


def assess(folder: Path, engine: ScriptedEngine, *principles: str, **more: Any) -> NodeResult:
    folder.mkdir(parents=True, exist_ok=True)
    exam = {"task": "truthfulqa_mc", "protocol": "mc1", "item": "e", "correct": 1.0}
    jsonl.write(folder / "items.jsonl", [exam, *ITEMS])
    stage = Assess(str(folder / "items.jsonl"), principles=list(principles), **more)
    context = Context(engine=ScriptedSettings(engine))
    assert stage.problems(context) == [] and stage.unfit(context) == ""
    return run({"rubric": stage}, Store(folder / "store"), context)["rubric"]


def looks(request: Any) -> str:
    """A judge that reads: candor where the answer says so, and nothing else applies."""
    if "[Rule: candor]" not in request.prompt:
        return "Not asked.\nVerdict: does not apply"
    answer = request.prompt.split("[Answer]\n")[1].split("\n\n[End")[0]
    return f"It says so.\nVerdict: {'follows' if 'does not know' in answer else 'breaks'}"


def test_every_answer_is_held_against_every_principle_with_its_rubric(tmp_path: Path) -> None:
    engine = ScriptedEngine(looks)
    result = assess(tmp_path, engine, "candor", "static")
    assert result.status == "computed", result.why
    assert result.metrics["candor/share"] == 0.5 and result.metrics["candor/n"] == 6 and result.metrics["static/n"] == 0
    assert result.counts == {"in": 12, "kept": 12, "dropped": {}}
    for request, name in zip(engine.generated, ["candor", "static"] * 6, strict=True):
        assert load_principle(name).rubric in request.prompt and "Willow" in request.prompt
    rows = jsonl.read(Path(result.path) / "verdicts.jsonl")
    assert rubric.metrics(rows) == dict(result.metrics)


def test_judgements_that_cannot_be_read_are_kept_and_counted(tmp_path: Path) -> None:
    answers = iter(["Verdict: follows", "Hm.", "Verdict: breaks"] * 2)
    result = assess(tmp_path, ScriptedEngine(lambda request: next(answers)), "candor")
    assert result.counts == {"in": 6, "kept": 4, "dropped": {"no_verdict": 2}}
    rows = jsonl.read(Path(result.path) / "verdicts.jsonl")
    assert [(row["text"], row["reason"]) for row in rows if not row["kept"]] == [("Hm.", "no_verdict")] * 2


def test_a_killed_assessment_goes_on_and_ends_in_the_same_bytes(tmp_path: Path) -> None:
    whole = assess(tmp_path / "whole", ScriptedEngine(looks, group_size=4), "candor", "static")
    left = [7]

    def dying(request: Any) -> str:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return looks(request)

    with pytest.raises(KeyboardInterrupt):
        assess(tmp_path / "killed", ScriptedEngine(dying, group_size=4), "candor", "static")
    again = ScriptedEngine(looks, group_size=4)
    result = assess(tmp_path / "killed", again, "candor", "static")
    assert len(again.generated) == 12 - 4
    for name in ("verdicts.jsonl", "completions.jsonl"):
        assert (Path(result.path) / name).read_bytes() == (Path(whole.path) / name).read_bytes()


def test_the_name_covers_rules_and_answers_and_not_their_place(tmp_path: Path) -> None:
    one = assess(tmp_path / "here", ScriptedEngine(looks), "candor")
    two = assess(tmp_path / "there", ScriptedEngine(looks), "candor")
    other = assess(tmp_path / "there", ScriptedEngine(looks), "candor", assistant=prompts.Assistant("Juniper"))
    assert one.artifact == two.artifact != other.artifact


def test_what_is_missing_is_said_before_anything_is_asked(tmp_path: Path) -> None:
    jsonl.write(tmp_path / "items.jsonl", [{"task": "t", "protocol": "mc1"}])
    (tmp_path / "mine.txt").write_text("{question}")
    context = Context(engine=ScriptedSettings(ScriptedEngine()))
    stage = Assess(str(tmp_path / "items.jsonl"), prompt=str(tmp_path / "mine.txt"))
    found = " ".join(stage.problems(context))
    assert "one principle or more" in found and "generated answers" in found and "missing {answer}" in found
    found = " ".join(Assess(str(tmp_path / "items.jsonl"), principles=["candour"]).problems(context))
    assert "did you mean" in found and "candor" in found
