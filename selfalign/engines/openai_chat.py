"""Requests in, completions out, by a served chat model: each prompt is one user message of `/chat/completions`.

Nothing of the model is here, no tokenizer either: tokens are estimated before a request and billed by the server after it. What a
chat endpoint cannot do is refused before anything is sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfalign.engines.answers import complaint, completed, drawn, read_choice
from selfalign.engines.base import Completion, GenerateRequest, ScoreRequest, ScoreResult, Watch
from selfalign.engines.penalties import weights
from selfalign.engines.pieces import Asked, Piece, completion
from selfalign.engines.tokens import token_budget
from selfalign.errors import ConfigError, StageError

if TYPE_CHECKING:
    from selfalign.engines.http import Answer, Server

CHAT = "/chat/completions"
BYTES_PER_TOKEN = 3
"""UTF-8 bytes that count as one token of a chat model's prompt: usual tokenizers put about four of English text into one, so
that this is rather too many tokens than too few."""
ESTIMATED = f"tokens of {BYTES_PER_TOKEN} bytes each, an estimate"


def estimated_tokens(text: str) -> int:
    """Tokens of a chat model's prompt: one for every BYTES_PER_TOKEN bytes of UTF-8, rounded up."""
    return -(-len(text.encode()) // BYTES_PER_TOKEN)


def no_adapter(adapter: Path) -> ConfigError:
    """The error for an adapter behind a chat endpoint: the server would put its own chat template around the prompts that the
    adapter was trained on."""
    return ConfigError(
        [
            f"engine.endpoint: expected completions for an adapter, found chat and {adapter}; set "
            "engine.endpoint=completions, or leave out the stages that train"
        ]
    )


class ChatEngine:
    """A served chat model, asked through `/chat/completions` and without a tokenizer: obtained from `OpenAIApi.open`."""

    def __init__(self, server: Server, model: str, *, context_length: int, group_size: int = 256) -> None:
        self.context_length = context_length
        self.group_size = group_size
        self.served_model = model
        """The name that requests go to."""
        self._server = server
        self._budget = "max_tokens"

    def swap(self, adapter: Path | None) -> None:
        """Nothing to do for the base model. Raises ConfigError for an adapter."""
        if adapter is not None:
            raise no_adapter(adapter)

    def count_tokens(self, text: str) -> int:
        """Tokens of a text as a prompt, by `estimated_tokens`."""
        return estimated_tokens(text)

    def generate(self, requests: Iterable[GenerateRequest], watch: Watch | None = None) -> Iterator[Completion]:
        """One completion per request, as they are finished. Their tokens are those that the server counts: its chat template and
        a model's unseen thoughts are among them.

        Raises StageError, and sends nothing of it, for a prompt that leaves no room for one new token by `estimated_tokens` and
        for what a chat endpoint does not take: biases of words, penalties on n-grams, a budget of its own up to a marker.
        Raises StageError for an answer without counts.
        """
        return completed(self._server, self._check, self._complete, requests, watch)

    def _check(self, request: GenerateRequest) -> Asked:
        """The request, ready to be sent. Raises StageError as `generate` says."""
        sampling = request.sampling
        asked = {
            # Its words would have to be the tokens of a tokenizer that is not here.
            "logit_bias": sampling.logit_bias,
            "ngram_penalty": weights(sampling.ngram_penalty),
            # What stands behind the marker takes a second call, and a chat endpoint begins every answer anew.
            "until": request.until,
        }
        unmet = {name: value for name, value in asked.items() if value}
        if unmet:
            raise StageError(
                f"request '{request.id}': expected none of {', '.join(asked)} with engine.endpoint=chat, found {unmet} (allowed: "
                "temperature, top_p, stop strings, one budget; top_k and min_p where the server knows them); leave it out, or "
                "use engine.endpoint=completions"
            )
        budget = token_budget(request, self.count_tokens(request.prompt), self.context_length)
        return Asked(request, request.prompt, budget, {})

    async def _complete(self, asked: Asked) -> Completion:
        strings = asked.strings()
        body = {
            "model": self.served_model,
            "messages": [{"role": "user", "content": asked.prompt}],
            "seed": asked.seed(),
            **drawn(asked.request.sampling, strings),
        }
        answer = await self._ask(asked, body)
        choice, usage = answer["choices"][0], answer.get("usage") or {}
        read, written = usage.get("prompt_tokens"), usage.get("completion_tokens")
        if not isinstance(read, int) or not isinstance(written, int):
            raise StageError(
                f"{asked.who}: expected prompt_tokens and completion_tokens in the `usage` of {CHAT}, found {usage}; ask a server "
                "that counts (nothing local can)"
            )
        text, finish, _ = read_choice(choice, str(_message(choice)), strings, asked.who)
        return completion(asked, Piece(text, finish, read, written))

    async def _ask(self, asked: Asked, body: Mapping[str, Any]) -> Answer:
        """The answer to a body with the budget under the name that the server takes.

        Most know `max_tokens` and some nothing else; OpenAI's newer models refuse it and name `max_completion_tokens`.
        """
        from selfalign.engines.http import RefusedError

        lacks, newer, name = partial(complaint, text=_message), "max_completion_tokens", self._budget
        try:
            return await self._server.ask(asked.who, CHAT, {**body, name: asked.most}, lacks)
        except RefusedError as error:
            if name == newer or newer not in str(error):
                raise
        self._budget = newer
        return await self._server.ask(asked.who, CHAT, {**body, newer: asked.most}, lacks)

    def score(self, requests: Iterable[ScoreRequest]) -> Iterator[ScoreResult]:
        """Raises StageError, and sends nothing: a chat endpoint gives no log-probabilities of a prompt."""
        raise StageError(
            f"engine.endpoint: expected completions where texts are scored, found chat: {CHAT} gives no log-probabilities of a "
            "prompt (allowed with chat: what is generated and read); set engine.endpoint=completions with a server that gives "
            "them (vLLM, SGLang), use engine=huggingface, or leave out the tasks that score"
        )


def _message(choice: Mapping[str, Any]) -> object:
    """The text of a chat completion, None where it has none."""
    message = choice.get("message")
    content = message.get("content") if isinstance(message, dict) else None
    # A model that thinks first may have used its budget up before its answer began.
    return "" if content is None and choice.get("finish_reason") == "length" else content
