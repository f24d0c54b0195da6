"""A talk with a run's models in the terminal: base, engraved and cloned on one loaded base, in the layout they were trained in."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from selfalign import prompts
from selfalign.engines.adapters import Adapters
from selfalign.engines.model import (
    ModelSettings,
    load_model,
    load_tokenizer,
    model_context_length,
    model_digest,
    model_folder,
)
from selfalign.errors import ConfigError, SelfAlignError, unknown
from selfalign.export import adapters_of, model_of
from selfalign.model_card import chat_text
from selfalign.prompts import Assistant
from selfalign.report import Run

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

BASE = "base"
HELP = """\
/stage NAME    who answers: {stages}; `all` lets them answer one below the other
/base          the same as /stage base
/system TEXT   another text before the conversation: a name in principles/prompts/, or the text itself; /system alone shows it
/reset         forget what was said, and begin anew
/help  /quit   Ctrl-C stops an answer, Ctrl-D ends the talk"""
ORDERS = ("/stage", "/base", "/system", "/reset", "/help", "/quit")


@dataclass
class Conversation:
    """What was said, and the prompt that it makes."""

    meta: str
    """The text before the first question; its placeholders are filled, and it ends in an open user heading."""
    assistant: Assistant
    turns: list[tuple[str, str]] = field(default_factory=list)
    """Question and answer of each turn."""

    def prompt(self, question: str, count_tokens: Callable[[str], int], room: int) -> tuple[str, int]:
        """The prompt of the next question, with as many of the last turns as leave it at most `room` tokens, and how many
        turns were left out.

        Raises SelfAlignError where the question alone is too long.
        """
        tokens = 0
        for left_out in range(len(self.turns) + 1):
            text = self.meta
            for asked, answer in self.turns[left_out:]:
                text = prompts.chat_prompt(text, self.assistant, asked) + prompts.chat_target(answer).removesuffix("\n")
            text = prompts.chat_prompt(text, self.assistant, question)
            tokens = count_tokens(text)
            if tokens <= room:
                return text, left_out
        raise SelfAlignError(
            f"expected a question that leaves the prompt at most {room} tokens, found {tokens}; ask a shorter one, or take a "
            "shorter /system text"
        )


def settled(text: str, stops: Sequence[str]) -> str:
    """The part of a text that no stop string can still take back: up to the first stop, or to what may be its beginning."""
    found = [at for at in (text.find(stop) for stop in stops) if at >= 0]
    if found:
        return text[: min(found)]
    open_ends = [size for stop in stops for size in range(1, len(stop)) if text.endswith(stop[:size])]
    return text[: len(text) - max(open_ends, default=0)]


class Speakers:
    """A run's models on one loaded base model."""

    def __init__(self, run: Run, device: str = "auto") -> None:
        """Load the base model, and every adapter of the run on top. Raises DataError for another base than they were trained on."""
        import torch

        self.settings: ModelSettings = model_of(run)
        self.tokenizer: PreTrainedTokenizerFast = load_tokenizer(self.settings)
        self._folders = adapters_of(run)
        model: Any = load_model(self.settings)
        self._adapters = Adapters(model, list(self._folders.values()), model_digest(model_folder(self.settings)))
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model: PreTrainedModel = model.to(device)
        self.names = [BASE, *reversed(self._folders)]
        """Who can answer, the last stage last."""

    def count_tokens(self, text: str) -> int:
        """Tokens of a text as a prompt."""
        return len(self.tokenizer(text).input_ids)

    def answer(
        self, name: str, prompt: str, say: Callable[[str], None], *, max_new_tokens: int, temperature: float, seed: int
    ) -> str:
        """One model's answer, given to `say` piece by piece as it is written; ends before the next heading."""
        import torch
        from transformers import StoppingCriteriaList, StopStringCriteria

        stops = prompts.CHAT_STOPS
        encoded = self.tokenizer(prompt, return_tensors="pt").to(self.model.device)
        streamer = _Streamer(self.tokenizer, int(encoded.input_ids.shape[1]), stops, say)
        drawn: dict[str, Any] = (
            {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}
        )
        self._adapters.use(self._folders.get(name))
        with torch.inference_mode(), torch.random.fork_rng():
            # transformers' `generate` draws from the global generator alone; it is put back behind this block.
            torch.manual_seed(seed)  # noqa: TID251
            model: Any = self.model
            model.generate(
                input_ids=encoded.input_ids,
                attention_mask=encoded.attention_mask,
                max_new_tokens=max_new_tokens,
                stopping_criteria=StoppingCriteriaList([StopStringCriteria(self.tokenizer, list(stops))]),
                streamer=streamer,
                pad_token_id=self.tokenizer.pad_token_id,
                **drawn,
            )
        return streamer.text


class _Streamer:
    """What transformers' `generate` gives its tokens to, one by one: passes on the text that is settled."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, prompt_tokens: int, stops: Sequence[str], say: Callable[[str], None]
    ) -> None:
        self.tokenizer, self.stops, self.say = tokenizer, stops, say
        self.left, self.tokens, self.text = prompt_tokens, list[int](), ""

    def put(self, value: Any) -> None:
        """Tokens of the prompt at first, then one at a time."""
        tokens = value.flatten().tolist()
        if self.left > 0:
            self.left -= len(tokens)
            return
        self.tokens += tokens
        self._show(settled(self._whole(), self.stops))

    def end(self) -> None:
        """No stop string can come any more."""
        text = self._whole()
        found = [at for at in (text.find(stop) for stop in self.stops) if at >= 0]
        self._show(text[: min(found)] if found else text)
        self.text = self.text.strip()

    def _whole(self) -> str:
        # Half a character of several bytes is decoded as a replacement character, until its other half is there.
        return str(self.tokenizer.decode(self.tokens, skip_special_tokens=True)).rstrip("\ufffd").lstrip()

    def _show(self, text: str) -> None:
        if len(text) > len(self.text) and text.startswith(self.text):
            self.say(text[len(self.text) :])
            self.text = text


def talk(
    run: Run,
    speakers: Speakers,
    lines: Iterator[str],
    say: Callable[[str], None],
    *,
    stage: str = "",
    max_new_tokens: int = 256,
    temperature: float = 0.7,
    seed: int = 0,
) -> None:
    """Answer each line until there are no more; lines that begin with a slash are orders (`HELP`).

    Raises SelfAlignError for a stage that the run does not have, and for answers that leave the context no room for a question.
    """
    meta, assistant = chat_text(run, speakers.names[-1])
    one = _Talk(
        speakers,
        say,
        Conversation(meta, assistant),
        _chosen(stage or speakers.names[-1], speakers.names),
        str(run.config.get("texts") or ""),
        {"max_new_tokens": max_new_tokens, "temperature": temperature},
        model_context_length(speakers.settings) - max_new_tokens,
    )
    if one.room <= speakers.count_tokens(meta):
        most = max_new_tokens + one.room - speakers.count_tokens(meta)
        raise SelfAlignError(
            f"expected answers that leave room for a question in the model's context, found --max-new-tokens {max_new_tokens}; "
            f"give less than {most}"
        )
    for number, line in enumerate(lines):
        order, _, rest = line.strip().partition(" ")
        if order == "/quit":
            return
        try:
            if order.startswith("/"):
                one.obey(order, rest.strip())
            elif order:
                one.ask(line.strip(), seed + number)
        except SelfAlignError as error:
            say(f"{error}\n")


@dataclass
class _Talk:
    """What goes on from line to line."""

    speakers: Speakers
    say: Callable[[str], None]
    conversation: Conversation
    who: list[str]
    """Who answers, one below the other."""
    texts: str
    """Folder below `principles/` with the texts that /system knows by name."""
    drawing: dict[str, Any]
    room: int
    """Tokens of the longest prompt."""

    def obey(self, order: str, rest: str) -> None:
        """Follow an order. Raises SelfAlignError for one that is none, or that asks for what is not there."""
        match order:
            case "/reset":
                self.conversation.turns.clear()
                self.say("(forgotten)\n")
            case "/base" | "/stage":
                name = BASE if order == "/base" else rest
                self.who = _chosen(name, self.speakers.names) if name else self.who
                self.say(f"(next: {', '.join(self.who)})\n")
            case "/system":
                if rest:
                    assistant = self.conversation.assistant
                    self.conversation = Conversation(_system(rest, self.texts, assistant), assistant)
                self.say(self.conversation.meta + "\n")
            case "/help":
                self.say(HELP.format(stages=", ".join(self.speakers.names)) + "\n")
            case _:
                raise SelfAlignError(unknown("order", order, ORDERS))

    def ask(self, question: str, seed: int) -> None:
        """Have the question answered; of several answers the last stage's is the one that the talk goes on with."""
        prompt, left_out = self.conversation.prompt(question, self.speakers.count_tokens, self.room)
        if left_out:
            self.say(f"(the first {left_out} of {len(self.conversation.turns)} turns no longer fit)\n")
        pieces: list[str] = []

        def say(piece: str) -> None:
            pieces.append(piece)
            self.say(piece)

        for name in self.who:
            pieces.clear()
            self.say(f"[{name}] ")
            # An answer that is stopped is what was said of it. Another model on the same question draws the same numbers.
            with contextlib.suppress(KeyboardInterrupt):
                self.speakers.answer(name, prompt, say, seed=seed, **self.drawing)
            self.say("\n")
        self.conversation.turns.append((question, "".join(pieces).strip()))


def _chosen(name: str, names: Sequence[str]) -> list[str]:
    if name == "all":
        return list(names)
    if name not in names:
        raise SelfAlignError(f"/stage: {unknown('stage', name, [*names, 'all'])}")
    return [name]


def _system(text: str, texts: str, assistant: Assistant) -> str:
    """A text of `principles/prompts/` by its name; any other text as it is, with an open user heading behind it."""
    try:
        meta = prompts.load_text(text, texts)
    except ConfigError:
        if " " not in text:
            raise
        meta = f"{text}\n\n### User"
    return prompts.fill(meta, assistant)
