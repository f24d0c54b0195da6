"""Requests in, completions and scores out, by the `/completions` of a server: vLLM, SGLang, llama.cpp, hosted.

Prompts to continue are sent as text, pairs to score as token ids; `engine.endpoint=chat` is `openai_chat`. The server computes in
batches of its own, so that a repeated request may differ in the last bits of its logits (vLLM: VLLM_BATCH_INVARIANT=1), and
where it keeps no seeds, altogether. What a server cannot do is refused before anything is sent.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from selfalign.engines.adapters import not_opened
from selfalign.engines.answers import complaint, completed, drawn, read_choice
from selfalign.engines.base import BY_TOKENIZER, Completion, GenerateRequest, ScoreRequest, ScoreResult, Watch
from selfalign.engines.model import (
    ModelSettings,
    model_config,
    model_context_length,
    model_digest,
    model_folder,
    model_problems,
    raw_tokenizer,
    special_tokens,
)
from selfalign.engines.openai_chat import ESTIMATED, ChatEngine, estimated_tokens, no_adapter
from selfalign.engines.penalties import Vocabulary
from selfalign.engines.pieces import MARKER, UNSAID, Asked, Desk, Pair, Piece, completion, joined
from selfalign.engines.serving import adapter_name, check_adapter, serve_command
from selfalign.engines.tokens import end_tokens, first_token, named_ends, pair_tokens
from selfalign.errors import ConfigError, StageError
from selfalign.identity import transient

if TYPE_CHECKING:
    from selfalign.engines.http import Server

VERSION = 1
"""Raise it when the same requests give other results than before."""
COMPLETIONS = "/completions"
PROBE = "Do we agree on tokens? 1234567 naïve façades, 東京 and Ελλάδα; def f(x): return [x**2, -x]\n\nEnd."
"""A text that tokenizers cut into different numbers of tokens: asked first, to compare with the local one."""
LEEWAY = 2
"""Tokens that the counts may differ by: servers disagree with a tokenizer's file on a beginning-of-text token and a space."""


class Endpoint(StrEnum):
    """What a server is asked through."""

    completions = "completions"
    chat = "chat"


@dataclass(frozen=True)
class OpenAIApi:
    """A model behind an OpenAI-compatible server. Hydra group `engine=openai_api`."""

    model: ModelSettings = field(default_factory=ModelSettings)
    """The base model that is served: its tokenizer.json and config.json count tokens and give the context window. The
    weights need not be here, except for stages that train. With `endpoint=chat` only `context_length` is read, and must be set."""
    base_url: str = transient("http://localhost:8000/v1")
    """Where the server is, up to what stands before `/completions` (default: vLLM's)."""
    served_model: str = ""
    """The base model's name at the server; empty takes the only one that it lists."""
    endpoint: Endpoint = Endpoint.completions
    """`completions` continues texts and scores them, as base models do; `chat` sends each prompt as one user message, for models
    that are served as chat models alone, and gives no scores."""
    key_variable: str = transient("OPENAI_API_KEY")
    """Name of the environment variable that holds the server's key; not set, no key is sent."""
    concurrency: int = transient(64)
    """Most requests on their way at a time (> 0)."""
    batch_size: int = transient(256)
    """Requests in a group (> 0): what is written to disk together, and lost by a kill."""
    timeout_s: float = transient(600.0)
    """Seconds that one completion may take (> 0)."""
    retries: int = transient(8)
    """Further attempts after one that failed (>= 0); the waits between them double from half a second to a minute, or are
    what the server asks for."""

    def identity(self) -> Mapping[str, Any]:
        """Engine family and version, the model's name at the server, context window; tokenizer and configuration, or that it is
        asked through chat."""
        how = {"endpoint": "chat"} if self._is_chat else {"tokenizer": model_digest(self._folder(), weights=False)}
        return {
            "engine": "openai_api",
            "version": VERSION,
            "served_model": self.served_model,
            **how,
            "context_length": self.context_length(),
        }

    @property
    def _is_chat(self) -> bool:
        return self.endpoint == Endpoint.chat

    def _folder(self) -> Path:
        return model_folder(self.model, weights=False)

    def problems(self) -> list[str]:
        """What is wrong with the tokenizer's folder, the address and the numbers, found without the network."""
        problems = self._chat_problems() if self._is_chat else model_problems(self.model, weights=False)
        if not _is_address(self.base_url):
            # What it holds is not repeated: it may be a key.
            problems.append(
                "engine.base_url: expected http://host:port/v1 or https://host/v1, found no such address, or one with a user, "
                "a query or a fragment; give the address alone, and a key in the variable that engine.key_variable names"
            )
        for name, least in (("concurrency", 1), ("batch_size", 1), ("retries", 0)):
            if getattr(self, name) < least:
                problems.append(f"engine.{name}: expected {least} or more, found {getattr(self, name)}; raise it")
        if not 0 < self.timeout_s < float("inf"):
            problems.append(f"engine.timeout_s: expected a number above 0, found {self.timeout_s}; set it to 600")
        return problems

    def _chat_problems(self) -> list[str]:
        """A context window that is not given: nothing local says a hosted model's."""
        length = self.model.context_length
        if length > 0:
            return []
        return [
            f"model.context_length: expected the context window of the served chat model, found {length} (allowed: 1 or more "
            "tokens); set model.context_length to what the model's provider says, for example 128000"
        ]

    def count_tokens(self, text: str) -> int:
        """Tokens of a text as a prompt, by the local tokenizer; of a chat model's, by `estimated_tokens`."""
        return estimated_tokens(text) if self._is_chat else len(raw_tokenizer(self._folder()).encode(text).ids)

    def counted(self) -> str:
        """Tokens; of a chat model, an estimate of them."""
        return ESTIMATED if self._is_chat else BY_TOKENIZER

    def context_length(self) -> int:
        """Context window in tokens, by the model's configuration alone; of a chat model, by the settings alone."""
        return self.model.context_length if self._is_chat else model_context_length(self.model, weights=False)

    @contextlib.contextmanager
    def open(self, adapter: Path | None = None, more: Sequence[Path] = ()) -> Iterator[OpenAIApiEngine | ChatEngine]:
        """The served model, or the served LoRA adapter of a folder, whose base cannot be looked at from here; one token is asked
        for, to see that all is well. A chat model is asked nothing here: some take no budget of one token.

        Raises ConfigError listing every problem of the settings, and for an adapter with `endpoint=chat`; DataError for a folder
        that holds no adapter; and StageError for a server that does not answer, that does not list what is wanted (with the
        command that serves it), or whose tokenizer or context window is another one.
        """
        problems = self.problems()
        if problems:
            raise ConfigError(problems)
        every = [one for one in (adapter, *more) if one is not None]
        if every and self._is_chat:
            raise no_adapter(every[0])
        for one in every:
            check_adapter(one)
        from selfalign.engines.http import Connection, connected

        connection = Connection(
            self.base_url.rstrip("/"), self.key_variable, self.concurrency, self.timeout_s, self.retries
        )
        with connected(connection) as server:
            name, window = self._name(server, None), self.context_length()
            if self._is_chat:
                yield ChatEngine(server, name, context_length=window, group_size=self.batch_size)
                return
            names = {one.resolve(): self._name(server, one) for one in every}
            engine = OpenAIApiEngine(
                server, name, self._folder(), names, context_length=window, group_size=self.batch_size
            )
            engine.swap(adapter)
            engine.check_tokenizer()
            yield engine

    def _name(self, server: Server, adapter: Path | None) -> str:
        """What the model, or the adapter on it, is called at the server. Raises StageError where it is not listed."""
        if self.served_model and adapter is None:
            return self.served_model
        listed = _listed(server)
        base = self.served_model or _only(listed, server.url)
        window = next((one.get("max_model_len") for one in listed if one["id"] == base), None)
        if isinstance(window, int) and window < self.context_length():
            raise StageError(
                f"model.context_length: expected at most the {window} tokens that {server.url} takes, found "
                f"{self.context_length()}; set model.context_length={window}, or serve with --max-model-len "
                f"{self.context_length()}"
            )
        if adapter is None:
            return base
        name = adapter_name(base, adapter)
        names = [one["id"] for one in listed]
        if name not in names:
            raise StageError(
                f"{adapter}: expected the server at {server.url} to list this adapter as {name!r}, found only {names}; start it "
                f"with\n  {shlex.join(serve_command(self.model, base, [adapter]))}\nand run the same command again "
                "(`selfalign serve-command RUN` has all adapters of a run in one command)"
            )
        return name


def _is_address(url: str) -> bool:
    """Whether this is http(s), host, port and path, and nothing else."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    rest = parts.query or parts.fragment or "@" in parts.netloc or " " in url
    return parts.scheme in ("http", "https") and bool(parts.hostname) and port != 0 and not rest


def _listed(server: Server) -> list[dict[str, Any]]:
    """The models that a server lists, adapters too."""
    found = server.one("the list of models", "/models").get("data")
    if not isinstance(found, list) or not all(
        isinstance(one, dict) and isinstance(one.get("id"), str) for one in found
    ):
        raise StageError(
            f"engine.base_url: expected a list of models at {server.url}/models, found none; correct the address, or set "
            "engine.served_model"
        )
    return found


def _only(listed: Sequence[Mapping[str, Any]], url: str) -> str:
    """The name of the only base model: adapters name their parent. Raises StageError where there are more or none."""
    bases = [one["id"] for one in listed if not one.get("parent")]
    if len(bases) != 1:
        raise StageError(
            f"engine.served_model: expected one model at {url} where no name is given, found {len(bases)}: {bases[:9]}; set "
            "engine.served_model to one that the server lists"
        )
    return bases[0]


class OpenAIApiEngine:
    """A served model: obtained from `OpenAIApi.open`."""

    def __init__(
        self, server: Server, model: str, folder: Path, adapters: Mapping[Path, str] | None = None, *,
        context_length: int, group_size: int = 256,
    ) -> None:  # fmt: skip
        self.context_length = context_length
        self.group_size = group_size
        self._base = model
        self._adapters = adapters or {}
        self.served_model = model
        """The name that requests go to: the base model's or an adapter's."""
        self._server = server
        self._tokenizer = raw_tokenizer(folder)
        special = special_tokens(folder)
        ends = end_tokens(named_ends(folder), self._tokenizer, special)
        self._first = first_token(model_config(folder).get("bos_token_id"), self._tokenizer, special, ends)
        self._desk = Desk(self._tokenizer, Vocabulary(self._tokenizer, ends), self._first, context_length)
        self._says_why = True

    def swap(self, adapter: Path | None) -> None:
        """Send further requests to another served adapter, or to the base model. Raises StageError for an adapter that the
        engine was not opened with."""
        place = adapter.resolve() if adapter is not None else None
        if place is not None and place not in self._adapters:
            raise not_opened(place, list(self._adapters))
        self.served_model = self._adapters[place] if place is not None else self._base

    def count_tokens(self, text: str) -> int:
        """Tokens of a text as a prompt, by the local tokenizer."""
        return self._desk.count(text)

    def check_tokenizer(self) -> None:
        """Have the server count the tokens of a text. Raises StageError where they are not as many as here."""
        body = {"model": self.served_model, "prompt": PROBE, "max_tokens": 1, "temperature": 0.0}
        usage = self._server.one("the first request", COMPLETIONS, body).get("usage") or {}
        found, own = usage.get("prompt_tokens"), self.count_tokens(PROBE)
        if isinstance(found, int) and abs(found - own) > LEEWAY:
            raise StageError(
                f"model.path: expected the tokenizer of {self.served_model!r}, found another one: {self._server.url} counts "
                f"{found} tokens where the local tokenizer counts {own}; give the folder or hub name of the model that is "
                "served (tokenizer.json and config.json suffice)"
            )

    # ------------------------------------------------------------------------------------------ completions

    def generate(self, requests: Iterable[GenerateRequest], watch: Watch | None = None) -> Iterator[Completion]:
        """One completion per request, as they are finished: as many are on their way as the connection allows, all the time.
        Tokens are counted by the server, or by the local tokenizer where it gives no count; the end token and those of a stop
        string that the server names count too.

        Raises StageError, and sends nothing of it, for a prompt that leaves no room for one new token and for a request that
        cannot be met: penalties on n-grams are nothing that a server computes.
        """
        return completed(self._server, self._desk.check, self._complete, requests, watch)

    async def _complete(self, asked: Asked) -> Completion:
        """One completion: in one piece, or in two where what stands before a marker has a budget of its own."""
        if not asked.request.until:
            return completion(asked, await self._piece(asked, asked.prompt, asked.most))
        first = await self._up_to_marker(asked)
        if first.finish != MARKER:
            return completion(asked, first)
        written, first, budget = self._desk.behind_marker(asked, first)
        if budget < 1:
            return completion(asked, replace(first, text=written, finish="length"))
        rest = await self._piece(asked, asked.prompt + written, budget, second=True)
        return completion(asked, joined(asked, written, first, rest))

    async def _up_to_marker(self, asked: Asked) -> Piece:
        """What is written before the marker (the piece then ends in MARKER), or all of a text that never reaches it."""
        request = asked.request
        budget = min(asked.most, request.until_tokens)
        if self._says_why:
            piece = await self._piece(asked, asked.prompt, budget, to_marker=True)
            if piece.finish != UNSAID:
                return piece
            self._says_why = False
        # A server that does not say what it stopped at would not tell marker from end: it writes on past the marker,
        # which is then looked for, and what stands behind it is drawn anew.
        piece = await self._piece(asked, asked.prompt, budget)
        before, marker, _ = piece.text.partition(request.until)
        if not marker:
            return piece
        return replace(
            piece, text=before, finish=MARKER, new_tokens=min(self._desk.size(before + marker), piece.new_tokens)
        )

    async def _piece(
        self, asked: Asked, prompt: str, budget: int, *, to_marker: bool = False, second: bool = False
    ) -> Piece:
        """One answer of the endpoint, cut before the first stop string, or before `until` where it is to end there."""
        strings = asked.strings(to_marker=to_marker)
        body: dict[str, Any] = {
            "model": self.served_model,
            "prompt": prompt,
            "max_tokens": budget,
            "seed": asked.seed(second=second),
            **drawn(asked.request.sampling, strings),
        }
        body |= {"logit_bias": {str(token): value for token, value in asked.bias.items()}} if asked.bias else {}
        answer = await self._server.ask(asked.who, COMPLETIONS, body, complaint)
        choice, usage = answer["choices"][0], answer.get("usage") or {}
        text, finish, by = read_choice(choice, choice["text"], strings, asked.who)
        finish = asked.finish(finish, by) if to_marker else finish
        new_tokens = usage.get("completion_tokens")
        if new_tokens is None:
            new_tokens = self._desk.size(text + by) + (finish == "eos")
        prompt_tokens = usage.get("prompt_tokens")
        return Piece(text, finish, self.count_tokens(prompt) if prompt_tokens is None else prompt_tokens, new_tokens)

    # ----------------------------------------------------------------------------------------------- scores

    def score(self, requests: Iterable[ScoreRequest]) -> Iterator[ScoreResult]:
        """One result per request, as they are finished. `is_greedy` where the server names the likeliest tokens, else False.

        `pair_tokens` says where the continuation begins. Both texts are sent as token ids: the server would put a token
        across the border, and the offsets in its answers are not to be relied on (vllm-project/vllm, issue 5334). It has to
        write one token, so that context and continuation may have one token less than the context window. Raises
        StageError for a continuation that is empty or does not fit, and for a server that gives no log-probabilities of
        a prompt.
        """
        most = self.context_length - 2
        pairs = (
            Pair(one, *pair_tokens(one, self._tokenizer, self._first, most, self.context_length - 1))
            for one in requests
        )
        return self._server.each(self._score, pairs)

    async def _score(self, pair: Pair) -> ScoreResult:
        from selfalign.engines.http import RefusedError

        who, ids = f"request '{pair.request.id}'", [*pair.context, *pair.continuation]
        body = {
            "model": self.served_model,
            "prompt": ids,
            "max_tokens": 1,
            "temperature": 0.0,
            "echo": True,
            "logprobs": 1,
        }
        try:
            answer = await self._server.ask(who, COMPLETIONS, body, complaint)
        except RefusedError as error:
            if error.status in (401, 403, 404):
                raise
            raise StageError(_no_logprobs(who, str(error))) from None
        found = answer["choices"][0].get("logprobs") or {}
        logprobs, top = found.get("token_logprobs") or [], found.get("top_logprobs") or []
        # Behind the echo stands the token that had to be written; some servers leave it out.
        if len(logprobs) not in (len(ids), len(ids) + 1):
            raise StageError(_no_logprobs(who, f"{len(logprobs)} log-probabilities for {len(ids)} tokens"))
        start = len(pair.context)
        own = logprobs[start : len(ids)]
        if not all(isinstance(value, (int, float)) for value in own):
            raise StageError(_no_logprobs(who, "a token of the continuation without one"))
        likeliest = [max(one.values(), default=None) if one else None for one in top[start : len(ids)]]
        greedy = len(likeliest) == len(own) and all(
            best is not None and value >= best for value, best in zip(own, likeliest, strict=True)
        )
        return ScoreResult(pair.request.id, float(sum(own)), greedy, len(own), pair.truncated)


def _no_logprobs(who: str, found: str) -> str:
    return (
        f"{who}: expected the log-probability of every token of a prompt (`echo` and `logprobs` of {COMPLETIONS}), found "
        f"{found}; score with a server that gives them (vLLM, SGLang) or with engine=huggingface"
    )
