import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from selfalign import resources
from selfalign.calf import corpus, pretrain
from selfalign.calf.settings import Pretraining, Shape, problems
from selfalign.stages import pretrain as stage
from selfalign.stages.base import Context
from selfalign.stages.pretrain import Pretrain
from selfalign.training.settings import TrainerSettings

TINY = Pretraining(
    tokens=22_000,
    row_tokens=600,
    batch_tokens=800,
    shard_documents=30,
    tokenizer_documents=60,
    checkpoint_minutes=0.0,
    shape=Shape(600, 36, 48, 4, 6, 3, 1536),
)
RESULTS = ("metrics.jsonl", "result.json", "model/model.safetensors", "model/config.json", "model/tokenizer.json")


def contents(folder):
    return {name: (folder / name).read_bytes() for name in RESULTS}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrain")
    pretrain.pretrain(replace(TINY, checkpoint_minutes=100.0), folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(run):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(run / "model")


def test_the_tokenizer_gives_back_every_text_and_adds_nothing(tokenizer):
    from selfalign.calf.tokenizer import EOS, PAD

    for text in ("User: a\n\n  b , c .\n", " true", "\n\n### User\n", "naïve — 12 (step-by-step)", ""):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.bos_token_id is None
    assert (tokenizer.eos_token, tokenizer.pad_token) == (EOS, PAD)


def test_the_folder_holds_a_transformers_model_in_half_precision_and_no_leftovers(run):
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(run / "model")
    assert model.dtype == torch.float16
    assert model.config.tie_word_embeddings and model.generation_config.eos_token_id == model.config.eos_token_id
    assert json.loads((run / "model" / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]
    assert {path.name for path in run.iterdir()} == {"model", "metrics.jsonl", "speed.jsonl", "result.json"}


def test_metrics_have_a_row_every_20_steps_and_one_at_the_end(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    result = json.loads((run / "result.json").read_text())
    assert [row["step"] for row in rows] == [*range(20, result["steps"], 20), result["steps"]]
    assert rows[-1]["tokens"] == result["tokens"] >= TINY.tokens > rows[-2]["tokens"]
    assert rows[-1]["loss"] < rows[0]["loss"] and rows[-1]["trained_tokens"] == result["trained_tokens"]
    assert all("tokens_per_s" not in row for row in rows)


class Killed(BaseException):
    """Stands for SIGKILL: nothing may catch it on the way out."""


def test_a_run_that_died_again_and_again_ends_in_the_same_bytes(run, tmp_path, monkeypatch):
    from selfalign.calf import module

    # Not at every step, so that a death loses steps, and rows of metrics that stand for them.
    kept, deaths = module.Pretrainer.save, []
    monkeypatch.setattr(module.Pretrainer, "save", lambda self: kept(self) if self.state.step % 7 == 0 else None)
    stepped = module.Pretrainer.training_step

    def dying(self, batch, batch_idx):
        stepped(self, batch, batch_idx)
        if self.state.step in (6, 18, 25) and self.state.step not in deaths:
            deaths.append(self.state.step)
            raise Killed

    monkeypatch.setattr(module.Pretrainer, "training_step", dying)
    for _ in range(3):
        with pytest.raises(Killed):
            pretrain.pretrain(TINY, tmp_path / "killed")
    pretrain.pretrain(TINY, tmp_path / "killed")
    assert deaths == [6, 18, 25]
    assert contents(tmp_path / "killed") == contents(run)


def test_a_finished_run_that_was_not_published_is_not_computed_again(run, monkeypatch):
    monkeypatch.setattr(pretrain, "_train", lambda *_, **__: pytest.fail("trained again"))
    assert pretrain.pretrain(TINY, run)["tokens"] >= TINY.tokens


@pytest.mark.slow
def test_a_process_killed_at_any_moment_goes_on_to_the_same_bytes(run, tmp_path):
    (tmp_path / "job.py").write_text(
        "from pathlib import Path\nfrom selfalign.calf.pretrain import *\nfrom selfalign.calf.settings import *\n"
        + f"pretrain({TINY!r}, Path('out'))\n"
    )
    out, hits = tmp_path / "out", 0
    for number in range(5):
        process = subprocess.Popen([sys.executable, "job.py"], cwd=tmp_path, start_new_session=True)
        before = time.time()
        while process.poll() is None and not _fresh(out, before):
            time.sleep(0.01)
        time.sleep(0.2 * number)
        if process.poll() is not None:
            break
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        hits += 1
    subprocess.run([sys.executable, "job.py"], cwd=tmp_path, check=True)
    assert hits >= 2
    assert contents(out) == contents(run)


def _fresh(out, since):
    path = out / "checkpoint.safetensors"
    return path.exists() and path.stat().st_mtime > since


def test_a_checkpoint_of_other_settings_is_refused(tmp_path, monkeypatch):
    from selfalign.calf import module
    from selfalign.errors import DataError

    kept = module.Pretrainer.save

    def dying(self):
        kept(self)
        raise Killed

    monkeypatch.setattr(module.Pretrainer, "save", dying)
    with pytest.raises(Killed):
        pretrain.pretrain(TINY, tmp_path)
    with pytest.raises(DataError, match="expected a checkpoint of the settings"):
        pretrain.pretrain(replace(TINY, lr=1e-3), tmp_path)


def test_orthogonalised_matrices_have_singular_values_near_one():
    import torch

    from selfalign.calf.muon import orthogonalised

    generator = torch.Generator().manual_seed(0)
    for shape in ((20, 50), (50, 20)):
        values = torch.linalg.svdvals(orthogonalised(torch.randn(shape, generator=generator)))
        assert values.min() > 0.5 and values.max() < 1.5


def test_the_rate_rises_stays_and_falls_to_a_hundredth():
    from selfalign.calf.module import rate

    shares = [rate(progress, 0.02, 0.4) for progress in (0.01, 0.02, 0.6, 0.8, 1.0)]
    assert shares == pytest.approx([0.5, 1.0, 1.0, 0.5, 0.01])


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"tokens": 0}, "tokens"),
        ({"muon_lr": 0.0}, "muon_lr"),
        ({"decay": 1.5}, "decay"),
        ({"row_tokens": 2000}, "row_tokens"),
        ({"batch_tokens": 100}, "batch_tokens"),
        ({"shape": Shape(hidden_size=100)}, "hidden_size"),
        ({"shape": Shape(num_key_value_heads=4)}, "num_key_value_heads"),
        ({"shape": Shape(num_hidden_layers=2)}, "num_hidden_layers"),
    ],
)
def test_impossible_settings_are_named(settings, word):
    assert problems(Pretraining()) == []
    found = problems(replace(Pretraining(), **settings))
    assert len(found) == 1 and word in found[0] and "expected" in found[0]


def test_more_devices_than_one_are_refused():
    context = Context(engine=None, trainer=TrainerSettings(devices=2, strategy="ddp"))  # type: ignore[arg-type]
    (found,) = Pretrain().problems(context)
    assert "expected one device, found" in found and "use trainer=single" in found


CHANGES = {
    "candor.yaml": ("does not know when", "cannot know when"),
    "prompts/concise.txt": ("## Conversation", "## Talk"),
    "seeds/tasks.jsonl": ('"instruction": "', '"instruction": "Now '),
}


def test_the_name_covers_what_the_corpus_says_and_nothing_else(tmp_path, monkeypatch):
    def found() -> str:
        # A process reads its texts once.
        stage.corpus_digest.cache_clear()
        for name, value in vars(corpus).items():
            if name.startswith("_") and hasattr(value, "cache_clear"):
                value.cache_clear()
        return stage.corpus_digest()

    monkeypatch.setattr(stage, "DIGESTED", 200)
    shipped = {name: resources.find(f"principles/{name}").read_text() for name in CHANGES}
    before = found()
    monkeypatch.chdir(tmp_path)
    for name, (old, new) in CHANGES.items():
        path = tmp_path / "principles" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        assert old in shipped[name]
        path.write_text(shipped[name].replace(old, new))
        assert found() != before, name
        path.unlink()
    (tmp_path / "principles/candor.yaml").write_text(f"# The same rule.\n{shipped['candor.yaml']}")
    (tmp_path / "principles/prompts/another.txt").write_text("A text of which the corpus knows nothing.")
    assert found() == before
