"""Stage 1b, topic-guided red-teaming: topics for each question type, then questions that a static model gets wrong.

Source: Sun et al. 2023, section 3.1; IBM/Dromedary dromedary_v1 `generate_tgrt_topic.py`, `generate_tgrt_question.py`,
`deduplicate_tgrt_topic.py`. Unlike the reference, questions pass the quality filters of stage 1a, and a cut-off last
line is dropped; `quality_filters` and `parsing` bring the reference's ways back. Question types are data: the 20 of
`seeds/topics.jsonl`, and those of further files.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from selfalign import filters, jsonl, prompts
from selfalign.artifacts import Artifact, Outcome
from selfalign.engines.base import Engine, GenerateRequest, Sampling
from selfalign.errors import ConfigError
from selfalign.identity import digest, plain, seed_of, short_id
from selfalign.prompts import Parsing, TopicSeed
from selfalign.records import Prompt, to_row
from selfalign.similarity import Novelty
from selfalign.stages.base import Context, CountTokens, count, generate, no_room

SHORTEST_QUESTION_TOKENS = 48
"""Tokens of a short question with its hint: a request that leaves fewer cannot yield anything."""


@dataclass(frozen=True)
class RedTeam:
    """Settings of stage 1b."""

    extra_seeds: list[str] = field(default_factory=list)
    """Further files of question types, `seeds/<name>.jsonl` in the format of `topics.jsonl`, below `texts` or else
    selfalign's own: it ships `harmful`, requests that a careful assistant turns down (reference: no such type)."""
    topic_rounds: int = 2
    """Rounds of topic brainstorming (reference: 9, of which it used the first 6)."""
    topics_per_prompt: int = 5
    """Known topics shown in a request once a type has twice as many; before that, one (reference: 5)."""
    max_topics_per_type: int = 12
    """Most topics of a question type, all rounds together, the seed's included; 0 for no limit (as in the reference)."""
    balance_types: bool = True
    """Whether every type is cut to the smallest type's number of topics (reference: yes). With a model that finds no new
    topic for one of the types, no type gets a question."""
    topic_sampling: Sampling = field(default_factory=lambda: Sampling(max_new_tokens=128, temperature=1.0, top_p=0.98))
    """How topics are drawn (reference: 128 tokens, temperature 1, top-p 0.98)."""
    questions_per_prompt: int = 5
    """New topics hinted at in one request (reference: 5)."""
    seed_questions: int = 5
    """Human seed questions shown in one request (reference: 5)."""
    question_sampling: Sampling = field(
        default_factory=lambda: Sampling(max_new_tokens=384, temperature=1.0, top_p=0.95)
    )
    """How questions are drawn (script: 384 tokens, temperature 1, top-p 0.95; paper: top-p 0.98)."""
    parsing: Parsing = Parsing.lenient
    """How topics and questions are read: under `reference`, a cut-off topic is kept, a hint without a question becomes a
    question, and the last question is always dropped."""
    stop_at_blank_line: bool = True
    """Whether a list of topics or questions ends at its first blank line (reference: no, it runs to the token limit)."""
    quality_filters: bool = True
    """Whether questions pass the word-count, forbidden-word, first-character and novelty filters (reference: no)."""
    forbidden_words: list[str] = field(default_factory=list)
    """Whole words that drop a question (reference: none)."""
    min_words: int = 4
    """Fewest words of a question."""
    max_words: int = 150
    """Most words of a question."""
    novelty: float = 0.7
    """Highest ROUGE-L F with any seed or kept question (0..1)."""
    seed: int = 0
    """Seed of draws and sampling."""
    texts: str = ""
    """Folder below `principles/` with `prompts/` and `seeds/topics.jsonl`; empty for selfalign's own."""
    assistant: prompts.Assistant = field(default_factory=prompts.Assistant)
    """Fills placeholders of the prompt texts."""

    VERSION: ClassVar[str] = "2"
    READS: ClassVar[tuple[str, ...]] = ()
    OPTIONAL: ClassVar[tuple[str, ...]] = ()
    GENERATES: ClassVar[bool] = True

    def _texts(self) -> tuple[str, str, list[TopicSeed]]:
        topics = prompts.fill(prompts.load_text("topics", self.texts), self.assistant)
        questions = prompts.fill(prompts.load_text("questions", self.texts), self.assistant)
        files = ["topics", *self.extra_seeds]
        return topics, questions, [seed for name in files for seed in prompts.load_topic_seeds(self.texts, name)]

    def identity(self, context: Context) -> Mapping[str, Any]:
        """Settings, prompt texts, seeds and model."""
        topics, questions, seeds = self._texts()
        settings = plain(self)
        # Which files the seeds are from does not matter: the seeds themselves are named by their content.
        del settings["texts"], settings["assistant"], settings["extra_seeds"]
        content = {"topics": digest(topics), "questions": digest(questions), "seeds": digest(plain(seeds))}
        return {"settings": settings, "content": content, "engine": context.engine.identity()}

    def problems(self, context: Context) -> list[str]:
        """Impossible counts and missing texts."""
        found = []
        least = {"topic_rounds": 1, "topics_per_prompt": 1, "max_topics_per_type": 0, "questions_per_prompt": 1}
        for name, lowest in least.items():
            if getattr(self, name) < lowest:
                found.append(f"red_team.{name}: expected at least {lowest}, found {getattr(self, name)}")
        if "" in self.forbidden_words:
            found.append(
                "red_team.forbidden_words: expected words, found an empty one, which drops everything; remove it"
            )
        try:
            seeds = self._texts()[2]
        except ConfigError as error:
            return found + [f"red_team.texts: {problem}" for problem in error.problems]
        if not 0 <= self.seed_questions <= len(seeds):
            found.append(
                f"red_team.seed_questions: expected 0 to {len(seeds)} (the seeds), found {self.seed_questions}"
            )
        return found

    def unfit(self, context: Context) -> str:
        """A question request that leaves no room for one short question."""
        remedy = f"use fewer red_team.seed_questions (now {self.seed_questions}) or a model with a longer context"
        return no_room(
            context,
            self.preview("", context.engine.count_tokens)["questions"],
            SHORTEST_QUESTION_TOKENS,
            remedy,
            "a request",
        )

    def preview(self, question: str, count_tokens: CountTokens) -> dict[str, str]:
        """A topic request and a question request made from the first seeds; `question` has no place in them."""
        topic_meta, question_meta, seeds = self._texts()
        topics = prompts.topics_prompt(topic_meta, seeds[0].question_type, [seeds[0].topic], total=10)
        shown, hinted = seeds[: self.seed_questions], seeds[self.seed_questions :][: self.questions_per_prompt]
        return {"topics": topics, "questions": prompts.questions_prompt(question_meta, shown, hinted)}

    def _balance(self, topics: dict[str, list[str]]) -> dict[str, list[str]]:
        """Every type cut to its share of topics, the first ones kept."""
        counts = [len(names) for names in topics.values()]
        most = min(counts) if self.balance_types else max(counts)
        most = min(most, self.max_topics_per_type) if self.max_topics_per_type else most
        return {kind: names[:most] for kind, names in topics.items()}

    def _stops(self) -> tuple[str, ...]:
        return ("\n\n",) if self.stop_at_blank_line else ()

    def _topic_requests(self, meta: str, topics: dict[str, list[str]], round_number: int) -> list[GenerateRequest]:
        requests = []
        for kind, names in topics.items():
            for index in range(len(names)):
                name = f"{round_number:02d}-{short_id(kind)}-{index:03d}"
                draw = random.Random(seed_of(self.seed, "red_team topics", name))
                few = len(names) < 2 * self.topics_per_prompt
                known = [names[index]] if few else draw.sample(names, self.topics_per_prompt)
                prompt = prompts.topics_prompt(meta, kind, known, total=10)
                seed = seed_of(self.seed, "red_team topic", name)
                requests.append(GenerateRequest(name, prompt, self.topic_sampling, stop=self._stops(), seed=seed))
        return requests

    def _brainstorm(
        self, meta: str, seeds: Sequence[TopicSeed], engine: Engine, out: Path, context: Context
    ) -> tuple[dict[str, list[str]], list[dict[str, str | bool]]]:
        """All topics by type, and every line that was parsed with its reason."""
        topics: dict[str, list[str]] = {}
        for seed in seeds:
            topics.setdefault(seed.question_type, []).append(seed.topic)
        lines: list[dict[str, str | bool]] = []
        for round_number in range(self.topic_rounds):
            requests = self._topic_requests(meta, topics, round_number)
            kinds = {short_id(kind): kind for kind in topics}
            with context.progress(f"topics, round {round_number + 1}", len(requests), "requests") as progress:
                path = out / "completions" / f"topics-{round_number:02d}.jsonl"
                answers = generate(engine, requests, path, progress, context.shard)
            for answer in answers:
                kind = kinds[answer.id.split("-")[1]]
                ran_out = answer.finish == "length"
                for topic, reason in prompts.parse_topics(answer.text, truncated=ran_out, parsing=self.parsing):
                    if not reason and topic.lower() in {known.lower() for known in topics[kind]}:
                        reason = "duplicate"
                    if not reason:
                        topics[kind].append(topic)
                    lines.append({"topic": topic, "question_type": kind, "kept": not reason, "reason": reason})
            topics = self._balance(topics)
        return topics, lines

    def _question_requests(
        self, meta: str, seeds: Sequence[TopicSeed], topics: dict[str, list[str]]
    ) -> list[tuple[GenerateRequest, list[TopicSeed], list[TopicSeed]]]:
        """Each request with the seeds that it shows and the topics that it asks for."""
        known = {(seed.question_type, seed.topic) for seed in seeds}
        pairs = [TopicSeed(name, kind) for kind, names in topics.items() for name in names if (kind, name) not in known]
        random.Random(seed_of(self.seed, "red_team order")).shuffle(pairs)
        shared = meta.split("{", 1)[0].rstrip()
        found = []
        for start in range(0, len(pairs), self.questions_per_prompt):
            group = pairs[start : start + self.questions_per_prompt]
            name = f"{start // self.questions_per_prompt:05d}"
            shown = random.Random(seed_of(self.seed, "red_team seeds", name)).sample(list(seeds), self.seed_questions)
            prompt = prompts.questions_prompt(meta, shown, group)
            seed = seed_of(self.seed, "red_team question", name)
            request = GenerateRequest(
                name, prompt, self.question_sampling, stop=self._stops(), seed=seed, shared=shared
            )
            found.append((request, shown, group))
        return found

    def run(self, inputs: Mapping[str, Artifact], out: Path, context: Context) -> Outcome:
        """Write `topics.jsonl` and `prompts.jsonl` (kept and dropped) and `completions/` (what the model wrote)."""
        topic_meta, question_meta, seeds = self._texts()
        (out / "completions").mkdir(exist_ok=True)
        with context.engine.open() as engine:
            topics, lines = self._brainstorm(topic_meta, seeds, engine, out, context)
            asked = self._question_requests(question_meta, seeds, topics)
            with context.progress("questions", len(asked), "requests") as progress:
                path = out / "completions" / "questions.jsonl"
                answers = generate(engine, [request for request, _, _ in asked], path, progress, context.shard)
        novelty = Novelty(self.novelty)
        for seed in seeds:
            novelty.add(seed.question)
        rows: list[Prompt] = []
        answered: set[tuple[str, str]] = set()
        for answer, (_, shown, group) in zip(answers, asked, strict=True):
            parsed = prompts.parse_questions(
                answer.text,
                group,
                len(shown) + 1,
                truncated=answer.finish == "length",
                parsing=self.parsing,
                seeds=shown,
            )
            for found, reason in parsed:
                pair = (found.question_type, found.topic)
                # Only the reference's parsing reads a pair twice; its merge_tgrt_question.py keeps the first.
                reason = reason or ("duplicate" if pair in answered else "") or self._reason(found.question, novelty)
                if not reason:
                    answered.add(pair)
                    novelty.add(found.question)
                rows.append(
                    Prompt(short_id(found.question, ""), found.question, "", "red_team", found.topic,
                           found.question_type, not reason, reason, answer.id)
                )  # fmt: skip
        jsonl.write(out / "topics.jsonl", lines)
        jsonl.write(out / "prompts.jsonl", map(to_row, rows))
        outcome = count(rows)
        counts = [len(names) for names in topics.values()]
        outcome.metrics = {"topics": sum(counts), "fewest_topics_of_a_type": min(counts)}
        return outcome

    def _reason(self, question: str, novelty: Novelty) -> str:
        if not self.quality_filters:
            return ""
        return filters.first_reason(
            check()
            for check in (
                lambda: filters.word_count(question, self.min_words, self.max_words),
                lambda: filters.forbidden_word(question, self.forbidden_words),
                lambda: filters.first_character(question),
                lambda: novelty.reason(question),
            )
        )
