"""Laws of neutral lines: a prompt is as long with one as with the rule, by whatever counts its tokens, and nothing else changes."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path

import pytest

from selfalign import groups, jsonl
from selfalign.artifacts import Artifact, Store
from selfalign.commands.prompting import prompt as prompt_command
from selfalign.engines.model import raw_tokenizer
from selfalign.engines.scripted import ScriptedEngine, ScriptedSettings
from selfalign.experiment import context, pipeline
from selfalign.pipeline import plan
from selfalign.principles import NEUTRAL, ExemplarSettings, Numbering, PrincipleSettings, Rule, RuleSet, Scope, resolve
from selfalign.prompts import Assistant, load_layout, placebo, self_align_stem, with_neutral_lines
from selfalign.records import Prompt, to_row
from selfalign.stages.base import Context
from selfalign.stages.self_align import SelfAlign
from tests.factories import FIVE, SIXTEEN

Count = Callable[[str], int]
PLACE = Rule("b", 2, "note", "", is_placebo=True)


def stage(dropped: list[str], exemplars: list[str] | None = None, **more: object) -> SelfAlign:
    chosen = PrincipleSettings(ids=SIXTEEN, drop=dropped, scope=Scope.placebo, **more)  # type: ignore[arg-type]
    return SelfAlign(chosen, ExemplarSettings(ids=FIVE if exemplars is None else exemplars))


def lines_of(rule_set: RuleSet) -> list[str]:
    return [rule.text for rule in rule_set.rules if rule.is_placebo]


def counter(folder: Path) -> Count:
    tokenizer = raw_tokenizer(folder)
    return lambda text: len(tokenizer.encode(text).ids)


@cache
def by_calf() -> Count:
    groups.register()
    return groups.compose([]).engine.count_tokens


@pytest.fixture(params=["calf", "tinystories-656k", "words"])
def count(request: pytest.FixtureRequest) -> Count:
    """Tokens by Calf's tokenizer, by a real one whose tokens reach across words; and words, where there is none."""
    if request.param == "words":
        return lambda text: len(text.split())
    if request.param == "calf":
        return by_calf()
    return counter(request.getfixturevalue("real_data") / "models" / request.param)


@pytest.mark.parametrize("dropped", SIXTEEN)
def test_a_prompt_has_as_many_tokens_with_a_neutral_line_as_with_the_rule(dropped: str, count: Count) -> None:
    whole, without = stage([]).arm(count)[3], stage([dropped]).arm(count)[3]
    assert count(without) == count(whole) and without != whole


@pytest.mark.parametrize(
    "changed",
    [
        stage(SIXTEEN[::2]),
        stage(SIXTEEN),
        stage(["candor", "helpful"], exemplars=[]),
        stage(["helpful"], order=["...", "ethical"], add=["multilingual"]),
        stage(["helpful", "operational"], order=["helpful"], numbering=Numbering.keep),
        replace(stage(["candor"]), codename="Watson"),
    ],
    ids=["half", "all", "no exemplars", "added", "kept numbers", "codename"],
)
def test_so_it_does_with_many_in_another_order_and_under_another_name(changed: SelfAlign, count: Count) -> None:
    whole = replace(changed, principles=replace(changed.principles, drop=[]))
    _, rules, _, stem = changed.arm(count)
    assert count(stem) == count(whole.arm(count)[3])
    before = resolve(whole.principles).rules
    assert [(rule.id, rule.number) for rule in rules.rules] == [(rule.id, rule.number) for rule in before]
    assert len(lines_of(rules)) == len(changed.principles.drop)


def test_where_no_line_has_as_many_tokens_the_nearest_stands_there(count: Count) -> None:
    def stem(line: Rule) -> str:
        shown = RuleSet((Rule("a", 1, "a", "One."), line, Rule("c", 3, "c", "Three.")), (), Scope.placebo)
        return self_align_stem(load_layout(), shown, (), Assistant())

    def missed(line: str, rule: Rule) -> int:
        return abs(count(stem(replace(PLACE, text=line))) - count(stem(rule)))

    every = [line for alike in islice(placebo._lines(), 40) for line in alike]
    for text in ("Wait.", "It waits for the user, says so, and waits on. " * 12):
        rule = replace(PLACE, text=text, is_placebo=False)
        rules = RuleSet((Rule("a", 1, "a", "One."), PLACE, Rule("c", 3, "c", "Three.")), (rule,), Scope.placebo)
        (line,) = lines_of(with_neutral_lines(load_layout(), rules, (), Assistant(), count))
        assert missed(line, rule) == min(missed(one, rule) for one in every)
        assert (missed(line, rule) > 0) == (text == "Wait.")


def test_by_bytes_too_a_prompt_differs_by_one_at_most(tiny_model: Path) -> None:
    count = counter(tiny_model)
    whole = count(stage([]).arm(count)[3])
    assert all(abs(count(stage([dropped]).arm(count)[3]) - whole) <= 1 for dropped in SIXTEEN)


def test_a_neutral_line_is_made_of_whole_sentences_that_say_the_same_and_ask_for_nothing() -> None:
    said = re.sub(r"[\[\]|]", "", NEUTRAL).replace(",", "").split()
    found = [line for alike in islice(placebo._lines(), 20) for line in alike]
    assert len(found) == len(set(found)) > 100
    for line in found:
        assert re.fullmatch(r"(\{assistant\} and the user [a-z, ]*[a-z]\. ?)+", line) and line.endswith(".")
        assert "  " not in line and " ," not in line and ",," not in line
        for sentence in line[:-1].split(". "):
            rest = iter(said)
            assert all(word in rest for word in sentence.replace(",", "").split()), "its words, in its order"


def test_only_a_neutral_line_hangs_on_how_tokens_are_counted() -> None:
    def refuse(text: str) -> int:
        raise AssertionError("nothing is to be counted here")

    for scope in Scope:
        for dropped in ([], ["candor"]):
            chosen = replace(stage(dropped), principles=PrincipleSettings(ids=SIXTEEN, drop=dropped, scope=scope))
            if dropped and scope is Scope.placebo:
                with pytest.raises(AssertionError):
                    chosen.arm(refuse)
            else:
                assert chosen.arm(refuse)[1] == resolve(chosen.principles)


# ------------------------------------------------------------------------------------------------ planned, said and sent


class CountedByCalf(ScriptedSettings):
    """A scripted engine whose tokens are Calf's."""

    def count_tokens(self, text: str) -> int:
        return by_calf()(text)


def test_what_is_named_previewed_and_reckoned_is_what_is_sent(tmp_path: Path) -> None:
    asked = [Prompt(f"p{number}", f"Name {number} uses of a spoon.", "", "self_instruct") for number in range(3)]
    (tmp_path / "prompts").mkdir()
    jsonl.write(tmp_path / "prompts" / "prompts.jsonl", map(to_row, asked))
    given = {"prompts": Artifact("Merge-0-0", tmp_path / "prompts", {"files": {"prompts.jsonl": {}}, "counts": {}})}
    one, engine = stage(["candor"]), ScriptedEngine(context_length=10_000)
    settings = CountedByCalf(engine)
    (tmp_path / "out").mkdir()
    one.run(given, tmp_path / "out", Context(settings))
    stem = (tmp_path / "out" / "stem.txt").read_text(encoding="utf-8")
    assert stem == one.arm(settings.count_tokens)[3]
    sent = [request.prompt for request in engine.generated]
    assert sent == [request.prompt for request in one.requests(asked, settings.count_tokens)]
    assert sent[0] == one.preview(asked[0].text, settings.count_tokens)["self_align"]
    by_words = ScriptedSettings(engine)
    assert one.identity(Context(settings)) != one.identity(Context(by_words)), "other lines, another name"
    dropped = replace(one, principles=replace(one.principles, drop=[]))
    assert dropped.identity(Context(settings)) == dropped.identity(Context(by_words))


def test_a_placebo_arm_shares_all_nodes_whose_prompts_it_does_not_change(tmp_path: Path) -> None:
    def names(*overrides: str) -> dict[str, str]:
        groups.register()
        one = groups.compose(["tracking=none", *overrides])
        return {
            name: item.artifact for name, item in plan(pipeline(one), Store(tmp_path), context(one, quiet=True)).items()
        }

    dropped = ("principles.drop=[candor]", "principles.scope=placebo")
    whole, arm = names(), names(*dropped)
    assert arm == names(*dropped)
    changed = {name for name in whole if whole[name] != arm[name]}
    assert {"responses", "engraved", "scores_engraved"} <= changed
    assert not changed & {"instructions", "red_team", "prompts", "scores_base"}


def test_prompt_says_what_its_neutral_lines_were_counted_in(capsys: pytest.CaptureFixture[str]) -> None:
    dropped = ["principles.drop=[candor]", "principles.scope=placebo"]

    def told(*more: str) -> str:
        assert prompt_command([*dropped, *more, "--diff"]) == 0
        return capsys.readouterr().err

    assert "tokens by the tokenizer of the model (+0)]" in told()
    assert "words, which are the tokens of a scripted engine (+0)]" in told("engine=scripted")
    assert "words, because no tokenizer is here: model.path: expected a model" in told("model=hf")
