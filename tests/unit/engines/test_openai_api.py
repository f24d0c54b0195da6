"""Laws of `engine=openai_api`: nothing lost, nothing doubled, whatever the server does; and no key in any word of it."""

from __future__ import annotations

import asyncio
import json
import logging
import shlex
import shutil
import signal
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from selfalign import cost, experiment, groups
from selfalign.commands import serve_command
from selfalign.engines import http
from selfalign.engines.base import GenerateRequest, NgramPenalty, Sampling, ScoreRequest
from selfalign.engines.http import wait_asked
from selfalign.engines.huggingface import HuggingFace
from selfalign.engines.model import ModelSettings, raw_tokenizer
from selfalign.engines.openai_api import Endpoint, OpenAIApi
from selfalign.engines.openai_chat import estimated_tokens
from selfalign.engines.penalties import Vocabulary
from selfalign.engines.serving import adapter_name
from selfalign.errors import ConfigError, DataError, StageError
from selfalign.identity import plain
from selfalign.jsonl import read
from selfalign.stages.base import Context, generate
from selfalign.stages.engrave import Engrave
from tests.unit.engines.stub_server import END_ID, Handler, logprob, served
from tests.unit.engines.word_models import END, write_tokenizer

KEY = "sk-ThisIsTheKeyThatNobodyMaySee"


@pytest.fixture
def stub():
    with served() as made:
        yield made


@pytest.fixture
def waits(monkeypatch) -> list[float]:
    """Every wait that would have been, in seconds; none takes any time."""
    asked: list[float] = []

    async def sleep(seconds: float) -> None:
        asked.append(seconds)
        await asyncio.sleep(0)

    monkeypatch.setattr(http, "sleep", sleep)
    return asked


@pytest.fixture
def settings(stub, waits, tiny_model, monkeypatch) -> OpenAIApi:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    return OpenAIApi(ModelSettings(str(tiny_model), context_length=512), stub.url, batch_size=4, retries=2)


def requests(count: int = 24, **sampling) -> list[GenerateRequest]:
    options = {"max_new_tokens": 12, "temperature": 1.0} | sampling
    return [GenerateRequest(f"r{i}", f"Prompt {i}:", Sampling(**options), seed=i) for i in range(count)]


def completions(settings: OpenAIApi, asked: list[GenerateRequest]):
    """In the order of the requests: an engine gives them as they are finished."""
    order = {request.id: place for place, request in enumerate(asked)}
    with settings.open() as engine:
        return sorted(engine.generate(asked), key=lambda completion: order[completion.id])


def status(code: int, words: str = "out of order", **headers: str):
    return lambda handler: handler.answer(code, {"error": {"message": words}}, **headers)


def half_a_body(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "500")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [{"te')
    handler.hang_up()


def says(choice: dict, **more):
    """An answer that both endpoints would read."""
    said = {"text": "It is.", "message": {"content": "It is."}, "finish_reason": "stop"}
    return lambda handler: handler.answer(200, {"choices": [said | choice], **more})


FAULTS = {
    "too many": status(429, retry_after="3"),
    "broken": status(500),
    "gone": status(503),
    "slow down": status(408),
    "half a body": half_a_body,
    "no JSON": lambda handler: handler.answer(200, "<html>"),
    "a list": lambda handler: handler.answer(200, [1, 2]),
    "no choices": lambda handler: handler.answer(200, {"error": {"message": "upstream"}}),
    "broken off": says({"finish_reason": "abort"}),
    "hangs up": Handler.hang_up,
}


# ------------------------------------------------------------------------------------------------ a bad network


@pytest.mark.parametrize("endpoint", Endpoint)
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_nothing_is_lost_or_doubled_whatever_goes_wrong_once(settings, stub, fault, endpoint):
    settings = replace(settings, endpoint=endpoint)
    calm = completions(settings, requests())
    assert [one.id for one in calm] == [one.id for one in requests()]
    asked = len(stub.asked)
    stub.faults = [None, fault, None, fault, fault]
    assert completions(replace(settings, retries=3), requests()) == calm
    assert len(stub.asked) == 2 * asked + 3 and not stub.faults


def test_an_answer_that_comes_too_late_is_asked_for_again(settings, stub):
    calm = completions(settings, requests(3))
    late = iter([0.5])
    stub.delay_s = lambda body: next(late, 0.0)
    assert completions(replace(settings, timeout_s=0.1), requests(3)) == calm


def test_completions_come_as_they_are_finished(settings, stub):
    calm = completions(settings, requests(8))
    may_answer = [threading.Event() for _ in range(8)]

    def delay_s(body: dict) -> float:
        may_answer[body["seed"]].wait(30)
        return 0.0

    stub.delay_s = delay_s
    with settings.open() as engine:
        stream, found = engine.generate(requests(8)), []
        for event in reversed(may_answer):
            event.set()
            found.append(next(stream))
    assert found == list(reversed(calm))


def test_a_slow_answer_holds_up_no_other(settings, stub):
    """All places but one go on being filled, far beyond the group that the slow one is in."""
    released = threading.Event()

    def delay_s(body: dict) -> float:
        if body["seed"] == 0:
            released.wait(30)
        return 0.0

    stub.delay_s = delay_s
    with replace(settings, concurrency=3).open() as engine:
        stream = engine.generate(iter(requests()))
        early = [next(stream).id for _ in range(23)]
        released.set()
        assert sorted(early) == sorted(f"r{i}" for i in range(1, 24)) and [one.id for one in stream] == ["r0"]


def test_requests_are_taken_when_there_is_a_place_for_them(settings, stub):
    taken, loads = [], []
    with replace(settings, concurrency=3).open() as engine:
        stream = engine.generate((taken.append(one.id) or one for one in requests()), loads.append)
        for number in range(1, 25):
            next(stream)
            # What is handed out one by one may have been finished together.
            assert number <= len(taken) <= number + 2 * 3
        assert list(stream) == []
    assert [load.finished for load in loads] == list(range(1, 25))
    assert max(load.live for load in loads) >= 2 and loads[-1].live == 0


def test_an_abandoned_stream_leaves_nothing_on_its_way(settings, stub):
    with replace(settings, concurrency=3).open() as engine:
        stream = engine.generate(requests())
        next(stream)
        stream.close()
        asked = len(stub.asked)
        assert list(engine.generate(requests(1)))
    assert len(stub.asked) <= asked + 4 < 24


def test_no_more_requests_than_allowed_are_on_their_way(settings, stub):
    stub.delay_s = lambda body: 0.005
    completions(replace(settings, batch_size=24, concurrency=3), requests())
    assert 2 <= stub.most_at_once <= 3


def test_a_server_that_dies_costs_one_group_and_a_second_run_goes_on(settings, stub, tmp_path):
    calm = completions(settings, requests())
    stub.asked.clear()
    stub.faults = [None] * 10 + [status(500, "the engine is dead")] * 50
    dead = pytest.raises(StageError, match=r"request 'r\d+'.*status 500: the engine is dead at the last of 3 attempts")
    with dead, settings.open() as engine:
        generate(engine, requests(), tmp_path / "rows.jsonl")
    finished = [row["id"] for row in read(tmp_path / "rows.jsonl")]
    assert finished == [f"r{i}" for i in range(8)]
    stub.faults, stub.asked = [], []
    with settings.open() as engine:
        assert generate(engine, requests(), tmp_path / "rows.jsonl") == calm
    assert sorted(stub.prompts()) == sorted(request.prompt for request in requests()[8:])


def test_a_server_that_is_not_there_is_named_with_what_to_do(settings):
    with pytest.raises(StageError, match=r"the list of models.*127.0.0.1.*ConnectError.*see that the server runs"):
        opened(replace(settings, base_url="http://127.0.0.1:9/v1"))


def test_waits_double_and_what_the_server_asks_for_holds_for_all(settings, stub, waits):
    stub.faults = [status(500)] * 2
    completions(replace(settings, concurrency=1), requests(1))
    assert 0.25 <= waits[0] <= 0.5 <= waits[1] <= 1
    waits.clear()
    stub.faults = [status(429, retry_after="30")]
    completions(replace(settings, concurrency=1), requests(3))
    # With a clock that stands still every later attempt finds the server's time still to come.
    assert len(waits) == 3 and all(25 < wait <= 33 for wait in waits)


def test_a_wait_of_hours_is_an_error_that_says_how_long(settings, stub, waits):
    stub.faults = [status(429, "quota of the day", retry_after="7200")]
    with pytest.raises(StageError, match=r"request 'r0'.*quota of the day.*7200 s"):
        completions(settings, requests(1))
    assert waits == []


@pytest.mark.parametrize(
    ("code", "headers", "seconds"),
    [
        (429, {}, None),
        (429, {"retry-after": "7"}, 7.0),
        (503, {"retry-after": "7"}, 7.0),
        (429, {"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        (429, {"retry-after": "Thu, 01 Jan 1970 00:20:00 GMT"}, 200.0),
        (429, {"retry-after": "Thu, 01 Jan 1970 00:10:00 GMT"}, 0.0),
        (429, {"retry-after": "soon"}, None),
        (429, {"retry-after": "nan"}, None),
        (429, {"x-ratelimit-reset-requests": "6m0s", "x-ratelimit-reset-tokens": "120ms"}, 360.0),
        (
            429,
            {
                "x-ratelimit-reset-requests": "6m0s",
                "x-ratelimit-remaining-requests": "9",
                "x-ratelimit-reset-tokens": "1.5s",
                "x-ratelimit-remaining-tokens": "0",
            },
            1.5,
        ),
        (429, {"x-ratelimit-reset": "2000000000"}, 1999999000.0),
        (429, {"x-ratelimit-reset": "2000000000000"}, 1999999000.0),
        (500, {"x-ratelimit-reset": "5"}, None),
    ],
)
def test_the_wait_that_headers_ask_for(code, headers, seconds):
    assert wait_asked(code, headers, now=1000.0) == seconds


@pytest.mark.parametrize(
    ("code", "remedy"),
    [(400, "correct what it names"), (401, "'OPENAI_API_KEY'"), (403, "'OPENAI_API_KEY'"), (404, "served_model"),
     (422, "correct what it names"), (307, "engine.base_url")],
)  # fmt: skip
def test_a_refusal_is_told_at_once_in_the_servers_own_words(settings, stub, waits, code, remedy):
    stub.faults = [status(code, "you may not")]
    with pytest.raises(StageError, match=rf"request 'r0'.*status {code}: you may not; .*{remedy}"):
        completions(settings, requests(1))
    assert len(stub.asked) == 1 and waits == []


def test_ctrl_c_ends_it_while_the_server_thinks(settings, stub):
    thinking = threading.Event()

    def interrupt(handler: Handler) -> None:
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # type: ignore[arg-type]
        thinking.wait()

    stub.faults = [interrupt]
    with pytest.raises(KeyboardInterrupt):
        completions(settings, requests(4))
    assert "selfalign-http" not in [thread.name for thread in threading.enumerate()]
    thinking.set()


def test_it_works_where_an_event_loop_runs_already(settings):
    async def cell():
        return completions(settings, requests(3))

    assert asyncio.run(cell()) == completions(settings, requests(3))


# --------------------------------------------------------------------------------------------------------- key


@pytest.mark.parametrize(
    "fault",
    [
        status(401, f"Incorrect API key provided: {KEY}"),
        status(400, f"{KEY} {'x' * 900}"),
        status(500, f"cannot log in with Bearer {KEY}"),
        lambda handler: handler.answer(200, f"<html>{KEY}"),
        lambda handler: handler.answer(200, {"error": KEY}),
        lambda handler: handler.answer(429, {"detail": handler.headers["Authorization"]}, retry_after="7200"),
        half_a_body,
    ],
)
def test_the_key_is_sent_and_appears_nowhere(settings, stub, fault, caplog):
    caplog.set_level(logging.DEBUG)
    stub.faults = [fault] * 9
    with pytest.raises(StageError) as caught:
        completions(settings, requests(2))
    assert set(stub.keys) == {f"Bearer {KEY}"}
    told, error = [caplog.text, repr(settings), json.dumps(dict(settings.identity()))], caught.value
    while error is not None:
        told += [str(error), repr(error)]
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    assert not any(KEY in text for text in told)
    assert KEY not in json.dumps(plain(settings, keep_transient=True))


def test_without_a_key_none_is_sent(settings, stub, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    completions(settings, requests(1))
    completions(replace(settings, key_variable=""), requests(1))
    assert set(stub.keys) == {None}
    stub.faults = [status(401, "who are you?")]
    with pytest.raises(StageError, match="no key in the environment variable 'OPENAI_API_KEY'"):
        completions(settings, requests(1))


@pytest.mark.parametrize("key", ["two\nlines-of-a-key", "schlüssel-schlüssel"])
def test_a_key_that_is_no_header_is_refused_and_not_shown(settings, monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(ConfigError, match="'OPENAI_API_KEY'") as caught:
        completions(settings, requests(1))
    assert key not in str(caught.value)


# ------------------------------------------------------------------------------------------------- completions


def test_a_request_is_sent_as_it_is_meant(settings, stub, tiny_model):
    asked = GenerateRequest(
        "r", "Say it.", Sampling(9, 0.7, 0.9, 40, 0.05, {"Sorry": -100.0, "<eos>": 5.0}), stop=("\n",), seed=2**62 + 7
    )
    completions(settings, [asked, requests(1)[0]])
    full, bare = sorted(stub.asked, key=lambda body: -len(body))
    tokens = Vocabulary(raw_tokenizer(tiny_model), [END_ID])
    bias = {str(token): -100.0 for token in tokens.first_tokens("Sorry")} | {str(END_ID): 5.0}
    assert full == {
        "model": "tiny", "prompt": "Say it.", "max_tokens": 9, "temperature": 0.7, "top_p": 0.9, "top_k": 40,
        "min_p": 0.05, "logit_bias": bias, "stop": ["\n"], "seed": 7,
    }  # fmt: skip
    assert bare.keys() == {"model", "prompt", "max_tokens", "temperature", "top_p", "seed"}


@pytest.mark.parametrize(
    ("sampling", "words"),
    [
        ({"ngram_penalty": NgramPenalty(trigram=1.0)}, "ngram_penalty.*engine=huggingface"),
        ({"logit_bias": {"Sorry": -101.0}}, "-100 to 100"),
        ({"logit_bias": {"": 1.0}}, "at least one token"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
    ],
)
def test_what_a_server_cannot_do_is_refused_when_it_is_taken_and_not_sent(settings, stub, sampling, words):
    bad = replace(requests(1, **sampling)[0], id="bad", prompt="Never sent.")
    for asked in ([bad, *requests(9)], [*requests(9), bad]):
        stub.asked.clear()
        with pytest.raises(StageError, match=f"'bad'.*{words}"):
            completions(settings, asked)
        assert len(stub.asked) <= asked.index(bad) and "Never sent." not in stub.prompts()


def test_an_empty_prompt_is_the_first_token(settings, stub):
    (found,) = completions(settings, [replace(requests(1)[0], prompt="")])
    assert stub.prompts() == ["<|endoftext|>"] and found.new_tokens == 12


@pytest.mark.parametrize(
    ("choice", "stop", "finish"),
    [
        ({"stop_reason": None}, ("\n",), "eos"),
        ({"stop_reason": 128009}, ("\n",), "eos"),
        ({"stop_reason": "\n"}, ("\n",), "stop"),
        ({"matched_stop": 2}, ("\n",), "eos"),
        ({"matched_stop": "\n"}, ("\n",), "stop"),
        ({}, (), "eos"),
        ({}, ("\n",), "stop"),
        ({"finish_reason": "length"}, ("\n",), "length"),
        ({"text": "It is.\nNo", "finish_reason": "length"}, ("No", "\n"), "stop"),
    ],
)
def test_a_finish_is_told_by_what_the_server_says(settings, stub, choice, stop, finish):
    stub.faults = [says(choice, usage={"prompt_tokens": 9, "completion_tokens": 4})]
    (found,) = completions(settings, [replace(requests(1)[0], stop=stop)])
    assert (found.text, found.finish, found.prompt_tokens, found.new_tokens) == ("It is.", finish, 9, 4)


def test_an_unknown_finish_is_an_error_and_not_a_guess(settings, stub):
    stub.faults = [says({"finish_reason": "content_filter"})]
    with pytest.raises(StageError, match="'r0'.*content_filter"):
        completions(settings, requests(1))


def test_without_the_servers_counts_the_local_tokenizer_counts(settings, stub):
    stub.faults = [says({"stop_reason": None})]
    (found,) = completions(settings, requests(1))
    # The end token was written too.
    assert (found.prompt_tokens, found.new_tokens) == (len("Prompt 0:"), len("It is.") + 1)


@pytest.mark.parametrize("says_why", [True, False])
@pytest.mark.parametrize("includes_stop", [True, False])
def test_stop_strings_cut_alike_whatever_the_server_leaves_in(settings, stub, says_why, includes_stop):
    plain = completions(settings, requests(12, max_new_tokens=40))
    asked = [replace(one, stop=("zz", found.text[5:7])) for one, found in zip(requests(12), plain, strict=True)]
    asked = [replace(one, sampling=replace(one.sampling, max_new_tokens=40)) for one in asked]
    stub.says_why, stub.includes_stop = says_why, includes_stop
    for one, before, after in zip(asked, plain, completions(settings, asked), strict=True):
        assert (after.text, after.finish) == (before.text.split(one.stop[1])[0], "stop")


# -------------------------------------------------------------------------------------------------- two budgets

LONG = GenerateRequest("r", "Think, then answer:", Sampling(max_new_tokens=60, temperature=1.0), seed=4)


def split(until: str, until_tokens: int, new: int, **more) -> GenerateRequest:
    return replace(
        LONG, sampling=replace(LONG.sampling, max_new_tokens=new), until=until, until_tokens=until_tokens, **more
    )


@pytest.fixture
def whole(settings, stub) -> str:
    """What one call writes: 60 letters, whose places 10 to 13 are the first of their kind."""
    (found,) = completions(settings, [LONG])
    assert found.finish == "length" and found.text.index(found.text[10:13]) == 10
    stub.asked.clear()
    return found.text


@pytest.mark.parametrize("says_why", [True, False])
@pytest.mark.parametrize("includes_stop", [True, False])
@pytest.mark.parametrize("gives_usage", [True, False])
def test_two_calls_write_what_one_would(settings, stub, whole, says_why, includes_stop, gives_usage):
    stub.says_why, stub.includes_stop, stub.gives_usage = says_why, includes_stop, gives_usage
    budgets = ((13, 20, 7, 20), (13, 13, 7, 20), (13, 12, 7, 12), (13, 60, 47, 60), (3, 9, 7, 10), (3, 2, 7, 2))
    for end, until_tokens, new, total in budgets:
        (found,) = completions(settings, [split(whole[end - 3 : end], until_tokens, new)])
        assert (found.text, found.finish, found.new_tokens) == (whole[:total], "length", total), (end, until_tokens)
        assert found.prompt_tokens == len(LONG.prompt)


def test_no_prompt_ends_in_the_spaces_of_a_marker(settings, stub, whole):
    assert whole[:3].rstrip(" ") == whole[:2]
    completions(settings, [split(whole[:3], 20, 7)])
    assert [body["prompt"] for body in stub.asked] == [LONG.prompt, LONG.prompt + whole[:2]]
    assert [body["max_tokens"] for body in stub.asked] == [20, 8]


def test_the_second_call_goes_on_behind_the_marker_with_numbers_of_its_own(settings, stub, whole):
    completions(settings, [split(whole[10:13], 20, 7, stop=("zz",))])
    first, second = stub.asked
    assert first["stop"] == ["zz", whole[10:13]] and second["stop"] == ["zz"]
    assert (first["max_tokens"], second["max_tokens"]) == (20, 7)
    assert second["prompt"] == LONG.prompt + whole[:13]
    assert first["seed"] != second["seed"] and max(first["seed"], second["seed"]) < 2**31


@pytest.mark.parametrize("says_why", [True, False])
def test_a_stop_string_ends_a_text_before_the_marker_behind_it_and_across_it(settings, stub, whole, says_why):
    stub.says_why = says_why
    marker = whole[10:13]
    for at, end in ((4, 8), (20, 24), (12, 15)):
        (found,) = completions(settings, [split(marker, 30, 30, stop=(whole[at:end],))])
        assert (found.text, found.finish) == (whole[: whole.index(whole[at:end])], "stop"), at


def test_the_marker_as_a_stop_string_ends_the_text(settings, whole):
    (found,) = completions(settings, [split(whole[10:13], 30, 30, stop=(whole[10:13],))])
    assert (found.text, found.finish) == (whole[:10], "stop")


@pytest.mark.parametrize("says_why", [True, False])
def test_an_end_before_the_marker_ends_the_text(settings, stub, says_why):
    reason = {"stop_reason": None} if says_why else {}
    stub.faults = [says(reason)] * 2
    (found,) = completions(settings, [split("never", 30, 30)])
    assert (found.text, found.finish) == ("It is.", "eos") and len(stub.asked) == (1 if says_why else 2)


def test_the_context_ends_both_budgets(settings, stub, whole):
    tight = replace(settings, model=replace(settings.model, context_length=len(LONG.prompt) + 20))
    (found,) = completions(tight, [split(whole[10:13], 500, 500)])
    assert (found.text, found.finish, found.new_tokens) == (whole[:20], "length", 20)
    tight = replace(settings, model=replace(settings.model, context_length=len(LONG.prompt) + 13))
    stub.asked.clear()
    (found,) = completions(tight, [split(whole[10:13], 500, 500)])
    assert (found.text, found.finish, found.new_tokens) == (whole[:13], "length", 13) and len(stub.asked) == 1


# ------------------------------------------------------------------------------------------------------- scores


def score(settings: OpenAIApi, *pairs: tuple[str, str]):
    with settings.open() as engine:
        found = list(engine.score(ScoreRequest(f"s{i}", *pair) for i, pair in enumerate(pairs)))
    return sorted(found, key=lambda result: int(result.id[1:]))


def table(context: str, continuation: str) -> list[float]:
    """The log-probabilities of a continuation's bytes."""
    ids = [sorted_byte(letter) for letter in context + continuation]
    return [logprob(ids[:i], ids[i]) for i in range(len(context), len(ids))]


def sorted_byte(letter: str) -> int:
    from tokenizers.pre_tokenizers import ByteLevel

    return sorted(ByteLevel.alphabet()).index(ByteLevel(add_prefix_space=False).pre_tokenize_str(letter)[0][0])


def test_scores_are_the_sums_of_the_tokens_log_probabilities(settings, stub):
    pairs = [(f"Question {i}?", f" Answer {i}") for i in range(9)] + [("Q?", "A")] * 2
    found = score(settings, *pairs)
    assert [one.id for one in found] == [f"s{i}" for i in range(11)]
    for pair, one in zip(pairs, found, strict=True):
        assert one.logprob == pytest.approx(sum(table(*pair)))
        assert (one.n_tokens, one.truncated_tokens) == (len(pair[1]), 0)
    assert all(body["echo"] and body["max_tokens"] == 1 and body["temperature"] == 0 for body in stub.asked)


def test_a_continuation_is_greedy_where_every_token_is_the_likeliest(settings):
    letters = "abcdefghijklmnopqrstuvwxyz"
    best = next(a + b for a in letters for b in letters if table("Q?", a + b) == [-0.25, -0.25])
    other = next(a + b for a in letters for b in letters if table("Q?", a + b)[0] == -0.25 != table("Q?", a + b)[1])
    assert [one.is_greedy for one in score(settings, ("Q?", best), ("Q?", other))] == [True, False]


def test_pairs_are_split_and_cut_as_in_the_engine_of_this_process(stub, waits, tmp_path):
    write_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text('{"max_position_embeddings": 16, "eos_token_id": 301}')
    stub.count = lambda text: len(text.split())
    words = OpenAIApi(ModelSettings(str(tmp_path)), stub.url)
    long = " ".join(f"w{i:03}" for i in range(20))
    # A token that spans the border: both sides are tokenised apart, as no text sent as a whole would be.
    glued, moved, empty, cut = score(words, ("w001", "w002"), ("w001 ", "w002"), ("", "w003"), (long, " w001 w002"))
    end = raw_tokenizer(tmp_path).token_to_id(END)
    assert sorted(stub.prompts()) == sorted([[1, 2], [1, 2], [end, 3], [*range(7, 20), 1, 2]])
    assert glued.logprob == moved.logprob == pytest.approx(logprob([1], 2))
    assert (empty.logprob, empty.n_tokens) == (pytest.approx(logprob([end], 3)), 1)
    # One token less than the window, for the one that has to be written.
    assert (cut.truncated_tokens, cut.n_tokens) == (7, 2)


@pytest.mark.parametrize("continuation", ["", "x" * 511], ids=["empty", "too long"])
def test_a_continuation_that_cannot_be_scored_is_named(settings, stub, continuation):
    with pytest.raises(StageError, match="'s1'.*expected a continuation of 1 to 510 tokens"):
        score(settings, ("Q?", "A"), ("Q?", continuation))
    # The one before it may be on its way already.
    assert len(stub.asked) <= 1


def no_logprobs(found: object):
    return lambda body: {"choices": [{"text": "x", "finish_reason": "length", "logprobs": found}]}


@pytest.mark.parametrize(
    "found",
    [None, {}, {"token_logprobs": None}, {"token_logprobs": [-1.0]}, {"token_logprobs": [None, -1.0, None, -1.0]}],
    ids=["none", "empty", "null", "of the new token alone", "a hole"],
)
def test_a_server_without_log_probabilities_of_prompts_is_no_judge(settings, stub, found):
    stub.echo = no_logprobs(found)
    with pytest.raises(StageError, match=r"'s0'.*log-probability of every token.*vLLM, SGLang.*engine=huggingface"):
        score(settings, ("Q?", "A"))


def test_a_server_that_refuses_echo_is_quoted_with_what_to_do(settings, stub):
    stub.faults = [status(400, "echo is not supported")]
    with pytest.raises(StageError, match=r"'s0'.*echo is not supported.*vLLM, SGLang.*engine=huggingface"):
        score(settings, ("Q?", "A"))


def test_without_the_likeliest_tokens_nothing_is_called_greedy(settings, stub):
    stub.echo = no_logprobs({"token_logprobs": [None, -1.0, -0.01]})
    (found,) = score(settings, ("Q?", "A"))
    assert (found.logprob, found.is_greedy, found.n_tokens) == (-0.01, False, 1)


# --------------------------------------------------------------------------------------------------------- chat


@pytest.fixture
def chat(settings) -> OpenAIApi:
    """A chat model of which nothing lies here."""
    return replace(settings, endpoint=Endpoint.chat, model=ModelSettings("/no/such/folder", context_length=512))


def test_a_chat_model_is_sent_the_prompt_as_one_message_and_its_words_are_read(settings, chat, stub):
    sampling = {"temperature": 0.7, "top_p": 0.9, "top_k": 40, "min_p": 0.05, "max_new_tokens": 40}
    asked = [replace(one, stop=("e",)) for one in requests(6, **sampling)] + [replace(requests(1)[0], id="bare")]
    texts = completions(settings, asked)
    stub.asked.clear(), stub.paths.clear()
    found = completions(chat, asked)
    assert [replace(one, prompt_tokens=one.prompt_tokens - 2) for one in found] == texts
    assert {one.finish for one in found} >= {"stop", "length"}
    assert set(stub.paths) == {"/v1/chat/completions"}
    full = next(body for body in stub.asked if body["messages"][0]["content"] == "Prompt 5:")
    assert full == {
        "model": "tiny", "messages": [{"role": "user", "content": "Prompt 5:"}], "max_tokens": 40, "temperature": 0.7,
        "top_p": 0.9, "top_k": 40, "min_p": 0.05, "stop": ["e"], "seed": 5,
    }  # fmt: skip
    bare = next(body for body in stub.asked if "stop" not in body)
    assert bare.keys() == {"model", "messages", "max_tokens", "temperature", "top_p", "seed"}


@pytest.mark.parametrize("concurrency", [1, 8])
def test_a_budget_under_its_newer_name_is_sent_where_the_server_asks_for_it(chat, stub, waits, concurrency):
    calm = completions(chat, requests())
    stub.asked.clear(), stub.paths.clear()
    stub.newer_budget = True
    assert completions(replace(chat, concurrency=concurrency), requests()) == calm
    assert len(stub.asked) == 24 and all("max_tokens" not in body for body in stub.asked)
    # Only what was on its way before the first refusal is sent twice.
    assert 25 <= len(stub.paths) <= 24 + concurrency and waits == []


def test_a_chat_models_refusal_is_told_in_the_servers_own_words(chat, stub, waits):
    stub.faults = [status(400, "max_completion_tokens is too large")] * 2
    with pytest.raises(StageError, match=r"request 'r0'.*status 400: max_completion_tokens is too large"):
        completions(chat, requests(1))
    stub.faults = [status(400, "temperature must be 1")]
    stub.asked.clear()
    with pytest.raises(StageError, match=r"temperature must be 1; correct what it names"):
        completions(chat, requests(1))
    assert len(stub.asked) == 1 and waits == []


def test_a_chat_endpoint_scores_nothing_and_is_asked_nothing(chat, stub):
    with (
        chat.open() as engine,
        pytest.raises(
            StageError, match=r"engine.endpoint: expected completions.*found chat.*allowed.*set engine.endpoint"
        ),
    ):
        engine.score([ScoreRequest("s", "Q?", "A")])
    assert stub.paths == []


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"sampling": Sampling(logit_bias={"Sorry": -1.0})}, "found {'logit_bias'"),
        ({"sampling": Sampling(ngram_penalty=NgramPenalty(trigram=1.0))}, "found {'ngram_penalty'"),
        ({"until": "Answer:", "until_tokens": 9}, "found {'until'"),
        ({"sampling": Sampling(max_new_tokens=0)}, "max_new_tokens"),
        ({"prompt": "Never sent." + "x" * 3 * 512}, "at most 511 tokens"),
    ],
)
def test_what_a_chat_endpoint_does_not_take_is_refused_and_not_sent(chat, stub, more, words):
    with pytest.raises(StageError, match=f"'r0'.*{words}"):
        completions(chat, [replace(requests(1)[0], **more)])
    assert stub.paths == []


@pytest.mark.parametrize(
    ("choice", "text", "finish"),
    [
        ({"stop_reason": None}, "It is.", "eos"),
        ({}, "It is.", "stop"),
        ({"message": {"content": "It\nis."}, "finish_reason": "length"}, "It", "stop"),
        ({"message": {"content": None, "reasoning_content": "Well,"}, "finish_reason": "length"}, "", "length"),
    ],
)
def test_a_chats_finish_and_counts_are_the_servers(chat, stub, choice, text, finish):
    stub.faults = [says(choice, usage={"prompt_tokens": 90, "completion_tokens": 40})]
    (found,) = completions(chat, [replace(requests(1)[0], stop=("\n",))])
    assert (found.text, found.finish, found.prompt_tokens, found.new_tokens) == (text, finish, 90, 40)


def test_a_chat_that_is_not_counted_is_an_error_and_not_a_guess(chat, stub):
    stub.gives_usage = False
    with pytest.raises(StageError, match="'r0'.*prompt_tokens and completion_tokens"):
        completions(chat, requests(1))


@pytest.mark.parametrize("choice", [{"message": None}, {"message": {"content": None}}, {"message": {"content": ["x"]}}])
def test_a_chat_answer_without_text_is_asked_for_again(chat, stub, choice):
    calm = completions(chat, requests(3))
    stub.faults = [says(choice)]
    assert completions(chat, requests(3)) == calm


def test_a_chat_model_needs_no_folder_but_a_context_window(chat):
    assert chat.problems() == [] and chat.context_length() == 512 and "an estimate" in chat.counted()
    assert [chat.count_tokens(text) for text in ("", "abc", "abcd", "東京")] == [0, 1, 2, 2]
    with chat.open() as engine:
        assert engine.count_tokens("four") == chat.count_tokens("four") == estimated_tokens("four")
    (problem,) = replace(chat, model=ModelSettings("/no/such/folder")).problems()
    assert "model.context_length: expected the context window" in problem


def test_an_adapter_is_not_asked_through_a_chat_template(chat, stub, adapter):
    with pytest.raises(ConfigError, match="engine.endpoint: expected completions for an adapter"):
        opened(chat, adapter)
    assert stub.keys == []


def test_the_endpoint_is_part_of_the_identity_and_the_default_changes_none(settings, chat):
    assert settings.identity().keys() == {"engine", "version", "served_model", "tokenizer", "context_length"}
    assert chat.identity() == {
        "engine": "openai_api", "version": 1, "endpoint": "chat", "served_model": "", "context_length": 512
    }  # fmt: skip
    assert replace(chat, model=replace(chat.model, context_length=256)).identity() != chat.identity()


def test_a_chat_model_is_a_judge_and_a_row_by_settings_alone():
    groups.register()
    address = ["engine.base_url=https://host/v1", "engine.served_model=big", "model.context_length=128000"]
    chosen = ["engine=openai_api", "engine.endpoint=chat", *address]
    judge = groups.compose(chosen)
    assert judge.engine.problems() == [] and judge.engine.endpoint is Endpoint.chat
    assert judge.engine.context_length() == 128000
    row = groups.compose([*chosen, "model=hf", "stages=prompted_only", "evaluation=quick", "subjects=[base]"])
    answered = replace(row, evaluation=replace(row.evaluation, tasks=["vicuna_questions"]))
    assert row.model.path == "" and experiment.problems(answered) == []
    scored = replace(row, evaluation=replace(row.evaluation, tasks=["vicuna_questions", "hhh_alignment"]))
    (problem,) = experiment.problems(scored)
    assert problem.startswith("evaluation.tasks: ") and "found hhh_alignment, which" in problem
    training = replace(row.stages, self_instruct=True, self_align=True, engrave=True)
    (problem,) = experiment.problems(replace(answered, stages=training))
    assert problem.startswith("stages: expected none that train")


# ------------------------------------------------------------------------------------------- models and adapters


@pytest.fixture
def adapter(tmp_path) -> Path:
    return write_adapter(tmp_path / "adapter", b"weights")


def write_adapter(folder: Path, weights: bytes, **config) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"r": 20, "use_dora": False} | config))
    (folder / "adapter_model.safetensors").write_bytes(weights)
    return folder


def opened(settings: OpenAIApi, adapter: Path | None = None) -> str:
    with settings.open(adapter) as engine:
        return engine.served_model


def test_the_only_model_is_found_and_of_several_one_must_be_named(settings, stub):
    assert opened(settings) == "tiny"
    stub.models.append({"id": "tiny-0123456789ab", "parent": "tiny"})
    assert opened(settings) == "tiny"
    for models in ([{"id": "one"}, {"id": "two"}], []):
        stub.models = models
        with pytest.raises(StageError, match=rf"engine.served_model.*found {len(models)}: .*{'one' if models else ''}"):
            opened(settings)
    assert opened(replace(settings, served_model="two")) == "two"


def test_an_adapter_is_asked_for_by_its_content(settings, stub, adapter, tmp_path):
    name = adapter_name("tiny", adapter)
    assert name.startswith("tiny-") and len(name) == len("tiny-") + 12
    assert name == adapter_name("tiny", shutil.copytree(adapter, tmp_path / "elsewhere"))
    other = write_adapter(tmp_path / "other", b"other weights")
    assert adapter_name("tiny", other) != name
    stub.models += [{"id": name, "parent": "tiny"}]
    assert opened(settings, adapter) == opened(replace(settings, served_model="tiny"), adapter) == name
    with settings.open(adapter) as engine:
        list(engine.generate(requests(2)))
        list(engine.score([ScoreRequest("s", "Q?", "A")]))
    assert {body["model"] for body in stub.asked} == {name}
    with pytest.raises(StageError) as caught:
        opened(settings, other)
    command = shlex.split(next(line for line in str(caught.value).splitlines() if "vllm serve" in line))
    assert command[-2:] == ["--lora-modules", f"{adapter_name('tiny', other)}={other}"]
    with pytest.raises(DataError, match=r"no adapter_config\.json"):
        opened(settings, tmp_path)


def test_adapters_are_swapped_by_their_served_names(settings, stub, adapter, tmp_path):
    other = write_adapter(tmp_path / "other", b"other weights")
    names = [adapter_name("tiny", one) for one in (adapter, other)]
    stub.models += [{"id": name, "parent": "tiny"} for name in names]
    with settings.open(None, [adapter, other]) as engine:
        for one, name in ((None, "tiny"), (adapter, names[0]), (other, names[1]), (None, "tiny")):
            engine.swap(one)
            before = len(stub.asked)
            list(engine.generate(requests(2)))
            list(engine.score([ScoreRequest("s", "Q?", "A")]))
            assert {body["model"] for body in stub.asked[before:]} == {name}
        with pytest.raises(StageError, match="name it when the engine is opened"):
            engine.swap(tmp_path)


def test_a_server_with_a_smaller_window_is_refused(settings, stub):
    stub.models = [{"id": "tiny", "max_model_len": 256}]
    with pytest.raises(StageError, match=r"at most the 256 tokens.*found 512.*--max-model-len 512"):
        opened(settings)
    stub.models = [{"id": "tiny", "max_model_len": 512}]
    assert opened(settings) == "tiny"


def test_a_server_with_another_tokenizer_is_refused(settings, stub):
    stub.count = lambda text: len(text.split())
    with pytest.raises(StageError, match="model.path: expected the tokenizer of 'tiny', found another"):
        opened(settings)
    # A beginning-of-text token more.
    stub.count = lambda text: len(text.encode()) + 1
    assert opened(settings) == "tiny"


def test_the_command_of_a_run_serves_its_model_and_its_adapters(tmp_path, capsys, tiny_model, monkeypatch):
    run = tmp_path / "runs" / "mine"
    adapters = [write_adapter(tmp_path / "store" / name / "adapter", name.encode()) for name in ("one", "two")]
    run.mkdir(parents=True)
    config = {"model": {"path": str(tiny_model), "revision": "", "context_length": 512, "dtype": "bfloat16"},
              "engine": {"served_model": ""}}  # fmt: skip
    nodes = {name: {"status": state, "path": str(folder.parent)} for name, state, folder in
             (("engraved", "reused", adapters[0]), ("cloned", "computed", adapters[1]))}  # fmt: skip

    def command() -> list[str]:
        (run / "config.yaml").write_text(json.dumps(config))
        (run / "manifest.json").write_text(json.dumps({"run_id": "mine", "nodes": nodes}))
        assert serve_command(["mine", "--runs", str(tmp_path / "runs")]) == 0
        return shlex.split(capsys.readouterr().out)

    start = ["vllm", "serve", str(tiny_model.resolve()), "--served-model-name", "tiny", "--dtype", "bfloat16",
             "--max-model-len", "512", "--generation-config", "vllm"]  # fmt: skip
    lora = ["--enable-lora", "--max-loras", "2", "--max-lora-rank", "32", "--lora-modules"]
    assert command() == [*start, *lora, *(f"{adapter_name('tiny', one)}={one}" for one in adapters)]
    nodes["cloned"]["status"] = "failed"
    assert command()[-1] == f"{adapter_name('tiny', adapters[0])}={adapters[0]}"
    nodes.clear()
    assert command() == start
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(tiny_model))
    config["model"] |= {"path": "meta/big", "revision": "abc"}
    config["engine"] = {"served_model": "mine"}
    assert command()[:7] == ["vllm", "serve", "meta/big", "--revision", "abc", "--served-model-name", "mine"]


def test_an_adapter_that_vllm_does_not_serve_is_refused(settings, tmp_path):
    for name, config in (("dora", {"use_dora": True}), ("large", {"r": 513})):
        with pytest.raises(StageError, match="engine=huggingface"):
            opened(settings, write_adapter(tmp_path / name, b"", **config))


# ----------------------------------------------------------------------------------------- settings and identity


def test_the_identity_holds_what_is_served_and_neither_where_nor_how(settings, tiny_model, tmp_path):
    same = replace(
        settings, base_url="http://example.invalid/v1", key_variable="", concurrency=1, timeout_s=1.0, retries=0
    )
    assert same.identity() == settings.identity()
    assert replace(settings, served_model="other").identity() != settings.identity()
    assert replace(settings, model=ModelSettings(str(tiny_model))).identity() != settings.identity()
    light = tmp_path / "light"
    shutil.copytree(tiny_model, light, ignore=shutil.ignore_patterns("*.safetensors"))
    here = replace(settings, model=ModelSettings(str(light), context_length=512))
    assert here.problems() == [] and here.identity() == settings.identity()
    assert HuggingFace(here.model).problems() != []
    (light / "tokenizer.json").write_text((light / "tokenizer.json").read_text() + "\n")
    assert here.identity() != settings.identity()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"base_url": "localhost:8000"}, "base_url"),
        ({"base_url": "ftp://host/v1"}, "base_url"),
        ({"base_url": f"http://user:{KEY}@host/v1"}, "base_url"),
        ({"base_url": f"https://host/v1?key={KEY}"}, "base_url"),
        ({"base_url": "http://host:port/v1"}, "base_url"),
        ({"concurrency": 0}, "concurrency"),
        ({"batch_size": 0}, "batch_size"),
        ({"retries": -1}, "retries"),
        ({"timeout_s": 0.0}, "timeout_s"),
        ({"model": ModelSettings("/no/such/folder")}, "no folder"),
    ],
)
def test_wrong_settings_are_told_without_the_network(settings, wrong, words):
    (problem,) = replace(settings, **wrong).problems()
    assert words in problem and KEY not in problem
    with pytest.raises(ConfigError):
        opened(replace(settings, **wrong))


def test_the_weights_are_needed_for_training_alone(tiny_model, tmp_path):
    shutil.copytree(tiny_model, tmp_path / "light", ignore=shutil.ignore_patterns("*.safetensors"))
    groups.register()
    light = ["model=hf", f"model.path={tmp_path / 'light'}", "evaluation=none", "stages=fitting", "seed=3"]
    one = groups.compose([*light, "engine=openai_api", "engine.base_url=https://host/v1", "engine.served_model=llama"])
    assert one.engine == OpenAIApi(one.model, "https://host/v1", "llama")
    untrained = replace(one.stages, engrave=False, verbose_clone=False)
    assert experiment.problems(replace(one, stages=untrained)) == []
    here = HuggingFace(one.model)
    for needs in (one, replace(one, engine=here), replace(one, engine=here, stages=untrained)):
        (problem,) = experiment.problems(needs)
        assert "expected *.safetensors" in problem
    with pytest.raises(ConfigError, match=r"plan.parameters: .*plan.parameters=7e9"):
        cost.parameters_of(one.plan, one.model)


def test_what_is_engraved_is_named_by_its_weights_though_the_engine_knows_none(settings, tiny_model, tmp_path):
    other = shutil.copytree(tiny_model, tmp_path / "other")
    (other / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes()[:-4] + b"\0\0\0\0")
    found = [Engrave().identity(Context(settings, model_folder=lambda at=at: at)) for at in (tiny_model, other)]
    assert found[0]["engine"] == found[1]["engine"] and found[0] != found[1]
    local = HuggingFace(settings.model)
    assert "model" not in Engrave().identity(Context(local, model_folder=lambda: tiny_model))


def test_of_a_hub_model_no_weights_are_fetched(settings, tiny_model, monkeypatch):
    fetched = []

    def download(name: str, *, allow_patterns: list[str], **_: object) -> str:
        fetched.append(allow_patterns)
        return str(tiny_model)

    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    there = replace(settings, model=ModelSettings("owner/of-no-weights", context_length=512))
    assert there.identity() == settings.identity() and there.count_tokens("four") == 4
    assert fetched and not any("safetensors" in pattern for patterns in fetched for pattern in patterns)


def test_the_stub_is_as_good_as_a_model(settings):
    """The laws above would hold of a stub that always says the same."""
    found = completions(settings, requests(max_new_tokens=40))
    assert len({one.text for one in found}) == 24 and {one.finish for one in found} == {"length", "eos"}
