"""What the endpoints of a server have in common: how requests become answers, how drawing is asked for, how a choice is read.

In: requests that can be met, and the choices of an answer. Out: completions as they are finished, and texts with how they ended.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from selfalign.engines.base import Completion, GenerateRequest, Load, Sampling, Watch
from selfalign.engines.pieces import UNSAID, Asked, cut
from selfalign.errors import StageError

if TYPE_CHECKING:
    from selfalign.engines.http import Answer, Server


def completed(
    server: Server,
    check: Callable[[GenerateRequest], Asked],
    complete: Callable[[Asked], Coroutine[Any, Any, Completion]],
    requests: Iterable[GenerateRequest],
    watch: Watch | None,
) -> Iterator[Completion]:
    """What `complete` gives for every request that `check` lets through, as it is finished."""
    taken = finished = written = 0

    def source() -> Iterator[Asked]:
        nonlocal taken
        for request in requests:
            asked = check(request)
            taken += 1
            yield asked

    for found in server.each(complete, source()):
        yield found
        finished, written = finished + 1, written + found.new_tokens
        if watch:
            watch(Load(finished, taken - finished, written))


def drawn(sampling: Sampling, strings: Sequence[str]) -> dict[str, Any]:
    """How to draw and where to stop, in the words that all endpoints share."""
    body: dict[str, Any] = {"temperature": sampling.temperature, "top_p": sampling.top_p}
    # Hosted servers refuse what they do not know: vLLM, SGLang and llama.cpp know top_k and min_p.
    body |= {"top_k": sampling.top_k} if sampling.top_k > 0 else {}
    body |= {"min_p": sampling.min_p} if sampling.min_p > 0 else {}
    return body | ({"stop": list(strings)} if strings else {})


def text_of(choice: Mapping[str, Any]) -> object:
    """The text of a completion, None where it has none."""
    return choice.get("text")


def complaint(answer: Answer, text: Callable[[Mapping[str, Any]], object] = text_of) -> str:
    """What an answer lacks to be a completion, whose text is where `text` finds it; empty where it lacks nothing."""
    choices = answer.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        return "an answer without choices"
    if not isinstance(text(choices[0]), str):
        return "a choice without text"
    # vLLM and SGLang end what they have under way with `abort` when they are shut down.
    return "" if choices[0].get("finish_reason") not in (None, "abort") else "a completion that was broken off"


def read_choice(choice: Mapping[str, Any], text: str, strings: Sequence[str], who: str) -> tuple[str, str, str]:
    """A choice's text before the first stop string, how it ended, and the string that it stopped at, empty where none is named.
    Raises StageError as `_ended` does."""
    text, by = cut(text, strings)
    return (text, "stop", by) if by else (text, *_ended(choice, who))


def _ended(choice: Mapping[str, Any], who: str) -> tuple[str, str]:
    """How a text without any stop string in it ended (`stop`, `eos`, `length` or UNSAID), and the string that it stopped
    at, empty where none is named. Raises StageError for a reason that is none of ours."""
    reason = choice["finish_reason"]
    if reason == "length":
        return "length", ""
    if reason != "stop":
        raise StageError(
            f"{who}: expected `stop` or `length` as finish_reason, found {reason!r}; drop the prompt or ask another server"
        )
    # "stop" is both a stop string and the end token. vLLM says which in `stop_reason`, SGLang in `matched_stop`: the
    # string, or the token's id or null for the end token. Where neither is there, nothing tells them apart.
    for name in ("stop_reason", "matched_stop"):
        if name in choice:
            by = choice[name]
            return ("stop", by) if isinstance(by, str) else ("eos", "")
    return UNSAID, ""
