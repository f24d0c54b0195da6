"""Laws of the scripted engine: it behaves at the edges as a model would, and says what the script says."""

from __future__ import annotations

import pytest

from selfalign import jsonl
from selfalign.engines.base import GenerateRequest, Sampling, ScoreRequest
from selfalign.engines.scripted import Scripted, ScriptedEngine, ScriptedSettings
from selfalign.errors import ConfigError, StageError


def ask(prompt: str = "a prompt", **more) -> GenerateRequest:
    return GenerateRequest("r1", prompt, **{"sampling": Sampling(max_new_tokens=5), **more})


def answer(engine: ScriptedEngine, request: GenerateRequest):
    (completion,) = engine.generate([request])
    return completion


def test_answers_are_cut_at_the_budget_and_before_the_stop_string():
    engine = ScriptedEngine(lambda request: " one  two\nthree four five six\n\nUser: next")
    assert (answer(engine, ask()).text, answer(engine, ask()).finish) == (" one  two\nthree four five", "length")
    stopped = answer(engine, ask(stop=("three", "\n")))
    assert (stopped.text, stopped.finish, stopped.new_tokens) == (" one  two", "stop", 2)
    free = answer(engine, ask(sampling=Sampling(max_new_tokens=50)))
    assert (free.text.endswith("User: next"), free.finish, free.prompt_tokens) == (True, "eos", 2)


def test_a_prompt_without_room_is_named():
    engine = ScriptedEngine(context_length=4)
    with pytest.raises(StageError, match="'r1'.*at most 3 words.*found 4 words"):
        answer(engine, ask("one two three four"))


def test_every_request_is_remembered():
    engine = ScriptedEngine(score=lambda request: -0.5)
    request, pair = ask(), ScoreRequest("s", "context", "one two")
    list(engine.generate([request]))
    (result,) = engine.score([pair])
    assert (engine.generated, engine.scored) == ([request], [pair])
    assert (result.logprob, result.is_greedy, result.n_tokens) == (-0.5, True, 2)


def test_the_first_row_that_fits_answers(tmp_path):
    script = tmp_path / "script.jsonl"
    jsonl.write(
        script,
        [{"id": "r1", "prompt_contains": "special", "text": "A"}, {"prompt_contains": "dog", "text": "B"}],
    )
    with Scripted(str(script)).open() as engine:
        assert answer(engine, ask("something special")).text == "A"
        assert answer(engine, ask("special dog", sampling=Sampling())).text == "A"
        assert answer(engine, ask("a dog")).text == "B"
        with pytest.raises(StageError, match="'r1'.*none among 2"):
            answer(engine, ask("a cat"))


def test_the_identity_is_the_scripts_content_and_not_its_place(tmp_path):
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    for path in (one, two):
        jsonl.write(path, [{"text": "same"}])
    assert Scripted(str(one)).identity() == Scripted(str(two), batch_size=3).identity()
    jsonl.write(two, [{"text": "other"}])
    assert Scripted(str(one)).identity() != Scripted(str(two)).identity() != Scripted().identity()


@pytest.mark.parametrize(
    ("row", "words"),
    [({"id": "x"}, ":1: expected"), ({"text": "x", "prompt": "y"}, "'prompt'"), ({"text": 3}, "as strings")],
)
def test_a_bad_script_is_a_problem_before_anything_runs(tmp_path, row, words):
    script = tmp_path / "script.jsonl"
    jsonl.write(script, [row])
    (problem,) = Scripted(str(script)).problems()
    assert words in problem
    with pytest.raises(ConfigError), Scripted(str(script)).open():
        pass


def test_a_missing_script_and_bad_numbers_are_problems(tmp_path):
    problems = Scripted(str(tmp_path / "none.jsonl"), context_words=1).problems()
    assert len(problems) == 2 and "found nothing there" in problems[0] and "context_words=1" in problems[1]


def test_an_engine_of_functions_is_told_apart_by_its_name():
    first, second = ScriptedEngine(identity_name="first"), ScriptedEngine(identity_name="second")
    assert ScriptedSettings(first).identity() != ScriptedSettings(second).identity()
    with ScriptedSettings(first).open() as opened:
        assert opened is first
