"""Stage 1c, merge: the prompts of all sources in one list, with stable ids; a prompt met twice, or nearly, is kept once.

Source: IBM/Dromedary dromedary_v1 `merge_all_synthetic_inputs.py` (which shuffles without a seed, keeps no ids and does
not compare sources).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from selfalign import jsonl
from selfalign.artifacts import Artifact, Outcome
from selfalign.errors import DataError
from selfalign.identity import file_digest, plain, short_id
from selfalign.records import Prompt, from_row, to_row
from selfalign.similarity import Novelty
from selfalign.stages.base import Context, count


@dataclass(frozen=True)
class Merge:
    """Settings of stage 1c."""

    file: str = ""
    """JSONL of further prompts with `instruction` and optionally `input` (as Dromedary-2 used real prompts); empty
    for none."""
    near_duplicate: float = 0.9
    """Highest ROUGE-L F (instruction and input) with a kept prompt of another source (0..1); 1 keeps all but duplicates
    (reference: sources are not compared). Within a source, its own stage has compared instructions."""
    limit: int = 0
    """Most prompts to keep, chosen by id, so that the choice does not depend on order; 0 keeps all."""

    VERSION: ClassVar[str] = "2"
    READS: ClassVar[tuple[str, ...]] = ()
    OPTIONAL: ClassVar[tuple[str, ...]] = ("self_instruct", "red_team")
    GENERATES: ClassVar[bool] = False

    def identity(self, context: Context) -> Mapping[str, Any]:
        """Settings, and the content of the file of further prompts."""
        settings = plain(self)
        del settings["file"]
        return {"settings": settings, "content": {"file": file_digest(Path(self.file)) if self.file else None}}

    def problems(self, context: Context) -> list[str]:
        """Impossible numbers, and a file that is missing or has a row without an instruction."""
        found = []
        if not 0 < self.near_duplicate <= 1:
            found.append(
                f"merge.near_duplicate: expected a number above 0, at most 1 (which compares nothing), found "
                f"{self.near_duplicate}; the default is 0.9"
            )
        if self.limit < 0:
            found.append(f"merge.limit: expected 0 (all) or more, found {self.limit}")
        if self.file and not Path(self.file).is_file():
            found.append(
                f"merge.file: expected a JSONL file of prompts, found nothing at '{self.file}'; check the path"
            )
        elif self.file:
            try:
                self._from_file()
            except DataError as error:
                found.append(f"merge.file: {error}")
        return found

    def unfit(self, context: Context) -> str:
        """Nothing: no model takes part."""
        return ""

    def _from_file(self) -> list[Prompt]:
        found = []
        for number, row in enumerate(jsonl.iterate(Path(self.file)), start=1):
            instruction, extra = row.get("instruction"), row.get("input") or ""
            if not isinstance(instruction, str) or not instruction.strip() or not isinstance(extra, str):
                raise DataError(
                    f"{self.file}: row {number}: expected a text 'instruction' (and a text 'input'), found {row}"
                )
            found.append(Prompt(short_id(instruction, extra), instruction, extra, "file"))
        return found

    def run(self, inputs: Mapping[str, Artifact], out: Path, context: Context) -> Outcome:
        """Write `prompts.jsonl`: every kept prompt of the sources, duplicates marked."""
        rows: list[Prompt] = []
        for role in self.OPTIONAL:
            if role in inputs:
                prompts = (from_row(Prompt, row) for row in jsonl.iterate(inputs[role].file("prompts.jsonl")))
                rows += [prompt for prompt in prompts if prompt.kept]
        if self.file:
            rows += self._from_file()
        merged = self._without_repeats(rows)
        kept = sorted(row.id for row in merged if row.kept)
        chosen = set(kept[: self.limit]) if self.limit else set(kept)
        merged = [replace(r, kept=False, reason="beyond_limit") if r.kept and r.id not in chosen else r for r in merged]
        jsonl.write(out / "prompts.jsonl", map(to_row, merged))
        outcome = count(merged)
        # Told further: where nothing is left, the reasons are in the artifacts that this one reads.
        outcome.metrics = {
            "sources": "; ".join(_funnel(role, inputs[role]) for role in self.OPTIONAL if role in inputs)
        }
        outcome.metrics |= {
            f"from_{source}": sum(row.kept and row.source == source for row in merged)
            for source in sorted({row.source for row in merged})
        }
        return outcome

    def _without_repeats(self, rows: Sequence[Prompt]) -> list[Prompt]:
        """The rows, those marked that say what an earlier one says: the same words, or nearly those of another source."""
        seen: set[tuple[str, ...]] = set()
        pools = {row.source: Novelty(self.near_duplicate) for row in rows}
        merged = []
        for row in rows:
            # Case, punctuation and white space do not make a new prompt.
            key = (*_words(row.instruction), "|", *_words(row.input))
            others = (pool for source, pool in pools.items() if source != row.source)
            reason = "duplicate" if key in seen else ""
            if not reason and self.near_duplicate < 1 and any(pool.reason(row.text) for pool in others):
                reason = "near_duplicate"
            if not reason:
                pools[row.source].add(row.text)
            seen.add(key)
            merged.append(replace(row, kept=False, reason=reason) if reason else row)
        return merged


def _funnel(role: str, artifact: Artifact) -> str:
    counts = artifact.manifest["counts"]
    dropped = ", ".join(f"{reason} {number}" for reason, number in counts["dropped"].items())
    return f"{role} kept {counts['kept']} of {counts['in']}" + (f" ({dropped})" if dropped else "")


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())
