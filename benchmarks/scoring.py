"""Log-probabilities of continuations: `engine=huggingface` against lm-eval's own HFLM, in one process.

    python benchmarks/scoring.py [--parts prefix truthfulqa] [--rounds 3] [--data DIR] [--model DIR]

- prefix      300 requests behind 1,700 tokens that they all begin with, on a random Llama of 5 million parameters.
- truthfulqa  TruthfulQA's multiple choice on its ordinary prompts: six worked questions, then the question, then each of its
              true and false answers. Needs the official data (--data, or SELFALIGN_DATA) and takes a model folder (--model).

Both sides get the same contexts and continuations; HFLM has batches of 32. A model whose tokens span the border of both (a
tokenizer that joins `:` with what follows) cannot be compared: lm-eval and selfalign cut there otherwise. One thread,
float32. Figures are medians of CPU seconds over alternating rounds; before anything is timed, all log-probabilities have to
agree to 1e-4.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from setting import PREFIX_TOKENS, alternate, heading, text_of, words, write_model

from selfalign.engines.base import ScoreRequest
from selfalign.engines.huggingface import HuggingFace, HuggingFaceEngine
from selfalign.engines.model import ModelSettings, load_tokenizer, raw_tokenizer

Pair = tuple[str, str]
BATCH = 32


def behind_a_prefix(folder: Path) -> list[Pair]:
    """300 contexts with one long start, each with a continuation."""
    stem = text_of(raw_tokenizer(folder), PREFIX_TOKENS, seed=1)
    return [(stem + words(8 + n % 20, seed=n), " " + words(1 + n % 12, seed=1000 + n)) for n in range(300)]


def truthfulqa(data: Path, questions: int) -> list[Pair]:
    """All answers of the official file, each behind six other questions with their best answers and its own question."""
    (path,) = [one for one in sorted(data.rglob("TruthfulQA.csv"))][:1] or sys.exit(
        f"expected TruthfulQA.csv below {data}"
    )
    with open(path, encoding="utf-8-sig", newline="") as stream:
        rows = list(csv.DictReader(stream))
    shots = "".join(f"Q: {row['Question']}\nA: {row['Best Answer']}\n\n" for row in rows[:6])
    answers = [(row["Question"], answer.strip()) for row in rows[:questions] for answer in _answers(row)]
    return [(f"{shots}Q: {question}\nA:", f" {answer}") for question, answer in answers]


def _answers(row: dict[str, str]) -> list[str]:
    return [one for name in ("Correct Answers", "Incorrect Answers") for one in row[name].split(";") if one.strip()]


def compare(folder: Path, pairs: list[Pair], rounds: int) -> None:
    """Check that both sides agree, then time them."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    settings = ModelSettings(str(folder))
    theirs: Any = HFLM(
        pretrained=transformers.AutoModelForCausalLM.from_pretrained(folder).eval(), tokenizer=load_tokenizer(settings),
        backend="causal", batch_size=BATCH, device="cpu", max_length=HuggingFace(settings).context_length(),
        prefix_token_id=0,
    )  # fmt: skip
    own: Any = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    instances = [
        Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=number) for number, pair in enumerate(pairs)
    ]
    requests = [ScoreRequest(str(number), *pair, _common(pairs)) for number, pair in enumerate(pairs)]

    def ours() -> dict[str, float]:
        # An engine that has computed nothing yet, so that every round pays for everything.
        own.set_attn_implementation("sdpa")
        engine = HuggingFaceEngine(own, folder, context_length=theirs.max_length, batch_size=BATCH)
        return {result.id: result.logprob for result in engine.score(requests)}

    def by_hflm() -> list[float]:
        return [logprob for logprob, _ in theirs.loglikelihood(instances, disable_tqdm=True)]

    found, expected = ours(), by_hflm()
    worst = max(abs(found[str(number)] - value) for number, value in enumerate(expected))
    print(f"{len(pairs)} requests, largest difference of a log-probability {worst:.1e}")
    if worst > 1e-4:
        sys.exit("expected equal log-probabilities; the figures below would compare different work")
    seconds = alternate({"engine=huggingface": ours, "lm-eval HFLM": by_hflm}, rounds)
    for name, value in seconds.items():
        print(f"{name:20} {len(pairs) / value:8.1f} requests/CPU-s")
    print(f"ratio {seconds['lm-eval HFLM'] / seconds['engine=huggingface']:.1f}")


def _common(pairs: list[Pair]) -> str:
    """The whole lines that all contexts begin with."""
    return os.path.commonprefix([context for context, _ in pairs]).rpartition("\n")[0] + "\n"


def main() -> None:
    """Print every part's figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=["prefix", "truthfulqa"], default=["prefix", "truthfulqa"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data", type=Path, default=os.environ.get("SELFALIGN_DATA"))
    parser.add_argument("--questions", type=int, default=817, help="of TruthfulQA: the first so many")
    parser.add_argument("--model", type=Path, help="a model folder for truthfulqa (default: the random model)")
    given = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    import lm_eval

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(folder)
        print(f"{heading()}, lm_eval {lm_eval.__version__}")
        if "prefix" in given.parts:
            print("\n## prefix")
            compare(folder, behind_a_prefix(folder), given.rounds)
        if "truthfulqa" in given.parts:
            print("\n## truthfulqa")
            if given.data is None:
                print("left out: it needs --data or SELFALIGN_DATA with TruthfulQA.csv below it (selfalign data fetch)")
                return
            compare(given.model or folder, truthfulqa(Path(given.data), given.questions), given.rounds)


if __name__ == "__main__":
    main()
