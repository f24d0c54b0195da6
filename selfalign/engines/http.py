"""Requests to a server in, its JSON answers out: many at a time, each sent again where that may help.

The event loop runs in a thread of its own: connections stay open from one call to the next, Ctrl-C reaches the caller
at once, and it works in a notebook, whose thread has a loop already. No message holds the key.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import itertools
import json
import math
import os
import random
import re
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, TypeVar

from selfalign.errors import ConfigError, StageError

if TYPE_CHECKING:
    import httpx

Item = TypeVar("Item")
Result = TypeVar("Result")
Answer = dict[str, Any]

FIRST_WAIT_S = 0.5
"""Seconds before the second attempt; every further one waits twice as long."""
MOST_WAIT_S = 60.0
"""Longest wait in seconds that is chosen here."""
LONGEST_ASKED_S = 600.0
"""Longest wait in seconds that a server may ask for; more is an error: a day's quota is used up, not a minute's."""
CONNECT_S = 30.0
"""Longest time in seconds until a connection is open."""
WORDS = 300
"""Characters of a server's own words in a message."""
SHORTEST_KEY = 8
"""Keys below this many characters are placeholders ("EMPTY"): they are not searched for in messages."""
LIMITS = ("requests", "tokens")
"""What hosted servers count, each with headers of its own."""
EPOCH = 1e9
"""A number above this is no wait but a time since 1970 in seconds; above a thousand times this, in milliseconds."""
REMOVED = "<removed>"

sleep = asyncio.sleep
"""How waiting is done; tests put in their own."""


class RefusedError(StageError):
    """An answer that another attempt would not change: status 3xx, and 4xx but 408, 409 and 429."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Connection:
    """Which server, and how patiently."""

    url: str
    """Base URL, without a slash at its end."""
    key_variable: str
    """Environment variable that holds the key; the server gets none where it is empty or not set."""
    concurrency: int
    """Most requests on their way at a time."""
    timeout_s: float
    """Seconds until an attempt counts as failed."""
    retries: int
    """Attempts after the first."""


@contextlib.contextmanager
def connected(connection: Connection) -> Iterator[Server]:
    """The server, for the length of a `with` block. Raises ConfigError for a key that no header can hold."""
    server = Server(connection)
    thread = threading.Thread(target=server.loop.run_forever, name="selfalign-http", daemon=True)
    thread.start()
    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(server.close(), server.loop).result()
        server.loop.call_soon_threadsafe(server.loop.stop)
        thread.join()
        server.loop.close()


@dataclass(frozen=True, slots=True)
class _Failure:
    """An attempt that another one may mend."""

    cause: str
    wait_s: float | None = None
    """Seconds that the server asks for."""


class Server:
    """One server, to be asked many things at a time: obtained from `connected`."""

    def __init__(self, connection: Connection) -> None:
        import httpx

        self.url = connection.url
        self._connection = connection
        self._key = _key(connection.key_variable)
        self._client = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            # Reading the certificates of authorities takes longer than all the rest, and without TLS there is none to check.
            verify=connection.url.startswith("https:"),
            # Waiting for a free connection is no failure of the server's.
            timeout=httpx.Timeout(connection.timeout_s, connect=min(CONNECT_S, connection.timeout_s), pool=None),
            limits=httpx.Limits(
                max_connections=connection.concurrency, max_keepalive_connections=connection.concurrency
            ),
        )
        self.loop = asyncio.new_event_loop()
        self._quiet_until = 0.0
        # Jitter moves when something is asked, never what is answered.
        self._jitter = random.Random()

    def each(self, work: Callable[[Item], Coroutine[Any, Any, Result]], items: Iterable[Item]) -> Iterator[Result]:
        """What `work` gives for every item, as it is finished. As many items are under way as the connection allows, and the
        next one is taken as soon as there is a place for it; the first failure ends the others, and so does Ctrl-C."""
        source = iter(items)
        under_way: set[concurrent.futures.Future[Result]] = set()

        def refill() -> None:
            for item in itertools.islice(source, self._connection.concurrency - len(under_way)):
                under_way.add(asyncio.run_coroutine_threadsafe(work(item), self.loop))

        try:
            refill()
            while under_way:
                done, _ = concurrent.futures.wait(under_way, return_when=concurrent.futures.FIRST_COMPLETED)
                under_way -= done
                results = [future.result() for future in done]
                refill()
                yield from results
        finally:
            for future in under_way:
                future.cancel()

    def one(self, who: str, path: str, body: Mapping[str, Any] | None = None) -> Answer:
        """`ask`, waited for."""
        (answer,) = self.each(lambda asked: self.ask(who, path, asked), [body])
        return answer

    async def ask(
        self,
        who: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        complaint: Callable[[Answer], str] = lambda answer: "",
    ) -> Answer:
        """The answer to a POST of `body`, or to a GET without one; `who` begins every message.

        `complaint` says what is missing in an answer, which is then asked for again. Raises RefusedError for an answer
        that will stay the same, StageError naming the last cause after all attempts.
        """
        most = self._connection.retries + 1
        failure = _Failure("nothing")
        for attempt in range(most):
            await self._pause()
            found = await self._attempt(who, path, body, complaint)
            if not isinstance(found, _Failure):
                return found
            failure = found
            if attempt + 1 < most:
                await self._before_next(who, attempt, failure)
        raise StageError(
            f"{who}: expected an answer of {self.url}{path}, found {failure.cause} at the last of {most} attempts; see "
            "that the server runs and can bear engine.concurrency, or raise engine.timeout_s or engine.retries, then run the "
            "same command again: finished groups are kept"
        )

    async def _before_next(self, who: str, attempt: int, failure: _Failure) -> None:
        """Wait twice as long as before, with jitter, and have all requests wait as long as the server asks for."""
        asked = failure.wait_s or 0.0
        if asked > LONGEST_ASKED_S:
            raise StageError(
                f"{who}: expected a wait of at most {LONGEST_ASKED_S:.0f} s, found {failure.cause} and a wait of "
                f"{asked:.0f} s asked for by {self.url}; run the same command again then: finished groups are kept"
            )
        self._quiet_until = max(self._quiet_until, self.loop.time() + asked)
        own = min(MOST_WAIT_S, FIRST_WAIT_S * 2**attempt) * self._jitter.uniform(0.5, 1)
        if own > asked:
            await sleep(own)

    async def _pause(self) -> None:
        """Wait until the time that the server has asked for, and a little longer, so that not all come at once."""
        left = self._quiet_until - self.loop.time()
        if left > 0:
            await sleep(left * self._jitter.uniform(1, 1.1))

    async def _attempt(
        self, who: str, path: str, body: Mapping[str, Any] | None, complaint: Callable[[Answer], str]
    ) -> Answer | _Failure:
        import httpx

        try:
            response = await self._client.request("GET" if body is None else "POST", self.url + path, json=body)
        except httpx.TimeoutException as error:
            return _Failure(f"no answer in time ({type(error).__name__})")
        except httpx.RequestError as error:
            # No connection, a connection that breaks, a body that ends before its length.
            return _Failure(self._clean(f"{type(error).__name__}: {error}"))
        status = response.status_code
        if response.is_success:
            return self._read(response, complaint)
        words = self._clean(_words(response.text))[:WORDS]
        if status in (408, 409, 429) or status >= 500:
            return _Failure(f"status {status}: {words}", wait_asked(status, response.headers))
        raise RefusedError(
            f"{who}: expected an answer of {self.url}{path}, found status {status}: {words}; {self._remedy(status)}",
            status,
        )

    def _read(self, response: httpx.Response, complaint: Callable[[Answer], str]) -> Answer | _Failure:
        try:
            answer = response.json()
        except ValueError:
            return _Failure(f"a body that is no JSON: {self._clean(_words(response.text))[:WORDS]!r}")
        if not isinstance(answer, dict):
            return _Failure(f"JSON that is no object but {type(answer).__name__}")
        missing = complaint(answer)
        return _Failure(f"{missing}: {self._clean(_words(response.text))[:WORDS]}") if missing else answer

    def _remedy(self, status: int) -> str:
        """What to do about a refusal."""
        if status in (401, 403):
            known = "the key in" if self._key else "no key in"
            return f"it was sent {known} the environment variable {self._connection.key_variable!r}; set that to a valid one"
        if status == 404:
            return "correct engine.base_url (most end in /v1) or engine.served_model"
        if status < 400:
            return "give the address it points to as engine.base_url: another one is not followed with a key"
        return "correct what it names"

    def _clean(self, text: str) -> str:
        return text.replace(self._key, REMOVED) if len(self._key) >= SHORTEST_KEY else text

    async def close(self) -> None:
        """Give up what is still on its way and close all connections."""
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._client.aclose()


def _key(variable: str) -> str:
    """The key in an environment variable, without whitespace around it. Raises ConfigError where it is no header's text."""
    key = os.environ.get(variable, "").strip() if variable else ""
    if not all("!" <= character <= "~" for character in key):
        # A library's own error would show it.
        raise ConfigError(
            [
                f"engine.key_variable: expected a key of visible ASCII characters in {variable!r}, found others; set the "
                "variable to the key alone"
            ]
        )
    return key


def _words(text: str) -> str:
    """What a body says, on one line: the message of an error in OpenAI's or FastAPI's form, else all of it."""
    try:
        found = json.loads(text)
    except ValueError:
        found = text
    for name in ("error", "message", "detail"):
        if isinstance(found, dict) and found.get(name):
            found = found[name]
    return " ".join(str(found).split())


def wait_asked(status: int, headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Seconds that a server asks to wait, None where it does not say; `now` is the time in seconds since 1970.

    By `retry-after-ms`, `retry-after` (seconds or a date), and with status 429 `x-ratelimit-reset-<what>` of what has
    none remaining.
    """
    now = time.time() if now is None else now
    if (asked := _number(headers.get("retry-after-ms", ""))) is not None:
        return max(0.0, asked / 1000)
    if "retry-after" in headers:
        return _wait(headers["retry-after"], now)
    if status != 429:
        return None
    suffixes = ["", *(f"-{what}" for what in LIMITS)]
    used_up = [end for end in suffixes if _number(headers.get(f"x-ratelimit-remaining{end}", "0")) in (0.0, None)]
    waits = [_wait(headers.get(f"x-ratelimit-reset{end}", ""), now) for end in used_up]
    return max((wait for wait in waits if wait is not None), default=None)


def _wait(text: str, now: float) -> float | None:
    """Seconds from now by a number of seconds, a duration (`6m0s`, `120ms`), a time since 1970 or a date; else None."""
    number = _number(text)
    if number is not None:
        seconds = number / 1000 if number > 1000 * EPOCH else number
        return max(0.0, seconds - now if seconds > EPOCH else seconds)
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", text)
    if parts and "".join(amount + unit for amount, unit in parts) == text.strip():
        size = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
        return sum(float(amount) * size[unit] for amount, unit in parts)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now)
    except ValueError:
        return None


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
