"""A model behind a chat interface as a row of its own: the command of docs/engines.md against a server on this machine."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

from selfalign import jsonl, resources
from tests.pipeline.test_command_line import selfalign
from tests.unit.engines.stub_server import served

DOCS = resources.PACKAGE.parent / "docs" / "engines.md"


def documented() -> list[str]:
    """The arguments of the documented row, as a shell would give them."""
    text = DOCS.read_text(encoding="utf-8").replace("\\\n", " ")
    (line,) = re.findall(r"^selfalign run experiments=baseline_base .*$", text, flags=re.MULTILINE)
    return shlex.split(line)[1:]


def test_a_row_for_a_hosted_model_is_the_documented_line(tmp_path: Path) -> None:
    with served() as stub:
        stub.models = [{"id": "gpt-4o"}]
        own = {"evaluation.data": "calf", "engine.base_url": stub.url}
        row = [f"{key}={own[key]}" if (key := one.split("=")[0]) in own else one for one in documented()]
        small = ["evaluation.limit=5", "evaluation.max_new_tokens=24", "tracking=none"]
        done = selfalign(tmp_path, *row, *small, OPENAI_API_KEY="sk-planted0123456789abcdefghij")
        assert done.returncode == 0, done.stderr
        assert {path.rsplit("/v1", 1)[1] for path in stub.paths} == {"/chat/completions"}
        assert set(filter(None, stub.keys)) == {"Bearer sk-planted0123456789abcdefghij"}
        (run,) = (tmp_path / "runs").glob("gpt-4o-*")
        items = [row for row in jsonl.read(run / "stages" / "scores_base" / "items.jsonl") if "finish" in row]
        assert {row["task"] for row in items} == {"calf_questions", "calf_truth_gen"} and len(items) == 10
        assert all(row["new_tokens"] > 0 for row in items) and any(row["answer"] for row in items)
        scores = [row for row in jsonl.read(run / "scores.jsonl") if row["protocol"] == "generate"]
        assert len(scores) == 4 and all(row["valid"] and row["low"] <= row["value"] <= row["high"] for row in scores)
        manifest = json.loads((run / "manifest.json").read_text())
        assert "sk-planted" not in (run / "config.yaml").read_text() + json.dumps(manifest)
        sent = len(stub.asked)
        again = selfalign(tmp_path, *row, *small, OPENAI_API_KEY="sk-planted0123456789abcdefghij")
        assert again.returncode == 0 and len(stub.asked) == sent
    assert selfalign(tmp_path, "verify", str(run)).returncode == 0
