"""Our engines as lm-eval knows a model: its requests in, log-probabilities and answers out, each kept on disk at once.

Every result is appended to a file in the stage's partial folder, so that a killed evaluation computes nothing twice.
lm-eval's own `use_cache` is not keyed by model and is never used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfalign import identity, jsonl
from selfalign.engines.base import Engine, GenerateRequest, Sampling, ScoreRequest
from selfalign.errors import ConfigError
from selfalign.evaluation.scores import plain_number

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

Progress = Callable[[str, int, int], None]
"""Called with the task, the number of its requests done, and of all its requests."""

SCORED = "scored.jsonl"
GENERATED = "generated.jsonl"
CHUNK = 256
"""Requests between two writes, rounded down to whole groups of the engine: what a kill can cost."""


class EngineLM:
    """An lm-eval model (`lm_eval.api.model.LM`) over an Engine: for `evaluate` and `simple_evaluate`.

    A virtual subclass: to inherit would import lm_eval with this module.
    """

    rank = 0
    world_size = 1

    def __init__(
        self, engine: Engine, folder: Path, *, subject: str = "", seed: int = 0, progress: Progress | None = None
    ) -> None:
        """Results are kept in `folder` under the subject's name; sampling is seeded by `seed` and each prompt."""
        from lm_eval.api.model import LM

        LM.register(EngineLM)
        self.engine = engine
        self.subject = subject
        self.seed = seed
        self.progress = progress
        self.task = ""
        """Task whose requests come next: what progress is reported under."""
        self._scored = _Kept(folder / SCORED)
        self._generated = _Kept(folder / GENERATED)

    def _key(self, *parts: Any) -> str:
        return identity.digest([self.subject, *parts])[:16]

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        """log p(continuation | context) of each request (natural logarithm), and whether greedy decoding writes it."""
        keyed: dict[str, tuple[Any, ...]] = {self._key(*request.args): request.args for request in requests}
        shared = _shared_lines([context for context, _ in keyed.values()])

        def compute(keys: list[str]) -> list[jsonl.Row]:
            results = self.engine.score([ScoreRequest(key, *keyed[key][:2], shared=shared) for key in keys])
            return [
                {
                    "key": result.id,
                    "logprob": plain_number(result.logprob),
                    "is_greedy": bool(result.is_greedy),
                    "n_tokens": result.n_tokens,
                    "truncated_tokens": result.truncated_tokens,
                }
                for result in results
            ]

        # What begins alike comes together: an engine computes the question once for all candidates in a chunk.
        self._fill(self._scored, sorted(keyed, key=lambda key: keyed[key]), compute)
        rows = [self._scored.rows[self._key(*request.args)] for request in requests]
        return [(float(row["logprob"]), row["is_greedy"]) for row in rows]

    def generate_until(self, requests: Sequence[Instance]) -> list[str]:
        """The answer to each prompt, cut before the first of its stop strings."""
        keyed: dict[str, tuple[Any, ...]] = {self._key(*request.args, self.seed): request.args for request in requests}
        shared = _shared_lines([arguments[0] for arguments in keyed.values()])

        def compute(keys: list[str]) -> list[jsonl.Row]:
            asked = [self._generate_request(key, keyed[key][0], keyed[key][1], shared) for key in keys]
            return [
                {"key": one.id, "text": one.text, "finish": one.finish, "new_tokens": one.new_tokens}
                for one in self.engine.generate(asked)
            ]

        self._fill(self._generated, list(keyed), compute)
        return [self._generated.rows[self._key(*request.args, self.seed)]["text"] for request in requests]

    def _generate_request(self, key: str, prompt: str, options: dict[str, Any], shared: str) -> GenerateRequest:
        known = {"until", "max_gen_toks", "do_sample", "temperature", "top_p", "top_k"}
        if extra := sorted(set(options) - known):
            raise ConfigError([f"generation_kwargs: expected some of {sorted(known)}, found {extra}; remove them"])
        until = options.get("until", [])
        sampling = Sampling(
            max_new_tokens=options.get("max_gen_toks", Sampling.max_new_tokens),
            temperature=options.get("temperature", 1.0) if options.get("do_sample") else 0.0,
            top_p=options.get("top_p", 1.0),
            top_k=options.get("top_k", 0),
        )
        stop = (until,) if isinstance(until, str) else tuple(until)
        return GenerateRequest(key, prompt, sampling, stop, identity.seed_of(self.seed, "answer", prompt), shared)

    def loglikelihood_rolling(self, requests: Sequence[Instance]) -> list[float]:
        """Refused: no task of SELF-ALIGN measures perplexity. Raises ConfigError."""
        raise ConfigError(
            [
                f"expected tasks with choices or generated answers, found one that asks for rolling log-likelihood "
                f"({len(requests)} requests), which selfalign's engines do not compute; use `lm_eval --model hf`"
            ]
        )

    def scored(self, context: str, continuation: str) -> jsonl.Row:
        """The stored row of a pair that was scored before."""
        return self._scored.rows[self._key(context, continuation)]

    def generated(self, prompt: str, options: dict[str, Any]) -> jsonl.Row:
        """The stored row of a prompt that was answered before."""
        return self._generated.rows[self._key(prompt, options, self.seed)]

    def _fill(self, kept: _Kept, keys: list[str], compute: Callable[[list[str]], list[jsonl.Row]]) -> None:
        """Compute and store what is missing, in the order of the keys and in chunks that depend on the requests alone.

        A chunk of which a part is missing is computed as a whole: results can differ in the last bit with the batch.
        """
        group = max(1, self.engine.group_size)
        size = group * max(1, CHUNK // group)
        for start in range(0, len(keys), size):
            chunk = keys[start : start + size]
            if any(key not in kept.rows for key in chunk):
                rows = {row["key"]: row for row in compute(chunk)}
                kept.add([rows[key] for key in chunk])
            if self.progress:
                self.progress(self.task, start + len(chunk), len(keys))


class _Kept:
    """Rows by key in memory, and in the order of arrival in a file that survives a crash."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[str, jsonl.Row] = {row["key"]: row for row in jsonl.recover(path)}

    def add(self, rows: list[jsonl.Row]) -> None:
        new = [row for row in rows if row["key"] not in self.rows]
        jsonl.append(self.path, new)
        self.rows.update((row["key"], row) for row in new)


def _shared_lines(prompts: list[str]) -> str:
    """The whole lines that all prompts begin with."""
    if not prompts:
        return ""
    first, last = min(prompts), max(prompts)
    length = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return first[: first.rfind("\n", 0, length) + 1]
