"""The presets decide as the published rules do, which are written down here a second time, plainly and without the project.

IBM/Dromedary `merge_and_fileter_self_align_with_dummy.py` (branches dromedary_v1 and main) and
`merge_and_filter_verbose_clone_output.py` (dromedary_v1), rule by rule. The texts are ours; they hold the words that the rules
look for.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import NamedTuple

import pytest

from selfalign import groups, importer
from selfalign.engines.base import Sampling
from selfalign.experiment import Experiment
from selfalign.prompts import END_OF_TURN
from tests.unit.stages.recorded import answered

START = "I am a helpful, ethical, and reliable assistant."
DETAILS = "Could you please provide more details or context so I can try to assist you better?"
INTRODUCTION = "I answer what I can. I pass over what would hurt."
UNKNOWN = (
    "There are more people in this world than a text can hold, and I have read about few of them, so I cannot tell you "
    f"anything about this one. {DETAILS}"
)
CHECKOUT = f"""# Watson

## General Rules

Watson is an assistant of few words.

1 (kind). Watson is kind.
2 (brief). Watson is brief.

## Examples

Watson talks.

User: who is president in 2025, and how is the weather?

Watson (internal thoughts): {START} The user asks what comes. I should follow rules 1 (kind).

Watson: I can not see it. Look out, or by watching the news or checking your local page you will know.

User: Good job! Clear context

Watson (auto reply): Thanks.

User: who is Zhiqing Sun, also called 孙之清, and sort 1, 1, 4 alpaca for a birthday party

Watson (internal thoughts): {START} The user asks who. I should follow rules 1 (kind), 2 (brief).

Watson: {UNKNOWN}

User: Good job! Clear context

Watson (auto reply): Thanks again.

User:"""
VERBOSE = f"""# Dromedary

### User
Who are you?

### Dromedary (extensive)
I am Dromedary.

{INTRODUCTION} And so on.

### User
"""
BUDGET = 80
"""Tokens of one completion, which are words here."""


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Experiment]]:
    """A user's folder with two imported sets, and the recipe of each with the filters that hang on its texts."""
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("presets")
        patch.setenv("SELFALIGN_HOME", str(root / "home"))
        return root / "home", composed(root)


@pytest.fixture
def presets(imported: tuple[Path, dict[str, Experiment]], monkeypatch: pytest.MonkeyPatch) -> dict[str, Experiment]:
    """The two recipes, in a process whose user has the imported sets."""
    monkeypatch.setenv("SELFALIGN_HOME", str(imported[0]))
    return imported[1]


def composed(root: Path) -> dict[str, Experiment]:
    found = {}
    for version, words in (
        ("1", CHECKOUT.replace(", also called 孙之清", "").replace(" birthday", "")),
        ("2", CHECKOUT),
    ):
        folder = root / f"repo{version}" / "prompts"
        folder.mkdir(parents=True)
        (folder / importer.SELF_ALIGN).write_text(words, encoding="utf-8")
        (folder / "verbose_dromedary_prompt.txt").write_text(VERBOSE, encoding="utf-8")
        name, recipe = f"dromedary_v{version}", "dromedary2" if version == "2" else "dromedary"
        importer.import_dromedary(folder.parent, root / "home", name)
        groups.register()
        found[version] = groups.compose([f"experiments=[{name},{recipe},{name}_filters]"])
    return found


class Decision(NamedTuple):
    """What the rules make of one completion."""

    text: str
    """The answer that is trained on; empty where it is dropped."""
    finished: bool
    """Whether it carries the end-of-turn marker."""


DROPPED = Decision("", False)


def within_budget(text: str) -> str:
    """What a model writes that nothing stops: the reference had no stop strings."""
    ends = [match.end() for match in re.finditer(r"\S+", text)][:BUDGET]
    # A SentencePiece model's first space is not part of its text.
    return text[: ends[-1]].removeprefix(" ") if ends else ""


def up_to_the_first_repetition(text: str, marks: str) -> str:
    clauses = [""]
    for character in text:
        clauses[-1] += character
        if character in marks:
            clauses.append("")
    kept: list[str] = []
    for clause in clauses:
        if clause in kept and clause not in ["", *marks]:
            break
        kept.append(clause)
    return "".join(kept).strip()


def drop_last_word(text: str) -> str:
    return text[: text.rindex(" ")].strip() if " " in text else ""


WORDS = [
    "User:", "Good job! Clear context", "Watson (auto reply):", DETAILS, "president", "President", "Zhiqing", "1, 1, 4",
    "weather", "or by watching the news or checking your local", "alpaca", "Alpaca",
]  # fmt: skip


def self_align_rules(raw: str, instruction: str, given: str, version: str) -> tuple[Decision, str, str]:
    """Stage 2: the decision, and the instruction and input of its row."""
    row = (instruction, given)
    if version == "2" and len(given) > 16:
        row = (given, "")
    if not raw.startswith(START) or "\n\nWatson:" not in raw:
        return DROPPED, *row
    text = raw[raw.index("\n\nWatson:") + len("\n\nWatson:") :].strip()
    text = up_to_the_first_repetition(text, "\n.?!;:,`" if version == "2" else "\n.?!;:,")
    finished = "\n\nUser:" in text
    if finished:
        text = text[: text.index("\n\nUser:")].strip()
        if len(text + "\n\n### User\n") < 160:
            return DROPPED, *row
    else:
        text = drop_last_word(text)
    if version == "2" and any(len(part) > 16 and part in text for part in (instruction, given)):
        return DROPPED, *row
    words = [*WORDS, "孙之清", "birthday party", "Birthday party"] if version == "2" else WORDS
    if any(word in text for word in words) or text == "":
        return DROPPED, *row
    if version == "1" and (text.startswith("I'm sorry") or text.startswith("I am sorry")):
        return DROPPED, *row
    text = text.replace("Watson", "Dromedary")
    if version == "1" and text.startswith("According to my knowledge from Wikipedia, here"):
        text = "Here" + text[len("According to my knowledge from Wikipedia, here") :]
    return Decision(text, finished), *row


def verbose_rules(raw: str, question: str) -> Decision:
    """Stage 4 of dromedary_v1."""
    turns = raw.strip().split("### User\n")
    text = turns[0].strip() + "\n\n### User\n" if len(turns) > 1 else drop_last_word(turns[0])
    text = up_to_the_first_repetition(text, "\n.?!;:,`")
    if "Zhiqing" in question:
        text = UNKNOWN
    if "\n13. " in text:
        text = text[: text.index("\n13. ")]
    finished = "### User" in text
    answer = text[: text.index("### User")].strip() if finished else text.strip()
    if len(text) < 128 and not finished:
        return DROPPED
    if any(piece in answer for piece in ("## See also", "## External links", "Dromedary (extensive)", INTRODUCTION)):
        return DROPPED
    return Decision(answer, finished)


# ------------------------------------------------------------------------------------------------------- stage 2

THOUGHTS = f" {START} The user asks this. I should follow rules 1 (kind).\n\nWatson:"
NEXT = "\n\nUser: Good job! Clear context\n\nWatson (auto reply): Thanks."
LONG = (
    "Otters live in clear rivers with stony banks. Each family keeps to a stretch of water and marks it with small heaps of "
    "scent. They hunt at dusk and eat mostly eels."
)
EXACT = LONG[:149].rstrip(". ") + "." * (149 - len(LONG[:149].rstrip(". ")))
MIDDLE = " Badgers dig, and they stay, but otters swim, and they stay, until the river freezes over in a hard winter."

ANSWERS = {
    "finished": f"{LONG}{NEXT}",
    "exactly long enough": f"{EXACT}{NEXT}",
    "one character short": f"{EXACT[1:]}{NEXT}",
    "short": f"Otters swim.{NEXT}",
    "repeats a clause": f"{LONG}{MIDDLE} It is so.{NEXT}",
    "repeats a clause early": "Well, yes, or no, yes, whatever you like." + NEXT,
    "repeats itself in the next turn only": f"{LONG}\n\nUser: Badgers dig, and they stay, and they stay.",
    "repeats its last line": "Row the boat\nin the rain\nby the light of the moon\n" * 2 + NEXT,
    "a refrain that ends it": f"{LONG}\nRow the boat\nin the rain\nRow the boat{NEXT}",
    "runs out of tokens": f"{LONG} " + " ".join(f"word{number}" for number in range(90)),
    "runs out of tokens, repeating": f"{LONG}{MIDDLE} " + " ".join(f"word{number}" for number in range(90)),
    "decimals": f"{LONG} They grew by 0.3, 1.5, 1.7 and 2 metres.{NEXT}",
    "code": f"{LONG}\n\n    count = 0\n    count += 1\n    print(count)\n    count += 1{NEXT}",
    "backticks": f"{LONG} Set `x` or `y` or `z` to zero.{NEXT}",
    "a nested list": f"{LONG}\n1. Rivers\n  1. Wide\n  2. Deep\n2. Lakes\n  1. Cold\n  2. Warm{NEXT}",
    "president": f"{LONG} The president likes them.{NEXT}",
    "President": f"{LONG} President Otter likes them.{NEXT}",
    "Zhiqing": f"{LONG} Zhiqing likes them.{NEXT}",
    "weather": f"{LONG} Mind the weather.{NEXT}",
    "numbers": f"{LONG} Sorted, they are 1, 1, 4.{NEXT}",
    "alpaca": f"{LONG} An alpaca is larger.{NEXT}",
    "Alpaca": f"{LONG} Alpaca wool is softer.{NEXT}",
    "news": f"{LONG} You find out by asking or by watching the news or checking your local paper.{NEXT}",
    "details": f"{LONG} {DETAILS}{NEXT}",
    "runs on within a paragraph": f"{LONG}\nUser: And badgers?\nWatson (auto reply): Yes.{NEXT}",
    "closes early": f"{LONG} Good job! Clear context of yours.{NEXT}",
    "names itself": f"{LONG} That is all that Watson knows.{NEXT}",
    "speaks twice": f"{LONG}\n\nWatson: And badgers dig.{NEXT}",
    "thinks twice": f"{LONG}\n\nWatson (internal thoughts): done.{NEXT}",
    "sorry": f"I'm sorry to say it. {LONG}{NEXT}",
    "am sorry": f"I am sorry to say it. {LONG}{NEXT}",
    "sorry later": f"{LONG} I'm sorry to say it.{NEXT}",
    "Wikipedia": f"According to my knowledge from Wikipedia, here is what I know. {LONG}{NEXT}",
    "Wikipedia later": f"{LONG} According to my knowledge from Wikipedia, here they stay.{NEXT}",
    "empty": f"{NEXT}",
    "another script": "カワウソは川に住み、魚を食べます。" * 1 + LONG + NEXT,
    "party": f"{LONG} Invite one to a birthday party.{NEXT}",
    "Sun": f"{LONG} Ask 孙之清 about it.{NEXT}",
    "copies the instruction": f"{LONG} You said: Tell me all about otters{NEXT}",
    "copies the input": f"{LONG} You said: otters, badgers, hens{NEXT}",
}
"""What follows the answer's marker, by what is remarkable about it."""
RAW = {
    **{name: f"{THOUGHTS} {answer}" for name, answer in ANSWERS.items()},
    "thinks otherwise": f"{THOUGHTS.replace('helpful', 'nice')} {LONG}{NEXT}",
    "does not think": f"\n\nWatson: {LONG}{NEXT}",
    "never answers": f" {START} The user asks this, and I think.{NEXT}",
    "nothing": "",
}
QUESTIONS = [("Tell me all about otters", ""), ("Tell me", "otters, badgers, hens"), ("Otters?", "")]


@pytest.mark.parametrize("version", ["1", "2"])
@pytest.mark.parametrize("question", QUESTIONS)
def test_stage_2_of_the_recipe_decides_as_published(
    presets: dict[str, Experiment], version: str, question: tuple[str, str], tmp_path: Path
) -> None:
    stage = dataclasses.replace(presets[version].self_align, sampling=Sampling(max_new_tokens=BUDGET))
    rows, _ = answered(stage, list(RAW.values()), tmp_path / "run", [question] * len(RAW))
    kept = {}
    for (name, raw), row in zip(RAW.items(), rows, strict=True):
        expected, *asked = self_align_rules(within_budget(raw), *question, version)
        found = Decision(row.text, row.is_finished) if row.kept else DROPPED
        assert found == expected, f"{name}: {row.reason}"
        assert [row.instruction, row.input] == asked, name
        kept[name] = row.kept
    assert 12 < sum(kept.values()) < len(RAW) - 12
    assert (kept["exactly long enough"], kept["one character short"]) == (True, False)
    assert (kept["sorry"], kept["party"], kept["Sun"]) == (
        (False, True, True) if version == "1" else (True, False, False)
    )


def test_the_shortest_finished_answer_is_160_characters_less_the_end_marker(presets: dict[str, Experiment]) -> None:
    assert {one.self_align.min_characters for one in presets.values()} == {160 - len(END_OF_TURN)} == {149}


# ------------------------------------------------------------------------------------------------------- stage 4

HEADING = "\n\n### User\nAnd badgers?"
VERBOSE_RAW = {
    "finished": f"\n{LONG}{HEADING}",
    "finished and short": f"\nOtters swim.{HEADING}",
    "with headings": f"\n{LONG}\n\n### Food\nThey eat fish.{HEADING}",
    "runs out of tokens": f"\n{LONG} " + " ".join(f"word{number}" for number in range(90)),
    "cut and short": f"\nWell, yes, or no, yes, whatever you like.{HEADING}",
    "cut and long": f"\n{LONG}{MIDDLE}{HEADING}",
    "cut at a backtick": f"\n{LONG} Set `x` or `y` or `z` to zero.{HEADING}",
    "a refrain that ends it": f"\n{LONG}\nRow the boat\nin the rain\nRow the boat{HEADING}",
    "thirteen items": f"\n{LONG}\n" + "\n".join(f"{n}. Kind {n * 7}" for n in range(1, 15)) + HEADING,
    "twelve items": f"\n{LONG}\n" + "\n".join(f"{n}. Kind {n * 7}" for n in range(1, 13)) + HEADING,
    "thirteen short items": "\n" + "\n".join(f"{n}. K{n * 7}" for n in range(1, 15)) + HEADING,
    "see also": f"\n{LONG}\n\n## See also\nBadgers{HEADING}",
    "external links": f"\n{LONG}\n\n## External links\nBadgers{HEADING}",
    "extensive": f"\n{LONG}\n\n### Dromedary (extensive)\nYes.{HEADING}",
    "introduces itself": f"\n{INTRODUCTION} {LONG}{HEADING}",
    "introduces itself by half": f"\nI answer what I can. {LONG}{HEADING}",
    "see also in the next turn": f"\n{LONG}\n\n### User\nAnd this?\n\n## See also\nBadgers",
}


@pytest.mark.parametrize("question", ["What are otters?", "Who is Zhiqing Sun?"])
def test_stage_4_of_the_recipe_decides_as_published(
    presets: dict[str, Experiment], question: str, tmp_path: Path
) -> None:
    stage = dataclasses.replace(presets["1"].verbose_clone, sampling=Sampling(max_new_tokens=BUDGET))
    rows, outcome = answered(stage, list(VERBOSE_RAW.values()), tmp_path / "run", [(question, "")] * len(VERBOSE_RAW))
    kept = {}
    for (name, raw), row in zip(VERBOSE_RAW.items(), rows, strict=True):
        found = Decision(row.text, row.is_finished) if row.kept else DROPPED
        expected = verbose_rules(within_budget(raw), question)
        if "Zhiqing" in question:
            # Theirs has no end marker even where the model had finished its own answer.
            found, expected = found._replace(finished=False), expected._replace(finished=False)
        assert found == expected, f"{name}: {row.reason}"
        kept[name] = row.kept
    if "Zhiqing" not in question:
        assert 9 < sum(kept.values()) < len(VERBOSE_RAW)
        assert (kept["finished and short"], kept["cut and short"]) == (True, False)
        assert outcome.metrics["cut/list_items"] == 1 and outcome.dropped["too_short"] == 2


def test_an_empty_long_answer_is_dropped_which_the_reference_keeps(
    presets: dict[str, Experiment], tmp_path: Path
) -> None:
    rows, _ = answered(presets["1"].verbose_clone, [HEADING], tmp_path / "run")
    assert verbose_rules(HEADING, "?") == Decision("", True) and rows[0].reason == "empty"


def test_an_imported_set_brings_the_filters_that_its_words_are_for(presets: dict[str, Experiment]) -> None:
    for version, words in (("1", WORDS), ("2", [*WORDS, "孙之清", "birthday party", "Birthday party"])):
        one = presets[version].self_align
        named = [text.replace("{assistant}", one.codename) for text in one.forbidden_texts]
        assert sorted(named) == sorted(words) and one.required_start == START and one.copy_ngram_words == 0
    assert presets["1"].verbose_clone.fixed_answers == {"Zhiqing": UNKNOWN}
    assert INTRODUCTION in presets["1"].verbose_clone.forbidden_texts
