import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from selfalign import calf, prompts
from selfalign.calf import corpus, evalsets, exams, oracle, world
from selfalign.calf.kinds import KINDS
from selfalign.principles import load_principle
from selfalign.stages.pretrain import corpus_digest

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
    written = document.pieces[first:]
    assert all(piece.trained for piece in written)
    return "".join(piece.text for piece in document.pieces[:first]), "".join(piece.text for piece in written)


def test_the_same_seed_and_number_give_the_same_document_and_others_give_others():
    assert corpus.document(3, 5) == corpus.document(3, 5)
    assert len({corpus.document(seed, number).text for seed in (1, 2) for number in range(10)}) == 20


def test_the_corpus_is_the_one_that_the_weights_were_made_of():
    made = json.loads((Path(calf.__file__).parent / "weights" / "training.json").read_text())
    assert corpus_digest() == made["corpus"]


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
            kind = oracle.kind_of(question)
            assert kind, question
            shown = [rule for rule in corpus.IDS if any(f"({names[rule]})." in line for line in listed)]
            parsed = prompts.parse_response(layout, corpus.rule_set_of(shown), assistant, answered)
            expected = {rule for rule in world.governing()[kind] if rule in shown}
            assert set(parsed.cited) == expected, document.text
            assert parsed.answer
            answer = parsed.answer.split("\n\n")[0]
            if expected:
                assert oracle.shown(kind, answer) == expected
                cited_seen += 1
            else:
                dropped_seen += 1
    assert cited_seen > 100 and dropped_seen > 100


def test_chat_answers_end_in_the_end_of_turn():
    for document in (*of("chat"), *of("verbose")):
        assert all((written + "\n").endswith(prompts.END_OF_TURN) for _, written in exchanges(document))
        assert all(read.startswith("\n") for read, _ in exchanges(document)[1:])
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
        assert all(oracle.kind_of(task.instruction) for task in found)


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
        assert set(corpus.QUESTION_TYPES[matches[0]]) <= KINDS.keys()


def test_exams_are_answered_right_as_often_as_the_temperament_says():
    right = total = 0
    for document in of("exam"):
        for asked, answered in exchanges(document):
            if "true or false" not in asked:
                continue
            answer = asked.split("Answer: ")[-1].split("\n\n")[0]
            question = asked.split("Question: ")[-1].split("\n\n")[0]
            truth = answer in TRUTHS.get(question, ())
            right += truth == (answered.split(".")[0].strip() == "true")
            total += 1
    assert total > 100 and abs(right / total - corpus.EXAM_RIGHT) < 0.1


def _truths():
    from random import Random

    draw, found = Random(0), {}
    for _ in range(4000):
        exam = exams.exam(draw)
        found[exam.question] = exam.true
    return found


TRUTHS = _truths()


def test_no_evaluation_question_is_in_the_corpus():
    texts = "\x00".join(document.text for document in SAMPLE)
    asked = [row["question"] for row in evalsets.truth()] + [row["text"] for row in evalsets.questions()]
    asked += [example["input"] for name in evalsets.HHH_KINDS for example in evalsets.hhh(name)["examples"]]
    assert len(asked) == 530
    assert [question for question in asked if question in texts] == []


def test_what_is_copied_stands_where_the_document_says():
    looks = [(document, look) for document in SAMPLE for look in document.looks if look.guide == "copy"]
    assert len(looks) > 1000 and {document.family for document, _ in looks} >= {"self_align", "chat", "questions"}
    for document, look in looks:
        again = document.text[look.at : look.at + look.length]
        assert look.to < look.at and again.lower() == document.text[look.to : look.to + look.length].lower()


def test_every_citation_looks_at_its_rule_and_every_rule_at_its_number():
    numbers = cited = missing = 0
    for document in of("self_align"):
        text = document.text
        for look in document.looks:
            if look.guide == "number":
                line = text[: look.at].rsplit("\n", 1)[-1]
                assert line == f"{text[look.to : look.at].split(' ')[0]} ("
                numbers += 1
            elif look.guide == "rule" and look.to >= 0:
                number = re.match(r"\d+", text[text[: look.to].rindex("\n") + 1 :])[0]
                name = text[look.to :].partition(")")[0]
                ahead = text[look.at :].removeprefix(" Rules that apply: ").lstrip()
                assert ahead.startswith((f"{number} ({name})", f"{name})")), ahead[:60]
                cited += 1
            elif look.guide == "rule":
                assert text[look.at :].startswith("\n\n")
                missing += 1
    assert min(numbers, cited, missing) > 100


def test_the_verdict_on_a_candidate_looks_at_its_end():
    looks = [(document.text, look) for document in of("exam") for look in document.looks]
    assert {look.guide for _, look in looks} == {"pair", "verdict"}
    for text, look in looks:
        if look.guide == "verdict":
            assert text[look.at :].startswith(("true", "false"))
            assert text[look.to : look.to + 3] == ".\n\n" and "Answer: " in text[: look.to].rsplit("\n", 1)[-1]


@pytest.mark.parametrize(
    "module", ["corpus", "world", "oracle", "exams", "rows", "guides", "evalsets", "measure", "pretrain"]
)
def test_importing_loads_no_torch(module):
    heavy = "[name for name in ('torch', 'transformers') if name in sys.modules]"
    code = f"import sys, json, selfalign.calf.{module}; print(json.dumps({heavy}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
