"""Log-probabilities of continuations: `engine=huggingface` against lm-eval's own HFLM, in one process.

    python benchmarks/scoring.py [--parts prefix truthfulqa suite] [--rounds 3] [--data DIR] [--model DIR] [--share 1]

- prefix      300 requests behind 1,700 tokens that they all begin with, on a random Llama of 5 million parameters.
- truthfulqa  TruthfulQA's multiple choice on its ordinary prompts: six worked questions, then the question, then each of its
              true and false answers. Needs the official data (--data, or SELFALIGN_DATA) and takes a model folder (--model).
- suite       what a run with evaluation=paper asks about TruthfulQA and HHH: every pair of every protocol in the chat layout, task
              by task, through the class that lm-eval drives (its files included), of all items or a seeded share (--share).

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
from selfalign.evaluation.catalogue import catalogue
from selfalign.evaluation.data import choose, load
from selfalign.evaluation.lm import EngineLM
from selfalign.evaluation.protocols import EXAMS, default_chat

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


def suite(data: Path, share: float) -> dict[str, list[Pair]]:
    """What is asked about the items of both tasks, or about a share of each that a seed chooses."""
    found = {}
    for task in (catalogue()[name] for name in ("truthfulqa_mc", "hhh_alignment")):
        items = load(task, str(data))
        chosen = choose(items, round(share * len(items)), 0)
        exams = [EXAMS[name] for name in task.protocols]
        found[task.name] = [pair for item in chosen for exam in exams for pair in exam.pairs(default_chat(), item)]
        print(f"{task.name}: {len(chosen)} of {len(items)} items, {len(found[task.name])} requests")
    return found


def compare(folder: Path, tasks: dict[str, list[Pair]], rounds: int, *, by_lm: bool = False) -> None:
    """Check that both sides agree, then time them; `by_lm`: through the class that lm-eval drives, instead of the engine alone."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    settings = ModelSettings(str(folder))
    theirs: Any = HFLM(
        pretrained=transformers.AutoModelForCausalLM.from_pretrained(folder).eval(), tokenizer=load_tokenizer(settings),
        backend="causal", batch_size=BATCH, device="cpu", max_length=HuggingFace(settings).context_length(),
        prefix_token_id=0,
    )  # fmt: skip
    own: Any = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    instances = {
        name: [
            Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=number)
            for number, pair in enumerate(pairs)
        ]
        for name, pairs in tasks.items()
    }
    requests = {
        name: [ScoreRequest(str(number), *pair, _common(pairs)) for number, pair in enumerate(pairs)]
        for name, pairs in tasks.items()
    }

    def ours() -> list[float]:
        # An engine that has computed nothing yet, so that every round pays for everything.
        own.set_attn_implementation("sdpa")
        engine = HuggingFaceEngine(own, folder, context_length=theirs.max_length, batch_size=BATCH)
        if by_lm:
            with tempfile.TemporaryDirectory() as kept:
                lm = EngineLM(engine, Path(kept))
                return [logprob for name in tasks for logprob, _ in lm.loglikelihood(instances[name])]
        scored = [{result.id: result.logprob for result in engine.score(requests[name])} for name in tasks]
        return [found[str(number)] for found in scored for number in range(len(found))]

    def by_hflm() -> list[float]:
        return [logprob for name in tasks for logprob, _ in theirs.loglikelihood(instances[name], disable_tqdm=True)]

    worst = max(abs(one - other) for one, other in zip(ours(), by_hflm(), strict=True))
    total = sum(map(len, tasks.values()))
    print(f"{total} requests, largest difference of a log-probability {worst:.1e}")
    if worst > 1e-4:
        sys.exit("expected equal log-probabilities; the figures below would compare different work")
    seconds = alternate({"engine=huggingface": ours, "lm-eval HFLM": by_hflm}, rounds)
    for name, value in seconds.items():
        print(f"{name:20} {total / value:8.1f} requests/CPU-s, {value:.1f} CPU-s")
    print(f"ratio {seconds['lm-eval HFLM'] / seconds['engine=huggingface']:.1f}")


def _common(pairs: list[Pair]) -> str:
    """The whole lines that all contexts begin with."""
    return os.path.commonprefix([context for context, _ in pairs]).rpartition("\n")[0] + "\n"


def main() -> None:
    """Print every part's figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ["prefix", "truthfulqa", "suite"]
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data", type=Path, default=os.environ.get("SELFALIGN_DATA"))
    parser.add_argument("--questions", type=int, default=817, help="of TruthfulQA: the first so many")
    parser.add_argument("--share", type=float, default=1.0, help="of each task's items in the suite, chosen by a seed")
    parser.add_argument("--model", type=Path, help="a model folder for the data (default: the random model)")
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
            compare(folder, {"prefix": behind_a_prefix(folder)}, given.rounds)
        for part in (name for name in parts[1:] if name in given.parts):
            print(f"\n## {part}")
            if given.data is None:
                print("left out: it needs --data or SELFALIGN_DATA (selfalign data fetch)")
                continue
            model, data = given.model or folder, Path(given.data)
            if part == "truthfulqa":
                compare(model, {part: truthfulqa(data, given.questions)}, given.rounds)
            else:
                compare(model, suite(data, given.share), given.rounds, by_lm=True)


if __name__ == "__main__":
    main()
