"""Statistics of sweeps: outcomes of items in; p-values, intervals, corrections and effects of factors out.

Pure functions of numpy arrays, which know nothing of runs or models. An item's difference between two arms is the unit
unless a function says otherwise, so that every comparison is paired.
"""

from selfalign.statistics.corrections import benjamini_hochberg, holm
from selfalign.statistics.designs import Effect, Shapley, aliases, effects, pair_interaction, plackett_burman, shapley
from selfalign.statistics.length_control import LengthControlled, length_controlled
from selfalign.statistics.outcomes import Cluster, Flips, Pairs, align, flips, units
from selfalign.statistics.paired import (
    Equivalence,
    Estimate,
    PValue,
    bootstrap,
    equivalence,
    mcnemar,
    min_f,
    ratio,
    sign_flips,
    unpaired,
)
from selfalign.statistics.power import Rate, binary_pairs, minimum_detectable_effect, rejection_rate
from selfalign.statistics.simulation import NullSweeps, Power, null_sweeps, power_curve

__all__ = [
    "Cluster",
    "Effect",
    "Equivalence",
    "Estimate",
    "Flips",
    "LengthControlled",
    "NullSweeps",
    "PValue",
    "Pairs",
    "Power",
    "Rate",
    "Shapley",
    "aliases",
    "align",
    "benjamini_hochberg",
    "binary_pairs",
    "bootstrap",
    "effects",
    "equivalence",
    "flips",
    "holm",
    "length_controlled",
    "mcnemar",
    "min_f",
    "minimum_detectable_effect",
    "null_sweeps",
    "pair_interaction",
    "plackett_burman",
    "power_curve",
    "ratio",
    "rejection_rate",
    "shapley",
    "sign_flips",
    "units",
    "unpaired",
]
