"""Generation behind one long shared prompt: `engine=huggingface` against transformers, in one process.

    python benchmarks/generation.py [--parts prefix empty lengths arms memory] [--rounds 3] [--rows 32] [--new 128]

- prefix   32 rows behind 1,700 tokens: plain `generate` over whole prompts, and transformers' best way by hand: a StaticCache
           that the prefix's keys and values are copied into, then `generate`.
- empty    the same engine without the prefix: what a prefix that costs nothing would give.
- lengths  128 rows whose answers differ in length, against batches of 32 that end with their longest row.
- arms     the 17 prompts of a leave-one-out sweep in one call, against as many rows behind one prompt.
- memory   the most memory of each, every one in a process of its own.

Greedy, float32, one thread; the figures are medians of tokens per CPU second over alternating rounds. Before anything is timed,
all have to write the same tokens.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers
from setting import (
    PREFIX_TOKENS,
    alternate,
    heading,
    lognormal_budgets,
    peak_mebibytes,
    text_of,
    words,
    write_model,
)
from transformers import DynamicCache, GenerationConfig, LlamaForCausalLM, StaticCache

from selfalign.engines.base import GenerateRequest, Sampling
from selfalign.engines.huggingface import HuggingFaceEngine
from selfalign.engines.model import raw_tokenizer

CONTEXT = 4096
RULES = 16


class Contest:
    """The model twice, and the ways to let it write."""

    def __init__(self, folder: Path, rows: int, new: int) -> None:
        self.rows, self.new = rows, new
        self.tokenizer = raw_tokenizer(folder)
        self.theirs = LlamaForCausalLM.from_pretrained(folder, attn_implementation="sdpa").eval()
        self.folder = folder
        self.own = LlamaForCausalLM.from_pretrained(folder, attn_implementation="sdpa").eval()
        self.engine = self.fresh()
        self.prefix = text_of(self.tokenizer, PREFIX_TOKENS, seed=1)

    def requests(
        self, count: int, stem: str, budgets: list[int] | None = None, name: str = ""
    ) -> list[GenerateRequest]:
        """Questions of 8 to 23 words behind a stem."""
        return [
            GenerateRequest(
                f"{name}{number}", stem + words(8 + number % 16, seed=number),
                Sampling(max_new_tokens=budgets[number] if budgets else self.new, temperature=0.0), shared=stem,
            )
            for number in range(count)
        ]  # fmt: skip

    def fresh(self) -> HuggingFaceEngine:
        """An engine that has computed nothing yet."""
        own: Any = self.own
        own.set_attn_implementation("sdpa")
        return HuggingFaceEngine(own, self.folder, context_length=CONTEXT, batch_size=self.rows)

    def ours(self, requests: list[GenerateRequest], engine: HuggingFaceEngine | None = None) -> dict[str, str]:
        """The texts by `engine=huggingface`: by one that has computed nothing yet, where none is given."""
        return {one.id: one.text for one in (engine or self.fresh()).generate(requests)}

    def plain(self, requests: list[GenerateRequest]) -> list[list[int]]:
        """New tokens by `generate`, prompts padded on the left."""
        prompts = [self.tokenizer.encode(one.prompt).ids for one in requests]
        width = max(map(len, prompts))
        ids = torch.tensor([[0] * (width - len(one)) + one for one in prompts])
        real = torch.tensor([[0] * (width - len(one)) + [1] * len(one) for one in prompts])
        settings = GenerationConfig(max_new_tokens=self._most(requests), do_sample=False, pad_token_id=0)
        with torch.inference_mode():
            out = self.theirs.generate(ids, attention_mask=real, generation_config=settings)
        return out[:, width:].tolist()

    def static(self, requests: list[GenerateRequest]) -> list[list[int]]:
        """New tokens by `generate` over a StaticCache that holds the prefix in every row."""
        prefix = self.tokenizer.encode(requests[0].shared).ids[:-2]
        rest = [self.tokenizer.encode(one.prompt).ids[len(prefix) :] for one in requests]
        width, count, new = max(map(len, rest)), len(rest), self._most(requests)
        with torch.inference_mode():
            held = DynamicCache(config=self.theirs.config)
            start = torch.tensor([prefix])
            self.theirs(start, past_key_values=held, use_cache=True, logits_to_keep=1)
            cache = StaticCache(config=self.theirs.config, max_cache_len=len(prefix) + width + new)
            for number, layer in enumerate(held.layers):
                cache.update(layer.keys.expand(count, -1, -1, -1), layer.values.expand(count, -1, -1, -1), number)
            ids = torch.tensor([[*prefix, *[0] * (width - len(one)), *one] for one in rest])
            real = torch.tensor([[1] * len(prefix) + [0] * (width - len(one)) + [1] * len(one) for one in rest])
            settings = GenerationConfig(max_new_tokens=new, do_sample=False, pad_token_id=0)
            out = self.theirs.generate(ids, attention_mask=real, past_key_values=cache, generation_config=settings)
        return out[:, ids.shape[1] :].tolist()

    def static_batches(self, requests: list[GenerateRequest]) -> list[list[int]]:
        """The same, in batches of `rows` one after another; what is written beyond a row's budget is thrown away."""
        found = []
        for start in range(0, len(requests), self.rows):
            batch = requests[start : start + self.rows]
            found += [out[: one.sampling.max_new_tokens] for out, one in zip(self.static(batch), batch, strict=True)]
        return found

    def _most(self, requests: list[GenerateRequest]) -> int:
        return max(one.sampling.max_new_tokens for one in requests)

    def check(self, requests: list[GenerateRequest], theirs: list[list[int]], name: str) -> None:
        """Stop where a row of tokens is not what the engine wrote."""
        ours = self.ours(requests)
        expected = [self.tokenizer.decode(tokens) for tokens in theirs]
        same = sum(
            ours[one.id].rstrip("\ufffd") == text.rstrip("\ufffd") for one, text in zip(requests, expected, strict=True)
        )
        print(f"same text as {name} in {same} of {len(requests)} rows")
        if same < len(requests):
            sys.exit("expected the same greedy tokens; the figures below would compare different work")


def table(tokens: dict[str, int], seconds: dict[str, float]) -> None:
    """Tokens per CPU second, and the ratio of the first to each."""
    rates = {name: tokens[name] / seconds[name] for name in seconds}
    first = next(iter(rates.values()))
    for name, rate in rates.items():
        print(f"{name:42} {rate:8.0f} tokens/CPU-s   first / this {first / rate:6.2f}")


def arm_stems(contest: Contest) -> list[str]:
    """The stems of a leave-one-out sweep: rules without each of them, numbered anew, and exemplars behind them."""
    rules = [words(24, seed=50 + rule) for rule in range(RULES)]
    exemplars = text_of(contest.tokenizer, PREFIX_TOKENS - 30 * RULES, seed=2)
    stems = []
    for left in range(-1, RULES):
        kept = [rule for number, rule in enumerate(rules) if number != left]
        stems.append("\n".join(f"{number} {rule}" for number, rule in enumerate(kept, start=1)) + "\n" + exemplars)
    return stems


def run(part: str, contest: Contest, rounds: int) -> None:
    """One part of the comparison."""
    rows, new = contest.rows, contest.new
    behind = contest.requests(rows, contest.prefix)
    print(f"\n## {part}")
    if part == "prefix":
        contest.check(behind, contest.plain(behind), "generate")
        contest.check(behind, contest.static(behind), "StaticCache")
        work = {
            "engine=huggingface": lambda: contest.ours(behind),
            "StaticCache filled from the prefix": lambda: contest.static(behind),
            "generate": lambda: contest.plain(behind),
        }
        table(dict.fromkeys(work, rows * new), alternate(work, rounds))
    elif part == "empty":
        many, bare = contest.requests(4 * rows, contest.prefix), contest.requests(4 * rows, "")
        work = {
            "four times the rows, behind the prefix": lambda: contest.ours(many),
            "four times the rows, without a prefix": lambda: contest.ours(bare),
            "one batch, behind the prefix, computed before": lambda: contest.ours(behind, contest.engine),
            "one batch, without a prefix": lambda: contest.ours(bare[:rows], contest.engine),
        }
        # A named start is kept from call to call: what is left is what every batch but a stage's first pays.
        contest.ours(behind[:1], contest.engine)
        seconds = alternate(work, rounds)
        table({name: (4 if "four" in name else 1) * rows * new for name in work}, seconds)
        four, four_bare, one, one_bare = (seconds[name] for name in work)
        print(
            f"of the rate without a prefix: {one_bare / one:.2f} for one batch, {four_bare / four:.2f} for four times the rows"
        )
    elif part == "lengths":
        budgets = list(lognormal_budgets(4 * rows, seed=3))
        uneven = contest.requests(4 * rows, contest.prefix, budgets)
        contest.check(uneven, contest.static_batches(uneven), "StaticCache")
        print(f"{len(budgets)} rows of {sum(budgets) / len(budgets):.0f} new tokens on average, {max(budgets)} at most")
        work = {
            "engine=huggingface": lambda: contest.ours(uneven),
            "batches with a StaticCache": lambda: contest.static_batches(uneven),
        }
        table(dict.fromkeys(work, sum(budgets)), alternate(work, rounds))
    elif part == "arms":
        stems = arm_stems(contest)
        arms = [one for arm, stem in enumerate(stems) for one in contest.requests(rows, stem, name=f"{arm}.")]
        single = [one for arm in range(len(stems)) for one in contest.requests(rows, stems[0], name=f"{arm}.")]
        read = [contest.tokenizer.encode(one.prompt).ids[:-1] for one in arms]
        distinct = len({hash(tuple(tokens[: end + 1])) for tokens in read for end in range(len(tokens))})
        engine = contest.fresh()
        together = contest.ours(arms, engine)
        print(f"tokens of the {len(arms)} prompts {sum(map(len, read))}, of their tree {distinct}, computed "
              f"{engine.computed_tokens}")  # fmt: skip
        alone: dict[str, str] = {}
        for arm in range(len(stems)):
            alone |= contest.ours([one for one in arms if one.id.startswith(f"{arm}.")])
        print(
            f"same text as every arm alone in {sum(alone[name] == text for name, text in together.items())} of {len(arms)} rows"
        )
        first = {name: [replace(one, sampling=replace(one.sampling, max_new_tokens=1)) for one in asked]
                 for name, asked in (("17", arms), ("1", single))}  # fmt: skip
        work = {
            "17 prompts": lambda: contest.ours(arms),
            "1 prompt": lambda: contest.ours(single),
            "17 prompts, to the first token": lambda: contest.ours(first["17"]),
            "1 prompt, to the first token": lambda: contest.ours(first["1"]),
        }
        seconds = alternate(work, max(1, rounds - 1))
        table({name: len(arms) * new for name in list(work)[:2]}, {name: seconds[name] for name in list(work)[:2]})
        many, one = (seconds[name] - seconds[f"{name}, to the first token"] for name in ("17 prompts", "1 prompt"))
        print(f"prompts alone {seconds['17 prompts, to the first token']:.1f} and {seconds['1 prompt, to the first token']:.1f} s; "
              f"writing alone {one / many:.2f} of one prompt's rate")  # fmt: skip


def memory(folder: Path, given: argparse.Namespace) -> None:
    """The most memory of every way, each in a process of its own, above that of a process that writes nothing."""
    print("\n## memory")
    peaks = {}
    for name in ("nothing", "ours", "static", "plain"):
        command = [
            sys.executable,
            __file__,
            "--alone",
            name,
            str(folder),
            "--rows",
            str(given.rows),
            "--new",
            str(given.new),
        ]
        peaks[name] = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])
        print(f"{name:10} {peaks[name]:8.0f} MiB")
    print(f"ours / static: whole processes {peaks['ours'] / peaks['static']:.2f}, beyond a process that writes nothing "
          f"{(peaks['ours'] - peaks['nothing']) / (peaks['static'] - peaks['nothing']):.2f}")  # fmt: skip


def alone(name: str, folder: Path, given: argparse.Namespace) -> None:
    """One way, once; prints the peak."""
    contest = Contest(folder, given.rows, given.new)
    requests = contest.requests(given.rows, contest.prefix)
    ways: dict[str, Any] = {"ours": contest.ours, "static": contest.static, "plain": contest.plain}
    if name in ways:
        ways[name](requests)
    print(peak_mebibytes())


def main() -> None:
    """Print every part's figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ["prefix", "empty", "lengths", "arms", "memory"]
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--new", type=int, default=128, help="new tokens of every row")
    parser.add_argument("--alone", nargs=2, metavar=("WAY", "FOLDER"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    if given.alone:
        alone(given.alone[0], Path(given.alone[1]), given)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(folder, CONTEXT)
        contest = Contest(folder, given.rows, given.new)
        prefix = len(contest.tokenizer.encode(contest.prefix).ids)
        print(
            f"{heading()}, greedy\n{given.rows} rows, prefix of {prefix} tokens, {given.new} new tokens, {given.rounds} rounds"
        )
        for part in given.parts:
            if part == "memory":
                memory(folder, given)
            else:
                run(part, contest, given.rounds)


if __name__ == "__main__":
    main()
