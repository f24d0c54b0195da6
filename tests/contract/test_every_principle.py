"""Every file in principles/ is a principle that any set can hold."""

from __future__ import annotations

import re

import pytest
import yaml

from selfalign import resources
from selfalign.principles import (
    ExemplarSettings,
    PrincipleSettings,
    available,
    available_exemplars,
    load_exemplar,
    load_principle,
    resolve,
    resolve_exemplars,
    slug,
)
from selfalign.prompts import Assistant, load_layout, self_align_stem
from tests.factories import FIVE, SIXTEEN

FOLDER = resources.shipped_root() / "principles"
PRINCIPLES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
EXEMPLARS = sorted(path.stem for path in (FOLDER / "exemplars").glob("*.yaml"))


def test_all_files_are_found() -> None:
    assert len(PRINCIPLES) >= 17 and set(PRINCIPLES) <= set(available())
    assert len(EXEMPLARS) >= 6 and set(EXEMPLARS) <= set(available_exemplars())


def test_the_sixteen_have_the_references_numbers() -> None:
    assert [load_principle(name).number for name in SIXTEEN] == list(range(1, 17))


def test_numbers_and_names_are_unique() -> None:
    loaded = [load_principle(name) for name in PRINCIPLES]
    assert len({one.number for one in loaded}) == len({one.name for one in loaded}) == len(loaded)


@pytest.mark.parametrize("name", PRINCIPLES)
def test_a_principle_is_complete_and_hard_codes_nothing(name: str) -> None:
    one = load_principle(name)
    assert slug(one.name) == one.id == name
    assert "{assistant}" in one.text and "Willow" not in one.text and "Watson" not in one.text
    assert not re.search(r"\d", one.text), "a number or a year in the text could not be renumbered or configured"
    assert 6 <= len(one.text.split()) <= 40, "rules must fit a context window"
    assert "\n" not in one.text and one.text.endswith(".")
    assert "arXiv" in one.source or "Dromedary" in one.source


@pytest.mark.parametrize("name", PRINCIPLES)
def test_a_principle_renders_in_every_position(name: str) -> None:
    others = [other for other in SIXTEEN if other != name]
    for position in (0, 7, len(others)):
        ids = [*others[:position], name, *others[position:]]
        rules = resolve(PrincipleSettings(ids=ids))
        text = self_align_stem(load_layout(), rules, (), Assistant())
        assert f"\n{position + 1} ({load_principle(name).name}). Willow" in text


@pytest.mark.parametrize("name", EXEMPLARS)
def test_an_exemplar_cites_principles_that_exist_and_answers(name: str) -> None:
    exemplar = load_exemplar(name)
    assert exemplar.id == name and exemplar.turns
    for turn in exemplar.turns:
        assert turn.cites and set(turn.cites) <= set(PRINCIPLES)
        assert turn.answer.strip() and not re.search(r"\d+ \(", turn.remark), "citations are stored as ids"


def test_exemplars_show_in_the_given_order() -> None:
    rules = resolve(PrincipleSettings(ids=SIXTEEN))
    shown = resolve_exemplars(ExemplarSettings(ids=FIVE[::-1]), rules)
    assert [exemplar.id for exemplar in shown] == FIVE[::-1]


def test_every_set_names_files_that_exist() -> None:
    seen = 0
    for path in (resources.shipped_root() / "conf" / "principles").glob("*.yaml"):
        assert set(yaml.safe_load(path.read_text())["ids"]) <= set(PRINCIPLES)
        seen += 1
    for path in (resources.shipped_root() / "conf" / "exemplars").glob("*.yaml"):
        assert set(yaml.safe_load(path.read_text())["ids"]) <= set(EXEMPLARS)
        seen += 1
    assert seen >= 6
