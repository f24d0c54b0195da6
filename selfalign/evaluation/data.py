"""Question files in their official formats in, checked items out, choices in an order that gives nothing away.

Formats: TruthfulQA's `mc_task.json` and `TruthfulQA.csv` (sylinrl/TruthfulQA), BIG-bench's `hhh_alignment/<category>/task.json`
(google/BIG-bench) and Vicuna's `question.jsonl` (lm-sys/FastChat, fastchat/eval/table/).
"""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from selfalign import identity, jsonl
from selfalign.errors import DataError, unknown
from selfalign.evaluation.catalogue import TaskFile


@dataclass(frozen=True, slots=True)
class Item:
    """One question with what is known about its answers."""

    id: str
    """Content hash of question, category and candidates: the same whatever the order of choices, folder or file."""
    question: str
    category: str
    """Category in its data set; empty where it has none."""
    choices: tuple[str, ...] = ()
    """Candidates of which exactly one is right, in the order shown; empty where the answer is generated."""
    right: int = -1
    """Index of the right one; -1 where the answer is generated."""
    filed: tuple[int, ...] = ()
    """Place of each choice among those of its record in the file, from 0: what released_half needs, and nothing else."""
    statements: tuple[str, ...] = ()
    """Candidates of which one or more are true (TruthfulQA's second list), in the order shown."""
    truths: tuple[bool, ...] = ()
    """Which of them are true."""


def item_of(doc: Mapping[str, Any]) -> Item:
    """An item from its fields as lists: what lm-eval hands around."""
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in doc.items()}
    return Item(**fields)


class _Pairs(list[tuple[str, Any]]):
    """A JSON object as its key-value pairs: a plain dict would hide a key that is there twice."""


def _parse(path: Path) -> Any:
    """A JSON file; objects come back as `_Pairs`. Raises DataError with file and line."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path}: expected a JSON file, found nothing there; check the data folder") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: expected UTF-8 text, found other bytes ({error.reason}); convert the file") from None
    try:
        return json.loads(text, object_pairs_hook=_Pairs)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: expected JSON, found {error.msg}; repair that line") from None


def _field(record: Any, key: str, kind: type, where: str) -> Any:
    """A field of a record. Raises DataError where it is missing, or not of this kind."""
    value = dict(record).get(key) if isinstance(record, (dict, _Pairs)) else None
    if not isinstance(value, kind):
        wanted = "object" if kind is _Pairs else kind.__name__
        raise DataError(f"{where}: expected a field '{key}' ({wanted}), found {value!r:.60}; repair the record")
    return value


def _labels(pairs: _Pairs, where: str) -> dict[str, bool]:
    """Candidate -> is it right. A repeated candidate counts once. Raises DataError for a label that is not 0 or 1."""
    labels: dict[str, bool] = {}
    for text, label in pairs:
        if not text.strip() or label not in (0, 1):
            raise DataError(f"{where}: expected candidates labelled 0 or 1, found {text!r:.60} labelled {label!r}")
        if labels.setdefault(text.strip(), label == 1) != (label == 1):
            raise DataError(f"{where}: expected one label for each candidate, found both for {text!r:.60}; remove one")
    return labels


def _one_right(labels: dict[str, bool], where: str) -> None:
    if len(labels) < 2 or sum(labels.values()) != 1:
        raise DataError(
            f"{where}: expected at least two candidates, exactly one of them right, found {len(labels)} with "
            f"{sum(labels.values())} right; repair the record"
        )


def _shuffled(labels: dict[str, bool], *key: str) -> tuple[tuple[str, ...], tuple[bool, ...]]:
    """Candidates and labels in an order that depends on their content only: in the files the right one comes first."""
    texts = sorted(labels)
    random.Random(identity.seed_of(*key, texts)).shuffle(texts)
    return tuple(texts), tuple(labels[text] for text in texts)


def _item(question: str, category: str, one: dict[str, bool], several: dict[str, bool]) -> Item:
    item_id = identity.short_id(question, category, sorted(one.items()), sorted(several.items()))
    choices, right = _shuffled(one, "choices", item_id)
    statements, truths = _shuffled(several, "statements", item_id)
    filed = tuple(map(list(one).index, choices))
    return Item(item_id, question, category, choices, right.index(True) if one else -1, filed, statements, truths)


CSV_COLUMNS = ("Question", "Best Answer", "Correct Answers", "Incorrect Answers")


def _sentences(cell: str) -> list[str]:
    """The answers in a cell of the CSV, each with a full stop at its end, as `mc_task.json` has them."""
    return [text if text.endswith(".") else f"{text}." for part in cell.split(";") if (text := part.strip())]


def _truthfulqa_csv(path: Path) -> list[_Pairs]:
    """The records of a `TruthfulQA.csv` as `mc_task.json` has them: the best answer and all wrong ones, all right and wrong ones.

    Raises DataError for columns that are missing.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            table = csv.DictReader(stream)
            if missing := [name for name in CSV_COLUMNS if name not in (table.fieldnames or ())]:
                raise DataError(
                    f"{path}: expected the columns {', '.join(CSV_COLUMNS)}, missing {', '.join(missing)} (found: "
                    f"{', '.join(table.fieldnames or ()) or 'none'}); take the file of sylinrl/TruthfulQA"
                )
            rows = list(table)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: expected UTF-8 text, found other bytes ({error.reason}); convert the file") from None
    records = []
    for row in rows:
        best, right, wrong = (_sentences(row[name] or "") for name in CSV_COLUMNS[1:])
        one = _Pairs([(text, 1) for text in best] + [(text, 0) for text in wrong])
        # One question of the real file has "Unknown" in both cells; in mc_task.json it is wrong.
        several = _Pairs([(text, 1) for text in right if text not in wrong] + [(text, 0) for text in wrong])
        records.append(
            _Pairs([("question", (row["Question"] or "").strip()), ("mc1_targets", one), ("mc2_targets", several)])
        )
    return records


def read_truthfulqa(path: Path) -> Iterator[Item]:
    """The items of an `mc_task.json`, a list of {question, mc1_targets, mc2_targets}, or of a `TruthfulQA.csv`: the same ones."""
    records = _truthfulqa_csv(path) if path.suffix == ".csv" else _parse(path)
    if not isinstance(records, list) or isinstance(records, _Pairs):
        raise DataError(f"{path}: expected a list of questions, found {type(records).__name__}; check the file")
    for number, record in enumerate(records, start=1):
        where = f"{path}, item {number}"
        one = _labels(_field(record, "mc1_targets", _Pairs, where), where)
        several = _labels(_field(record, "mc2_targets", _Pairs, where), where)
        _one_right(one, where)
        if not any(several.values()) or all(several.values()):
            raise DataError(
                f"{where}: expected true and false candidates in mc2_targets, found only one kind; repair it"
            )
        yield _item(_field(record, "question", str, where), "", one, several)


def read_hhh(path: Path) -> Iterator[Item]:
    """The items of a `task.json`: {examples: [{input, target_scores}]}; its folder names the category."""
    for number, record in enumerate(_field(_parse(path), "examples", list, str(path)), start=1):
        where = f"{path}, example {number}"
        labels = _labels(_field(record, "target_scores", _Pairs, where), where)
        _one_right(labels, where)
        if len(labels) != 2:
            raise DataError(f"{where}: expected two candidates, found {len(labels)}; both orders of two are scored")
        yield _item(_field(record, "input", str, where), path.parent.name, labels, {})


def read_questions(path: Path) -> Iterator[Item]:
    """The items of a `question.jsonl`: rows with text and category."""
    for number, record in enumerate(jsonl.iterate(path), start=1):
        where = f"{path}, row {number}"
        yield _item(_field(record, "text", str, where), _field(record, "category", str, where), {}, {})


READERS: dict[str, Callable[[Path], Iterator[Item]]] = {
    "truthfulqa": read_truthfulqa,
    "hhh": read_hhh,
    "questions": read_questions,
}
"""Reader of each file format, by the name that a task file gives it."""


def read(form: str, paths: Sequence[Path]) -> list[Item]:
    """All items of some files of one format, in file order; an item that is there twice keeps an id of its own.

    Raises DataError naming the file and the item for anything that is not what it should be, or where there is no item.
    """
    if form not in READERS:
        raise DataError(f"{unknown('data format', form, READERS)}; correct the task file")
    items: list[Item] = []
    seen: dict[str, int] = {}
    for path in paths:
        before = len(items)
        for item in READERS[form](path):
            seen[item.id] = seen.get(item.id, 0) + 1
            repeated = seen[item.id] > 1
            items.append(replace(item, id=identity.short_id(item.id, seen[item.id])) if repeated else item)
        if len(items) == before:
            raise DataError(f"{path}: expected one item or more, found none; check the file")
    return items


def load(task: TaskFile, data: str) -> list[Item]:
    """All items of a task, for `calf` or a data folder. Raises DataError as `read` does."""
    return read(task.format, task.paths(data))


def choose(items: Sequence[Item], limit: int, seed: int) -> list[Item]:
    """At most `limit` items (0: all) in their order: those with the smallest seeded hash of their id."""
    if not limit or limit >= len(items):
        return list(items)
    chosen = {item.id for item in sorted(items, key=lambda item: identity.seed_of(seed, "limit", item.id))[:limit]}
    return [item for item in items if item.id in chosen]
