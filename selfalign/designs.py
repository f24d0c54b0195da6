"""Which factors each job of a sweep leaves out: pure functions from names to lists of names, one list a job.

A design's jobs differ from one another: a set of factors that comes up twice (the whole set in every permutation of a
Shapley design) is one job. The first job is the control. `statistics/designs.py` analyses what the jobs bring.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from selfalign.errors import ConfigError, unknown
from selfalign.identity import seed_of

Drops = list[list[str]]
"""For each job, the factors that it leaves out, in the order of the whole set."""


@dataclass(frozen=True)
class DesignSettings:
    """What the designs of `sweeps/` can be told; each reads what concerns it."""

    of: list[str] = field(default_factory=list)
    """The factors (principles, or exemplars) that are varied; empty for the whole set. The others stay in every job."""
    subsets: int = 32
    """Jobs of `random_subsets` beside the control (>= 1, and at most as many as there are subsets)."""
    permutations: int = 4
    """Permutations of `shapley`, even and at least 4: each second one is the one before it reversed. 16 factors take 15
    jobs for each, and two more."""
    seed: int = 0
    """Seed of the draws of `random_subsets` and `shapley`; it does not follow the seed of the runs."""
    models: list[str] = field(default_factory=list)
    """Folders or hub names of the models of `model_size`, the smallest first."""


def leave_one_out(factors: Sequence[str], settings: DesignSettings) -> Drops:
    """All factors, then all but each one."""
    return [[], *([name] for name in _varied(factors, settings))]


def add_one(factors: Sequence[str], settings: DesignSettings) -> Drops:
    """None of the varied factors, then each one alone."""
    varied = _varied(factors, settings)
    return [list(varied), *([other for other in varied if other != name] for name in varied)]


def pairs(factors: Sequence[str], settings: DesignSettings) -> Drops:
    """All factors, all but each one, all but each two: what an interaction of two is estimated from."""
    varied = _varied(factors, settings)
    return [[], *([name] for name in varied), *(list(two) for two in itertools.combinations(varied, 2))]


def plackett_burman(factors: Sequence[str], settings: DesignSettings) -> Drops:
    """The runs of `statistics.designs.plackett_burman`: main effects of n factors from the smallest prime q = 3 mod 4 that is
    at least n, plus 1 (16 factors: 20 jobs)."""
    from selfalign.statistics import designs

    varied = _varied(factors, settings)
    rows = designs.plackett_burman(len(varied)).tolist()
    return [[name for name, level in zip(varied, row, strict=True) if level < 0] for row in rows]


def random_subsets(factors: Sequence[str], settings: DesignSettings) -> Drops:
    """All factors, then `settings.subsets` other subsets, each factor in or out with equal chance.

    Raises ConfigError for more subsets than there are.
    """
    varied = _varied(factors, settings)
    if settings.subsets > 2 ** len(varied) - 1:
        raise ConfigError(
            [
                f"design.subsets: expected at most {2 ** len(varied) - 1} subsets of {len(varied)} factors beside the whole set, "
                f"found {settings.subsets}; lower it"
            ]
        )
    draw = random.Random(seed_of("random_subsets", settings.seed))
    found: dict[tuple[str, ...], None] = {(): None}
    while len(found) < settings.subsets + 1:
        found[tuple(name for name in varied if draw.random() < 0.5)] = None
    return [list(dropped) for dropped in found]


def shapley(factors: Sequence[str], settings: DesignSettings) -> Drops:
    """The sets of factors that `settings.permutations` permutations pass through on their way from all factors to none; a set
    that several pass through is one job (Castro, Gómez and Tejada 2009; antithetic: Mitchell et al. 2022)."""
    varied = _varied(factors, settings)
    found: dict[tuple[str, ...], None] = {}
    for order in shapley_orders(varied, settings):
        # The last to join is the first to leave: from the whole set down to none.
        for there in range(len(order), -1, -1):
            gone = set(order[there:])
            found[tuple(name for name in varied if name in gone)] = None
    return [list(dropped) for dropped in found]


def shapley_orders(varied: Sequence[str], settings: DesignSettings) -> list[list[str]]:
    """The permutations of a Shapley design: in each, the order in which factors join; every second one is the one before
    it reversed. What `statistics.designs.shapley` is given, as names."""
    orders = []
    for number in range(settings.permutations // 2):
        order = list(varied)
        random.Random(seed_of("shapley", settings.seed, number)).shuffle(order)
        orders += [order, order[::-1]]
    return orders


DESIGNS: dict[str, Callable[[Sequence[str], DesignSettings], Drops]] = {
    "leave_one_out": leave_one_out,
    "add_one": add_one,
    "pairs": pairs,
    "plackett_burman": plackett_burman,
    "random_subsets": random_subsets,
    "shapley": shapley,
}
"""Name of a design, as files in `sweeps/` give it -> its jobs."""


def drops(design: str, factors: Sequence[str], settings: DesignSettings) -> Drops:
    """The jobs of a design. Raises ConfigError for an unknown design or factor, no factor, and settings out of range."""
    if design not in DESIGNS:
        raise ConfigError([unknown("design", design, DESIGNS)])
    if found := problems(settings):
        raise ConfigError(found)
    return DESIGNS[design](factors, settings)


def problems(settings: DesignSettings) -> list[str]:
    """What is wrong with a design's numbers, whatever its factors are."""
    found = []
    if settings.subsets < 1:
        found.append(f"design.subsets: expected at least 1, found {settings.subsets}; raise it")
    if settings.permutations < 4 or settings.permutations % 2:
        found.append(
            f"design.permutations: expected an even number, 4 or more, found {settings.permutations}; two pairs of a "
            "permutation and its reverse are the least that an error can be estimated from"
        )
    return found


def _varied(factors: Sequence[str], settings: DesignSettings) -> list[str]:
    """The factors that are varied, in the order of the set. Raises ConfigError for one that is not in it, or none."""
    wrong = [f"design.of: {unknown('factor', name, factors)}" for name in settings.of if name not in factors]
    if wrong:
        raise ConfigError(wrong)
    found = [name for name in factors if not settings.of or name in settings.of]
    if not found:
        raise ConfigError(["design: expected factors to vary, found an empty set; choose a set that has some"])
    return found


def failure_limit(text: str) -> int | None:
    """`on_failure` as the number of failed jobs after which no further one is begun; None for no such number.

    Raises ConfigError for anything but `continue`, `stop` and `max:k`.
    """
    if text in ("continue", "stop"):
        return {"continue": None, "stop": 1}[text]
    word, _, number = text.partition(":")
    if word != "max" or not number.isdecimal() or int(number) < 1:
        raise ConfigError(
            [f"on_failure: expected continue, stop or max:k with k of 1 or more, found '{text}'; choose one"]
        )
    return int(number)


def as_choices(values: Iterable[Sequence[str]]) -> str:
    """Lists of names as a swept value in Hydra's notation: `[],[a],[a,b]`."""
    return ",".join(f"[{','.join(names)}]" for names in values)
