from __future__ import annotations

import shutil
import subprocess
import sys

from selfalign.evaluation.catalogue import available_tasks, catalogue, tasks_folder
from selfalign.evaluation.settings import EvaluationSettings, problems


def found(**settings) -> str:
    return "\n".join(problems(EvaluationSettings(**settings)))


def test_the_settings_of_a_good_folder_have_no_problem(data_folder):
    assert found(data=str(data_folder)) == ""
    assert found(tasks=[], data="/nowhere", chat_prompt="none") == ""


def test_every_problem_is_found_at_once_and_says_what_to_do(data_folder):
    text = found(
        data=str(data_folder),
        tasks=["hhh_alignmet", "truthfulqa_mc", "truthfulqa_mc"],
        limit=-1,
        max_new_tokens=0,
        temperature=float("nan"),
        chat_prompt="standart",
    )
    assert (
        "unknown task 'hhh_alignmet'; did you mean 'hhh_alignment'? (allowed: hhh_alignment, truthfulqa_gen, truthfulqa_mc"
        in text
    )
    assert "found 'truthfulqa_mc' 2 times" in text
    assert "evaluation.limit: expected a number, 0 or more, found -1" in text
    assert "evaluation.max_new_tokens: expected a number, 1 or more, found 0" in text
    assert "evaluation.temperature" in text
    assert "did you mean 'standard.txt'" in text


def test_a_missing_folder_a_missing_file_and_a_bad_line_are_named(data_folder, tmp_path):
    assert "found none at '/nowhere'" in found(data="/nowhere")
    folder = tmp_path / "data"
    shutil.copytree(data_folder, folder)
    (folder / "hhh_alignment" / "other" / "task.json").unlink()
    (folder / "vicuna" / "question.jsonl").write_text('{"text": "Q?", "category": "c"}\n{"text": \n')
    text = found(data=str(folder))
    assert "hhh_alignment/other/task.json: expected a JSON file, found nothing there" in text
    assert text.count("`selfalign data fetch`") == 1
    assert "question.jsonl:2:" in text
    assert "mc_task.json" not in text


def test_identity_follows_the_content_of_the_data_and_not_its_path(data_folder, tmp_path):
    copied = tmp_path / "elsewhere"
    shutil.copytree(data_folder, copied)
    here, there = EvaluationSettings(data=str(data_folder)), EvaluationSettings(data=str(copied))
    assert here.identity() == there.identity()
    assert str(data_folder) not in str(here.identity())
    path = copied / "vicuna" / "question.jsonl"
    path.write_text(path.read_text().replace("thing 3?", "thing three?"))
    assert here.identity() != there.identity()
    fewer = EvaluationSettings(data=str(copied), tasks=["hhh_alignment"])
    assert fewer.identity() == EvaluationSettings(data=str(data_folder), tasks=["hhh_alignment"]).identity()
    assert EvaluationSettings(data=str(copied), seed=1).identity() != there.identity()


def test_the_catalogue_is_what_lies_in_the_folder():
    assert available_tasks() == sorted(path.stem for path in tasks_folder().glob("*.yaml"))
    assert all(name == task.path.stem for name, task in catalogue().items())


def test_checking_settings_and_importing_the_harness_load_nothing_heavy():
    code = (
        "import sys, selfalign.evaluation.harness as h, selfalign.evaluation.settings as s;"
        "s.problems(s.EvaluationSettings());"
        "heavy = {'lm_eval', 'torch', 'transformers', 'datasets', 'hydra'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
