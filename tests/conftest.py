"""What every test has: no network, no global state of the user's, one torch thread, and a tiny random model."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# With two busy cores, one thread is several times faster than two that wait for each other.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["WANDB_MODE"] = "offline"


class NetworkBlockedError(RuntimeError):
    """A test tried to reach another machine."""


def _refuse(self: socket.socket, address: object) -> None:
    raise NetworkBlockedError(f"a test tried to reach {address}")


_connect = socket.socket.connect


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Local sockets work (W&B's own service, gloo); anything beyond this machine is refused."""

    def connect(self: socket.socket, address: object) -> object:
        local = not isinstance(address, tuple) or str(address[0]) in ("127.0.0.1", "::1", "localhost")
        return _connect(self, address) if local else _refuse(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", connect)


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The user's own configs and runs must not reach a test, nor a test them."""
    monkeypatch.setenv("SELFALIGN_HOME", str(tmp_path_factory.getbasetemp() / "home"))
    for name in ("WANDB_API_KEY", "SELFALIGN_STORE", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    yield


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a two-layer random Llama and a byte-level tokenizer, context 4,096."""
    from selfalign.engines.model import write_tiny_random

    folder = tmp_path_factory.mktemp("models") / "tiny"
    folder.mkdir()
    write_tiny_random(folder, context_length=4096)
    return folder


@pytest.fixture
def real_data() -> Path:
    """The folder of the real evaluation data; skips where SELFALIGN_DATA does not name it."""
    folder = os.environ.get("SELFALIGN_DATA")
    if not folder:
        pytest.skip("SELFALIGN_DATA does not name a folder with the real evaluation data")
    return Path(folder).resolve()
