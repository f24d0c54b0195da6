"""A server of completions and chats on this machine whose model is a hash: its tokens are the bytes of ASCII texts, as
`tiny_model`'s are.

What it says next depends on the text so far and on the seed, so that two calls can be compared with one.
"""

from __future__ import annotations

import hashlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LETTERS = "abcdefghijklmnopqrstuvwxyz      ..,"
END_ID = 256
NAME = "tiny"

Body = dict[str, Any]
Fault = Callable[["Handler"], None] | None


def draw(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:6])


def next_letter(text: str, seed: int | None) -> str:
    """The next letter of a text, empty for its end."""
    number = draw(text, seed)
    return "" if number % 211 == 0 else LETTERS[number % len(LETTERS)]


def logprob(before: list[int], token: int) -> float:
    """log p of a token behind others: one in four is the likeliest."""
    number = draw(before, token) % 400
    return -0.25 if number < 100 else -number / 100


class Stub:
    """The server's state: what it was asked, and how it answers."""

    def __init__(self) -> None:
        self.models: list[Body] = [{"id": NAME}]
        self.says_why = True
        self.includes_stop = False
        self.gives_usage = True
        self.newer_budget = False
        """Whether the budget of a chat is `max_completion_tokens`, and `max_tokens` is refused, as by OpenAI's newer models."""
        self.count: Callable[[str], int] = lambda text: len(text.encode())
        """Tokens of a text by the server's tokenizer."""
        self.faults: list[Fault] = []
        """What happens to the next completions instead of an answer, one each; None lets one through."""
        self.delay_s: Callable[[Body], float] = lambda body: 0.0
        self.echo: Callable[[Body], Body] = echoed
        self.asked: list[Body] = []
        """Every body of a completion but the first request's, in the order of arrival."""
        self.paths: list[str] = []
        """Where each POST went, the first request's and refused ones' too."""
        self.keys: list[str | None] = []
        self.most_at_once = 0
        self.url = ""
        self._now = 0
        self._lock = threading.Lock()

    def take(self, body: Body) -> Fault:
        with self._lock:
            self.asked.append(body)
            return self.faults.pop(0) if self.faults else None

    @contextmanager
    def counted(self) -> Iterator[None]:
        with self._lock:
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        yield
        with self._lock:
            self._now -= 1

    def prompts(self) -> list[Any]:
        return [body["prompt"] for body in self.asked]

    def complete(self, body: Body) -> Body:
        """A completion, as vLLM would say it."""
        if body.get("echo"):
            return self.echo(body)
        if "messages" in body:
            return self.chat(body)
        # Bit 30 tells the second half of a request from the first: this model goes on as if they were one.
        seed = body["seed"] % 2**30 if body["temperature"] > 0 else None
        text, finish, why, used = "", "length", None, 0
        for _ in range(body["max_tokens"]):
            letter = next_letter(body["prompt"] + text, seed)
            text, used = text + letter, used + 1
            found = [one for one in body.get("stop", ()) if one in text]
            if found and not self.includes_stop:
                text = text[: text.index(found[0])]
            if found or not letter:
                finish, why = "stop", found[0] if found else None
                break
        choice = {"index": 0, "text": text, "finish_reason": finish}
        choice |= {"stop_reason": why} if self.says_why else {}
        usage = {"prompt_tokens": self.count(body["prompt"]), "completion_tokens": used}
        return {"choices": [choice], **({"usage": usage} if self.gives_usage else {})}

    def chat(self, body: Body) -> Body:
        """The same completion in a chat's words; two tokens of every prompt are its template's."""
        (message,) = body["messages"]
        most = body["max_completion_tokens" if self.newer_budget else "max_tokens"]
        answer = self.complete({key: body[key] for key in body if key != "messages"} | {
            "prompt": message["content"], "max_tokens": most,
        })  # fmt: skip
        (choice,) = answer["choices"]
        choice["message"] = {"role": "assistant", "content": choice.pop("text")}
        if self.gives_usage:
            answer["usage"]["prompt_tokens"] += 2
        return answer


def echoed(body: Body) -> Body:
    """The log-probabilities of a prompt, and of one more token."""
    ids = [*body["prompt"], END_ID]
    values = [None, *(logprob(ids[:i], ids[i]) for i in range(1, len(ids)))]
    top = [value if value is None else {"x": max(value, -0.25)} for value in values]
    found = {"token_logprobs": values, "top_logprobs": top, "text_offset": [0] * len(ids)}
    return {"choices": [{"text": "echo", "finish_reason": "length", "logprobs": found}], "usage": {"prompt_tokens": 1}}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: StubServer  # type: ignore[assignment]

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a test's output is the test's."""

    def answer(self, status: int, content: object, **headers: str) -> None:
        text = content if isinstance(content, str) else json.dumps(content)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def do_GET(self) -> None:
        self.server.stub.keys.append(self.headers.get("Authorization"))
        self.answer(200, {"data": self.server.stub.models})

    def do_POST(self) -> None:
        stub = self.server.stub
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        stub.keys.append(self.headers.get("Authorization"))
        stub.paths.append(self.path)
        if "max_tokens" in body and "messages" in body and stub.newer_budget:
            words = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
            self.answer(400, {"error": {"message": words}})
            return
        if "seed" not in body and not body.get("echo"):
            self.answer(200, {"choices": [], "usage": {"prompt_tokens": stub.count(body["prompt"])}})
            return
        with stub.counted():
            fault = stub.take(body)
            if wait := stub.delay_s(body):
                time.sleep(wait)
            try:
                fault(self) if fault else self.answer(200, stub.complete(body))
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True


class StubServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, stub: Stub) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.stub = stub
        stub.url = f"http://127.0.0.1:{self.server_address[1]}/v1"


@contextmanager
def served() -> Iterator[Stub]:
    """A stub that answers for the length of a `with` block."""
    stub = Stub()
    with StubServer(stub) as server:
        thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.01), daemon=True)
        thread.start()
        try:
            yield stub
        finally:
            server.shutdown()
            thread.join()
