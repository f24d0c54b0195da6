from __future__ import annotations

import math

import pytest

from selfalign.errors import ConfigError
from selfalign.evaluation.lm import CHUNK, GENERATED, SCORED, EngineLM


class Request:
    def __init__(self, *args) -> None:
        self.args = args


def requests(count: int) -> list[Request]:
    return [Request(f"context {number % 700}", f" word {number % 3}") for number in range(count)]


def test_lm_eval_takes_it_for_a_model_of_its_own(make, tmp_path):
    from lm_eval.api.model import LM

    assert isinstance(EngineLM(make.engine(make.random_logprob(0)), tmp_path), LM)


def test_results_come_in_the_order_of_the_requests_and_equal_requests_are_computed_once(make, tmp_path):
    engine = make.engine(make.random_logprob(0))
    asked = requests(1500) * 2
    results = EngineLM(engine, tmp_path).loglikelihood(asked)
    assert results == [(engine.logprob(*request.args), False) for request in asked]
    assert engine.calls == len({request.args for request in asked})


def test_candidates_of_one_question_are_asked_together_whatever_their_lengths(make, tmp_path):
    engine, together = make.engine(make.random_logprob(0)), []

    def score(asked):
        together.append({request.context.split("|")[0] for request in asked})
        return make.engine.score(engine, asked)

    engine.score = score
    asked = [Request(f"question {n:03}|{'word ' * length}", " yes") for length in (1, 40, 7, 90) for n in range(300)]
    EngineLM(engine, tmp_path).loglikelihood(asked)
    times = [sum(f"question {n:03}" in part for part in together) for n in range(300)]
    # All but those on the border of two chunks.
    assert len(together) == -(-1200 // CHUNK) and sum(count > 1 for count in times) < len(together)


def test_nan_and_infinity_survive_the_file(make, tmp_path):
    values = {" a": math.nan, " b": -math.inf, " c": -1.5}
    asked = [Request("context", word) for word in values]
    for _ in range(2):
        engine = make.engine(lambda context, continuation: values[continuation])
        (nan, _), (infinite, _), (number, _) = EngineLM(engine, tmp_path).loglikelihood(asked)
        assert math.isnan(nan)
        assert (infinite, number) == (-math.inf, -1.5)
    assert engine.calls == 0


@pytest.mark.parametrize("torn", [False, True])
def test_after_a_kill_only_the_unfinished_chunk_is_computed_again_and_the_file_is_the_same(make, tmp_path, torn):
    asked = requests(1500)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir(), killed.mkdir()
    engine = make.engine(make.random_logprob(0))
    expected = EngineLM(engine, whole).loglikelihood(asked)
    with pytest.raises(KeyboardInterrupt):
        EngineLM(make.engine(make.random_logprob(0), die_after=600), killed).loglikelihood(asked)
    path = killed / SCORED
    if torn:
        path.write_bytes(path.read_bytes()[:-700])
    else:
        assert len(path.read_bytes().splitlines()) == 600 // CHUNK * CHUNK
    again = make.engine(make.random_logprob(0))
    assert EngineLM(again, killed).loglikelihood(asked) == expected
    assert again.calls == engine.calls - (1 if torn else 2) * CHUNK
    assert path.read_bytes() == (whole / SCORED).read_bytes()


def test_another_subject_is_never_served_the_first_ones_results(make, tmp_path):
    asked = requests(10)
    EngineLM(make.engine(make.random_logprob(0)), tmp_path, subject="base").loglikelihood(asked)
    engine = make.engine(make.random_logprob(1))
    results = EngineLM(engine, tmp_path, subject="engraved").loglikelihood(asked)
    assert results == [(engine.logprob(*request.args), False) for request in asked]
    assert engine.calls == 10


def test_progress_is_told_of_every_chunk(make, tmp_path):
    told = []
    lm = EngineLM(make.engine(make.random_logprob(0)), tmp_path, progress=lambda *what: told.append(what))
    lm.task = "t"
    lm.loglikelihood(requests(1500))
    assert told[0] == ("t", CHUNK, 1500)
    assert told[-1] == ("t", 1500, 1500)


def test_generation_settings_reach_the_engine(make, tmp_path):
    engine = make.engine(None)
    options = {"until": ["\n### "], "max_gen_toks": 7, "do_sample": True, "temperature": 0.7, "top_p": 0.9}
    prompts = ["Header\none\nUser: a\nb", "Header\none\nUser: a\nc"]
    lm = EngineLM(engine, tmp_path, seed=3)
    answers = lm.generate_until([Request(prompt, options) for prompt in prompts])
    assert answers == [f"\n{len(prompt)} letters" for prompt in prompts]
    first, second = engine.asked
    assert (first.sampling.max_new_tokens, first.sampling.temperature, first.sampling.top_p) == (7, 0.7, 0.9)
    assert first.stop == ("\n### ",)
    assert first.seed != second.seed
    assert first.shared == "Header\none\nUser: a\n"
    again = make.engine(None)
    assert EngineLM(again, tmp_path, seed=3).generate_until([Request(prompts[0], options)]) == answers[:1]
    assert again.calls == 0
    assert (tmp_path / GENERATED).exists()


def test_without_sampling_the_temperature_is_zero_and_an_unknown_option_is_refused(make, tmp_path):
    engine = make.engine(None)
    lm = EngineLM(engine, tmp_path)
    lm.generate_until([Request("prompt", {"until": "\n", "temperature": 0.7})])
    assert engine.asked[0].sampling.temperature == 0.0
    with pytest.raises(ConfigError, match="num_beams"):
        lm.generate_until([Request("prompt", {"until": "\n", "num_beams": 4})])


def test_rolling_log_likelihood_is_refused(make, tmp_path):
    with pytest.raises(ConfigError, match="rolling log-likelihood"):
        EngineLM(make.engine(None), tmp_path).loglikelihood_rolling([Request("text")])
