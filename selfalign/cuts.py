"""Rules that shorten or reword an answer: a text in, the text that is left out of it.

They damage good answers too; each exists because the reference has it, and is off by default. What they take away stays in
`Response.raw`, and which of them did in `Response.cut`. Sources: IBM/Dromedary, branch dromedary_v1,
`merge_and_fileter_self_align_with_dummy.py` (stage 2) and `merge_and_filter_verbose_clone_output.py` (stage 4); branch main
for Dromedary-2.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum

REPEATED_CLAUSE = "repeated_clause"
"""In `Response.cut`: the answer ends before its first clause that stood in it before."""
LAST_WORD = "last_word"
"""In `Response.cut`: the answer is unfinished, so its last word, which may be half a word, is gone."""
LIST_ITEMS = "list_items"
"""In `Response.cut`: the answer ends before the first item of a list beyond the allowed number."""


class Dedup(StrEnum):
    """Whether an answer is cut before the first clause that it has said before, and where clauses end.

    Meant for reproducing the reference only: it truncates code with two equal lines, poems with a refrain, numbered lists
    in numbered lists, and two decimals with the same whole part. The filter `repetition` finds circles without that.
    """

    none = "none"
    """Nothing is cut."""
    reference = "reference"
    """A clause ends after a line break and each of . ? ! ; : , (dromedary_v1)."""
    reference_v2 = "reference_v2"
    """It ends after a backtick too (Dromedary-2; also dromedary_v1's last version of the rule of stage 4)."""


_CLAUSE_ENDS = {Dedup.reference: "\n.?!;:,", Dedup.reference_v2: "\n.?!;:,`"}


def before_repeat(text: str, dedup: Dedup, *, is_finished: bool) -> str:
    """The text before its first clause that already stood in it, stripped.

    Clauses are compared to the character, with the white space before them; one that is nothing but its end mark may
    repeat. `is_finished`: another turn follows the text after a blank line, so its last line ends in a line break too.
    """
    if dedup is Dedup.none:
        return text
    ends = _CLAUSE_ENDS[dedup]
    seen: set[str] = set()
    kept: list[str] = []
    for clause in re.split(f"(?<=[{re.escape(ends)}])", text + "\n\n" * is_finished):
        if clause in seen and clause not in ends:
            break
        seen.add(clause)
        kept.append(clause)
    return "".join(kept).strip()


def before_item(text: str, max_items: int) -> str:
    """The text before the line that begins with the number after `max_items`, stripped; 0 leaves it as it is."""
    return text.partition(f"\n{max_items + 1}. ")[0].strip() if max_items else text


def without_last_word(text: str) -> str:
    """The text before its last space, stripped; nothing is left of a single word."""
    return text.rpartition(" ")[0].strip()


def reworded(text: str, rewrites: Mapping[str, str]) -> str:
    """The text with the first of the leading phrases that it begins with replaced."""
    for old, new in rewrites.items():
        if text.startswith(old):
            return new + text.removeprefix(old)
    return text


def fixed_answer(question: str, answers: Mapping[str, str]) -> str | None:
    """The answer that stands for every question in which its key occurs; None where no key does."""
    return next((answer for key, answer in answers.items() if key in question), None)
