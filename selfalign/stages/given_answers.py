"""Given answers, in the place of stages 1 and 2: instructions with answers that somebody else wrote, for the baselines.

Source: the files of tatsu-lab/stanford_alpaca (alpaca_data.json) and databrickslabs/dolly (databricks-dolly-15k.jsonl). Sun et
al. 2023, section 4, compare with a model trained on the first; here such a model shares stage 3 and the evaluation with all arms.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar

from selfalign import jsonl, prompts
from selfalign.artifacts import Artifact, Outcome
from selfalign.errors import ConfigError, DataError
from selfalign.identity import digest, file_digest, plain, short_id
from selfalign.records import Prompt, Response, to_row
from selfalign.stages.base import Context, count


class Format(StrEnum):
    """Where the rows come from, and what their fields are called."""

    alpaca = "alpaca"
    """A file of rows with instruction, input and output."""
    dolly = "dolly"
    """A file of rows with instruction, context and response."""
    identity = "identity"
    """No file: the questions about who the assistant is (`identity.jsonl`)."""


KEYS = {Format.alpaca: ("instruction", "input", "output"), Format.dolly: ("instruction", "context", "response")}
"""The fields of a row: instruction, what it works on (may be missing or null), answer."""


@dataclass(frozen=True)
class GivenAnswers:
    """Settings of the answers that are given."""

    file: str = ""
    """File of the rows, as one JSON list or as JSON lines; its content names the result, not its place."""
    format: Format = Format.alpaca
    """What the fields of a row are called."""
    limit: int = 0
    """Most rows to keep, chosen by id, so that the choice does not depend on order; 0 keeps all."""
    texts: str = ""
    """Folder below `principles/` with `identity.jsonl`; empty for selfalign's own."""
    assistant: prompts.Assistant = field(default_factory=prompts.Assistant)
    """Who the assistant is, for the format `identity`."""

    VERSION: ClassVar[str] = "1"
    READS: ClassVar[tuple[str, ...]] = ()
    OPTIONAL: ClassVar[tuple[str, ...]] = ()
    GENERATES: ClassVar[bool] = False

    def identity(self, context: Context) -> Mapping[str, Any]:
        """Settings, and the content of the rows."""
        settings = {key: value for key, value in plain(self).items() if key not in ("file", "texts", "assistant")}
        if self.format is Format.identity:
            rows = digest(prompts.load_identity(self.assistant, self.texts))
        else:
            rows = file_digest(Path(self.file)) if self.file else ""
        return {"settings": settings, "content": {"rows": rows}}

    def problems(self, context: Context) -> list[str]:
        """A file that is missing, of another format or not wanted, and an impossible limit."""
        found = []
        if self.limit < 0:
            found.append(f"given_answers.limit: expected 0 (all) or more, found {self.limit}; the default is 0")
        if self.format is Format.identity and self.file:
            found.append(
                f"given_answers.file: expected none with given_answers.format=identity, found '{self.file}'; leave it out, or set "
                f"the format of the file ({', '.join(KEYS)})"
            )
        elif self.format is not Format.identity and not Path(self.file or "no file").is_file():
            found.append(
                f"given_answers.file: expected a file of rows with {', '.join(KEYS[self.format])} (allowed: a JSON list or JSON "
                f"lines), found {f'nothing at {self.file!r}' if self.file else 'none given'}; give given_answers.file=<file>"
            )
        else:
            try:
                self.responses()
            except (ConfigError, DataError) as error:
                found.append(f"given_answers: {error}")
        return found

    def unfit(self, context: Context) -> str:
        """Nothing: no model takes part."""
        return ""

    def responses(self) -> list[Response]:
        """Every row in order, kept or dropped with its reason. Raises DataError naming the row that is not of the format."""
        rows, seen = [], set()
        for row in self._rows():
            instruction, extra, answer = row
            text = answer.strip()
            reason = "no_instruction" if not instruction.strip() else "no_answer" if not text else ""
            if not reason and row in seen:
                reason = "duplicate"
            seen.add(row)
            prompt_id = short_id(instruction, extra)
            # What engraving calls its own identity rows, so that both pick the same chat prompts.
            parts = ("identity", instruction, answer) if self.format is Format.identity else (prompt_id, answer)
            rows.append(
                Response(
                    short_id(*parts),
                    prompt_id,
                    instruction,
                    extra,
                    self.format.value,
                    "",
                    (),
                    text,
                    answer,
                    "stop",
                    not reason,
                    reason,
                )  # fmt: skip
            )
        if self.limit:
            chosen = set(sorted({row.id for row in rows if row.kept})[: self.limit])
            rows = [replace(r, kept=False, reason="beyond_limit") if r.kept and r.id not in chosen else r for r in rows]
        return rows

    def _rows(self) -> Iterator[tuple[str, str, str]]:
        if self.format is Format.identity:
            for question, answer in prompts.load_identity(self.assistant, self.texts):
                yield question, "", answer
            return
        keys = KEYS[self.format]
        for number, row in enumerate(_read(Path(self.file)), start=1):
            fields: list[Any] = [row.get(key) for key in keys] if isinstance(row, dict) else [None] * len(keys)
            fields[1] = "" if fields[1] is None else fields[1]
            if not all(isinstance(value, str) for value in fields):
                raise DataError(f"{self.file}: row {number}: {self._misfit(row)}")
            instruction, extra, answer = map(str, fields)
            yield instruction, extra, answer

    def _misfit(self, row: Any) -> str:
        """Why a row is not of the format, and what to do."""
        keys = KEYS[self.format]
        told = f"the fields {', '.join(map(str, row))}" if isinstance(row, dict) else f"{row!r:.60}"
        wrong = [
            f"{key}={row[key]!r:.40}" for key in keys if isinstance(row, dict) and not isinstance(row.get(key, ""), str)
        ]
        fitting = [name for name, names in KEYS.items() if isinstance(row, dict) and {*names} <= {*row}]
        other = "" if self.format in fitting else "".join(fitting[:1])
        remedy = (
            f"set given_answers.format={other}" if other else "repair the row, or give a file of one of these formats"
        )
        formats = "; ".join(f"{name}: {', '.join(names)}" for name, names in KEYS.items())
        return (
            f"expected texts in {', '.join(keys)} (given_answers.format={self.format}), found "
            f"{', '.join(wrong) or told}; allowed formats are {formats}; {remedy}"
        )

    def run(self, inputs: Mapping[str, Artifact], out: Path, context: Context) -> Outcome:
        """Write `responses.jsonl` (kept and dropped), and `prompts.jsonl` (the kept ones' instructions, each once)."""
        rows = self.responses()
        jsonl.write(out / "responses.jsonl", map(to_row, rows))
        asked = {r.prompt_id: Prompt(r.prompt_id, r.instruction, r.input, r.source) for r in rows if r.kept}
        jsonl.write(out / "prompts.jsonl", map(to_row, asked.values()))
        return count(rows)


def _read(path: Path) -> Iterator[Any]:
    """The rows of a file, be it one JSON list or JSON lines. Raises DataError with file and line for anything else."""
    with open(path, encoding="utf-8-sig", errors="replace") as stream:
        is_list = stream.read(4096).lstrip().startswith("[")
    if not is_list:
        yield from jsonl.iterate(path)
        return
    try:
        yield from json.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: expected UTF-8 text, found other bytes ({error.reason}); convert the file") from None
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}:{error.lineno}: expected a JSON list, found a mistake ({error.msg}); repair that line"
        ) from None
