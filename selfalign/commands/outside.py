"""`import` and `tasks`: the reference's texts come in, the lm-eval tasks go out."""

from __future__ import annotations

from pathlib import Path

from selfalign.commands.arguments import new_parser


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


def tasks(arguments: list[str]) -> int:
    """The folder of the lm-eval tasks."""
    new_parser(
        "tasks", 'Print the folder of the lm-eval tasks, for lm_eval --include_path "$(selfalign tasks)".'
    ).parse_args(arguments)
    from selfalign.evaluation.catalogue import tasks_folder

    print(tasks_folder())
    return 0
