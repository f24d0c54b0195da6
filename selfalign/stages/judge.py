"""Judging: a judge compares two sets of answers to open questions, each pair in both orders, and gives marks.

Source: lm-sys/FastChat, fastchat/eval/ (eval_gpt_review.py and table/reviewer.jsonl), as used by Sun et al. 2023, section 4;
that the order of answers sways a judge: Zheng et al. 2023 (arXiv:2306.05685), section 3.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from selfalign import jsonl, prompts
from selfalign.artifacts import Artifact, Outcome
from selfalign.engines.base import Completion, GenerateRequest, Sampling
from selfalign.errors import ConfigError, DataError
from selfalign.evaluation import judge
from selfalign.evaluation.judge_card import card
from selfalign.identity import digest, file_digest, plain, seed_of, short_id
from selfalign.stages.base import COMPLETIONS, Context, generate, no_room

REVIEWS = "reviews.jsonl"


@dataclass(frozen=True)
class Judge:
    """Settings of one comparison. The engine is the judge's."""

    questions: str = ""
    """File of the questions ({question_id, text, category}); its content names the result, not its place, as for all files here."""
    ours: str = ""
    """File of the answers that are judged: FastChat's ({question_id, text}), or an evaluation's `items.jsonl`."""
    theirs: str = ""
    """File of the answers that they are compared with."""
    prompt: str = ""
    """File with a prompt of one's own, with the slots {question}, {answer_1} and {answer_2}; empty for selfalign's: one for general
    questions, one for coding and one for math."""
    swap: bool = True
    """Whether each pair is shown in both orders (FastChat: in one)."""
    sampling: Sampling = field(default_factory=lambda: Sampling(max_new_tokens=1024, temperature=0.2))
    """How reviews are drawn (FastChat's reviewer.jsonl: at most 1,024 tokens, temperature 0.2)."""
    seed: int = 0
    """Seeds the reviews."""

    VERSION: ClassVar[str] = "2"
    READS: ClassVar[tuple[str, ...]] = ()
    OPTIONAL: ClassVar[tuple[str, ...]] = ()
    GENERATES: ClassVar[bool] = True

    def contests(self) -> list[judge.Contest]:
        """The questions that both sides answered. Raises DataError for a file that is not what it should be."""
        if not self.questions:
            return []
        questions = judge.read_questions(Path(self.questions))
        ours, theirs = (judge.read_answers(Path(path), questions) for path in (self.ours, self.theirs))
        return judge.contests(questions, ours, theirs)

    def _templates(self) -> dict[str, str]:
        """Category -> prompt; the one for all others under the empty name."""
        if self.prompt:
            return {"": Path(self.prompt).read_text(encoding="utf-8")}
        return {"": prompts.load_text("judge")} | {
            category: prompts.load_text(name) for category, name in judge.PROMPTS.items()
        }

    def identity(self, context: Context) -> Mapping[str, Any]:
        """Settings, questions and answers, prompts, and the judge."""
        files = ("questions", "ours", "theirs")
        settings = {key: value for key, value in plain(self).items() if key not in (*files, "prompt")}
        content = {name: file_digest(Path(path)) for name in files if (path := getattr(self, name))}
        return {
            "settings": settings,
            "content": {**content, "prompts": digest(self._templates())},
            "engine": context.engine.identity(),
        }

    def problems(self, context: Context) -> list[str]:
        """Files that are missing or no answers, and prompts without their slots."""
        found = []
        try:
            if not self.contests():
                found.append(
                    f"judge: expected answers of both sides to the same questions, found none in {self.ours} and "
                    f"{self.theirs}; give files that answer {self.questions}"
                )
            for template in self._templates().values():
                judge.fill_prompt(template, "", "", "")
        except (ConfigError, DataError, OSError) as error:
            found.append(f"judge: {error}")
        return found

    def unfit(self, context: Context) -> str:
        """A review's prompt that leaves no room for the review."""
        longest = max((request.prompt for request in self._requests().values()), key=len, default="")
        remedy = "take a judge with a longer context, or lower --max-new-tokens"
        return no_room(context, longest, self.sampling.max_new_tokens, remedy, "the longest prompt")

    def _requests(self) -> dict[tuple[int, bool], GenerateRequest]:
        """(number of the contest, swapped) -> what the judge is asked."""
        templates, found = self._templates(), {}
        for number, contest in enumerate(self.contests()):
            template = templates.get(contest.question.category, templates[""])
            for swapped in (False, True) if self.swap else (False,):
                first, second = contest.shown(swapped)
                text = judge.fill_prompt(template, contest.question.text, first.text, second.text)
                # Questions may be asked twice; two with the same answers are still two.
                name = short_id("review", number, swapped, text)
                found[number, swapped] = GenerateRequest(
                    name, text, self.sampling, seed=seed_of(self.seed, "judge", text, number)
                )
        return found

    def run(self, inputs: Mapping[str, Artifact], out: Path, context: Context) -> Outcome:
        """Write `reviews.jsonl`, in FastChat's format, each review kept on disk as soon as its group is finished."""
        pairs, asked = self.contests(), self._requests()
        name = short_id(context.engine.identity())
        with context.engine.open() as engine, context.progress("reviews", len(asked), "reviews") as progress:
            said = generate(engine, list(asked.values()), out / COMPLETIONS, progress, context.shard)
        reviews = [
            _review(pairs[number], swapped, completion, name)
            for (number, swapped), completion in zip(asked, said, strict=True)
        ]
        jsonl.write(out / REVIEWS, map(asdict, reviews))
        found = card(reviews)
        dropped = {judge.NO_MARKS: found.unread} if found.unread else {}
        metrics: dict[str, float | int | str | None] = {
            # Of a judge that is refused, nothing is counted as won.
            "wins": None if found.reason else found.whole.wins,
            "ties": None if found.reason else found.whole.ties,
            "losses": None if found.reason else found.whole.losses,
            "win_rate": found.win_rate,
            "flip_rate": found.flip_rate,
            "longer_wins": found.longer_wins,
            "tie_rate": found.tie_rate,
            "prompt_tokens": found.prompt_tokens,
            "new_tokens": found.new_tokens,
            "invalid": found.reason,
        }
        return Outcome(rows_in=found.reviews, kept=found.reviews - found.unread, dropped=dropped, metrics=metrics)


def _review(contest: judge.Contest, swapped: bool, said: Completion, reviewer: str) -> judge.Review:
    first, second = contest.shown(swapped)
    score = judge.marks(said.text)
    metadata = {
        "category": contest.question.category,
        "swapped": swapped,
        "words": [first.words, second.words],
        "prompt_tokens": said.prompt_tokens,
        "new_tokens": said.new_tokens,
        "finish": said.finish,
    }
    reason = "" if score else judge.NO_MARKS
    return judge.Review(
        said.id, contest.question.id, first.id, second.id, said.text, score, reviewer, metadata, bool(score), reason
    )
