from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from selfalign import importer, prompts
from selfalign.errors import DataError
from selfalign.principles import ExemplarSettings, PrincipleSettings, resolve, resolve_exemplars

INVENTED = """# Watson

## General Rules

Think of an assistant called Watson. Watson obeys:

1 (kind). Watson is kind to everyone.
2 (short & clear). Watson's answers are short.
3 (brave). Watson dares.

## Examples

Here Watson talks.

User: hello

Watson (internal thoughts): I greet. I should follow rules 1 (kind), 2 (short & clear).

Watson: Hi.

Two paragraphs, 1 (kind) of answer.

User: Fine

Watson (auto reply): Bye.

User: odd one

Watson (internal thoughts): This thought cites rule 9 (unknown) in its own way!

Watson: Odd.

User: and again

Watson (internal thoughts): Again. I should follow rule 3 (brave)

Watson: Brave.

User: Fine

Watson (auto reply): Bye again.

User:"""


def checkout(folder: Path, text: str = INVENTED) -> Path:
    (folder / "prompts").mkdir(parents=True)
    (folder / "prompts" / "watson_self_align_prompt.txt").write_text(text, encoding="utf-8")
    return folder


def rendered(name: str) -> str:
    """The imported set as the project's own renderer shows it, read back from its files."""
    from selfalign.groups import compose, register

    register()
    one = compose([f"experiments={name}"])
    return one.self_align.preview("", len)["self_align"]


@pytest.mark.parametrize("tail", ["", "\n", "\n\n"])
def test_an_invented_checkout_renders_back_byte_for_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tail: str
) -> None:
    monkeypatch.setenv("SELFALIGN_HOME", str(tmp_path / "home"))
    importer.import_dromedary(checkout(tmp_path / "repo", INVENTED + tail), tmp_path / "home", "mine")
    assert rendered("mine") == INVENTED + tail


def test_a_rule_of_an_imported_set_can_be_ablated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SELFALIGN_HOME", str(tmp_path / "home"))
    importer.import_dromedary(checkout(tmp_path / "repo"), tmp_path / "home", "mine")
    rules = resolve(PrincipleSettings(folder="mine", ids=["kind", "short_clear", "brave"], drop=["kind"]))
    shown = resolve_exemplars(ExemplarSettings(folder="mine", ids=["session_1", "session_2"]), rules)
    text = prompts.self_align_stem(prompts.load_layout("mine"), rules, shown, prompts.Assistant(name="Watson"))
    assert "I greet. I should follow rules 1 (short & clear)." in text and "(kind), " not in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hello", "expected title, rules heading"),
        (INVENTED.replace("2 (short & clear).", "2 short."), "expected a rule"),
        (INVENTED.removesuffix("\n\nUser:"), "expected an open 'User:' slot"),
        (INVENTED.replace("Watson: Odd.\n\n", ""), "expected a user turn followed by internal thoughts"),
    ],
)
def test_a_prompt_of_another_shape_is_refused_with_the_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        importer.import_dromedary(checkout(tmp_path / "repo", text), tmp_path / "home")


def test_a_folder_that_is_no_checkout_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected a checkout of IBM/Dromedary"):
        importer.import_dromedary(tmp_path, tmp_path / "home")


def test_a_name_that_is_no_identifier_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="for example 'my_set'"):
        importer.import_dromedary(checkout(tmp_path / "repo"), tmp_path / "home", "My set")


def test_the_real_reference_renders_byte_for_byte(
    real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFALIGN_HOME", str(tmp_path))
    lines = importer.import_dromedary(real_data / "dromedary", tmp_path)
    original = (real_data / "dromedary" / "prompts" / "watson_self_align_prompt.txt").read_bytes()
    assert rendered("dromedary_v1").encode() == original
    assert "16 principles and 5 exemplars" in lines[0]
    filters = yaml.safe_load((tmp_path / "experiments" / "dromedary_v1_filters.yaml").read_text(encoding="utf-8"))
    assert len(filters["self_align"]["forbidden_texts"]) == 12 and len(filters["verbose_clone"]["forbidden_texts"]) == 4
    assert filters["self_align"]["required_start"].endswith("reliable assistant.")
    assert len(prompts.load_seed_tasks("dromedary_v1")) == 175
    assert len(prompts.load_topic_seeds("dromedary_v1")) == 20
    assert len(prompts.load_identity(prompts.Assistant(name="Dromedary"), "dromedary_v1")) == 910
    for ours, names in importer.TEXTS.items():
        source = real_data / "dromedary" / "prompts" / names[0]
        shown = prompts.fill(prompts.load_text(ours, "dromedary_v1"), prompts.Assistant(name="Dromedary"))
        assert shown == source.read_text(encoding="utf-8"), ours


def test_imported_prompts_run_through_every_layout(
    real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFALIGN_HOME", str(tmp_path))
    importer.import_dromedary(real_data / "dromedary", tmp_path)
    seeds = prompts.load_topic_seeds("dromedary_v1")
    topics = prompts.topics_prompt(prompts.load_text("topics", "dromedary_v1"), seeds[0].question_type, ["Wedding"], 10)
    assert "cultural context.\n" in topics and "{}" not in topics and topics.endswith("1. Wedding\n2.")
    questions = prompts.questions_prompt(prompts.load_text("questions", "dromedary_v1"), seeds[:2], seeds[2:4])
    assert "20 Hints:\n1. type: Instructions that require cultural context, topic: Wedding\n" in questions
    assert questions.endswith("topic: Great Barrier Reef, instruction:") and "{}" not in questions
