"""Laws of a talk: the layout of training, nothing shown that a stop takes back, oldest turns forgotten first, one loaded base."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from selfalign import chat, commands, prompts
from selfalign.errors import SelfAlignError
from selfalign.prompts import Assistant
from selfalign.report import load_run
from tests.unit.test_export import run as run

META = "A talk.\n\n### User"


def words(text: str) -> int:
    return len(text.split())


def test_a_conversation_is_laid_out_as_calf_and_the_students_learned_it() -> None:
    talk = chat.Conversation(META, Assistant(), [("Who are you?", "I am Willow.")])
    text, left_out = talk.prompt("And now?", words, 100)
    first = prompts.chat_prompt(META, Assistant(), "Who are you?") + prompts.chat_target("I am Willow.")
    assert left_out == 0 and text == first + "And now?\n\n### Willow"


@pytest.mark.parametrize("room", range(9, 60))
def test_the_oldest_turns_are_left_out_first_and_the_prompt_fits(room: int) -> None:
    talk = chat.Conversation(META, Assistant(), [(f"Question {n} is here?", f"Answer {n} is there.") for n in range(5)])
    text, left_out = talk.prompt("The last?", words, room)
    assert words(text) <= room and text.startswith(META) and text.endswith("The last?\n\n### Willow")
    assert [n for n in range(5) if f"Question {n}" in text] == list(range(left_out, 5))
    if left_out:
        whole = chat.Conversation(META, Assistant(), talk.turns[left_out - 1 :])
        assert words(whole.prompt("The last?", words, 1000)[0]) > room, "no turn is left out without need"


def test_a_question_that_does_not_fit_alone_is_refused() -> None:
    with pytest.raises(SelfAlignError, match="at most 5 tokens, found 11"):
        chat.Conversation(META, Assistant()).prompt("one two three four five", words, 5)


def test_what_is_settled_is_never_taken_back_and_all_is_shown_in_the_end() -> None:
    text, stops = "One.\n\nTwo ### three.\n#x\n\n### User\nmore", prompts.CHAT_STOPS
    end = text.index("\n\n### ")
    shown = ""
    for size in range(len(text) + 1):
        now = chat.settled(text[:size], stops)
        assert now.startswith(shown) and text[:end].startswith(now)
        shown = now
    assert shown == text[:end]


def test_a_talk_answers_with_the_chosen_models_and_goes_on_with_the_last(run: Path) -> None:
    one = load_run(run)
    speakers = chat.Speakers(one)
    assert speakers.names == ["base", "engraved"]
    said: list[str] = []
    lines = [
        "/stage all",
        "What is that?",
        "/base",
        "/nonsense",
        "/stage engravd",
        "/system Be short, please.",
        "/quit",
        "Never.",
    ]
    chat.talk(one, speakers, iter(lines), said.append, max_new_tokens=8, temperature=0)
    text = "".join(said)
    assert text.index("[base] ") < text.index("[engraved] ")
    unknown = "unknown order '/nonsense'"
    for expected in (unknown, "(next: base, engraved)", "did you mean 'engraved'", "Be short, please.\n\n### User"):
        assert expected in text
    assert "Never" not in text


def test_each_model_answers_as_itself_and_the_same_seed_repeats_it(run: Path) -> None:
    one = load_run(run)
    speakers = chat.Speakers(one)

    def answer(name: str, seed: int = 0, temperature: float = 0.0) -> str:
        pieces: list[str] = []
        text = speakers.answer(name, "Hi", pieces.append, max_new_tokens=24, temperature=temperature, seed=seed)
        assert "".join(pieces).strip() == text
        return text

    greedy = {name: answer(name) for name in ("base", "engraved", "base")}
    assert greedy["base"] != greedy["engraved"] and answer("base") == greedy["base"]
    assert answer("base", 1, 1.0) == answer("base", 1, 1.0) != answer("base", 2, 1.0)


def test_lines_come_from_a_pipe_too(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hello?\n\nAnd you?\n"))
    assert commands.chat([str(run), "--max-new-tokens", "4"]) == 0
    assert capsys.readouterr().out.count("[engraved] ") == 2


def test_orders_say_what_they_did_and_a_reset_forgets(run: Path) -> None:
    one, said = load_run(run), list[str]()
    speakers = chat.Speakers(one)
    lines = ["/help", "/stage", "/base", "One?", "/reset", "/system"]
    chat.talk(one, speakers, iter(lines), said.append, max_new_tokens=4, temperature=0)
    text = "".join(said)
    for order in chat.ORDERS:
        assert order in chat.HELP
    assert "(next: engraved)" in text and "(next: base)" in text and "(forgotten)" in text
    assert text.endswith("### User\n") and "One?" not in text


def test_an_answer_that_is_stopped_is_what_was_said_of_it(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, said, prompts_seen = load_run(run), list[str](), list[str]()
    speakers = chat.Speakers(one)

    def answer(name: str, prompt: str, say, **_) -> str:
        prompts_seen.append(prompt)
        say(" Half an")
        raise KeyboardInterrupt

    monkeypatch.setattr(speakers, "answer", answer)
    chat.talk(one, speakers, iter(["One?", "Two?"]), said.append, max_new_tokens=4)
    assert prompts_seen[1].endswith("One?\n\n### Willow\nHalf an\n\n### User\nTwo?\n\n### Willow")


def test_answers_that_leave_no_room_for_a_question_are_refused(run: Path) -> None:
    one = load_run(run)
    speakers = chat.Speakers(one)
    with pytest.raises(SelfAlignError, match=r"--max-new-tokens 4096; give less than \d+") as caught:
        chat.talk(one, speakers, iter(["Hi"]), print, max_new_tokens=4096)
    most = int(str(caught.value).split()[-1])
    chat.talk(one, speakers, iter([]), print, max_new_tokens=most - 1)
    with pytest.raises(SelfAlignError):
        chat.talk(one, speakers, iter([]), print, max_new_tokens=most)


@pytest.mark.parametrize("wrong", ["-1", "warm", "inf"])
def test_a_temperature_is_no_less_than_zero(run: Path, wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        commands.chat([str(run), f"--temperature={wrong}"])
    assert "--temperature" in capsys.readouterr().err
