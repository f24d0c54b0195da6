"""`import`, `export` and `tasks`: the reference's texts come in, trained models and the lm-eval tasks go out."""

from __future__ import annotations

from pathlib import Path

from selfalign.commands.arguments import new_parser
from selfalign.runner import resolve_run


def import_reference(arguments: list[str]) -> int:
    """The reference's texts, verbatim, as sets of the user's own."""
    parser = new_parser("import", "Read principles, exemplars, prompts and seeds from a checkout of the reference.")
    parser.add_argument("what", choices=["dromedary"], help="which reference")
    parser.add_argument("folder", help="its checkout (the folder that holds prompts/)")
    parser.add_argument(
        "--name", default="", help="name of the set (default: dromedary_v1 or dromedary_v2, by what is found)"
    )
    parser.add_argument("--to", default="", help="root to write to (default: SELFALIGN_HOME, else ~/.config/selfalign)")
    given = parser.parse_args(arguments)
    from selfalign import importer, resources

    to = Path(given.to) if given.to else resources.user_root()
    for line in importer.import_dromedary(Path(given.folder), to, given.name):
        print(line)
    return 0


def export(arguments: list[str]) -> int:
    """A run's adapter or merged model as a folder that other programs load."""
    parser = new_parser(
        "export", "Write a run's adapter, or its merged model, as a folder for peft, transformers and vLLM."
    )
    parser.add_argument("run", help="run folder, or its name in runs/")
    parser.add_argument("--node", default="", help="engraved or cloned (default: the last that the run has)")
    parser.add_argument("--merged", action="store_true", help="the base model with the adapter merged into its weights")
    parser.add_argument("--to", default="", metavar="DIR", help="folder to write (default: RUN/export/<node>)")
    parser.add_argument(
        "--tolerance", type=float, default=0.01, metavar="SHARE",
        help="share of positions at which merging may change the likeliest token (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--force", action="store_true", help="write a merged model beyond the tolerance too")
    parser.add_argument(
        "--push", default="", metavar="OWNER/NAME", help="also upload it to the Hugging Face hub, as private"
    )
    parser.add_argument("--runs", default="runs", help="folder of the run folders")
    given = parser.parse_args(arguments)
    from selfalign import export as exports

    run = resolve_run(given.run, Path(given.runs))
    done = exports.export(
        run,
        Path(given.to) if given.to else None,
        node=given.node,
        merged=given.merged,
        force=given.force,
        tolerance=given.tolerance,
    )
    if done.parity:
        print(
            f"{done.node}: merged and loaded again, a logit differs by at most {done.parity.max_difference:.3g}, the likeliest "
            f"token in {done.parity.flips:,} of {done.parity.positions:,} positions"
        )
    print(done.folder)
    if given.push:
        print(exports.push(done.folder, given.push))
    return 0


def tasks(arguments: list[str]) -> int:
    """The folder of the lm-eval tasks."""
    new_parser(
        "tasks", 'Print the folder of the lm-eval tasks, for lm_eval --include_path "$(selfalign tasks)".'
    ).parse_args(arguments)
    from selfalign.evaluation.catalogue import tasks_folder

    print(tasks_folder())
    return 0
