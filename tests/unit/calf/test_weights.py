import json

from selfalign.resources import PACKAGE

WEIGHTS = PACKAGE / "calf" / "weights"


def test_the_shipped_model_is_a_small_ordinary_folder_with_a_card():
    names = {path.name for path in WEIGHTS.iterdir()}
    assert {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    } <= names
    assert "README.md" in names
    assert sum(path.stat().st_size for path in WEIGHTS.iterdir()) <= 12 * 2**20


def test_the_shipped_weights_are_finite_half_precision():
    from safetensors.numpy import load_file

    weights = load_file(WEIGHTS / "model.safetensors")
    assert {str(array.dtype) for array in weights.values()} == {"float16"}
    assert all(abs(array.astype("float32")).max() < 1e4 for array in weights.values())
    config = json.loads((WEIGHTS / "config.json").read_text(encoding="utf-8"))
    assert weights["model.embed_tokens.weight"].shape == (config["vocab_size"], config["hidden_size"])


def test_the_shipped_tokenizer_gives_back_texts_and_adds_nothing():
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(WEIGHTS / "tokenizer.json"))
    for text in ("User: a\n\n  b , c .\n", " true", "\n\n### User\n", "naïve — 12 (step-by-step)"):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text
