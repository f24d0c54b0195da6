from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from selfalign import principles, prompts
from selfalign.errors import ConfigError, DataError
from selfalign.principles import ExemplarSettings, Numbering, PrincipleSettings, Scope, resolve, resolve_exemplars
from tests.factories import FIVE, SIXTEEN


def stem(settings: PrincipleSettings, exemplars: list[str] | None = None) -> str:
    rule_set = resolve(settings)
    shown = resolve_exemplars(ExemplarSettings(ids=FIVE if exemplars is None else exemplars), rule_set)
    return prompts.self_align_stem(prompts.load_layout(), rule_set, shown, prompts.Assistant())


def numbers_of(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"^(\d+) \([^)]+\)\. ", text, flags=re.MULTILINE)]


def citations_of(text: str) -> list[str]:
    return re.findall(r"\d+ \(([^)]+)\)(?!\.)(?=[,.])", "\n".join(re.findall(r"Rules that apply: .*", text)))


@pytest.mark.parametrize("dropped", SIXTEEN)
def test_dropping_a_rule_renumbers_the_rest_and_leaves_no_dangling_citation(dropped: str) -> None:
    text = stem(PrincipleSettings(ids=SIXTEEN, drop=[dropped]))
    name = principles.load_principle(dropped).name
    assert numbers_of(text) == list(range(1, 16))
    assert f"({name})" not in text
    listed = dict(re.findall(r"^(\d+) \(([^)]+)\)\. ", text, flags=re.MULTILINE))
    for number, cited in re.findall(r"(\d+) \(([^)]+)\)", "\n".join(re.findall(r"Rules that apply: .*", text))):
        assert listed[number] == cited, "a citation names the rule that has its number"


def test_keep_leaves_a_gap_in_the_numbers() -> None:
    text = stem(PrincipleSettings(ids=SIXTEEN, drop=["helpful"], numbering=Numbering.keep))
    assert numbers_of(text) == [1, 2, *range(4, 17)]


def test_scope_rule_leaves_the_citations_of_the_dropped_rule_dangling() -> None:
    text = stem(PrincipleSettings(ids=SIXTEEN, drop=["candor"], scope=Scope.rule))
    assert "7 (candor)." not in text.split("## Examples")[0]
    assert citations_of(text).count("candor") == 3


def test_scope_exemplars_takes_every_exemplar_that_cites_the_rule() -> None:
    text = stem(PrincipleSettings(ids=SIXTEEN, drop=["candor"], scope=Scope.exemplars))
    assert "Tilda Morrow" not in text and "raining in Lisbon" not in text and "otters" in text


def test_scope_placebo_keeps_place_and_length_and_asks_for_nothing() -> None:
    whole, placebo = (stem(PrincipleSettings(ids=SIXTEEN, drop=d, scope=Scope.placebo)) for d in ([], ["ethical"]))
    assert numbers_of(placebo) == list(range(1, 17))
    lines = [next(line for line in text.split("\n") if line.startswith("1 (")) for text in (whole, placebo)]
    assert len(lines[0].split()) == len(lines[1].split()) and "(note)" in lines[1]
    assert "illegal" not in placebo


def test_dropping_nothing_is_the_same_under_every_scope() -> None:
    texts = {stem(PrincipleSettings(ids=SIXTEEN, scope=scope)) for scope in Scope}
    assert len(texts) == 1


def test_without_rules_there_is_no_heading_and_no_citation() -> None:
    text = stem(PrincipleSettings())
    assert "## Rules" not in text and "Rules that apply" not in text and "internal thoughts" in text


def test_without_exemplars_there_is_no_heading() -> None:
    assert "## Examples" not in stem(PrincipleSettings(ids=SIXTEEN), exemplars=[])


def test_the_exemplars_show_the_same_rules_as_the_references() -> None:
    cited = [tuple(turn.cites) for name in FIVE for turn in principles.load_exemplar(name).turns]
    number = {name: position for position, name in enumerate(SIXTEEN, start=1)}
    # REFERENCE: sessions of prompts/watson_self_align_prompt.txt.
    assert [tuple(number[name] for name in turn) for turn in cited] == [
        (3, 7, 12), (2, 3, 7, 10), (5, 13, 15), (11, 16), (3, 7, 9), (2, 6, 8)
    ]  # fmt: skip


def test_names_may_be_written_as_in_the_paper() -> None:
    one = resolve(PrincipleSettings(ids=SIXTEEN, drop=["Multi-Aspect", "step by step"]))
    assert {rule.id for rule in one.dropped} == {"multi_aspect", "step_by_step"}


def test_all_wrong_names_are_reported_together_with_a_suggestion() -> None:
    settings = PrincipleSettings(ids=[*SIXTEEN, "ethical"], drop=["candour", "multilingual"], add=["helpfull"])
    with pytest.raises(ConfigError) as error:
        resolve(settings)
    text = str(error.value)
    assert "did you mean 'candor'" in text and "did you mean 'helpful'" in text
    assert "'multilingual' is not in the chosen set" in text and "'ethical' twice" in text


def test_adding_puts_a_principle_behind_the_set() -> None:
    rules = resolve(PrincipleSettings(ids=SIXTEEN, add=["multilingual"])).rules
    assert (rules[-1].id, rules[-1].number) == ("multilingual", 17)


def test_an_exemplar_can_be_dropped_and_a_wrong_one_is_named() -> None:
    rule_set = resolve(PrincipleSettings(ids=SIXTEEN))
    left = resolve_exemplars(ExemplarSettings(ids=FIVE, drop=["known_animal"]), rule_set)
    assert [exemplar.id for exemplar in left] == FIVE[:-1]
    with pytest.raises(ConfigError, match="did you mean 'known_animal'"):
        resolve_exemplars(ExemplarSettings(ids=FIVE, drop=["known_animals"]), rule_set)


def test_a_users_own_principle_is_found_and_a_bad_file_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "principles").mkdir()
    mine = tmp_path / "principles" / "patient.yaml"
    mine.write_text("id: patient\nnumber: 99\nname: patient\ntext: '{assistant} waits.'\nsource: me\n")
    monkeypatch.chdir(tmp_path)
    rules = resolve(PrincipleSettings(ids=SIXTEEN, add=["patient"])).rules
    assert rules[-1].text == "{assistant} waits."
    mine.write_text("id: patient\nnumber: 99\nnane: patient\n")
    with pytest.raises(DataError, match="did you mean 'name'"):
        resolve(PrincipleSettings(ids=["patient"]))
    mine.write_text("id: [\n")
    with pytest.raises(DataError, match="expected YAML"):
        resolve(PrincipleSettings(ids=["patient"]))


def test_order_is_the_order_of_the_set() -> None:
    rules = resolve(replace(PrincipleSettings(), ids=SIXTEEN[::-1])).rules
    assert [rule.id for rule in rules] == SIXTEEN[::-1] and rules[0].number == 1


def test_an_order_puts_the_named_rules_first_and_the_rest_behind_them_or_where_three_dots_stand() -> None:
    def shown(order: list[str], **others: object) -> list[str]:
        rules = resolve(replace(PrincipleSettings(ids=SIXTEEN, order=order), **others)).rules
        assert [rule.number for rule in rules] == list(range(1, len(rules) + 1))
        return [rule.id for rule in rules]

    rest = [name for name in SIXTEEN if name not in ("candor", "helpful")]
    assert shown(["candor", "Helpful"]) == ["candor", "helpful", *rest]
    assert shown(["candor", "...", "helpful"]) == ["candor", *rest, "helpful"]
    assert shown(["...", "candor"], drop=["helpful"]) == [*rest, "candor"]
    assert shown(["multilingual"], add=["multilingual"]) == ["multilingual", *SIXTEEN]
    assert shown(["..."]) == shown([]) == SIXTEEN


def test_with_kept_numbers_a_rule_has_its_number_of_the_set_wherever_it_stands() -> None:
    settings = PrincipleSettings(ids=SIXTEEN, order=["...", "helpful"], drop=["candor"], numbering=Numbering.keep)
    assert numbers_of(stem(settings)) == [1, 2, 4, 5, 6, *range(8, 17), 3]


def test_what_is_wrong_with_an_order_is_reported_with_the_rest() -> None:
    settings = PrincipleSettings(
        ids=SIXTEEN, order=["candour", "helpful", "helpful", "...", "..."], drop=["multilingual"]
    )
    with pytest.raises(ConfigError) as error:
        resolve(settings)
    text = str(error.value)
    assert "principles.order: unknown principle 'candour'; did you mean 'candor'" in text
    assert "found 'helpful' 2 times" in text and "found '...' 2 times" in text and "principles.drop" in text
