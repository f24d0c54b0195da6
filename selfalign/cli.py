"""The command line: `selfalign COMMAND ...`. Start-up loads nothing heavy; each command imports what it needs."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence

from selfalign import __version__
from selfalign.errors import ConfigError, SelfAlignError, did_you_mean

USAGE = """\
selfalign: SELF-ALIGN as a controlled experiment

  selfalign run  [KEY=VALUE ...]        run one experiment;  -m or sweeps=<name> for many
  selfalign plan [KEY=VALUE ...]        what would run, what is there already; computes nothing
  selfalign prompt [KEY=VALUE ...]      the exact prompt of a stage, with token counts; --diff shows what changed
  selfalign why  RUN [STAGE]            why a stage ran: the setting or text that differs from an earlier result
  selfalign show RUN [STAGE]            page through a stage's rows, kept or --dropped [REASON]
  selfalign report RUN...               compare runs: terminal table and one HTML file; --export its tables, --publish it to W&B
  selfalign sweep status|resume|retry DIR   what became of a sweep's jobs, and the rest of them; export-wandb for agents
  selfalign verify RUN...               every number of runs, sweeps and their reports anew from stored items; exit 1 on a mismatch
  selfalign sync RUN...                 push offline W&B runs, and a report that --publish could not send; once
  selfalign chat RUN                    talk to its models in the terminal: base, engraved and cloned
  selfalign export RUN                  its adapter or --merged model with a card, as a folder for peft, transformers, vLLM
  selfalign serve-command RUN           the vLLM command that serves a run's base model and adapters
  selfalign import dromedary DIR        the reference's principles, exemplars, prompts and seeds, into your own folder
  selfalign judge RUN --against WHAT    a judge compares its answers to open questions with others, in both orders
  selfalign judge RUN --rubric IDS      a judge holds its answers against principles, one by one
  selfalign data fetch|list             the real evaluation sets, by URL and checksum; offline: --from DIR
  selfalign calf card                   measure the embedded model and write its page, docs/calf.md
  selfalign calf ablation SWEEP         hold a leave-one-out sweep on it against what was planted, docs/ablation_on_calf.md
  selfalign tasks                       the folder for lm_eval --include_path "$(selfalign tasks)"

`selfalign COMMAND --help` explains a command; `selfalign run --help` lists groups and settings.
Exit codes: 0 done, 1 a stage failed, 2 wrong settings or usage, 130 stopped with Ctrl-C.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the console script; always ends in SystemExit."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _dispatch(arguments)
        sys.stdout.flush()
    except ConfigError as error:
        print(f"selfalign: {len(error.problems)} problem(s) in the settings, nothing was computed:", file=sys.stderr)
        for problem in error.problems:
            print(f"  - {problem}", file=sys.stderr)
        code = error.exit_code
    except SelfAlignError as error:
        print(f"selfalign: {error}", file=sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt:
        print(
            "\nselfalign: stopped; finished stages and rows are kept, the same command goes on from here",
            file=sys.stderr,
        )
        code = 130
    except BrokenPipeError:
        # The reader (`head`, a pager) has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    raise SystemExit(code)


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return 0 if arguments else 2
    command, rest = arguments[0], arguments[1:]
    if command in ("-V", "--version"):
        print(f"selfalign {__version__}")
        return 0
    if command in ("-sc", "--shell-completion", "--shell_completion"):
        return _complete(rest)
    if command not in COMMANDS:
        hint = "; settings follow a command: selfalign run " + " ".join(arguments) if "=" in command else ""
        print(f"selfalign: unknown command '{command}'{did_you_mean(command, COMMANDS)}{hint}\n", file=sys.stderr)
        print(USAGE, end="", file=sys.stderr)
        return 2
    return COMMANDS[command](rest)


def _run(arguments: list[str]) -> int:
    """`selfalign run`: checks all jobs first, then hands a single run over to Hydra, whose flags all work."""
    from hydra._internal.utils import get_args_parser

    from selfalign import groups
    from selfalign.pipeline import Memo

    parsed = get_args_parser().parse_args(arguments)
    groups.register(parsed.config_dir)
    if parsed.help or parsed.hydra_help:
        return _hydra(arguments)
    jobs, multirun = groups.jobs(parsed.overrides, multirun=parsed.multirun)
    if parsed.cfg or parsed.info:
        return _hydra(arguments)
    memo = Memo()
    checked = groups.checked(jobs, memo=memo)
    if multirun:
        from selfalign.commands import sweeps

        return sweeps.start(parsed.overrides, jobs, checked, memo, parsed.config_dir or "")
    if any(vars(checked[0].sweep_budget).values()):
        raise ConfigError(
            [
                "sweep_budget: expected a sweep, found a single run; bound it with budget.hours, budget.tokens or budget.money"
            ]
        )
    return _hydra(arguments) or _RESULTS[-1]


_RESULTS: list[int] = []
"""Exit codes of the runs of this process."""


def _hydra(arguments: list[str]) -> int:
    """Let Hydra read the command line and call `_job`; returns Hydra's own exit code."""
    import hydra

    from selfalign import groups

    sys.argv = ["selfalign run", *arguments]
    # Hydra's hint would send users into its own frames; an unexpected error shows its whole traceback instead.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    try:
        hydra.main(version_base="1.3", config_path=str(groups.config_folder()), config_name="config")(_job)()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def _job(config: object) -> None:
    """The run of one experiment."""
    from hydra.core.hydra_config import HydraConfig

    from selfalign import groups, runner

    # On a full disk a library's log cannot be written either, and says so at length over our own message.
    logging.raiseExceptions = False
    experiment = groups.to_experiment(config)  # type: ignore[arg-type]
    task = list(HydraConfig.get().overrides.task)
    try:
        _RESULTS.append(runner.execute(experiment, arguments=task))
    except SelfAlignError as error:
        print(f"selfalign: {error}", file=sys.stderr)
        _RESULTS.append(error.exit_code)
    except OSError as error:
        # A full disk or a folder that may not be written: the system's own words name the file and the reason.
        print(
            f"selfalign: {error}; what is finished is kept: repair this and run the same command again", file=sys.stderr
        )
        _RESULTS.append(1)


def _complete(arguments: list[str]) -> int:
    """Shell completion: commands here, settings by Hydra (`selfalign -sc install=bash`)."""
    from selfalign import groups

    line = os.environ.get("COMP_LINE", "")
    words = line.split()
    if any(word.startswith("query=") for word in arguments):
        if len(words) < 2 or (len(words) == 2 and not line.endswith(" ")):
            print("\n".join(name for name in COMMANDS if name.startswith(words[1] if len(words) > 1 else "")))
            return 0
        if words[1] in WORDS:
            begun = "" if line.endswith(" ") else words[-1]
            print("\n".join(word for word in WORDS[words[1]] if word.startswith(begun)))
            return 0
        # Hydra completes what follows the program's name.
        os.environ["COMP_LINE"] = " ".join([words[0], *words[2:]]) + (" " if line.endswith(" ") else "")
    groups.register()
    return _hydra(["-sc", *arguments])


def _command(name: str) -> Callable[[list[str]], int]:
    def call(arguments: list[str]) -> int:
        from selfalign import commands

        return getattr(commands, name)(arguments)

    return call


WORDS = {
    "sweep": ("status", "resume", "retry", "export-wandb"),
    "data": ("fetch", "list", "--from", "--to"),
    "judge": (
        "--against",
        "--rubric",
        "--subject",
        "--questions",
        "--prompt",
        "--one-order",
        "--max-new-tokens",
        "--temperature",
        "--seed",
        "--price",
        "--reviews",
        "--answers",
        "--runs",
    ),  # fmt: skip
    "calf": ("card", "ablation", "--cloned", "--out", "--questions", "--seeds", "--work", "--skip-runs", "--model"),
}
"""Command that takes no settings -> what may follow it."""

COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "run": _run,
    "plan": _command("plan"),
    "prompt": _command("prompt"),
    "why": _command("why"),
    "show": _command("show"),
    "report": _command("report"),
    "verify": _command("verify"),
    "sweep": _command("sweep"),
    "sync": _command("sync"),
    "chat": _command("chat"),
    "export": _command("export"),
    "serve-command": _command("serve_command"),
    "import": _command("import_reference"),
    "judge": _command("judge"),
    "data": _command("data"),
    "calf": _command("calf"),
    "tasks": _command("tasks"),
}
"""Command -> function of its arguments that returns the exit code."""
