"""One request while it is generated: its tokens, the text that they make, and why it ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from selfalign.engines.base import Completion, GenerateRequest

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from selfalign.engines.sampling import Draw

DECODE_WINDOW = 6
"""Tokens of the prompt's end that are decoded together with the first new ones: some decoders strip a leading space."""


class Row:
    """Takes in drawn tokens until a stop string, an end token or a budget ends it."""

    def __init__(
        self, request: GenerateRequest, tokenizer: Tokenizer, prompt: list[int], budget: int,
        draw: Draw | None = None, shared: int = 0,
    ) -> None:  # fmt: skip
        self.request = request
        self.draw = draw
        """Its randomness; None where nothing is drawn from logits."""
        self.shared = shared
        """Leading tokens that many requests have in common, by what the request says."""
        self.tokens = list(prompt)
        """Prompt and completion."""
        self.start = len(prompt)
        """Tokens of the prompt."""
        self.text = ""
        self.finish = ""
        """`stop`, `eos` or `length`; empty while it is written."""
        self._tokenizer = tokenizer
        self._most = budget
        self._waits = bool(request.until)
        self._budget = min(budget, request.until_tokens) if self._waits else budget
        self._window = max(0, len(prompt) - DECODE_WINDOW)
        self._read = len(prompt)
        self._reach = max(1, len(request.until), *map(len, request.stop)) - 1

    @property
    def new_tokens(self) -> int:
        """Tokens written so far."""
        return len(self.tokens) - self.start

    @property
    def left(self) -> int:
        """The most tokens that may still come."""
        return self._most - self.new_tokens

    def add(self, token: int, ends: frozenset[int]) -> None:
        """Take in one drawn token; a finished row stays as it is."""
        if self.finish:
            return
        self.tokens.append(token)
        if token in ends:
            self.finish = "eos"
            return
        self._decode()
        if not self.finish and self.new_tokens == self._budget:
            self.finish = "length"

    def _decode(self) -> None:
        """Append what the newest tokens say, once they make whole characters, and stop at a stop string."""
        before = self._tokenizer.decode(self.tokens[self._window : self._read])
        after = self._tokenizer.decode(self.tokens[self._window :])
        # A replacement character at the end is a character whose last bytes are still to come.
        if len(after) <= len(before) or after.endswith("\ufffd"):
            return
        searched = max(0, len(self.text) - self._reach)
        self.text += after[len(before) :]
        self._window, self._read = self._read, len(self.tokens)
        found = [at for at in (self.text.find(stop, searched) for stop in self.request.stop) if at >= 0]
        if found:
            self.text = self.text[: min(found)]
            self.finish = "stop"
        if self._waits and self.text.find(self.request.until, searched) >= 0:
            self._waits = False
            self._budget = min(self._most, self._read - self.start + self.request.sampling.max_new_tokens)

    def completion(self) -> Completion:
        """The finished completion."""
        return Completion(self.request.id, self.text, self.finish, self.start, self.new_tokens)
