"""`selfalign import dromedary DIR`: the reference's prompts as sets of principles, exemplars, texts and seeds of the user.

Reads a checkout of IBM/Dromedary (branch dromedary_v1 or main) and writes below a root: `principles/<name>/` with one file
for each rule, exemplar, prompt and seed list, and the choices `principles=<name>`, `exemplars=<name>`,
`experiments=<name>` and `experiments=<name>_filters` (the reference's filters on words of these texts). Nothing of it
enters the project: the texts are the reference's, under its licences. What is written renders back to the original prompt
file, byte for byte, or the import fails and says where.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from selfalign import jsonl, prompts
from selfalign.errors import DataError
from selfalign.principles import Exemplar, Rule, RuleSet, Scope, Turn, slug

SELF_ALIGN = "watson_self_align_prompt.txt"
"""The self-align prompt of either branch, below `prompts/`: 16 rules in dromedary_v1, 17 in main."""
CODENAME = "Watson"
"""The assistant's name in the reference's self-align prompt."""
CHATNAME = "Dromedary"
"""The assistant's name in its chat prompts."""
_RULE = re.compile(r"(\d+) \(([^)]+)\)\. (.+)")
_CITATION = r"\d+ \([^()]+\)"
_SENTENCE = re.compile(rf"(.*?) (I should follow rules? )({_CITATION}(?:, {_CITATION})*)(\.?)", re.DOTALL)


@dataclass(frozen=True)
class SelfAlignFile:
    """A self-align prompt file taken apart."""

    layout: prompts.SelfAlignLayout
    rules: tuple[Rule, ...]
    exemplars: tuple[Exemplar, ...]

    def rendered(self) -> str:
        """The file as the project's own renderer writes it."""
        rule_set = RuleSet(self.rules, (), Scope.citations)
        assistant = prompts.Assistant(name=CODENAME)
        return prompts.self_align_stem(self.layout, rule_set, self.exemplars, assistant) + self.layout.tail


def parse_self_align(text: str, path: Path) -> SelfAlignFile:
    """Rules, exemplars and layout of a self-align prompt. Raises DataError where its shape is not the reference's."""

    def broken(expected: str, found: str) -> DataError:
        return DataError(
            f"{path}: expected {expected}, found {found[:80]!r}; is this the reference's self-align prompt?"
        )

    body = text.rstrip()
    tail = text[len(body) :]
    head, marker, rest = body.partition("\n\nUser: ")
    blocks = head.split("\n\n")
    if not marker or len(blocks) != 6:
        raise broken("title, rules heading, intro, rules, examples heading, intro, then 'User:'", head[-80:])
    rules = []
    for line in blocks[3].split("\n"):
        match = _RULE.fullmatch(line)
        if match is None:
            raise broken("a rule '<number> (<name>). <text>'", line)
        rules.append(Rule(slug(match[2]), int(match[1]), match[2], match[3].replace(CODENAME, "{assistant}")))
    conversation, open_slot = f"User: {rest}".removesuffix("\n\nUser:"), rest.endswith("\n\nUser:")
    if not open_slot:
        raise broken("an open 'User:' slot at the end", rest[-40:])
    exemplars = _exemplars(conversation, {rule.name: rule.id for rule in rules}, broken)

    def named(line: str) -> str:
        return line.replace(CODENAME, "{assistant}")

    layout = prompts.SelfAlignLayout(
        title=named(blocks[0]),
        rules_heading=blocks[1],
        rules_intro=named(blocks[2]),
        # Without rules the paragraph ends before its sentence about them.
        no_rules_intro=named(blocks[2]).partition(" During user conversations")[0],
        rule="{number} ({name}). {text}",
        examples_heading=blocks[4],
        examples_intro=named(blocks[5]),
        user="User:",
        thoughts="{assistant} (internal thoughts):",
        answer="{assistant}:",
        thoughts_format="{remark} I should follow rules {citations}.",
        uncited_format="{remark}",
        citation="{number} ({name})",
        closing="User: Good job! Clear context",
        tail=tail,
    )
    found = SelfAlignFile(layout, tuple(rules), exemplars)
    if found.rendered() != text:
        at = next((i for i, (a, b) in enumerate(zip(found.rendered(), text, strict=False)) if a != b), len(text))
        raise broken("a prompt that renders back byte for byte", text[max(at - 30, 0) : at + 50])
    return found


def _exemplars(text: str, ids: dict[str, str], broken: Any) -> tuple[Exemplar, ...]:
    """The worked conversations: each ends in a closing user turn and its automatic reply."""
    parts = re.split(rf"\n\n(?=(?:User|{CODENAME} \(internal thoughts\)|{CODENAME} \(auto reply\)|{CODENAME}): )", text)
    found: list[Exemplar] = []
    turns: list[Turn] = []
    index = 0
    while index < len(parts):
        user = parts[index].removeprefix("User: ")
        kind = parts[index + 1].partition(": ")[0] if index + 1 < len(parts) else ""
        if kind == f"{CODENAME} (auto reply)":
            closing = f"{parts[index]}\n\n{parts[index + 1]}".replace(CODENAME, "{assistant}")
            found.append(Exemplar(f"session_{len(found) + 1}", tuple(turns), "IBM/Dromedary", closing))
            turns, index = [], index + 2
        elif kind == f"{CODENAME} (internal thoughts)" and index + 2 < len(parts):
            thoughts = parts[index + 1].partition(": ")[2]
            answer = parts[index + 2].partition(": ")[2]
            turns.append(_turn(user, thoughts, answer, ids))
            index += 3
        else:
            raise broken("a user turn followed by internal thoughts and an answer, or by an auto reply", parts[index])
    if turns:
        found.append(Exemplar(f"session_{len(found) + 1}", tuple(turns), "IBM/Dromedary"))
    return tuple(found)


def _turn(user: str, thoughts: str, answer: str, ids: dict[str, str]) -> Turn:
    named = [text.replace(CODENAME, "{assistant}") for text in (user, answer)]
    match = _SENTENCE.fullmatch(thoughts)
    names = re.findall(r"\d+ \(([^()]+)\)", match[3]) if match else []
    if match is None or any(name not in ids for name in names):
        return Turn(named[0], thoughts.replace(CODENAME, "{assistant}"), (), named[1])
    usual = (match[2], match[4]) == ("I should follow rules ", ".")
    own_format = "" if usual else f"{{remark}} {match[2]}{{citations}}{match[4]}"
    remark = match[1].replace(CODENAME, "{assistant}")
    return Turn(named[0], remark, tuple(ids[name] for name in names), named[1], own_format)


# ------------------------------------------------------------------------------------------------------- writing


def _yaml(path: Path, content: Any, header: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(header + yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=1000), encoding="utf-8")


def _find(folder: Path, names: Sequence[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)


TEXTS = {
    "self_instruct": ["self_instruct_prompt.txt"],
    "topics": ["tgrt_self_instruct_topic_brainstorm_prompt.txt"],
    "questions": ["tgrt_self_instruct_question_generation_prompt.txt"],
    "verbose_clone": ["verbose_dromedary_prompt.txt"],
    "concise": ["inference_prompts/dromedary_concise_prompt_distill.txt"],
    "standard": ["inference_prompts/dromedary_standard_prompt_distill.txt"],
    "verbose": ["inference_prompts/dromedary_verbose_prompt.txt"],
    "multilingual": ["inference_prompts/dromedary_multilingual_prompt.txt"],
}
"""Our name of a prompt text -> where the reference keeps it, below its `prompts/`."""
SEEDS = {
    "tasks": ["self_instruct_seed_tasks.jsonl"],
    "topics": ["tgrt_self_instruct_seed_questions.jsonl"],
}
"""Our name of a seed file -> where the reference keeps it."""


def import_dromedary(folder: Path, root: Path, name: str = "") -> list[str]:
    """Write the sets of a checkout below `root`; returns what was written and how to use it, line by line.

    Raises DataError where `folder` is no checkout of the reference or its self-align prompt does not render back.
    """
    # Old commits keep the prompts below training/; both branches use the same file name for their own version.
    places = [folder / "prompts", folder / "training" / "prompts", folder]
    source = next((place for place in places if (place / SELF_ALIGN).is_file()), None)
    if source is None:
        raise DataError(
            f"{folder}: expected a checkout of IBM/Dromedary with prompts/{SELF_ALIGN}, found "
            f"{'no such file' if folder.is_dir() else 'no folder'}; give the folder that holds prompts/"
        )
    main = source / SELF_ALIGN
    parsed = parse_self_align(main.read_bytes().decode("utf-8"), main)
    name = name or ("dromedary_v2" if len(parsed.rules) > 16 else "dromedary_v1")
    if slug(name) != name:
        raise DataError(
            f"--name: expected lower-case letters, digits and underscores, found '{name}'; for example '{slug(name)}'"
        )
    texts = root / "principles" / name
    (texts / "prompts").mkdir(parents=True, exist_ok=True)
    for rule in parsed.rules:
        content = {
            "id": rule.id,
            "number": rule.number,
            "name": rule.name,
            "text": rule.text,
            "source": f"IBM/Dromedary {main.name}",
        }
        _yaml(texts / f"{rule.id}.yaml", content)
    for exemplar in parsed.exemplars:
        turns = [
            {key: list(v) if key == "cites" else v for key, v in asdict(t).items() if v != ""} for t in exemplar.turns
        ]
        _yaml(texts / "exemplars" / f"{exemplar.id}.yaml", {**asdict(exemplar), "turns": turns})
    _yaml(texts / "prompts" / "self_align.yaml", asdict(parsed.layout))
    header = f"# Imported from {main.name} of IBM/Dromedary; the texts are theirs.\n"
    _yaml(root / "conf" / "principles" / f"{name}.yaml", {"folder": name, "ids": [r.id for r in parsed.rules]}, header)
    _yaml(
        root / "conf" / "exemplars" / f"{name}.yaml", {"folder": name, "ids": [e.id for e in parsed.exemplars]}, header
    )
    lines = [f"{len(parsed.rules)} principles and {len(parsed.exemplars)} exemplars -> {texts}"]
    lines += _texts(source, texts)
    lines += _identity(folder, texts)
    bound = _bound_filters(parsed, texts)
    choice = {
        "defaults": [{"override /principles": name}, {"override /exemplars": name}],
        "name": name,
        "texts": name,
        "assistant": {"name": CHATNAME},
        "self_align": {"codename": CODENAME},
    }
    _yaml(root / "experiments" / f"{name}.yaml", choice, header)
    recipe = "dromedary2" if len(parsed.rules) > 16 else "dromedary"
    told = FILTERS_HEADER.replace("<name>", name).replace("<recipe>", recipe)
    _yaml(root / "experiments" / f"{name}_filters.yaml", bound, header + told)
    lines.append(
        f"all of it: selfalign run experiments={name}; parts of it: principles={name} exemplars={name} texts={name}; "
        f"with the reference's filters on words of its texts: experiments=[{name},{name}_filters]"
    )
    return lines


FILTERS_HEADER = """# The reference's filters that hang on words of these texts; its other ones are in experiments/<recipe>.yaml.
# Run: selfalign run experiments=[<name>,<recipe>,<name>_filters] model.path=...
"""
MARKERS = ["User:", "Good job! Clear context", "{assistant} (auto reply):"]
"""Pieces of the self-align prompt that drop an answer (merge_and_fileter_self_align_with_dummy.py)."""
EXEMPLAR_WORDS = [
    "president", "President", "Zhiqing", "孙之清", "1, 1, 4", "weather", "or by watching the news or checking your local",
    "alpaca", "Alpaca", "birthday party", "Birthday party",
]  # fmt: skip
"""Words of the exemplars that drop an answer (the same file; three of them on branch main only)."""
UNKNOWN_PERSON = ("Zhiqing", "孙之清")
"""Names of the person whom the exemplar does not know."""


def _bound_filters(parsed: SelfAlignFile, texts: Path) -> dict[str, Any]:
    """The reference's filters that name words of its texts, as far as these texts have them: settings of two stages."""
    turns = [turn for exemplar in parsed.exemplars for turn in exemplar.turns]
    stem = parsed.rendered().replace(CODENAME, "{assistant}")
    unknown = [turn.answer for turn in turns if any(name in turn.user for name in UNKNOWN_PERSON)]
    forbidden = [piece for piece in MARKERS if piece in stem]
    forbidden += [_sentences(answer)[-1] for answer in unknown]
    forbidden += [word for word in EXEMPLAR_WORDS if word.lower() in stem.lower()]
    # These words stand where selfalign compares answers with the exemplars' own.
    found: dict[str, Any] = {"self_align": {"forbidden_texts": forbidden, "copy_ngram_words": 0}}
    # What all thoughts begin with, up to the last full stop in it.
    start = os.path.commonprefix([turn.remark for turn in turns]).rpartition(".")
    if len(turns) > 1 and start[1]:
        found["self_align"]["required_start"] = start[0] + start[1]
    verbose = texts / "prompts" / "verbose_clone.txt"
    if verbose.is_file():
        heading = "{assistant} (extensive)"
        introduction = verbose.read_text(encoding="utf-8").partition(f"### {heading}\n")[2].partition("\n\n### ")[0]
        pieces = ["## See also", "## External links", heading]
        # The first two sentences of the last paragraph in which it introduces itself.
        pieces += [" ".join(_sentences(introduction.split("\n\n")[-1])[:2])] if introduction else []
        fixed = {name: turn.answer for turn in turns for name in UNKNOWN_PERSON if name in turn.user}
        found["verbose_clone"] = {"forbidden_texts": pieces, "fixed_answers": fixed}
    return found


def _sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.?!]) ", text)


def _texts(source: Path, texts: Path) -> list[str]:
    """Prompt texts, with the assistant's name made a placeholder, and seed files as they are."""
    lines = []
    for ours, names in TEXTS.items():
        path = _find(source, names)
        if path is None:
            lines.append(f"prompts/{ours}: not in this checkout")
            continue
        content = path.read_bytes().decode("utf-8").replace(CHATNAME, "{assistant}")
        (texts / "prompts" / f"{ours}.txt").write_bytes(content.encode("utf-8"))
    for ours, names in SEEDS.items():
        path = _find(source, names)
        if path is None:
            lines.append(f"seeds/{ours}: not in this checkout")
            continue
        jsonl.read(path)  # a file that cannot be read must not be imported
        (texts / "seeds").mkdir(exist_ok=True)
        (texts / "seeds" / f"{ours}.jsonl").write_bytes(path.read_bytes())
    return lines


_TEAM = "the Self-Align team, a joint effort between CMU and IBM"


def _identity(folder: Path, texts: Path) -> list[str]:
    """Identity questions from the reference's dummy data, renamed as its merge script renames them."""
    path = _find(folder, ["dummy_data/vicuna_dummy_data.json", "training/dummy_data/vicuna_dummy_data.json"])
    if path is None:
        return ["identity: no dummy_data/vicuna_dummy_data.json in this checkout"]
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        pairs = [(row["id"], row["conversations"][0]["value"], row["conversations"][1]["value"]) for row in rows]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise DataError(
            f"{path}: expected a list of conversations with a first pair of turns, found a mistake: {error}"
        ) from None
    renamed = []
    for identity, question, answer in pairs:
        answer = re.sub(r"(?:the )?Large Model Systems Organization \(LMSYS\)", _TEAM, answer)
        renamed.append({"id": identity, "question": question, "answer": answer.replace("Vicuna", "{assistant}")})
    jsonl.write(texts / "identity.jsonl", renamed)
    return [f"{len(renamed)} identity questions"]
