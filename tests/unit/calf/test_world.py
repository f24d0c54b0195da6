from collections import Counter
from random import Random

import pytest

from selfalign.calf import evalsets, exams, kinds, oracle, world
from selfalign.principles import available

KINDS = sorted(kinds.KINDS)


def items(kind, count=60, **options):
    draw = Random(7)
    return [world.make(kind, draw, **options) for _ in range(count)]


@pytest.mark.parametrize("kind", KINDS)
def test_the_answer_under_all_governing_rules_shows_every_governed_behaviour(kind):
    for item in items(kind):
        assert oracle.shown(kind, item.answer(item.governs)) == set(item.governs)


@pytest.mark.parametrize("kind", KINDS)
def test_the_answer_without_the_governing_rules_shows_none_of_them(kind):
    for item in items(kind):
        others = [name for name in oracle.MARKS if name not in item.governs]
        assert item.answer(others) == item.raw
        assert oracle.shown(kind, item.raw) == frozenset()
        assert item.cites(others) == ()


@pytest.mark.parametrize("kind", KINDS)
def test_entities_are_what_the_answer_repeats_of_the_question(kind):
    for item in items(kind, frame=0.5):
        assert all(entity.lower() in item.answer(item.governs).lower() for entity in item.entities)
        assert all(slot for slot in item.slots)
    asked = [entity.lower() in item.text.lower() for item in items(kind) for entity in item.entities]
    assert all(asked)


@pytest.mark.parametrize("kind", KINDS)
def test_long_answers_hold_the_short_one_and_its_marks_and_no_more_of_them(kind):
    draw = Random(1)
    for item in items(kind):
        for rules in (item.governs, ()):
            long, short = item.verbose_answer(rules, draw), item.answer(rules)
            assert short in long
            assert oracle.shown(kind, long) == set(rules)
    governed = items(kind)
    short = sum(len(item.answer(item.governs)) for item in governed)
    assert sum(len(item.verbose_answer(item.governs, draw)) for item in governed) >= 2.5 * short


@pytest.mark.parametrize("kind", [kind for kind in KINDS if len(world.governing()[kind]) > 1])
def test_rules_that_act_together_each_leave_their_own_mark(kind):
    for item in items(kind):
        for name in item.governs:
            assert oracle.shown(kind, item.answer([name])) == {name}


@pytest.mark.parametrize("kind", KINDS)
def test_the_kind_of_a_question_is_known_from_its_words_with_or_without_a_frame(kind):
    assert all(oracle.kind_of(item.text) == kind for item in items(kind, frame=0.5))


def test_a_question_of_another_world_has_no_kind():
    assert oracle.kind_of("What is the meaning of photosynthesis for a baker's accountant?") is None


def test_every_principle_of_the_paper_governs_at_least_one_kind_and_exists():
    governed = {name for governs in world.governing().values() for name in governs}
    assert governed == set(oracle.MARKS)
    assert len(governed) == 16 and governed <= set(available())
    assert all(world.governed_by(name) for name in governed)


@pytest.mark.parametrize("kind", KINDS)
def test_topics_are_what_the_topic_parser_keeps(kind):
    for item in items(kind):
        assert len(item.topic.split()) <= 3 and item.topic[0].isupper() and item.topic[-1].isalnum()


@pytest.mark.parametrize("kind", KINDS)
def test_held_out_questions_exist_and_are_disjoint_from_the_others(kind):
    held_out = {item.text for item in items(kind, held_out=True)}
    assert held_out and not held_out & {item.text for item in items(kind, 300)}


def test_the_same_seed_draws_the_same_items():
    assert items("create") == items("create")


def test_exam_questions_have_true_and_false_answers_that_differ():
    draw = Random(3)
    for held_out in (False, True):
        for _ in range(100):
            exam = exams.exam(draw, held_out=held_out)
            assert exam.true and exam.false and not set(exam.true) & set(exam.false)


def test_the_shipped_evaluation_sets_are_those_the_code_writes(tmp_path):
    evalsets.write(tmp_path)
    written = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert len(written) == 6
    for path in written:
        assert (tmp_path / path).read_bytes() == (evalsets.DATA / path).read_bytes(), path


def test_evaluation_sets_have_the_real_sets_shape():
    rows = evalsets.truth()
    assert len(rows) == 100
    assert all(sum(row["mc1_targets"].values()) == 1 and 3 <= len(row["mc1_targets"]) <= 5 for row in rows)
    assert all(sum(row["mc2_targets"].values()) >= 2 for row in rows)
    assert len({list(row["mc1_targets"].values()).index(1) for row in rows}) >= 3
    for name in evalsets.HHH_KINDS:
        examples = evalsets.hhh(name)["examples"]
        assert len(examples) == 25
        assert all(sorted(example["target_scores"].values()) == [0, 1] for example in examples)
        assert len({list(example["target_scores"].values())[0] for example in examples}) == 2
    rows = evalsets.questions()
    assert [row["question_id"] for row in rows] == list(range(1, len(rows) + 1))
    assert len({row["text"] for row in rows}) == len(rows)


def test_open_questions_are_about_as_many_under_each_principle():
    kinds = [oracle.kind_of(row["text"]) for row in evalsets.questions()]
    asked = Counter(principle for kind in kinds if kind for principle in world.governing()[kind])
    assert None not in kinds and len(asked) == 16
    assert max(asked.values()) == evalsets.QUESTIONS and min(asked.values()) >= evalsets.QUESTIONS / 2
