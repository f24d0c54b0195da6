"""The novelty filter of Self-Instruct: this project's pool against the original's loop over all pairs, in one process.

    python benchmarks/novelty.py [--pool 20000] [--candidates 5] [--rounds 3] [--grow 360000]

The original (IBM/Dromedary, Stanford Alpaca) compares every candidate with every instruction kept so far by rouge_score's LCS
on tokens prepared before; one of its worker processes is measured here. Instructions are words drawn by Zipf's law, 5 to 25 each,
a part of them near copies of others. Rounds alternate; the figures are medians of seconds per candidate, and on how many candidates
both decide alike is printed with them. `--grow` then fills a pool from nothing, as a run would, and prints how long that took.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from itertools import accumulate

from rouge_score import rouge_scorer

from selfalign.similarity import Novelty, rouge_tokens

THRESHOLD = 0.7
VOCABULARY = 30_000
COPIES = 0.2
"""Share of the instructions that are another one with a word or two changed."""


def instructions(count: int, seed: int) -> list[str]:
    """Seeded instructions, the same for the same arguments."""
    draw = random.Random(seed)
    words = [f"w{number}" for number in range(VOCABULARY)]
    cumulative = list(accumulate(1 / rank for rank in range(1, VOCABULARY + 1)))
    found: list[str] = []
    while len(found) < count:
        if found and draw.random() < COPIES:
            copy = draw.choice(found).split()
            for _ in range(draw.randint(1, 3)):
                copy[draw.randrange(len(copy))] = draw.choice(words)
            found.append(" ".join(copy))
        else:
            found.append(" ".join(draw.choices(words, cum_weights=cumulative, k=draw.randint(5, 25))))
    return found


def all_pairs(candidate: str, pool: list[list[str]]) -> bool:
    """Whether the original would drop the candidate."""
    tokens = rouge_tokens(candidate)
    return max(rouge_scorer._score_lcs(tokens, other).fmeasure for other in pool) > THRESHOLD


def main() -> None:
    """Print both times per candidate, their ratio, and how long a large pool takes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool", type=int, default=20_000, help="instructions kept already")
    parser.add_argument("--candidates", type=int, default=5, help="instructions compared with them in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--grow", type=int, default=360_000, help="instructions of the pool that is filled from nothing; 0 = none"
    )
    given = parser.parse_args()
    kept = instructions(given.pool, 0)
    novelty, tokens = Novelty(THRESHOLD), [rouge_tokens(text) for text in kept]
    for text in kept:
        novelty.add(text)
    draw, fresh = random.Random(1), instructions(given.candidates * given.rounds, 2)
    # Half of the candidates resemble something in the pool.
    candidates = [f"{draw.choice(kept)} {text.split()[0]}" if n % 2 else text for n, text in enumerate(fresh)]
    seconds: dict[str, list[float]] = {"selfalign": [], "all pairs": []}
    same = dropped = 0
    for round_number in range(given.rounds):
        part = candidates[round_number * given.candidates :][: given.candidates]
        start = time.process_time()
        mine = [bool(novelty.reason(text)) for text in part]
        seconds["selfalign"].append((time.process_time() - start) / len(part))
        start = time.process_time()
        theirs = [all_pairs(text, tokens) for text in part]
        seconds["all pairs"].append((time.process_time() - start) / len(part))
        same += sum(a == b for a, b in zip(mine, theirs, strict=True))
        dropped += sum(theirs)
    own, other = (statistics.median(seconds[name]) for name in ("selfalign", "all pairs"))
    print(
        f"{given.pool:,} instructions kept, {len(candidates)} candidates, one process; same decision on {same}, {dropped} dropped"
    )
    print(f"selfalign  {own * 1000:10.3f} ms of CPU per candidate (median of {given.rounds} rounds)")
    print(f"all pairs  {other * 1000:10.3f} ms of CPU per candidate (rouge_score)")
    print(f"ratio      {other / own:10.0f}")
    if given.grow:
        texts, pool = instructions(given.grow, 3), Novelty(THRESHOLD)
        start = time.process_time()
        count = 0
        for text in texts:
            if not pool.reason(text):
                pool.add(text)
                count += 1
        print(f"{given.grow:,} candidates from nothing: {time.process_time() - start:.0f} s of CPU, {count:,} kept")


if __name__ == "__main__":
    main()
