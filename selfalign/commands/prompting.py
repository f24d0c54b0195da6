"""`prompt`: the exact prompt that a stage would send, and what differs between two of them."""

from __future__ import annotations

import difflib
import sys

from selfalign import experiment as experiments
from selfalign.commands.arguments import add_overrides, composed, new_parser
from selfalign.errors import ConfigError, unknown
from selfalign.experiment import Experiment
from selfalign.prompts.lint import lint, sentences
from selfalign.stages.base import CountTokens


def prompt(arguments: list[str]) -> int:
    """The exact prompts of a stage, or how the principles' and exemplars' settings change them."""
    parser = new_parser("prompt", "Print the exact prompt that a stage would send, with token counts.")
    add_overrides(parser)
    parser.add_argument(
        "--stage", default="responses", help="node of the pipeline (default: responses, the self-align prompt)"
    )
    parser.add_argument("--question", default="How do otters keep warm?", help="the question in the prompt's open slot")
    parser.add_argument(
        "--diff", action="store_true", help="show what the overrides of principles and exemplars change, line by line"
    )
    parser.add_argument(
        "--against", nargs="*", metavar="KEY=VALUE", default=None,
        help="settings of another prompt to compare with, line by line, instead of what is left without those of principles and "
        "exemplars; stands last",
    )  # fmt: skip
    given = parser.parse_intermixed_args(arguments)
    one = composed(given.overrides)
    count_tokens, counted = _counting(one)
    texts = _previews(one, given.stage, given.question)
    if not given.diff and given.against is None:
        for label, text in texts.items():
            # A file that one prompt is written to holds that prompt and not a byte more.
            print(text, end="\n" if sys.stdout.isatty() or len(texts) > 1 else "", flush=True)
            print(f"\n[{label}: {count_tokens(text):,} {counted}]", file=sys.stderr)
        return 0
    rest = [text for text in given.overrides if not text.lstrip("+~").startswith(("principles", "exemplars"))]
    whole = composed(rest if given.against is None else given.against)
    for label, before in _previews(whole, given.stage, given.question).items():
        after = texts.get(label, "")
        for line in difflib.unified_diff(before.split("\n"), after.split("\n"), "before", "after", lineterm="", n=1):
            print(line)
        tokens = [count_tokens(text) for text in (before, after)]
        print(f"\n[{label}: {tokens[0]:,} -> {tokens[1]:,} {counted} ({tokens[1] - tokens[0]:+,})]", file=sys.stderr)
    rules, exemplars = one.self_align.arm(count_tokens)[1:3]
    for sentence in sentences(lint(rules, exemplars)):
        print(f"[{sentence}]", file=sys.stderr)
    return 0


def _previews(one: Experiment, node: str, question: str) -> dict[str, str]:
    nodes = experiments.pipeline(one)
    known = [name for name, item in nodes.items() if hasattr(item.stage, "preview")]
    if node not in known:
        raise ConfigError([f"--stage: {unknown('node with a prompt', node, known)}"])
    if found := nodes[node].stage.problems(experiments.context(one, quiet=True)):
        raise ConfigError(found)
    return nodes[node].stage.preview(question, _counting(one)[0])  # type: ignore[attr-defined]


def _counting(one: Experiment) -> tuple[CountTokens, str]:
    """How the prompts of an experiment are counted, and what is counted, as a user is told: words where its model is not here."""
    try:
        one.engine.count_tokens("")
    except ConfigError as error:
        return lambda text: len(text.split()), f"words, because no tokenizer is here: {error.problems[0]}"
    return one.engine.count_tokens, one.engine.counted()
