"""Laws of reading a run folder: what is no run is refused, what is missing or does not add up is said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from selfalign.errors import DataError
from selfalign.report import load_run, load_runs


def test_a_run_is_read_with_its_nodes_scores_and_files(run_folder: Path):
    run = load_run(run_folder)
    assert (run.run_id, run.status, len(run.scores), run.notes) == ("demo-12345678", "done", 12, ())
    assert [node.name for node in run.nodes] == ["prompts", "responses", "engraved"]
    assert len(list(run.nodes[1].rows("responses.jsonl"))) == 60
    assert run.nodes[1].dropped == {"copies_exemplar": 10, "unfinished": 10}
    assert run.uses_calf


@pytest.mark.parametrize("content", [None, "not json", "[]", '{"artifact": "SelfAlign-1-x", "files": {}}'])
def test_what_is_no_run_folder_is_refused_with_what_is_expected(tmp_path: Path, content: str | None):
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(DataError, match="expected a run folder .*config.yaml"):
        load_run(tmp_path)


def test_a_missing_folder_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="no such folder"):
        load_run(tmp_path / "missing")


@pytest.mark.parametrize("file", ["config.yaml", "scores.jsonl"])
def test_a_missing_optional_file_is_noted(run_folder: Path, file: str):
    (run_folder / file).unlink()
    assert any(file in note for note in load_run(run_folder).notes)


def test_an_empty_scores_file_is_noted(run_folder: Path):
    (run_folder / "scores.jsonl").write_text("")
    assert any("nothing was evaluated" in note for note in load_run(run_folder).notes)


def test_an_artifact_that_is_gone_is_noted(run_folder: Path):
    shutil.rmtree(run_folder / "stages" / "responses")
    run = load_run(run_folder)
    assert run.nodes[1].folder is None and any("responses" in note for note in run.notes)


def test_a_broken_score_row_is_an_error_that_names_its_fields(run_folder: Path):
    (run_folder / "scores.jsonl").write_text('{"subject": "base", "points": 3}\n')
    with pytest.raises(DataError, match="points"):
        load_run(run_folder)


def test_a_text_file_in_place_of_a_link_leads_to_the_artifact(run_folder: Path):
    link = run_folder / "stages" / "responses"
    (run_folder.parent / "store").mkdir()
    shutil.move(link, run_folder.parent / "store" / "SelfAlign-1-x")
    link.write_text("../../store/SelfAlign-1-x\n")
    assert len(list(load_run(run_folder).nodes[1].rows("responses.jsonl"))) == 60


def test_the_path_of_the_manifest_leads_to_the_artifact_where_there_is_no_link(run_folder: Path, edit):
    target = run_folder.parent / "store"
    shutil.move(run_folder / "stages" / "responses", target)
    run = edit("manifest.json", lambda content: content["nodes"]["responses"].update(path=str(target)) or content)
    assert run.nodes[1].folder == target


def test_counts_that_do_not_add_up_are_noted(edit):
    run = edit("manifest.json", lambda content: content["nodes"]["responses"]["counts"].update(kept=39) or content)
    assert run.nodes[1].imbalance and any("59" in note and "60" in note for note in run.notes)


def test_a_score_given_twice_is_noted(edit):
    run = edit("scores.jsonl", lambda rows: [*rows, rows[0]])
    assert any("more than once" in note for note in run.notes)


def test_another_model_is_not_taken_for_calf(edit):
    assert not edit("config.yaml", lambda content: {**content, "model": {"path": "org/calfskin-7b"}}).uses_calf


def test_a_folder_of_runs_stands_for_its_runs_and_none_is_read_twice(run_folder: Path, tmp_path: Path):
    other = tmp_path / "demo-second"
    shutil.copytree(run_folder, other)
    manifest = json.loads((other / "manifest.json").read_text())
    (other / "manifest.json").write_text(json.dumps({**manifest, "run_id": "demo-second"}))
    runs = load_runs([tmp_path, run_folder])
    assert [run.run_id for run in runs] == ["demo-12345678", "demo-second"]


def test_a_folder_without_any_run_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="expected a run folder"):
        load_runs([tmp_path])
    with pytest.raises(DataError, match="at least one"):
        load_runs([])
