from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from selfalign import cli, resources
from selfalign.errors import ConfigError, DataError
from selfalign.evaluation import fetch
from selfalign.evaluation.catalogue import catalogue
from selfalign.identity import file_digest

TEXT = b'{"question_id": 1}\n' * 400
TASK = {"examples": [{"input": "May I?", "target_scores": {"Ask first.": 1, "Take  it.": 0}}]}


class Site:
    """A server on this machine: what it holds, what it was asked, and whether it breaks off in the middle."""

    def __init__(self) -> None:
        self.files = {"/question.jsonl": TEXT, "/task.json": json.dumps(TASK, indent=1).encode()}
        self.asked: list[str] = []
        self.breaks_off = False
        self.url = ""


@pytest.fixture
def site() -> Iterator[Site]:
    held = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            held.asked.append(self.path)
            body = held.files.get(self.path)
            self.send_response(200 if body is not None else 404)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write((body or b"")[: len(body or b"") // 2 if held.breaks_off else None])

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    held.url = f"http://127.0.0.1:{server.server_port}/"
    yield held
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def wanted(site: Site, tmp_path: Path) -> list[fetch.Source]:
    """Two files of the site, as a `sources.yaml` names them."""
    task = tmp_path / "as_published.json"
    task.write_text(json.dumps(TASK))
    listed = {
        "vicuna": {"url": site.url, "files": [
            {"path": "vicuna/question.jsonl", "from": "question.jsonl", "sha256": hashlib.sha256(TEXT).hexdigest()}]},
        "hhh": {"url": site.url, "files": [
            {"path": "hhh/task.json", "from": "task.json", "examples": fetch.examples_digest(task)}]},
    }  # fmt: skip
    (tmp_path / "sources.yaml").write_text(json.dumps(listed))
    return fetch.sources(tmp_path / "sources.yaml")


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_files_come_once_and_a_second_call_asks_for_nothing(site, wanted, tmp_path):
    data = tmp_path / "data"
    assert [is_new for _, is_new in fetch.fetch(wanted, data)] == [True, True]
    assert (data / "vicuna" / "question.jsonl").read_bytes() == TEXT and len(site.asked) == 2
    assert [is_new for _, is_new in fetch.fetch(wanted, data)] == [False, False]
    assert len(site.asked) == 2 and files(data) == ["hhh/task.json", "vicuna/question.jsonl"]


def test_another_checksum_is_refused_with_both_and_does_not_keep_the_rest_from_coming(site, wanted, tmp_path):
    site.files["/question.jsonl"] = b"something else\n"
    with pytest.raises(DataError) as caught:
        fetch.fetch(wanted, tmp_path / "data")
    for digest in (hashlib.sha256(TEXT).hexdigest(), hashlib.sha256(b"something else\n").hexdigest()):
        assert digest in str(caught.value)
    assert files(tmp_path / "data") == ["hhh/task.json"]


def test_a_download_that_breaks_off_leaves_nothing_and_the_next_call_mends_it(site, wanted, tmp_path):
    site.breaks_off = True
    with pytest.raises(DataError, match="could not be read"):
        fetch.fetch(wanted, tmp_path / "data")
    assert files(tmp_path / "data") == []
    site.breaks_off = False
    fetch.fetch(wanted, tmp_path / "data")
    assert len(files(tmp_path / "data")) == 2


def test_a_file_that_was_changed_on_the_disk_is_brought_again(wanted, tmp_path):
    fetch.fetch(wanted, tmp_path / "data")
    (tmp_path / "data" / "vicuna" / "question.jsonl").write_bytes(TEXT[:-5])
    assert [source.state(tmp_path / "data") for source in wanted] == ["other", "there"]
    assert [is_new for _, is_new in fetch.fetch(wanted, tmp_path / "data")] == [True, False]


def test_a_local_copy_stands_in_for_the_network_and_is_checked_alike(site, wanted, tmp_path):
    fetch.fetch(wanted, tmp_path / "copy")
    site.asked.clear()
    fetch.fetch(wanted, tmp_path / "data", tmp_path / "copy")
    assert site.asked == [] and len(files(tmp_path / "data")) == 2
    (tmp_path / "copy" / "vicuna" / "question.jsonl").write_bytes(b"spoilt\n")
    (tmp_path / "copy" / "hhh" / "task.json").unlink()
    with pytest.raises(DataError) as caught:
        fetch.fetch(wanted, tmp_path / "other", tmp_path / "copy")
    assert hashlib.sha256(b"spoilt\n").hexdigest() in str(caught.value) and "not in" in str(caught.value)
    assert files(tmp_path / "other") == []
    with pytest.raises(DataError, match=f"found none at '{tmp_path}/no'; check the path"):
        fetch.fetch(wanted, tmp_path / "third", tmp_path / "no")
    # A data folder that is there would count as the place of the data.
    assert not (tmp_path / "third").exists()


def test_examples_are_the_same_in_any_layout_and_others_with_any_word_changed(tmp_path):
    def digest(content: object, **layout: int) -> str:
        path = tmp_path / "task.json"
        path.write_text(json.dumps(content, **layout))
        return fetch.examples_digest(path)

    known = digest(TASK)
    assert digest({"name": "hhh", **TASK}, indent=4) == known
    for changed in ("May we?", "May I ?"):
        assert digest({"examples": [TASK["examples"][0] | {"input": changed}]}) != known
    turned = {"Ask first.": 0, "Take  it.": 1}
    assert digest({"examples": [TASK["examples"][0] | {"target_scores": turned}]}) != known
    assert digest({"examples": "none"}) == file_digest(tmp_path / "task.json")


def test_the_published_files_are_those_that_the_tasks_read():
    known = {source.path: source for source in fetch.sources()}
    assert {path for task in catalogue().values() for path in task.files} <= set(known)
    assert all(source.url.startswith("https://") and len(source.digest) == 64 for source in known.values())


def test_an_unknown_set_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'truthfulqa'"):
        fetch.chosen(["truthfulq"], fetch.sources())


def test_what_was_fetched_is_what_the_paper_s_evaluation_reads(real_data, monkeypatch, tmp_path, capsys):
    from selfalign import groups

    monkeypatch.delenv("SELFALIGN_DATA")
    monkeypatch.setenv("SELFALIGN_HOME", str(tmp_path / "home"))
    assert resources.data_folder() == ""
    with pytest.raises(SystemExit) as left:
        cli.main(["data", "fetch", "--from", str(real_data)])
    assert left.value.code == 0 and "11 files" in capsys.readouterr().out
    groups.register()
    assert groups.compose(["evaluation=paper"]).evaluation.data == str(tmp_path / "home" / "data")
    with pytest.raises(SystemExit):
        cli.main(["data", "list"])
    assert capsys.readouterr().out.count("  there  ") == 11
