from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from selfalign import jsonl
from selfalign.engines.scripted import ScriptedEngine, ScriptedSettings
from selfalign.errors import ConfigError, DataError
from selfalign.evaluation.judge import (
    Review,
    contests,
    fill_prompt,
    marks,
    read_answers,
    read_questions,
    read_reviews,
    review_of,
)
from selfalign.evaluation.judge_card import card
from selfalign.statistics import length_controlled

CATEGORIES = ("generic", "coding", "math")


def review(
    question: int, one: float, other: float, *, swapped: bool = False, words: tuple[int, int] = (5, 9)
) -> Review:
    """A review with the marks of the first and the second answer shown."""
    metadata = {"swapped": swapped, "words": list(words), "category": CATEGORIES[question % 3]}
    return Review(f"r{question}{swapped}", question, "a", "b", f"{one} {other}", (one, other), "j", metadata)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("9 8.5\nBecause.", (9.0, 8.5)),
        (" 7, 10\n", (7.0, 10.0)),
        ("\n\n8 8", (8.0, 8.0)),
        ("First I work it out: 2 3 makes 5.\n10 6\nBecause.", (10.0, 6.0)),
        ("8 out of 10", ()),
        ("11 8\n9 9", ()),
        ("0 5", ()),
        ("nan 5", ()),
        ("9 8 7", ()),
        ("", ()),
    ],
)
def test_marks_are_two_numbers_from_1_to_10_on_a_line_of_their_own(text, expected):
    assert marks(text) == expected


def test_what_an_answer_says_is_never_taken_for_a_slot():
    filled = fill_prompt("{question}|{answer_1}|{answer_2}", "Q {answer_2}", "A {question}", "B {answer_1}")
    assert filled == "Q {answer_2}|A {question}|B {answer_1}"
    with pytest.raises(ConfigError, match="missing {answer_2}"):
        fill_prompt("{question} {answer_1}", "", "", "")


def test_a_question_is_won_by_the_marks_of_both_orders_together():
    found = card([review(1, 9, 6), review(1, 6, 7, swapped=True), review(2, 5, 5), review(2, 5, 6, swapped=True)])
    # Question 1: ours 9 and 7, theirs 6 and 6. Question 2: ours 5 and 6, theirs 5 and 5.
    assert (found.whole.wins, found.whole.ties, found.whole.losses) == (2, 0, 0)
    assert (found.whole.ours, found.whole.theirs) == (8 + 5.5, 6 + 5)
    assert found.whole.relative == pytest.approx(13.5 / 11)
    assert found.win_rate == 1.0 and found.flip_rate == 0.0 and found.longer_wins == 0.0
    assert set(found.categories) == {"coding", "math"}


def test_a_judge_that_goes_by_position_flips_every_time_ties_everywhere_and_gives_no_number():
    found = card([one for n in range(12) for one in (review(n, 9, 4 + n % 2), review(n, 9, 4 + n % 2, swapped=True))])
    assert found.flip_rate == 1.0 and found.tie_rate == 1.0 and found.first_wins == 1.0
    assert found.win_rate is None and "changes with the order of the answers in 12 of 12" in found.reason


def test_a_judge_that_always_gives_the_same_marks_gives_no_number():
    found = card([one for n in range(5) for one in (review(n, 8, 8), review(n, 8, 8, swapped=True))])
    assert found.win_rate is None and "every review gives the marks 8 and 8" in found.reason


def test_a_question_with_an_unread_review_has_no_verdict_and_is_counted():
    unread = Review("r", 3, "a", "b", "no marks", (), "j", {"swapped": True}, False, "no_marks")
    found = card([review(3, 9, 1), unread, review(4, 9, 1), review(4, 2, 8, swapped=True)])
    assert (found.reviews, found.unread, found.unjudged, found.whole.questions) == (4, 1, 1, 1)
    assert card([unread]).reason == "no question has readable marks"


def test_the_longer_answer_is_told_by_side_and_not_by_order():
    ours_longer = [review(n, 4, 9, swapped=True, words=(3, 30)) for n in range(3)]
    found = card([*ours_longer, review(7, 9, 4, words=(3, 30))])
    assert found.longer_wins == 0.75 and found.flip_rate is None


def test_the_win_rate_at_equal_length_is_that_of_the_statistics_by_side_and_not_by_order():
    # The marks of both sides and the words of both answers, question by question: longer answers win, but for one; one tie.
    asked = [((9, 4), (12, 5))] * 6 + [((4, 9), (4, 7))] * 4 + [((5, 5), (4, 7)), ((9, 4), (4, 7))]
    ours_first = [review(n, *marks, words=words) for n, (marks, words) in enumerate(asked)]
    ours_last = [
        review(n, *marks[::-1], words=(words[1], words[0]), swapped=True) for n, (marks, words) in enumerate(asked)
    ]
    points, extra = [1] * 6 + [0] * 4 + [0.5, 1], [7] * 6 + [-3] * 6
    expected = length_controlled(points, extra)
    assert expected is not None and expected != length_controlled(points, [-one for one in extra])
    for reviews in (ours_first, ours_last, [*ours_first, *ours_last], [*ours_last, *ours_first]):
        assert (card(reviews).controlled, card(reviews).uncontrolled) == (expected, "")


def test_what_would_be_won_at_equal_length_is_refused_with_its_reason():
    longer = card([review(n, 9, 4 + n % 2, words=(30, 3)) for n in range(4)])
    assert longer.controlled is None and longer.uncontrolled == "ours is the longer answer to 4 of 4 questions"
    shorter = card([review(n, 9, 4 + n % 2) for n in range(4)])
    assert shorter.uncontrolled == "the other is the longer answer to 4 of 4 questions"
    unknown = Review("r", 9, "a", "b", "8 4", (8.0, 4.0), "j", {})
    some = card([*(review(n, 9, 4) for n in range(4)), unknown])
    assert some.controlled is None and "answers to 1 of 5 questions are not known" in some.uncontrolled
    # A judge who is refused gives no number at any length.
    by_position = card([one for n in range(4) for one in (review(n, 9, 4), review(n, 9, 5, swapped=True))])
    assert by_position.reason and by_position.controlled is None and by_position.uncontrolled == ""


def write_published(folder: Path) -> Path:
    """Questions, two models' answers and a review of them, as FastChat writes them."""
    (folder / "answer").mkdir(parents=True)
    rows = [{"question_id": n, "text": f"What is thing {n}?", "category": CATEGORIES[n % 3]} for n in range(1, 10)]
    jsonl.write(folder / "question.jsonl", rows)
    for name, length in (("one", 3), ("two", 6)):
        answers = [
            {
                "question_id": n,
                "text": " ".join(["word"] * length),
                "answer_id": f"{name}{n}",
                "model_id": name,
                "metadata": {},
            }
            for n in range(1, 10)
        ]
        jsonl.write(folder / "answer" / f"answer_{name}.jsonl", answers)
    scores = [[9.0, 8.0], [7.0, 7.0], [5.0, 9.0], [8.0, 6.5], [-1, -1]]
    reviews = [
        {"review_id": f"r{n}", "question_id": n, "answer1_id": f"one{n}", "answer2_id": f"two{n}", "text": "...",
         "score": score, "reviewer_id": "gpt-4", "metadata": {}}
        for n, score in enumerate(scores, start=1)
    ]  # fmt: skip
    jsonl.write(folder / "review.jsonl", reviews)
    return folder


def test_published_reviews_are_read_with_their_own_scores(tmp_path):
    folder = write_published(tmp_path)
    questions = read_questions(folder / "question.jsonl")
    answers = [read_answers(folder / "answer" / f"answer_{name}.jsonl", questions) for name in ("one", "two")]
    found = card(read_reviews(folder / "review.jsonl", questions, answers))
    assert (found.whole.wins, found.whole.ties, found.whole.losses) == (2, 1, 1)
    assert (found.whole.ours, found.whole.theirs) == (29.0, 30.5)
    assert (found.reviews, found.unread, found.unjudged) == (5, 1, 1)
    assert found.longer_wins == pytest.approx(1 / 3) and found.flip_rate is None


def test_the_published_review_of_gpt35_and_vicuna_reproduces_its_counts_and_sums(real_data):
    found = card(read_reviews(real_data / "vicuna" / "review" / "review_gpt35_vicuna-13b.jsonl"))
    rows = [json.loads(line) for line in (real_data / "vicuna/review/review_gpt35_vicuna-13b.jsonl").open()]
    wins = sum(row["score"][0] > row["score"][1] for row in rows)
    ties = sum(row["score"][0] == row["score"][1] for row in rows)
    assert (
        (found.whole.wins, found.whole.ties, found.whole.losses)
        == (wins, ties, len(rows) - wins - ties)
        == (44, 22, 14)
    )
    # The totals that the authors of Vicuna published for ChatGPT and their model.
    assert (found.whole.ours, found.whole.theirs, found.unread) == (693.0, 638.0, 0)


def test_at_equal_length_chatgpt_would_beat_the_longer_answers_of_vicuna_by_more(real_data):
    questions = read_questions(real_data / "vicuna" / "question.jsonl")
    answers = [
        read_answers(real_data / "vicuna" / "answer" / f"answer_{name}.jsonl", questions)
        for name in ("gpt35", "vicuna-13b")
    ]
    ours, theirs = (sum(one.words for one in side.values()) for side in answers)
    found = card(read_reviews(real_data / "vicuna" / "review" / "review_gpt35_vicuna-13b.jsonl", questions, answers))
    assert ours < theirs and found.win_rate == 55 / 80 and found.controlled is not None
    assert 55 / 80 < found.controlled.win_rate.value < 1 and found.controlled.win_rate.low > 0.5


def test_marks_are_found_in_every_published_review_as_they_were_by_its_authors(real_data):
    for row in jsonl.iterate(real_data / "vicuna" / "review" / "review_gpt35_vicuna-13b.jsonl"):
        read = marks(row["text"])
        assert read in ((), tuple(row["score"]))
        # Where the judge worked a problem out first, the authors entered its marks by hand.
        assert read or row["reviewer_id"].endswith("math")


def test_published_answers_and_a_run_s_own_meet_by_question(real_data, tmp_path):
    questions = read_questions(real_data / "vicuna" / "question.jsonl")
    names = ("alpaca-13b", "gpt35", "llama-13b", "vicuna-13b")
    published = [read_answers(real_data / "vicuna" / "answer" / f"answer_{name}.jsonl", questions) for name in names]
    assert [len(answers) for answers in published] == [80] * 4
    items = [
        {"task": "vicuna_questions", "protocol": "generate", "question": one.text, "answer": "Yes."}
        for one in questions[:7]
    ]
    jsonl.write(tmp_path / "items.jsonl", [*items, {"task": "t", "protocol": "mc1", "question": questions[8].text}])
    ours = read_answers(tmp_path / "items.jsonl", questions)
    assert [one.question for one in contests(questions, ours, published[0])] == questions[:7]


def test_files_that_are_no_answers_or_reviews_are_refused_by_name(tmp_path):
    jsonl.write(tmp_path / "other.jsonl", [{"a": 1}])
    for read in (lambda path: read_answers(path, []), read_reviews, read_questions):
        with pytest.raises(DataError, match=r"other\.jsonl"):
            read(tmp_path / "other.jsonl")


def test_a_review_comes_back_from_its_row():
    one = review(1, 9, 4, swapped=True)
    assert review_of(json.loads(jsonl.dumps(asdict(one)))) == one


# -------------------------------------------------------------------------------------------------------------- the stage


def judging(folder: Path, engine: ScriptedEngine, store: Path, **settings: object):
    from selfalign.artifacts import Store
    from selfalign.pipeline import run
    from selfalign.stages.base import Context
    from selfalign.stages.judge import Judge

    stage = Judge(
        str(folder / "question.jsonl"),
        str(folder / "answer" / "answer_one.jsonl"),
        str(folder / "answer" / "answer_two.jsonl"),
        **settings,  # type: ignore[arg-type]
    )
    context = Context(engine=ScriptedSettings(engine))
    assert stage.problems(context) == [] and stage.unfit(context) == ""
    return run({"judged": stage}, Store(store), context)["judged"]


def likes_length(request) -> str:
    first, second = (part.split("\n\n[End")[0] for part in request.prompt.split("]\n")[2:6:2])
    return f"{min(len(first.split()), 10)} {min(len(second.split()), 10)}\nBy length."


def test_a_judge_that_likes_length_is_found_out_whatever_the_order(tmp_path):
    result = judging(write_published(tmp_path / "data"), ScriptedEngine(likes_length), tmp_path / "store")
    assert result.status == "computed", result.why
    assert result.metrics["longer_wins"] == 1.0 and result.metrics["flip_rate"] == 0.0
    assert result.metrics["losses"] == 9 and result.metrics["win_rate"] == 0.0
    assert result.counts == {"in": 18, "kept": 18, "dropped": {}}
    rows = jsonl.read(Path(result.path) / "reviews.jsonl")
    assert {row["score"][0] for row in rows if not row["metadata"]["swapped"]} == {3.0}
    assert all(row["metadata"]["prompt_tokens"] > 0 for row in rows)


def test_coding_and_math_are_judged_behind_prompts_of_their_own_and_ones_own_prompt_replaces_all(tmp_path):
    folder, engine = write_published(tmp_path / "data"), ScriptedEngine(likes_length)
    judging(folder, engine, tmp_path / "store")
    assert len({request.prompt.split("[Task]\n")[1].split("\n")[0] for request in engine.generated}) == 3
    (tmp_path / "mine.txt").write_text("{question} 1: {answer_1} 2: {answer_2} Marks:")
    mine = ScriptedEngine(lambda request: "5 6")
    judging(folder, mine, tmp_path / "store", prompt=str(tmp_path / "mine.txt"), swap=False)
    assert [request.prompt for request in mine.generated][0].startswith("What is thing 1? 1: word word word 2:")
    assert len(mine.generated) == 9


def test_reviews_that_cannot_be_read_are_kept_and_counted(tmp_path):
    answers = iter(["9 8", "I would rather not say."] * 9)
    result = judging(
        write_published(tmp_path / "data"), ScriptedEngine(lambda request: next(answers)), tmp_path / "store"
    )
    assert result.counts == {"in": 18, "kept": 9, "dropped": {"no_marks": 9}}
    assert result.metrics["invalid"] == "no question has readable marks" and result.metrics["win_rate"] is None
    rows = jsonl.read(Path(result.path) / "reviews.jsonl")
    assert [(row["kept"], row["reason"]) for row in rows[:2]] == [(True, ""), (False, "no_marks")]


def test_a_killed_judge_goes_on_where_it_stopped_and_ends_in_the_same_bytes(tmp_path):
    folder = write_published(tmp_path / "data")
    whole = judging(folder, ScriptedEngine(likes_length, group_size=4), tmp_path / "whole")
    left = [11]

    def dying(request):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return likes_length(request)

    with pytest.raises(KeyboardInterrupt):
        judging(folder, ScriptedEngine(dying, group_size=4), tmp_path / "killed")
    again = ScriptedEngine(likes_length, group_size=4)
    result = judging(folder, again, tmp_path / "killed")
    assert len(again.generated) == 18 - 8
    for name in ("reviews.jsonl", "completions.jsonl"):
        assert (Path(result.path) / name).read_bytes() == (Path(whole.path) / name).read_bytes()


def test_the_result_is_named_by_content_and_not_by_place(tmp_path):
    one = judging(write_published(tmp_path / "here"), ScriptedEngine(likes_length), tmp_path / "store")
    engine = ScriptedEngine(likes_length)
    two = judging(write_published(tmp_path / "there"), engine, tmp_path / "store")
    assert two.status == "reused" and two.artifact == one.artifact and engine.generated == []
