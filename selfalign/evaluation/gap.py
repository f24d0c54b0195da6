"""The engraving gap: log-probabilities of the same responses under several models in, what training took over in numbers out.

A response's gap under a model is log p(response | what its writer was shown) - log p(response | question alone, model), in nats,
the writer being the base behind rules, exemplars and its own thoughts. The bare base's gap is what there was to engrave; the share
closed is 1 - gap(model) / gap(base), over the same responses. Source: Sun et al. 2023, section 3.3 (engraving as context
distillation); the measure is ours. Pure functions of rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from selfalign.evaluation.scores import mean

WRITER = "prompted"
"""The model that wrote the responses: the base behind rules, exemplars and thoughts."""
BASE = "base"
"""The same weights without anything but the question: what the share closed is counted from."""
TRAINED, HELD_OUT = "trained", "held_out"
"""Whether the engraved model was trained on a response, or held it out of its training."""
SPLITS = (TRAINED, HELD_OUT)
CLEAR = 2.0
"""Standard errors above 0 from which on the base's gap is something that a share can be counted of."""

Row = Mapping[str, Any]
"""One response: `id`, `prompt_id`, `source`, `cited`, `split`, `n_tokens` (as a student reads it), `logprobs` (model -> natural
logarithm), `kept`, `reason`."""
Numbers = dict[str, float | int | str | None]


@dataclass(frozen=True)
class Gap:
    """The gap of one model over some responses; every mean counts each response alike."""

    model: str
    n: int
    nats: float | None
    """Mean gap of a response; None where `reason` says why not."""
    nats_error: float | None
    """Its standard error; None for a single response."""
    per_token: float | None
    """Mean over responses of the gap divided by the response's tokens."""
    per_token_error: float | None
    closed: float | None
    """Share of the base's gap that is gone, 1 = all of it; below 0 where the gap has grown. None where the base's gap is not
    clearly above 0."""
    closed_error: float | None
    """Standard error of the share, by linearisation (the two gaps are of the same responses)."""
    reason: str
    """Why there are no numbers; empty where there are."""


def models(rows: Iterable[Row]) -> list[str]:
    """The models whose gaps the rows hold, in their order."""
    return list(dict.fromkeys(name for row in rows for name in row["logprobs"] if name != WRITER))


def gap(rows: Sequence[Row], model: str) -> Gap:
    """The gap of a model over the kept rows among some."""
    rows = [row for row in rows if row["kept"]]
    if reason := _broken(rows, model):
        return Gap(model, len(rows), None, None, None, None, None, None, reason)
    own, base = ([_gap(row, name) for row in rows] for name in (model, BASE))
    nats, nats_error = mean(own)
    per_token, per_token_error = mean([value / row["n_tokens"] for value, row in zip(own, rows, strict=True)])
    closed, closed_error = (None, None) if model == BASE else _closed(own, base)
    return Gap(model, len(rows), nats, nats_error, per_token, per_token_error, closed, closed_error, "")


def by(rows: Sequence[Row], names: Callable[[Row], Iterable[str]]) -> dict[str, list[Row]]:
    """The rows under each name that a function gives them, in the order of the names' first appearance."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        for name in dict.fromkeys(names(row)):
            found.setdefault(name, []).append(row)
    return found


def metrics(rows: Sequence[Row]) -> Numbers:
    """The numbers of a manifest: `<model>/<split>/...`, for every model and the splits that have rows."""
    found: Numbers = {}
    for model in models(rows):
        for split, own in by(rows, lambda row: [row["split"]]).items():
            one, start = gap(own, model), f"{model}/{split}"
            found |= {
                f"{start}/n": one.n,
                f"{start}/nats": one.nats,
                f"{start}/nats_stderr": one.nats_error,
                f"{start}/nats_per_token": one.per_token,
                f"{start}/nats_per_token_stderr": one.per_token_error,
            }
            if model != BASE:
                found |= {f"{start}/share_closed": one.closed, f"{start}/share_closed_stderr": one.closed_error}
            if one.reason:
                found[f"{start}/invalid"] = one.reason
    return found


def _gap(row: Row, model: str) -> float:
    return float(row["logprobs"][WRITER]) - float(row["logprobs"][model])


def _broken(rows: Sequence[Row], model: str) -> str:
    """Why these responses say nothing about a model; empty where they do."""
    if not rows:
        return "no responses"
    for name in dict.fromkeys((WRITER, BASE, model)):
        values = [float(row["logprobs"][name]) for row in rows]
        if wrong := sum(not math.isfinite(value) for value in values):
            return f"{wrong} of {len(rows)} log-probabilities of {name} are NaN or infinite"
        if len(rows) > 1 and len(set(values)) == 1:
            return f"all {len(rows)} responses have the same log-probability under {name}"
    return ""


def _closed(own: Sequence[float], base: Sequence[float]) -> tuple[float | None, float | None]:
    """1 - mean(own) / mean(base), and its standard error."""
    bottom, error = mean(base)
    if bottom <= CLEAR * (error or 0.0):
        return None, None
    ratio = mean(own)[0] / bottom
    residuals = [one - ratio * other for one, other in zip(own, base, strict=True)]
    spread = mean(residuals)[1]
    return 1 - ratio, None if spread is None else spread / bottom
