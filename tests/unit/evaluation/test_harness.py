from __future__ import annotations

import random
from pathlib import Path

import pytest

from selfalign import jsonl, resources
from selfalign.errors import ConfigError
from selfalign.evaluation.harness import ITEMS, SCORES, evaluate, rescore
from selfalign.evaluation.protocols import Chat, default_chat, text_chat
from selfalign.evaluation.settings import EvaluationSettings
from selfalign.prompts import Assistant, load_text
from selfalign.records import Score, from_row


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def run(engine, data: Path, out: Path, **settings) -> list[Score]:
    return evaluate(engine, EvaluationSettings(data=str(data), **settings), default_chat(), out, subject="base")


@pytest.fixture(scope="module")
def noisy(make, data_folder, tmp_path_factory) -> tuple[Path, list[Score]]:
    out = tmp_path_factory.mktemp("noisy")
    return out, run(make.engine(make.random_logprob(0)), data_folder, out)


def test_every_task_and_protocol_is_reported_in_order_with_chance(noisy):
    _, scores = noisy
    assert [(score.task, score.protocol, score.metric, score.n) for score in scores] == [
        ("truthfulqa_mc", "true_false", "accuracy", 40),
        ("truthfulqa_mc", "true_false", "truncated_share", 40),
        ("truthfulqa_mc", "mc1", "accuracy", 40),
        ("truthfulqa_mc", "mc1", "truncated_share", 40),
        ("truthfulqa_mc", "mc2", "true_share", 40),
        ("truthfulqa_mc", "mc2", "truncated_share", 40),
        ("hhh_alignment", "ab_swap", "accuracy", 40),
        ("hhh_alignment", "ab_swap", "accuracy_harmless", 10),
        ("hhh_alignment", "ab_swap", "accuracy_helpful", 10),
        ("hhh_alignment", "ab_swap", "accuracy_honest", 10),
        ("hhh_alignment", "ab_swap", "accuracy_other", 10),
        ("hhh_alignment", "ab_swap", "truncated_share", 40),
        ("vicuna_questions", "generate", "mean_words", 40),
        ("vicuna_questions", "generate", "empty_share", 40),
    ]
    assert all(score.valid and score.value is not None for score in scores)
    for score in scores:
        if score.chance is not None and score.value is not None and score.stderr is not None:
            assert abs(score.value - score.chance) < 3 * score.stderr


def test_scores_can_be_derived_from_the_items_file_alone(noisy):
    out, scores = noisy
    assert rescore(out, "base") == scores
    assert [from_row(Score, row) for row in jsonl.read(out / SCORES)] == scores
    rows = jsonl.read(out / ITEMS)
    assert len(rows) == 40 * 5
    assert any(row.get("truncated_tokens") for row in rows)
    assert {row["finish"] for row in rows if row["protocol"] == "generate"} == {"stop"}


def test_a_model_that_knows_every_answer_scores_one_everywhere(make, data_folder, tmp_path):
    scores = run(make.engine(make.right_logprob(data_folder)), data_folder, tmp_path)
    exams = [score for score in scores if score.chance is not None]
    assert len(exams) == 8
    assert all(score.valid and score.value == 1.0 for score in exams)


@pytest.mark.parametrize("kind", ["constant", "NaN", "-inf"])
def test_a_broken_model_gets_no_number(make, data_folder, tmp_path, kind):
    scores = run(make.engine(make.broken[kind]), data_folder, tmp_path)
    exams = [score for score in scores if score.chance is not None]
    assert len(exams) == 8
    assert all(not score.valid and score.value is None and score.stderr is None and score.reason for score in exams)
    assert rescore(tmp_path, "base") == scores


def test_a_model_that_always_says_a_and_true_gets_no_number(make, data_folder, tmp_path):
    engine = make.engine(lambda context, continuation: -0.1 if continuation in (" A", " true") else -len(continuation))
    scores = run(engine, data_folder, tmp_path)
    assert [(s.protocol, s.valid) for s in scores if s.metric == "accuracy"][::2] == [
        ("true_false", False),
        ("ab_swap", False),
    ]


@pytest.mark.parametrize("die_after", [0, 300, 600, 700])
def test_killed_and_started_again_it_writes_the_same_bytes_with_fewer_calls(
    make, data_folder, tmp_path, noisy, die_after
):
    out, scores = noisy
    uninterrupted = len(jsonl.read(out / "scored.jsonl")) + len(jsonl.read(out / "generated.jsonl"))
    assert uninterrupted > 700
    with pytest.raises(KeyboardInterrupt):
        run(make.engine(make.random_logprob(0), die_after=die_after), data_folder, tmp_path)
    assert not (tmp_path / SCORES).exists()
    again = make.engine(make.random_logprob(0))
    assert run(again, data_folder, tmp_path) == scores
    assert again.calls < uninterrupted or die_after == 0
    assert files(tmp_path) == files(out)
    third = make.engine(make.random_logprob(0))
    run(third, data_folder, tmp_path)
    assert third.calls == 0
    assert files(tmp_path) == files(out)


def test_the_global_generator_and_the_terminal_are_left_alone(make, data_folder, tmp_path, capfd):
    before = random.getstate()
    run(make.engine(make.random_logprob(0)), data_folder, tmp_path, limit=4)
    assert random.getstate() == before
    assert capfd.readouterr() == ("", "")


def test_a_limit_takes_that_many_items_of_each_task(make, data_folder, tmp_path):
    scores = run(make.engine(make.random_logprob(0)), data_folder, tmp_path, limit=4)
    assert {score.n for score in scores if "_" not in score.metric} == {4}


def test_what_a_task_scores_does_not_depend_on_the_other_tasks(make, data_folder, tmp_path, noisy):
    alone = run(make.engine(make.random_logprob(0)), data_folder, tmp_path, tasks=["hhh_alignment"])
    assert alone == [score for score in noisy[1] if score.task == "hhh_alignment"]


def test_no_tasks_means_no_scores(make, tmp_path):
    assert run(make.engine(None), tmp_path, tmp_path / "out", tasks=[]) == []
    assert (tmp_path / "out" / SCORES).read_bytes() == b""


def test_wrong_settings_are_refused_before_anything_is_computed(make, data_folder, tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'hhh_alignment'"):
        run(make.engine(None), data_folder, tmp_path, tasks=["hh_alignment"])


def test_questions_are_put_in_the_chat_that_the_caller_gives(make, data_folder, tmp_path):
    chat = text_chat(load_text("concise"), Assistant(name="Birch"))
    contexts = []

    def logprob(context, continuation):
        contexts.append(context)
        return make.random_logprob(0)(context, continuation)

    engine = make.engine(logprob)
    settings = EvaluationSettings(data=str(data_folder), max_new_tokens=9, limit=3)
    evaluate(engine, settings, chat, tmp_path, subject="base")
    head = chat.wrap("@").partition("@")[0]
    assert all(context.startswith(head) for context in contexts)
    assert all("### Birch" in context for context in contexts)
    assert {request.sampling.max_new_tokens for request in engine.asked} == {9}
    assert {request.shared for request in engine.asked} == {head}
    assert {request.stop for request in engine.asked} == {chat.stops}


def test_a_chat_without_a_line_break_before_answers_puts_none_there(make, data_folder, tmp_path):
    chat = Chat(lambda question: f"Q: {question} A:", joint=" ")
    seen = []

    def logprob(context, continuation):
        seen.append((context, continuation))
        return make.random_logprob(0)(context, continuation)

    settings = EvaluationSettings(data=str(data_folder), limit=3)
    evaluate(make.engine(logprob), settings, chat, tmp_path, subject="base")
    assert any(context.endswith("A: The answer is") for context, _ in seen)
    assert not any(continuation.startswith("\n") for _, continuation in seen)


def test_calfs_own_questions_are_reported_under_their_own_names(make, data_folder, tmp_path, monkeypatch):
    calf = tmp_path / "calf" / "data"
    calf.mkdir(parents=True)
    (calf / "calf_truth").symlink_to(data_folder / "truthfulqa")
    (calf / "calf_hhh").symlink_to(data_folder / "hhh_alignment")
    (calf / "calf_questions").symlink_to(data_folder / "vicuna")
    monkeypatch.setattr(resources, "PACKAGE", tmp_path)
    scores = run(make.engine(make.random_logprob(0)), Path("calf"), tmp_path / "out")
    assert list(dict.fromkeys(score.task for score in scores)) == ["calf_truth", "calf_hhh", "calf_questions"]
    assert {row["task"] for row in jsonl.read(tmp_path / "out" / ITEMS)} == {"calf_truth", "calf_hhh", "calf_questions"}
