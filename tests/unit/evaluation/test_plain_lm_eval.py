"""The tasks as a stranger uses them: lm-eval's own command line and model, another folder, no selfalign harness."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from selfalign.errors import ConfigError, DataError
from selfalign.evaluation.catalogue import catalogue, tasks_folder
from selfalign.evaluation.harness import evaluate as harness
from selfalign.evaluation.protocols import EXAMS, default_chat
from selfalign.evaluation.settings import EvaluationSettings


def load_task(name: str, **metadata):
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(tasks_folder()), include_defaults=False, metadata=metadata)
    return manager.load([name])["tasks"][name]


class Model:
    """A model that only lm-eval knows."""

    rank, world_size = 0, 1

    def __init__(self, logprob) -> None:
        self.logprob = logprob

    def loglikelihood(self, requests):
        return [(self.logprob(*request.args), False) for request in requests]

    def generate_until(self, requests):
        return ["two words" for _ in requests]


def run_plain(model, name: str, **metadata) -> dict[str, float]:
    from lm_eval.evaluator import evaluate

    task = load_task(name, **metadata)
    return evaluate(lm=model, task_dict={"tasks": {name: task}}, log_samples=True)["results"][name]


def test_without_data_the_error_says_how_to_name_it(monkeypatch):
    monkeypatch.delenv("SELFALIGN_DATA", raising=False)
    with pytest.raises(DataError, match="--metadata") as caught:
        load_task("hhh_alignment")
    assert "SELFALIGN_DATA=/folder" in str(caught.value)
    assert "hhh_alignment/harmless/task.json" in str(caught.value)


def test_metadata_names_the_data_and_comes_before_the_environment(data_folder, monkeypatch):
    monkeypatch.setenv("SELFALIGN_DATA", "/nowhere")
    assert len(load_task("hhh_alignment", data=str(data_folder)).eval_docs) == 40
    monkeypatch.setenv("SELFALIGN_DATA", str(data_folder))
    assert len(load_task("hhh_alignment").eval_docs) == 40


def test_plain_results_are_those_of_the_harness_and_broken_models_get_nan(make, data_folder):
    right = run_plain(Model(make.right_logprob(data_folder)), "hhh_alignment", data=str(data_folder))
    assert right["ab_swap_accuracy,none"] == right["ab_swap_accuracy_honest,none"] == 1.0
    broken = run_plain(Model(make.broken["NaN"]), "truthfulqa_mc", data=str(data_folder))
    numbers = [broken[f"{metric},none"] for metric in ("true_false_accuracy", "mc1_accuracy", "mc2_true_share")]
    assert all(number != number for number in numbers)
    assert broken["mc1_accuracy_stderr,none"] != broken["mc1_accuracy_stderr,none"]
    words = run_plain(Model(None), "vicuna_questions", data=str(data_folder))
    assert (words["mean_words,none"], words["empty_share,none"]) == (2.0, 0.0)


@pytest.mark.parametrize("name", [name for name, task in catalogue().items() if task.protocols])
def test_plain_results_state_chance_standard_error_and_what_they_can_be_compared_with(
    make, name, data_folder, tmp_path
):
    from lm_eval.evaluator import evaluate
    from lm_eval.utils import make_table

    task = catalogue()[name]
    protocols = [*task.protocols, *task.further]
    loaded = load_task(name, data=str(data_folder), protocols=protocols)
    found = evaluate(lm=Model(make.random_logprob(4)), task_dict={"tasks": {name: loaded}}, log_samples=True)
    settings = EvaluationSettings(tasks=[name], data=str(data_folder), protocols=protocols)
    ours = harness(make.engine(make.random_logprob(4)), settings, default_chat(), tmp_path, subject="base")
    plain, table = found["results"][name], make_table(found)
    for score in ours:
        if score.metric == "truncated_share":
            continue
        metric = f"{score.protocol}_{score.metric}"
        assert plain[f"{metric},none"] == score.value and plain[f"{metric}_stderr,none"] == score.stderr
        assert f"|{score.value:.4f}|±" in table.replace(" ", "") and f"±|{score.stderr:.4f}|" in table.replace(" ", "")
    for protocol in protocols:
        of = next(score for score in ours if score.protocol == protocol)
        assert plain[f"{protocol}_chance,none"] == of.chance
        said = found["configs"][name]["metadata"]["comparability"][protocol]
        assert said == {"chance": EXAMS[protocol].chance, "can_be_compared_with": EXAMS[protocol].note}


def test_the_default_layout_is_the_standard_chat_and_a_chat_template_takes_its_place(data_folder, items):
    task = load_task("truthfulqa_mc", data=str(data_folder))
    task.build_all_requests(limit=1)
    item = items["truthfulqa_mc"][0]
    expected = [pair for name in ("true_false", "mc1", "mc2") for pair in EXAMS[name].pairs(default_chat(), item)]
    assert [instance.args for instance in task.instances] == expected
    task.build_all_requests(
        limit=1,
        apply_chat_template=True,
        chat_template=lambda messages: f"<user>{messages[0]['content']}<assistant>",
    )
    contexts = {context for context, _ in (instance.args for instance in task.instances)}
    assert f"<user>{item.question}<assistant>" in contexts
    assert all(context.endswith(("<assistant>", "<assistant>The answer is")) for context in contexts)


def test_a_system_instruction_is_refused_rather_than_ignored(data_folder):
    task = load_task("truthfulqa_mc", data=str(data_folder))
    with pytest.raises(ConfigError, match="remove --system_instruction"):
        task.build_all_requests(system_instruction="Be nice.")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(catalogue()))
def test_a_stranger_runs_the_task_from_another_folder_with_a_transformers_model(
    name, data_folder, tiny_model, tmp_path: Path
):
    environment = os.environ | {"SELFALIGN_DATA": str(data_folder), "HF_HUB_OFFLINE": "1"}
    command = [str(Path(sys.executable).parent / "lm_eval"), "--include_path", str(tasks_folder()), "--tasks", name]
    command += ["--model", "hf", "--model_args", f"pretrained={tiny_model}", "--device", "cpu", "--limit", "2"]
    command += ["--output_path", "results", "--log_samples"]
    if name == "vicuna_questions":
        command += ["--gen_kwargs", "max_gen_toks=8"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    (path,) = (tmp_path / "results").rglob("results_*.json")
    results = json.loads(path.read_text())
    assert results["n-samples"][name]["effective"] == 2
    assert len(results["results"][name]) > 3
