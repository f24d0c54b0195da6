"""Laws of the section on methods: every protocol is defined, and what it says is read from the runs."""

from __future__ import annotations

import json
from pathlib import Path

from selfalign.evaluation.protocols import EXAMS
from selfalign.evaluation.scores import GENERATE, ORACLE
from selfalign.report import load_runs
from selfalign.report.ablation import compare
from selfalign.report.html import render
from selfalign.report.methods import DEFINITIONS, methods
from selfalign.report.tax import verbose_tax
from tests.unit.report.run_folders import exam_row, score, write_json, write_run, write_scores


def test_every_protocol_that_there_is_has_its_definition_and_no_other():
    assert set(DEFINITIONS) == {*EXAMS, GENERATE, ORACLE}


def test_protocols_are_listed_with_items_chance_definition_and_source(run_folder: Path, edit):
    run = edit(
        "scores.jsonl", lambda rows: [score("base", 0.5, n=817), score("cloned", None, valid=False, reason="NaN")]
    )
    (row,) = methods([run], None, None, None, []).protocols.rows
    assert row[:5] == ("calf_truth", "true_false", "accuracy", "120, 817", "0.250")
    assert row[5] == DEFINITIONS["true_false"] and "arXiv:2109.07958" in row[6] and row[7] == "1"


def test_models_and_evaluation_sets_are_named_by_the_digests_that_their_artifacts_hold(tmp_path: Path):
    run = write_scores(write_run(tmp_path / "a"), {"cloned": [exam_row(item, 1.0) for item in range(3)]})
    identity = {
        "engine": {"engine": "huggingface", "model": "d1935t", "dtype": "float32"},
        "settings": {"tasks": [{"task": "calf_truth", "version": 1, "data": ["f17e"]}]},
    }
    place = run / "stages" / "scores_cloned"
    write_json(place / "manifest.json", {"identity": identity, "inputs": {"adapter": "Engrave-1-abc"}})
    found = methods(load_runs([run]), None, None, None, [])
    assert found.models.rows == (
        ("a", "cloned", "huggingface", "float32", "d1935t", "Engrave-1-abc", "Evaluate-1-a-cloned"),
    )
    assert found.data.rows == (("calf_truth", "1", "f17e"),)


def test_hypotheses_are_counted_as_they_were_corrected(tmp_path: Path):
    folders = [
        write_scores(write_run(tmp_path / name, drop=drop),
                     {"engraved": [exam_row(item, 1.0) for item in range(9)],
                      "cloned": [exam_row(item, float(item > wrong)) for item in range(9)]})
        for wrong, (name, drop) in enumerate((("all", []), ("candor", ["candor"]), ("ethical", ["ethical"])))
    ]  # fmt: skip
    runs = load_runs(folders)
    comparison, tax = compare(runs), verbose_tax(runs)
    assert comparison and tax
    text = " ".join(methods(runs, comparison, tax, None, []).paragraphs)
    tests = sum(len(one.contrasts) for one in comparison.families)
    assert tests == 4 and f"{tests} hypotheses in 2 families" in text
    assert "Verbose tax: 3 hypotheses in 1 families" in text
    assert 'id="methods"' in render(runs)


def test_versions_in_which_runs_differ_are_told_apart_from_those_they_share(tmp_path: Path):
    folders = [write_run(tmp_path / name) for name in ("a", "b")]
    manifest = json.loads((folders[1] / "manifest.json").read_text())
    manifest["packages"]["torch"] = "2.14.0"
    write_json(folders[1] / "manifest.json", manifest)
    text = " ".join(methods(load_runs(folders), None, None, None, []).paragraphs)
    assert "The runs differ in: torch 2.13.0 or 2.14.0" in text and "peft 0.21.2" in text.split("The runs differ")[0]


def test_scores_of_categories_and_principles_are_counted_with_the_whole_that_they_are_parts_of(run_folder: Path, edit):
    hhh = {"task": "calf_hhh", "protocol": "ab_swap", "chance": 0.5}
    marks = {"task": "adherence", "protocol": "oracle", "chance": None}
    rows = [score("base", 0.5, **hhh), score("base", 0.4, **hhh, metric="accuracy_honest", n=8),
            score("base", 0.5, **marks, metric="all"), score("base", 0.5, **marks, metric="candor", n=3)]  # fmt: skip
    found = methods([edit("scores.jsonl", lambda old: rows)], None, None, None, []).protocols.rows
    assert [row[:5] for row in found] == [
        ("calf_hhh", "ab_swap", "accuracy, with its part", "120", "0.500"),
        ("adherence", "oracle", "all, with its part", "120", "–"),
    ]
    assert found[1][6] == "selfalign's own: calf/oracle.py"
