"""Secrets out of what is logged and shared: a configuration in, the same with `<removed>` for every credential out.

Three ways to find one: the name of its key, its shape (the formats in which services issue keys), and its being the
value of an environment variable with a secret's name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

REMOVED = "<removed>"

_SECRET_WORDS = frozenset(
    {
        "password", "passwd", "passphrase", "secret", "secrets", "credential", "credentials",
        "authorization", "bearer", "cookie", "cookies", "apikey", "apikeys",
    }
)  # fmt: skip
_SECRET_PAIRS = frozenset(
    {("api", "key"), ("api", "keys"), ("access", "key"), ("private", "key"), ("secret", "key"), ("auth", "key")}
)
# Words before `token` that make it a piece of text rather than a credential.
_TEXT_TOKENS = frozenset(
    {"pad", "eos", "bos", "unk", "mask", "sep", "cls", "end", "start", "stop", "begin", "image", "special", "first",
     "last", "next", "per", "new", "max", "min"}
)  # fmt: skip
# A key that ends in one of these says where the secret is, or counts it; it does not hold it.
_POINTERS = frozenset({"env", "variable", "file", "path", "name", "count", "length", "id", "ids", "type"})
# Keys under which 40 hexadecimal digits are a commit, not a W&B key.
_COMMITS = frozenset({"commit", "sha", "sha1", "revision", "rev", "hash", "digest"})

_SHAPES = (
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL),
    re.compile(r"(?<![A-Za-z0-9])sk-[A-Za-z0-9_-]{16,}"),
    re.compile(r"(?<![A-Za-z0-9])hf_[A-Za-z0-9]{16,}"),
    re.compile(r"(?<![A-Za-z0-9])(?:gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,})"),
    re.compile(r"(?<![A-Za-z0-9])wandb_v\d+_[A-Za-z0-9_-]{20,}"),
    re.compile(r"(?<![A-Za-z0-9])(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9])"),
    re.compile(r"(?<![A-Za-z0-9])AIza[A-Za-z0-9_-]{30,}"),
    re.compile(r"(?<![A-Za-z0-9])xox[abprs]-[A-Za-z0-9-]{10,}"),
    re.compile(r"(?<=[Bb]earer )[A-Za-z0-9._~+/=-]{12,}"),
    re.compile(r"(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"),
)
# An override as it is typed, alone or in a command line: `judge.api_key=...`, `--token=...`.
_OVERRIDE = re.compile(r"(?<![^\s'\"])([-+~\w./@]+)=([^\s'\"]+)")
_WANDB_KEY = re.compile(r"(?<![0-9A-Za-z])[0-9a-f]{40}(?![0-9A-Za-z])")


def _words(key: str) -> list[str]:
    """`maxNewTokens`, `max-new-tokens`, `MAX_NEW_TOKENS` -> max, new, tokens."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", key)]


def is_secret_key(key: str) -> bool:
    """Whether a value under this name is a credential: `judge.api_key`, `HF_TOKEN`; not `max_new_tokens`."""
    words = _words(key.rpartition(".")[2])
    if not words or words[-1] in _POINTERS:
        return False
    if _SECRET_WORDS.intersection(words) or words[-1] == "auth":
        return True
    if any(pair in _SECRET_PAIRS for pair in zip(words, words[1:], strict=False)):
        return True
    return words[-1] == "token" and not (len(words) > 1 and words[-2] in _TEXT_TOKENS)


def environment_secrets(environment: Mapping[str, str] | None = None) -> list[str]:
    """Values (of 8 characters or more) of the environment variables that are named like secrets, the longest first."""
    environment = os.environ if environment is None else environment
    values = {value for name, value in environment.items() if is_secret_key(name) and len(value) >= 8}
    return sorted(values, key=lambda value: (-len(value), value))


def _text(text: str, known: list[str], key: str) -> str:
    for value in known:
        text = text.replace(value, REMOVED)
    for shape in _SHAPES:
        text = shape.sub(REMOVED, text)
    if not _COMMITS.intersection(_words(key)):
        text = _WANDB_KEY.sub(REMOVED, text)
    return _OVERRIDE.sub(lambda match: f"{match[1]}={REMOVED}" if is_secret_key(match[1]) else match[0], text)


def _clean(value: Any, known: list[str], key: str) -> Any:
    if isinstance(value, Mapping):
        return {
            _text(str(name), known, "") if isinstance(name, str) else name: (
                REMOVED if is_secret_key(str(name)) and _holds_something(item) else _clean(item, known, str(name))
            )
            for name, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        cleaned, after_flag = [], False
        for item in value:
            cleaned.append(REMOVED if after_flag and isinstance(item, str) else _clean(item, known, key))
            after_flag = isinstance(item, str) and re.fullmatch(r"--?[\w-]+", item) is not None and is_secret_key(item)
        return cleaned
    return _text(value, known, key) if isinstance(value, str) else value


def _holds_something(value: Any) -> bool:
    return value is not None and not isinstance(value, bool) and value != "" and value != [] and value != {}


def scrub_arguments(arguments: Iterable[str], environment: Mapping[str, str] | None = None) -> list[str]:
    """The arguments of a command with every credential replaced by `<removed>`."""
    return scrub(list(arguments), environment)


def scrub(config: Any, environment: Mapping[str, str] | None = None) -> Any:
    """Plain values (dict, list, str, numbers) with every credential replaced by `<removed>`; tuples become lists.

    An empty value stays as it is: that a key was not given is worth knowing. `environment` is `os.environ` by default.
    """
    return _clean(config, environment_secrets(environment), "")
