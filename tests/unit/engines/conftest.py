"""Random models over words, each written once, and an engine over one of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.engines.word_models import write_model


@pytest.fixture(scope="session")
def random_model(tmp_path_factory):
    """kind -> the folder of a random model of that family, written once."""
    made: dict[str, Path] = {}

    def get(kind: str = "llama") -> Path:
        if kind not in made:
            made[kind] = write_model(tmp_path_factory.mktemp("models") / kind, kind)
        return made[kind]

    return get


@pytest.fixture(scope="session")
def llama(random_model) -> Path:
    return random_model("llama")


@pytest.fixture(scope="session")
def engine(llama):
    """An engine over the random Llama, one for all tests."""
    import torch

    from selfalign.engines.huggingface import HuggingFace
    from selfalign.engines.model import ModelSettings

    torch.set_num_threads(1)
    with HuggingFace(ModelSettings(str(llama)), batch_size=8).open() as opened:
        yield opened
