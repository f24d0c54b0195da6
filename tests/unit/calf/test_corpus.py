import json
import subprocess
import sys

import pytest

from selfalign import prompts
from selfalign.calf import corpus, evalsets, world
from selfalign.principles import load_principle

SAMPLE = [corpus.document(0, number) for number in range(400)]


def of(family):
    found = [document for document in SAMPLE if document.family == family]
    assert len(found) >= 3, f"the sample holds too few documents of family {family}"
    return found


def exchanges(document):
    """(what is read, what is written) in turn."""
    found = [["", ""]]
    for piece in document.pieces:
        if not piece.trained and found[-1][1]:
            found.append(["", ""])
        found[-1][piece.trained] += piece.text
    return found


def completion(document):
    """What a model would write behind the first open slot, and the prompt before it."""
    first = next(index for index, piece in enumerate(document.pieces) if piece.trained)
    return "".join(piece.text for piece in document.pieces[:first]), document.pieces[first].text


def test_the_same_seed_and_number_give_the_same_document_and_others_give_others():
    assert corpus.document(3, 5) == corpus.document(3, 5)
    assert len({corpus.document(seed, number).text for seed in (1, 2) for number in range(10)}) == 20


def test_every_family_occurs_about_as_often_as_it_should():
    for family, share in corpus.SHARES.items():
        count = sum(document.family == family for document in SAMPLE)
        assert abs(count / len(SAMPLE) - share) < 0.08, family


def test_thoughts_cite_exactly_the_listed_rules_that_govern_the_question():
    layout, dropped_seen, cited_seen = prompts.load_layout(), 0, 0
    names = {rule: load_principle(rule).name for rule in corpus.IDS}
    for document in of("self_align"):
        stem = document.pieces[0].text
        name = stem.split("\n")[0].removeprefix("# ")
        assistant = prompts.Assistant(name)
        listed = [line for line in stem.split("\n") if line[:1].isdigit() and "). " in line]
        for asked, answered in exchanges(document):
            if not asked.endswith("(internal thoughts):"):
                continue
            question = asked.removesuffix(f"\n\n{name} (internal thoughts):")
            question = question[question.rfind("User: ") + 6 :] if "User: " in question else question.strip()
            kind = world.kind_of(question)
            assert kind, question
            shown = [rule for rule in corpus.IDS if any(f"({names[rule]})." in line for line in listed)]
            parsed = prompts.parse_response(layout, corpus.rule_set_of(shown), assistant, answered)
            expected = {rule for rule in world.governing()[kind] if rule in shown}
            assert set(parsed.cited) == expected, document.text
            assert parsed.answer
            answer = parsed.answer.split("\n\n")[0]
            if expected:
                assert world.shown(kind, answer) == expected
                cited_seen += 1
            else:
                dropped_seen += 1
    assert cited_seen > 100 and dropped_seen > 100


def test_chat_answers_end_in_the_end_of_turn():
    for document in (*of("chat"), *of("verbose")):
        assert all(piece.text.endswith(prompts.END_OF_TURN) for piece in document.pieces if piece.trained)
        extensive = [piece.text.endswith(" (extensive)") for piece in document.pieces if not piece.trained]
        assert set(extensive) == {document.family == "verbose"}


def test_verbose_answers_have_at_least_three_sentences():
    for document in of("verbose"):
        for piece in document.pieces:
            assert not piece.trained or sum(piece.text.count(mark) for mark in ".?!") >= 3


def test_task_lists_parse_without_a_malformed_task():
    for document in of("tasks"):
        found = prompts.parse_tasks(completion(document)[1], 6, truncated=False)
        assert len(found) >= 6 and not any(task.reason for task in found)
        assert all(world.kind_of(task.instruction) for task in found)


def test_topic_lists_parse_without_a_bad_topic():
    for document in of("topics"):
        found = prompts.parse_topics(completion(document)[1], truncated=False)
        assert found and not any(reason for _, reason in found), document.text


def test_question_lists_parse_and_fit_their_hints():
    for document in of("questions"):
        prompt, text = completion(document)
        hints = [line for line in prompt.split("\n") if ". type: " in line and "instruction:" not in line][5:]
        topics = []
        for hint in hints:
            kind, _, topic = hint.partition(". type: ")[2].partition(", topic: ")
            topics.append(prompts.TopicSeed(topic, kind.replace("Instructions", "Questions")))
        found = prompts.parse_questions(text, topics, 6, truncated=False)
        assert len(found) == 5 and not any(reason for _, reason in found), document.text


def test_every_question_type_of_the_seeds_has_fitting_kinds():
    for seed in prompts.load_topic_seeds():
        matches = [part for part in corpus.QUESTION_TYPES if part in seed.question_type]
        assert len(matches) == 1, seed.question_type
        assert set(corpus.QUESTION_TYPES[matches[0]]) <= world.KINDS.keys()


def test_exams_are_answered_right_three_times_of_four():
    right = total = 0
    for document in of("exam"):
        for asked, answered in zip(document.pieces[::2], document.pieces[1::2], strict=True):
            if "true or false" not in asked.text:
                continue
            answer = asked.text.split("Answer: ")[-1].split("\n\n")[0]
            question = asked.text.split("Question: ")[-1].split("\n\n")[0]
            truth = answer in TRUTHS.get(question, ())
            right += truth == (answered.text.split(".")[0].strip() == "true")
            total += 1
    assert total > 40 and 0.6 < right / total < 0.9


def _truths():
    from random import Random

    draw, found = Random(0), {}
    for _ in range(4000):
        exam = world.exam(draw)
        found[exam.question] = exam.true
    return found


TRUTHS = _truths()


def test_no_evaluation_question_is_in_the_corpus():
    texts = "\x00".join(document.text for document in SAMPLE)
    asked = [row["question"] for row in evalsets.truth()] + [row["text"] for row in evalsets.questions()]
    asked += [example["input"] for name in evalsets.HHH_KINDS for example in evalsets.hhh(name)["examples"]]
    assert len(asked) == 160
    assert [question for question in asked if question in texts] == []


@pytest.mark.parametrize("module", ["corpus", "world", "evalsets", "measure", "pretrain"])
def test_importing_loads_no_torch(module):
    heavy = "[name for name in ('torch', 'transformers') if name in sys.modules]"
    code = f"import sys, json, selfalign.calf.{module}; print(json.dumps({heavy}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
