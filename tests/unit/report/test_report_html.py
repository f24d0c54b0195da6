"""Laws of the HTML report: one file that asks for nothing, texts inert, the same bytes for the same runs."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from selfalign import jsonl
from selfalign.report import load_run, load_runs, write
from selfalign.report.figures import Curve, Dot, DotLine, curves, dots, ticks
from selfalign.report.html import render, seconds
from tests.unit.report.run_folders import HOSTILE, score, write_run


class Page(HTMLParser):
    """What a browser would see: elements with attributes, and the text of the body outside scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        if not self.open:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    @property
    def programs(self) -> int:
        """Scripts that a browser would run; data are none."""
        return sum(tag == "script" and found.get("type") != "application/json" for tag, found in self.elements)

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)


def page(*folders: Path) -> Page:
    return Page(render(load_runs(folders)))


@pytest.fixture
def hostile(run_folder: Path, edit) -> Path:
    """A run with markup planted in every text that a model, a user or a file can bring in."""
    answers = run_folder / "stages" / "responses" / "responses.jsonl"
    planted = [
        {**row, "instruction": HOSTILE, "thoughts": HOSTILE, "text": HOSTILE, "cited": [HOSTILE],
         "id": f"{index}{HOSTILE}", "reason": "" if row["kept"] else HOSTILE, "source": HOSTILE}
        for index, row in enumerate(jsonl.read(answers))
    ]  # fmt: skip
    jsonl.write(answers, planted)
    edit(
        "scores.jsonl",
        lambda rows: [score(HOSTILE, 0.5, task=HOSTILE), score("base", None, valid=False, reason=HOSTILE)],
    )
    edit(
        "config.yaml", lambda content: {**content, "name": HOSTILE, "principles": {"ids": [HOSTILE], "drop": [HOSTILE]}}
    )

    def plant(content: dict) -> dict:
        content["nodes"]["responses"] |= {"status": "failed", "why": HOSTILE, "artifact": HOSTILE}
        content["nodes"]["responses"]["counts"]["dropped"] = {HOSTILE: 20}
        content["nodes"][HOSTILE] = {**content["nodes"]["engraved"], "status": HOSTILE}
        return content | {"run_id": HOSTILE, "name": HOSTILE, "group": HOSTILE, "command": [HOSTILE], "python": HOSTILE}

    edit("manifest.json", plant)
    return run_folder


def test_planted_markup_is_inert_in_one_run_and_in_several(hostile: Path, tmp_path: Path):
    other = write_run(tmp_path / "demo-other")
    for found in (page(hostile), page(hostile, other)):
        assert found.programs == 1 and found.count("img") == 0
        assert not any(name.startswith("on") for _, attributes in found.elements for name in attributes)
        assert "alert('planted')" in found.text
        assert "{{ 7*7 }}" in found.text


def test_the_page_asks_for_nothing_outside_itself(run_folder: Path, tmp_path: Path):
    text = render(load_runs([run_folder, write_run(tmp_path / "demo-other")]))
    found = Page(text)
    assert found.count("link") == found.count("iframe") == found.count("base") == found.count("form") == 0
    for _, attributes in found.elements:
        assert not {"src", "srcset", "data", "action", "poster"} & set(attributes)
        assert (attributes.get("href") or "#").startswith("#")
    assert not re.search(r"@import|url\(|https?://|//# source", text)


def test_every_link_inside_the_page_has_its_target(run_folder: Path, tmp_path: Path):
    for found in (page(run_folder), page(run_folder, write_run(tmp_path / "demo-other"))):
        targets = {attributes["id"] for _, attributes in found.elements if "id" in attributes}
        links = {str(attributes["href"])[1:] for tag, attributes in found.elements if tag == "a"}
        assert links and links <= targets


def test_the_security_policy_allows_exactly_the_script_of_the_page(run_folder: Path):
    text = render([load_run(run_folder)])
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = [attributes["content"] for tag, attributes in Page(text).elements if "http-equiv" in attributes]
    assert policy is not None and f"script-src 'sha256-{digest}'" in policy and "default-src 'none'" in policy


def test_the_same_runs_give_the_same_bytes(run_folder: Path, tmp_path: Path):
    other = write_run(tmp_path / "demo-other")
    paths = [write([run_folder, other], tmp_path / name) for name in ("a.html", "b.html")]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_a_report_is_written_whole_and_leaves_no_temporary_file(run_folder: Path, tmp_path: Path):
    path = write([run_folder], tmp_path / "new" / "report.html")
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]
    assert path.read_text(encoding="utf-8").rstrip().endswith("</html>")


@pytest.mark.parametrize(
    "broken", [{"valid": False, "value": 1.0, "reason": "NaN in 7 of 7 items"}, {"value": math.nan}]
)
def test_an_invalid_score_is_words_in_every_table_and_in_no_figure(
    edit, run_folder: Path, tmp_path: Path, broken: dict
):
    edit("scores.jsonl", lambda rows: [score("engraved", 0.5) | broken, score("cloned", 0.5), score("base", 0.25)])
    for text in (render([load_run(run_folder)]), render(load_runs([run_folder, write_run(tmp_path / "other")]))):
        cells = re.findall(r'<td class="invalid" data-v="([^"]*)"[^>]*>([^<]*)</td>', text)
        assert cells and all(value == "" and shown.startswith("invalid: ") for value, shown in cells)
        assert "1.000" not in text and ">nan" not in text.lower()
        assert "engraved: 1" not in text


def test_scores_show_value_error_n_chance_and_verbose_tax(run_folder: Path):
    found = page(run_folder)
    for part in ("0.710 ± 0.020", "0.250", "120", "verbose tax", "−0.040 ± 0.028"):
        assert part in found.text


def test_calf_is_announced_as_a_model_organism_and_other_models_are_not(run_folder: Path, edit):
    assert "Calf is a model organism" in page(run_folder).text
    edit("config.yaml", lambda content: {**content, "model": {"path": "org/model-7b"}})
    assert "model organism" not in page(run_folder).text


def test_several_runs_are_compared_setting_by_setting_and_answer_by_answer(run_folder: Path, tmp_path: Path):
    found = page(run_folder, write_run(tmp_path / "demo-other", drop=["ethical"]))
    for part in (
        "Settings that differ",
        "principles.drop",
        "cloned: difference",
        "What changed, item by item",
        "+0.000 ± 0.028",
    ):
        assert part in found.text
    assert "without ethical responses 60 20" in found.text


def test_a_run_with_nothing_but_its_manifest_still_has_a_report(run_folder: Path):
    for name in ("config.yaml", "scores.jsonl"):
        (run_folder / name).unlink()
    shutil.rmtree(run_folder / "stages")
    found = page(run_folder)
    for part in (
        "config.yaml is missing",
        "scores.jsonl is missing",
        "There are no scores",
        "No training curve",
        "responses",
    ):
        assert part in found.text


def test_a_run_without_nodes_still_has_a_report(edit, run_folder: Path):
    edit("manifest.json", lambda content: {"run_id": "bare", "nodes": {}})
    assert "No node of this run counted rows" in page(run_folder).text


def test_a_failed_node_is_named_at_the_top_with_its_error(edit, run_folder: Path):
    edit(
        "manifest.json", lambda content: content["nodes"]["responses"].update(status="failed", why="no rows") or content
    )
    text = page(run_folder).text
    assert "is not complete" in text and text.index("responses failed: no rows") < text.index("Funnel")


def test_counts_that_do_not_add_up_are_a_visible_warning(edit, run_folder: Path):
    assert "add up" not in page(run_folder).text
    edit("manifest.json", lambda content: content["nodes"]["responses"]["counts"].update(kept=39) or content)
    assert page(run_folder).text.count("counts do not add up") == 1
    assert "Read this before the numbers" in page(run_folder).text


def test_the_parts_of_a_funnel_fill_its_bar(run_folder: Path):
    text = render([load_run(run_folder)])
    bars = re.findall(r'<span class="bar" role="img"[^>]*>(.*?)</span>\s*<span class="count">', text, re.DOTALL)
    assert len(bars) == 3
    for bar in bars:
        assert sum(map(float, re.findall(r"width:([\d.]+)%", bar))) == pytest.approx(100, abs=0.01)


def test_samples_show_kept_and_dropped_rows_with_thoughts_citations_and_reasons(run_folder: Path):
    found = page(run_folder)
    for part in (
        "I should follow rules",
        "A lion eats",
        "dropped: unfinished",
        "dropped: too_similar",
        "8 of 40 kept rows",
    ):
        assert part in found.text


def test_citations_are_counted_over_kept_answers_and_absent_rules_are_marked(run_folder: Path, edit):
    rows = [row for row in jsonl.read(run_folder / "stages" / "responses" / "responses.jsonl") if row["kept"]]
    cited = sum("candor" in row["cited"] for row in rows)
    edit("config.yaml", lambda content: content["principles"].update(drop=["Multi-aspect"]) or content)
    text = page(run_folder).text
    assert f"candor {cited} · {100 * cited / len(rows):.0f} %" in text
    assert "multi_aspect left out in this run" in text and "#19 not a rule here" in text


def test_a_rule_that_nobody_cites_is_shown_with_zero(run_folder: Path, edit):
    edit("config.yaml", lambda content: content["principles"].update(add=["multilingual"]) or content)
    assert "multilingual 0 · 0 %" in page(run_folder).text


def test_long_texts_are_cut_and_say_so(run_folder: Path):
    path = run_folder / "stages" / "responses" / "responses.jsonl"
    jsonl.write(path, [{**row, "text": "x" * 5000} for row in jsonl.read(path)])
    text = render([load_run(run_folder)])
    assert "x" * 1501 not in text and "3,500 more characters" in text


def test_a_revised_answer_is_shown_with_the_first_one_and_its_critique(run_folder: Path, edit):
    rows = [row for row in jsonl.read(run_folder / "stages" / "responses" / "responses.jsonl") if row["kept"]]
    revised = [{**row, "id": f"r{row['id']}", "text": f"Revised {index}."} for index, row in enumerate(rows)]
    critiques = [
        {"id": new["id"], "response_id": old["id"], "principle": "candor", "original": f"First {index}.",
         "critique": f"{HOSTILE} {index}", "text": new["text"], "kept": True, "reason": ""}
        for index, (old, new) in enumerate(zip(rows, revised, strict=True))
    ]  # fmt: skip
    folder = run_folder / "stages" / "critiqued"
    folder.mkdir()
    jsonl.write(folder / "responses.jsonl", revised)
    jsonl.write(folder / "critiques.jsonl", critiques)
    before = page(run_folder)
    counts = {"in": len(rows), "kept": len(rows), "dropped": {}}
    node = {"stage": "SelfCritique", "status": "computed", "artifact": "SelfCritique-1-d", "counts": counts, "path": ""}
    edit("manifest.json", lambda content: content["nodes"].update(critiqued=node) or content)
    found = page(run_folder)
    shown = [index for index in range(len(rows)) if f"First answer: First {index}." in found.text]
    assert len(shown) == 8 and all(f"candor {HOSTILE} {index}" in found.text for index in shown)
    assert all(f"Revised {index}." in found.text for index in shown) and "First answer:" not in before.text
    assert found.text.count("not a rule here") == before.text.count("not a rule here"), "citations are counted once"
    assert found.programs == before.programs


def test_control_characters_and_half_surrogates_do_not_reach_the_page(run_folder: Path, tmp_path: Path):
    path = run_folder / "stages" / "responses" / "responses.jsonl"
    rows = [{**row, "text": "a\x00b\x1bc\ud800d"} for row in jsonl.read(path)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = write([run_folder], tmp_path / "report.html").read_bytes().decode("utf-8")
    assert "a\ufffdb\ufffdc\ufffdd" in text


def test_secrets_of_config_and_command_are_not_shared(run_folder: Path, edit):
    secret = "sk-planted0123456789abcdefghij"
    edit("config.yaml", lambda content: {**content, "judge": {"api_key": "hunter2hunter2", "note": secret}})
    edit("manifest.json", lambda content: {**content, "command": ["selfalign", "run", "judge.api_key=hunter2hunter2"]})
    text = render([load_run(run_folder)])
    assert "hunter2" not in text and secret not in text and "&lt;removed&gt;" in text


def test_methods_state_model_principles_seeds_protocols_and_versions(run_folder: Path):
    text = page(run_folder).text
    for part in (
        "Base model calf",
        "Seeds 0 (all 2 of them)",
        "true_false",
        "torch 2.13.0",
        "with uncommitted changes",
    ):
        assert part in text


def test_machine_paths_stay_out_of_the_page(run_folder: Path):
    assert str(run_folder.parent) not in render([load_run(run_folder)])


def test_importing_the_report_loads_no_heavy_library():
    heavy = ("torch", "transformers", "wandb", "matplotlib", "rich", "jinja2")
    code = f"import sys, selfalign.report; sys.exit(any(name in sys.modules for name in {heavy}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --------------------------------------------------------------------------------------------------------- figures


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.31, 0.32), (-5, 5), (1, 100_000), (2.0, 2.0), (1e-9, 2e-9)])
def test_ticks_are_few_ascending_and_cover_the_range(low: float, high: float):
    found = ticks(low, high)
    assert found == sorted(found) and 1 <= len(found) <= 9
    if high > low:
        assert found[0] <= low + 1e-12 and found[-1] >= high - 1e-12


def test_a_curve_leaves_out_what_is_not_finite():
    figure = curves(
        [Curve("loss", ((0, 1.0), (1, math.nan), (2, math.inf), (3, 0.5)))], x_label="s", y_label="l", title="t"
    )
    assert figure.count("<circle") == 2 and "nan" not in figure and "inf" not in figure


def test_a_figure_of_nothing_is_empty():
    assert curves([Curve("loss", ((0, math.nan),))], x_label="s", y_label="l", title="t") == ""
    assert dots([], title="t") == ""


def test_a_long_curve_is_thinned_and_keeps_its_end():
    points = tuple((float(step), 1.0 / step) for step in range(1, 10_001))
    figure = curves([Curve("loss", points)], x_label="s", y_label="l", title="t")
    assert figure.count(",") < 500 and "L628.0," in figure


def test_a_constant_curve_can_be_drawn():
    assert "<path" in curves([Curve("loss", ((1, 2.0), (1, 2.0)))], x_label="s", y_label="l", title="t")


def test_whiskers_stay_inside_the_plot():
    figure = dots([DotLine("a", (Dot("base", "s-base", 0.99, 0.1),), 0.5)], title="t")
    assert max(map(float, re.findall(r'x2="([\d.]+)"', figure))) <= 630


@pytest.mark.parametrize(("value", "text"), [(3.25, "3.2 s"), (187, "3 min 07 s"), (7620, "2 h 07 min")])
def test_durations_are_written_for_people(value: float, text: str):
    assert seconds(value) == text
