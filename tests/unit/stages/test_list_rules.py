"""Stages 1a and 1b: the rules of the reference and of the original Self-Instruct, as settings."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from selfalign import jsonl, prompts
from selfalign.engines.base import GenerateRequest, Sampling
from selfalign.engines.scripted import ScriptedEngine, ScriptedSettings
from selfalign.identity import digest
from selfalign.prompts import Parsing
from selfalign.stages.base import Context
from selfalign.stages.red_team import RedTeam
from selfalign.stages.self_instruct import SelfInstruct
from tests.factories import respond
from tests.unit.test_prompts import garbage

ONE_LIST = SelfInstruct(target=50, requests_per_round=1, max_rounds=1)
TASKS = (
    " Explain how a lighthouse keeper slept.\n6. Input:\n<noinput>\n"
    "###\n7. Instruction: Write a program that counts sheep.\n7. Input:\n<noinput>\n"
    "###\n8. Instruction: Sum up what the farmer told.\n8. Input:\nAll hens are well.\n"
    "###\n16. Instruction: Compare old bridges with tunnels.\n16. Input:\n<noinput>\n"
)


def rows(
    stage: Any, folder: Path, answer: Callable[[GenerateRequest], str]
) -> tuple[list[dict[str, Any]], ScriptedEngine]:
    engine = ScriptedEngine(answer)
    folder.mkdir(parents=True, exist_ok=True)
    outcome = stage.run({}, folder, Context(engine=ScriptedSettings(engine)))
    found = jsonl.read(folder / "prompts.jsonl")
    reasons = Counter(row["reason"] for row in found if not row["kept"])
    assert (outcome.rows_in, outcome.kept, outcome.dropped) == (len(found), len(found) - reasons.total(), reasons)
    return found, engine


@pytest.mark.parametrize(
    ("settings", "reasons"),
    [
        ({}, ["", "", "", ""]),
        ({"forbidden_starts": ["Write a program"]}, ["", "forbidden_start", "", ""]),
        ({"forbidden_starts": ["a program", "write"]}, ["", "", "", ""]),
        ({"forbidden_words": ["hens", "bridges"]}, ["", "", "forbidden_word", "forbidden_word"]),
        ({"parsing": Parsing.reference}, ["", "", "", "truncated"]),
        ({"stops": ["\n16."]}, ["", "", ""]),
        ({"drop_truncated_lists": True}, ["", "", "", ""]),
        ({"sampling": Sampling(max_new_tokens=25)}, ["", "", "truncated"]),
        (
            {"sampling": Sampling(max_new_tokens=25), "drop_truncated_lists": True},
            ["truncated_list", "truncated_list", "truncated"],
        ),
    ],
)
def test_each_rule_of_stage_1a_drops_what_it_should(
    settings: dict[str, Any], reasons: list[str], tmp_path: Path
) -> None:
    found, _ = rows(dataclasses.replace(ONE_LIST, **settings), tmp_path, lambda request: TASKS)
    assert [row["reason"] for row in found] == reasons


def test_demonstrations_are_mixed_only_where_that_is_asked_for(tmp_path: Path) -> None:
    stage = SelfInstruct(target=200, requests_per_round=4, max_rounds=2, seed_demos=6, machine_demos=2)
    seeds = {task.instruction.rstrip(":") for task in prompts.load_seed_tasks()}

    def order(engine: ScriptedEngine) -> list[list[bool]]:
        demos = [[line.partition("Instruction: ")[2] for line in request.prompt.split("\n") if ". Instruction: " in line]
                 for request in engine.generated]  # fmt: skip
        return [[demo in seeds for demo in shown] for shown in demos if len(shown) == 8]

    plain = order(rows(stage, tmp_path / "plain", respond)[1])
    mixed = order(rows(dataclasses.replace(stage, shuffle_demos=True), tmp_path / "mixed", respond)[1])
    assert plain == [[True] * 6 + [False] * 2] * 4
    assert len(mixed) == 4 and mixed != plain and all(sum(shown) == 6 for shown in mixed)


def question(stage: RedTeam, line: str, tmp_path: Path) -> list[str]:
    """The reasons of a list of questions whose first is `line`."""

    def write(request: GenerateRequest) -> str:
        return f" {line}\n" if request.prompt.endswith("instruction:") else " Silver\n"

    found, _ = rows(stage, tmp_path, write)
    return [row["reason"] for row in found]


def test_forbidden_words_drop_a_question_only_among_the_quality_filters(tmp_path: Path) -> None:
    stage = RedTeam(topic_rounds=1, topics_per_prompt=1, questions_per_prompt=200)
    line = "Who drew the old map of Wales?"
    assert question(stage, line, tmp_path / "default") == [""]
    forbidding = dataclasses.replace(stage, forbidden_words=["map"])
    assert question(forbidding, line, tmp_path / "word") == ["forbidden_word"]
    assert question(dataclasses.replace(forbidding, quality_filters=False), line, tmp_path / "off") == [""]


def test_the_references_parsing_keeps_one_question_of_each_pair(tmp_path: Path) -> None:
    stage = RedTeam(topic_rounds=1, questions_per_prompt=200, parsing=Parsing.reference, quality_filters=False)

    def write(request: GenerateRequest) -> str:
        if not request.prompt.endswith("instruction:"):
            return " Silver\n"
        hint = request.prompt.rsplit("\n", 1)[-1]
        return f" Why?\n{hint} Why not?\nlast"

    found, _ = rows(stage, tmp_path, write)
    assert [row["reason"] for row in found] == ["", "duplicate", "truncated"]


def test_a_list_runs_past_a_blank_line_only_where_it_may(tmp_path: Path) -> None:
    stage = RedTeam(topic_rounds=1, questions_per_prompt=200)
    for name, changed, stops in (
        ("stop", stage, ("\n\n",)),
        ("run_on", dataclasses.replace(stage, stop_at_blank_line=False), ()),
    ):
        _, engine = rows(changed, tmp_path / name, lambda request: " Silver\n\n3. Gold\n")
        assert {request.stop for request in engine.generated} == {stops}
        topics = {row["topic"] for row in jsonl.read(tmp_path / name / "topics.jsonl")}
        assert topics == ({"Silver"} if stops else {"Silver", "Gold"})


def test_no_limit_of_topics_keeps_them_all(tmp_path: Path) -> None:
    names = "".join(f"{number}. Metal {number}\n" for number in range(3, 30))
    for limit, counted in ((0, 28), (5, 5)):
        stage = RedTeam(topic_rounds=1, questions_per_prompt=9999, max_topics_per_type=limit, quality_filters=False)
        engine = ScriptedEngine(lambda request: names if request.prompt.endswith("\n2.") else " Why?\n")
        (tmp_path / str(limit)).mkdir()
        outcome = stage.run({}, tmp_path / str(limit), Context(engine=ScriptedSettings(engine)))
        assert outcome.metrics["fewest_topics_of_a_type"] == counted


def test_question_types_of_a_further_file_are_asked_for_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = Context(engine=ScriptedSettings(ScriptedEngine(respond)))
    plain, more = RedTeam(), RedTeam(extra_seeds=["harmful"])
    types = {seed.question_type for seed in prompts.load_topic_seeds("", "harmful")}
    _, engine = rows(dataclasses.replace(more, topic_rounds=1), tmp_path / "run", respond)
    asked = "\n".join(request.prompt for request in engine.generated)
    assert all(kind in asked for kind in types)
    assert digest(plain.identity(context)) != digest(more.identity(context))
    assert more.problems(context) == [] and not RedTeam(extra_seeds=["harmfull"]).problems(context)[0].count(
        "Traceback"
    )
    assert "did you mean 'harmful.jsonl'" in RedTeam(extra_seeds=["harmfull"]).problems(context)[0]
    # A file of another name with the same seeds gives the same result.
    folder = tmp_path / "principles" / "seeds"
    folder.mkdir(parents=True)
    seeds = [dataclasses.asdict(seed) for seed in prompts.load_topic_seeds("", "harmful")]
    (folder / "mine.jsonl").write_text("".join(json.dumps(seed) + "\n" for seed in seeds), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert digest(RedTeam(extra_seeds=["mine"]).identity(context)) == digest(more.identity(context))


@pytest.mark.parametrize("parsing", list(Parsing))
def test_the_funnels_of_stage_1_add_up_over_malformed_completions(parsing: Parsing, tmp_path: Path) -> None:
    texts = iter(garbage(1000))
    stage = SelfInstruct(requests_per_round=100, max_rounds=2, min_yield=0.0, parsing=parsing)
    found, _ = rows(stage, tmp_path / "1a", lambda request: next(texts))
    assert len(found) >= 200 and all(row["kept"] == (not row["reason"]) for row in found)
    questions = RedTeam(topic_rounds=1, balance_types=False, parsing=parsing)

    def write(request: GenerateRequest) -> str:
        return next(texts) if request.prompt.endswith("instruction:") else " Silver\n3. Gold\n"

    found, _ = rows(questions, tmp_path / "1b", write)
    assert len(found) >= 8 and all(row["kept"] == (not row["reason"]) for row in found)


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (
            SelfInstruct(forbidden_starts=[""]),
            "self_instruct.forbidden_starts: expected texts of at least one character",
        ),
        (RedTeam(forbidden_words=[""]), "red_team.forbidden_words: expected words, found an empty one"),
        (RedTeam(max_topics_per_type=-1), "red_team.max_topics_per_type: expected at least 0, found -1"),
    ],
)
def test_a_rule_that_would_drop_everything_is_refused(stage: Any, message: str) -> None:
    found = stage.problems(Context(engine=None))  # type: ignore[arg-type]
    assert len(found) == 1 and found[0].startswith(message)
