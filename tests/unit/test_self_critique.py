from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from selfalign import experiment as experiments
from selfalign import jsonl
from selfalign.artifacts import Artifact, Outcome, Store
from selfalign.cuts import LAST_WORD
from selfalign.engines.base import GenerateRequest
from selfalign.engines.scripted import ScriptedEngine, ScriptedSettings
from selfalign.experiment import Experiment, Stages
from selfalign.identity import digest, short_id
from selfalign.pipeline import plan
from selfalign.principles import Numbering, PrincipleSettings, Scope, resolve
from selfalign.records import Critique, Response, from_row, to_row
from selfalign.stages.base import Context
from selfalign.stages.engrave import Engrave
from selfalign.stages.self_align import SelfAlign
from selfalign.stages.self_critique import Draw, OnFailure, SelfCritique, drawn
from tests.factories import SIXTEEN, scripted

RULES = resolve(PrincipleSettings(ids=SIXTEEN)).by_id()
STAGE = SelfCritique(principles=PrincipleSettings(ids=SIXTEEN))


def response(number: int, cited: tuple[str, ...] = ("helpful", "candor")) -> Response:
    text = f"The otter number {number} is well and friendly."
    question = f"How is otter {number}?"
    prompt = short_id(question, "")
    return Response(
        short_id(prompt, text), prompt, question, "", "file", "A question.", cited, text, f" {text}", "stop"
    )


ROWS = [response(number) for number in range(40)]


def answers(folder: Path, rows: Iterable[Response]) -> Artifact:
    """An artifact of responses, as self_align publishes one."""
    folder.mkdir(parents=True, exist_ok=True)
    jsonl.write(folder / "responses.jsonl", map(to_row, rows))
    return Artifact(
        "SelfAlign-1-x", folder, {"files": {"responses.jsonl": {}}, "counts": {"dropped": {}}, "metrics": {}}
    )


@dataclasses.dataclass
class Done:
    outcome: Outcome
    critiques: list[Critique]
    responses: list[Response]
    asked: list[GenerateRequest]
    out: Path


def done(
    folder: Path,
    stage: SelfCritique,
    respond: Callable[[GenerateRequest], str],
    rows: Iterable[Response] = ROWS,
    **engine: Any,
) -> Done:
    """What a stage makes of some responses."""
    double = ScriptedEngine(respond, **engine)
    out = folder / "out"
    out.mkdir(parents=True, exist_ok=True)
    outcome = stage.run({"responses": answers(folder / "in", rows)}, out, Context(engine=ScriptedSettings(double)))
    return Done(
        outcome,
        [from_row(Critique, row) for row in jsonl.iterate(out / "critiques.jsonl")],
        [from_row(Response, row) for row in jsonl.iterate(out / "responses.jsonl")],
        double.generated,
        out,
    )


def is_critique(request: GenerateRequest) -> bool:
    return request.prompt.endswith("\n\nCritique:")


def good(request: GenerateRequest) -> str:
    return " It says too little." if is_critique(request) else f" A better answer with the number {request.seed % 997}."


# ------------------------------------------------------------------------------------------------------------ drawing


def draws(
    names: Iterable[str], draw: Draw = Draw.uniform, rows: Iterable[Response] = ROWS, number: int = 1
) -> list[str]:
    rules = {name: RULES[name] for name in names}
    return [drawn(rules, row, draw, 0, number).id for row in rows]


@pytest.mark.parametrize("gone", SIXTEEN)
def test_dropping_a_principle_changes_the_draw_of_those_prompts_alone_that_had_drawn_it(gone: str) -> None:
    whole, arm = draws(SIXTEEN), draws([name for name in SIXTEEN if name != gone])
    assert gone not in arm
    assert [new for old, new in zip(whole, arm, strict=True) if old != gone] == [old for old in whole if old != gone]


def test_a_draw_depends_on_neither_order_nor_numbers_nor_the_answer() -> None:
    kept = resolve(PrincipleSettings(ids=SIXTEEN[::-1], drop=["ethical"], numbering=Numbering.keep)).by_id()
    others = [dataclasses.replace(row, id="x", text="Another answer.") for row in ROWS]
    assert [drawn(kept, row, Draw.uniform, 0, 1).id for row in others] == draws(SIXTEEN[1:])


def test_every_principle_is_drawn_about_as_often_as_the_others() -> None:
    found = draws(SIXTEEN, rows=[response(number) for number in range(1600)])
    assert all(60 < found.count(name) < 150 for name in SIXTEEN)


def test_cited_draws_what_the_thoughts_cite_and_uncited_the_rest() -> None:
    assert set(draws(SIXTEEN, Draw.cited)) == {"helpful", "candor"}
    assert set(draws(SIXTEEN, Draw.uncited)) & {"helpful", "candor"} == set()


def test_where_the_pool_is_empty_any_principle_is_drawn() -> None:
    unknown = [response(number, cited=("#99", "multilingual")) for number in range(40)]
    assert draws(SIXTEEN, Draw.cited, unknown) == draws(SIXTEEN, Draw.uniform, unknown)
    everything = [response(number, cited=tuple(SIXTEEN)) for number in range(40)]
    assert draws(SIXTEEN, Draw.uncited, everything) == draws(SIXTEEN, Draw.uniform, everything)


def test_rounds_and_seeds_draw_anew() -> None:
    assert draws(SIXTEEN, number=1) != draws(SIXTEEN, number=2)
    assert [drawn(RULES, row, Draw.uniform, 1, 1).id for row in ROWS] != draws(SIXTEEN)


@pytest.mark.parametrize("scope", Scope)
def test_a_dropped_principle_is_neither_drawn_nor_shown(scope: Scope, tmp_path: Path) -> None:
    arm = PrincipleSettings(ids=SIXTEEN, drop=["candor", "helpful"], scope=scope)
    found = done(tmp_path, SelfCritique(principles=arm, rounds=3), good)
    assert {row.principle for row in found.critiques} <= set(SIXTEEN) - {"candor", "helpful"}
    gone = [RULES[name].text.replace("{assistant}", "Willow") for name in ("candor", "helpful")]
    assert found.asked and not any(text in request.prompt for request in found.asked for text in gone)


# ------------------------------------------------------------------------------------------------------------ records


def test_nothing_of_a_revision_is_lost(tmp_path: Path) -> None:
    found = done(tmp_path, STAGE, good)
    assert found.outcome.rows_in == found.outcome.kept == len(found.critiques) == len(found.responses) == len(ROWS)
    for first, critique, last in zip(ROWS, found.critiques, found.responses, strict=True):
        assert critique.response_id == first.id and critique.id == last.id != first.id
        assert (critique.original, critique.critique) == (first.text, "It says too little.")
        assert critique.revision_raw == last.raw == f" {last.text}" and critique.text == last.text != first.text
        assert (last.prompt_id, last.instruction, last.thoughts, last.cited) == (
            first.prompt_id, first.instruction, first.thoughts, first.cited,
        )  # fmt: skip
        assert critique.kept and last.kept and critique.reason == last.reason == ""


def test_rounds_follow_one_another_by_id_and_each_revises_what_the_one_before_left(tmp_path: Path) -> None:
    found = done(tmp_path, dataclasses.replace(STAGE, rounds=3), good)
    by_id = {row.id: row for row in found.critiques}
    assert len(by_id) == 3 * len(ROWS)
    for first, last in zip(ROWS, found.responses, strict=True):
        third = by_id[last.id]
        second = by_id[third.response_id]
        chain = [by_id[second.response_id], second, third]
        assert [row.round for row in chain] == [1, 2, 3] and chain[0].response_id == first.id
        assert [row.original for row in chain] == [first.text, chain[0].text, chain[1].text]
        assert chain[2].text == last.text


def test_the_prompts_hold_the_rule_the_question_the_answer_and_the_critique_behind_one_stem(tmp_path: Path) -> None:
    found = done(tmp_path, STAGE, good)
    stem = (found.out / "stem.txt").read_text(encoding="utf-8")
    assert stem.endswith("Rule:") and {request.shared for request in found.asked} == {stem}
    half = len(found.asked) // 2
    for row, critique, critic, reviser in zip(
        ROWS, found.critiques, found.asked[:half], found.asked[half:], strict=True
    ):
        rule = RULES[critique.principle].text.replace("{assistant}", "Willow").replace("{cutoff}", "2023")
        expected = f"{stem} {rule}\n\nQuestion: {row.instruction}\n\nFirst answer: {row.text}\n\nCritique:"
        assert critic.prompt == expected
        assert reviser.prompt == f"{expected} It says too little.\n\nRevised answer:"


def test_arms_share_random_numbers_for_every_prompt_that_draws_the_same_principle(tmp_path: Path) -> None:
    whole = done(tmp_path / "whole", STAGE, good)
    others = [dataclasses.replace(row, id=short_id(row.id), text="Some quite different answer.") for row in ROWS]
    arm = dataclasses.replace(STAGE, principles=PrincipleSettings(ids=SIXTEEN, drop=["candor"]))
    less = done(tmp_path / "less", arm, good, others)
    same = [a.principle == b.principle for a, b in zip(whole.critiques, less.critiques, strict=True)]
    assert 20 < sum(same) < len(same)
    for index, (left, right) in enumerate(zip(whole.asked, less.asked, strict=True)):
        assert (left.seed == right.seed) == same[index % len(ROWS)]
    assert len({request.seed for request in whole.asked}) == len(whole.asked)


# ------------------------------------------------------------------------------------------------------------ failures


@pytest.mark.parametrize(
    ("critique", "revision", "reason"),
    [
        ("", "unused", "critique_empty"),
        (" \n ", "unused", "critique_empty"),
        ("word " * 300, "unused", "critique_unfinished"),
        (" First answer: mine.", "unused", "critique_contains_marker"),
        (" again and again" * 20, "unused", "critique_repetition"),
        (" Too short.", "", "empty"),
        (" Too short.", " Yes.", "too_short"),
        (" Too short.", "word " * 300, "unfinished"),
        (" Too short.", " It is well.\n\nQuestion: And you?", "contains_marker"),
        (" Too short.", " It is well and friendly.\n\n### User", "contains_marker"),
        (" Too short.", " I am well and so" * 20, "repetition"),
        (" Too short.", " It is well and friendly.\n\nRevised answer: again.", ""),
        (" 短すぎます。", " カワウソは元気で、人なつこく、川で泳いでいます。", ""),
        (" קצר מדי.", " הלוטרה בריאה, ידידותית ושוחה בנהר.", ""),
    ],
)
@pytest.mark.parametrize("on_failure", OnFailure)
def test_a_failure_has_its_reason_and_costs_the_revision_or_the_row(
    critique: str, revision: str, reason: str, on_failure: OnFailure, tmp_path: Path
) -> None:
    def respond(request: GenerateRequest) -> str:
        return critique if is_critique(request) else revision

    found = done(tmp_path, dataclasses.replace(STAGE, on_failure=on_failure), respond, ROWS[:3])
    dropped = 3 if reason and on_failure is OnFailure.drop else 0
    assert (found.outcome.rows_in, found.outcome.kept) == (3, 3 - dropped)
    assert found.outcome.dropped == ({reason: 3} if dropped else {})
    for first, record, last in zip(ROWS, found.critiques, found.responses, strict=False):
        assert (record.kept, record.reason) == (not reason, reason)
        assert last.id == record.id != first.id and last.kept == (not dropped)
        if reason:
            assert (last.text, last.raw, last.finish, record.text) == (first.text, first.raw, first.finish, first.text)
    is_asked = not reason.startswith("critique_")
    assert sum(not is_critique(request) for request in found.asked) == (3 if is_asked else 0)


def test_unfinished_texts_are_used_where_the_settings_say_so(tmp_path: Path) -> None:
    def respond(request: GenerateRequest) -> str:
        return " ".join(f"word{number}" for number in range(300))

    found = done(tmp_path, dataclasses.replace(STAGE, keep_unfinished=True), respond, ROWS[:2])
    assert all(row.kept and row.critique_finish == row.revision_finish == "length" for row in found.critiques)
    # As everywhere, an unfinished text loses its last word, which may be half a word, and the row says so.
    assert all(len(row.text.split()) == 255 and row.cut == (LAST_WORD,) for row in found.responses)
    assert not any(row.is_finished for row in found.responses)


def test_a_whole_revision_of_a_shortened_answer_is_finished_and_a_kept_original_stays_shortened(tmp_path: Path) -> None:
    cut = [dataclasses.replace(row, cut=(LAST_WORD,)) for row in ROWS[:2]]
    assert all(row.is_finished for row in done(tmp_path / "whole", STAGE, good, cut).responses)
    failed = done(tmp_path / "failed", STAGE, lambda request: "", cut).responses
    assert [(row.text, row.cut) for row in failed] == [(row.text, row.cut) for row in cut]


def test_after_a_failed_round_the_next_goes_on_with_the_answer_there_is_and_a_dropped_row_with_nothing(
    tmp_path: Path,
) -> None:
    def respond(request: GenerateRequest) -> str:
        is_first = any(row.text in request.prompt for row in ROWS) and request.id in {row.id for row in ROWS}
        return "" if is_first else good(request)

    kept = done(tmp_path / "kept", dataclasses.replace(STAGE, rounds=2), respond)
    assert [row.reason for row in kept.critiques] == ["critique_empty"] * 40 + [""] * 40
    assert [row.original for row in kept.critiques[40:]] == [row.text for row in ROWS]
    assert kept.outcome.kept == 40
    dropped = done(tmp_path / "gone", dataclasses.replace(STAGE, rounds=2, on_failure=OnFailure.drop), respond)
    assert len(dropped.critiques) == 40 and dropped.outcome.dropped == {"critique_empty": 40}


def test_an_answer_too_long_for_the_context_costs_its_row_and_not_the_stage(tmp_path: Path) -> None:
    long = dataclasses.replace(ROWS[0], id="long", text="word " * 900)
    found = done(tmp_path, STAGE, good, [long, ROWS[1]], context_length=1000)
    assert [row.reason for row in found.critiques] == ["critique_no_room", ""]
    words = len(found.asked[0].prompt.split())

    def talks(request: GenerateRequest) -> str:
        return " ".join(f"w{number}" for number in range(90)) if is_critique(request) else " A better answer now."

    # Room for the critique, and none for the revision behind it.
    squeezed = done(tmp_path / "squeezed", STAGE, talks, [ROWS[1]], context_length=words + 91)
    assert [row.reason for row in squeezed.critiques] == ["no_room"] and squeezed.responses[0].text == ROWS[1].text


def garbage(count: int) -> list[str]:
    draw = random.Random(0)
    pieces = [
        "", " ", "\n\n", "Rule:", "\nRule: {principle}", "Critique:", "\n\nRevised answer:", "First answer: ",
        "(end of revision)", "\x00\x07\x1b[31m", "日本語の質問", "שלום", "\u2028", "\ufeff", "a" * 500, "same words again ",
        "}{", "%s %d", "\r\n", "word " * 90, "An answer that is good.",
    ]  # fmt: skip
    return ["".join(draw.choice(pieces) for _ in range(draw.randrange(0, 9))) for _ in range(count)]


@pytest.mark.parametrize("on_failure", OnFailure)
def test_malformed_completions_never_raise_and_the_counts_add_up(on_failure: OnFailure, tmp_path: Path) -> None:
    rows = [response(number) for number in range(300)]
    texts = garbage(601)
    stage = dataclasses.replace(STAGE, on_failure=on_failure, rounds=2)
    found = done(tmp_path, stage, lambda request: texts[request.seed % len(texts)], rows)
    assert (
        found.outcome.rows_in == found.outcome.kept + sum(found.outcome.dropped.values()) == len(found.responses) == 300
    )
    assert all(row.kept == (row.reason == "") for row in [*found.critiques, *found.responses])
    assert len({row.reason for row in found.critiques}) >= 7
    metrics = found.outcome.metrics
    total = len(found.critiques)
    assert sum(value for name, value in metrics.items() if name.startswith(("revised/", "failed/"))) == total
    assert metrics["share_changed"] + metrics["share_unchanged"] + metrics["share_failed"] == pytest.approx(1, abs=2e-4)
    assert metrics["share_failed"] == pytest.approx(sum(not row.kept for row in found.critiques) / total, abs=1e-4)


def test_metrics_tell_changed_answers_from_those_repeated_word_for_word(tmp_path: Path) -> None:
    same = {row.id: f"\n {row.text} \n" for row in ROWS[:10]}

    def respond(request: GenerateRequest) -> str:
        return " Fine." if is_critique(request) else same.get(request.id, " One two three four five.")

    metrics = done(tmp_path, STAGE, respond).outcome.metrics
    assert (metrics["share_changed"], metrics["share_unchanged"], metrics["share_failed"]) == (0.75, 0.25, 0)
    assert (metrics["mean_words_before"], metrics["mean_words_after"]) == (8, 0.25 * 8 + 0.75 * 5)
    drawn_by = draws(SIXTEEN)
    assert {name: metrics.get(f"revised/{name}", 0) for name in SIXTEEN} == {
        name: drawn_by.count(name) for name in SIXTEEN
    }


# ------------------------------------------------------------------------------------------------------------ resuming


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("dies_after", [0, 1, 9, 39, 40, 41, 75, 80, 121, 159])
def test_a_stage_killed_in_any_of_its_passes_ends_as_an_uninterrupted_one(dies_after: int, tmp_path: Path) -> None:
    stage = dataclasses.replace(STAGE, rounds=2)
    whole = done(tmp_path / "whole", stage, good, group_size=7)
    left = dies_after

    class Killed(BaseException):
        pass

    def dying(request: GenerateRequest) -> str:
        nonlocal left
        if not left:
            raise Killed
        left -= 1
        return good(request)

    with pytest.raises(Killed):
        done(tmp_path / "killed", stage, dying, group_size=7)
    again = done(tmp_path / "killed", stage, good, group_size=7)
    assert files(again.out) == files(whole.out) and len(whole.asked) == 160
    assert len(again.asked) <= 160 - dies_after // 7 * 7 + 14


# ------------------------------------------------------------------------------------------------------------- identity


def identity(stage: SelfCritique) -> str:
    return digest(stage.identity(Context(engine=ScriptedSettings(scripted()))))


def test_the_rules_enter_the_name_as_their_texts_and_not_as_the_way_they_were_chosen() -> None:
    same = [
        PrincipleSettings(ids=SIXTEEN, scope=Scope.exemplars),
        PrincipleSettings(ids=SIXTEEN[::-1]),
        PrincipleSettings(ids=SIXTEEN[1:], add=["ethical"], numbering=Numbering.keep),
    ]
    assert {identity(SelfCritique(principles=settings)) for settings in same} == {identity(STAGE)}
    dropped = PrincipleSettings(ids=SIXTEEN, drop=["candor"])
    placebo = dataclasses.replace(dropped, scope=Scope.placebo)
    assert identity(SelfCritique(principles=dropped)) == identity(SelfCritique(principles=placebo)) != identity(STAGE)


@pytest.mark.parametrize("change", [{"draw": Draw.cited}, {"on_failure": OnFailure.drop}, {"rounds": 2}, {"seed": 1}])
def test_every_choice_renames_the_result(change: dict[str, Any]) -> None:
    assert identity(dataclasses.replace(STAGE, **change)) != identity(STAGE)


# --------------------------------------------------------------------------------------------------------------- wiring


def experiment(**stages: bool) -> Experiment:
    settings = PrincipleSettings(ids=SIXTEEN)
    on = {"self_instruct": True, "tgrt": False, "verbose_clone": True, "evaluate": False, **stages}
    return Experiment(
        principles=settings,
        stages=Stages(**on),
        engine=ScriptedSettings(scripted()),
        self_align=SelfAlign(principles=settings),
        self_critique=STAGE,
    )


def names(one: Experiment) -> dict[str, str]:
    planned = plan(experiments.pipeline(one), Store(Path("nowhere")), experiments.context(one, quiet=True))
    return {name: item.artifact for name, item in planned.items()}


def test_the_stage_stands_between_responses_and_engraved_and_changes_no_name_above_it() -> None:
    off, on = names(experiment()), names(experiment(self_critique=True))
    assert "critiqued" not in off and list(on) == [
        "instructions", "prompts", "contamination", "responses", "critiqued", "engraved", "verbose_responses", "cloned",
        "engraving_gap",
    ]  # fmt: skip
    above = ("instructions", "prompts", "responses")
    assert {name: on[name] for name in above} == {name: off[name] for name in above}
    assert on["engraved"] != off["engraved"]
    nodes = experiments.pipeline(experiment(self_critique=True))
    assert nodes["engraved"].inputs == {"responses": "critiqued"} and isinstance(nodes["engraved"].stage, Engrave)


def test_engrave_trains_on_the_revisions(tmp_path: Path) -> None:
    found = done(tmp_path, STAGE, good)
    revised = Artifact("SelfCritique-1-x", found.out, {"files": {"responses.jsonl": {}}, "counts": {}, "metrics": {}})
    examples = Engrave(identity_rows=False).examples(revised)
    assert [example.response_id for example in examples] == [row.id for row in found.critiques]
    assert all(
        row.text in example.target_text and row.original not in example.target_text
        for row, example in zip(found.critiques, examples, strict=True)
    )


def test_without_self_align_the_stage_has_nothing_to_read() -> None:
    found = experiments.problems(experiment(self_critique=True, self_align=False, engrave=False, verbose_clone=False))
    assert any(
        "stages.self_critique: it reads the responses of self_align, which is off" in problem for problem in found
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rounds": 0}, "self_critique.rounds: expected at least 1, found 0"),
        ({"principles": PrincipleSettings()}, "expected at least one principle to hold answers against, found none"),
        ({"principles": PrincipleSettings(ids=["kandor"])}, "unknown principle 'kandor'"),
        ({"texts": "nowhere"}, "self_critique.texts: "),
    ],
)
def test_wrong_settings_are_explained_before_anything_runs(change: dict[str, Any], message: str) -> None:
    stage = dataclasses.replace(STAGE, **change)
    found = stage.problems(Context(engine=ScriptedSettings(scripted())))
    assert len(found) == 1 and message in found[0]


def test_a_context_too_small_for_question_answer_critique_and_revision_is_named() -> None:
    small = Context(engine=ScriptedSettings(scripted(context_length=900)))
    assert "self_critique.revision_sampling.max_new_tokens (now 256)" in STAGE.unfit(small)
    assert STAGE.unfit(Context(engine=ScriptedSettings(scripted(context_length=1300)))) == ""


def test_the_preview_is_what_is_sent(tmp_path: Path) -> None:
    row = dataclasses.replace(ROWS[0], text="<first answer>")
    found = done(tmp_path, STAGE, lambda request: " <critique>", [row])
    assert list(STAGE.preview(row.instruction, len).values()) == [request.prompt for request in found.asked]
    assert list(STAGE.preview("", len).values()) == [found.asked[0].shared]


def test_both_completions_stay_as_they_were_written(tmp_path: Path) -> None:
    found = done(tmp_path, STAGE, good, ROWS[:4])
    rows = {kind: jsonl.read(found.out / f"completions_1_{kind}.jsonl") for kind in ("critique", "revision")}
    assert [row["text"] for row in rows["critique"]] == [" It says too little."] * 4
    assert [row["text"] for row in rows["revision"]] == [row.revision_raw for row in found.critiques]
    assert {tuple(row["id"] for row in side) for side in rows.values()} == {tuple(row.id for row in ROWS[:4])}
