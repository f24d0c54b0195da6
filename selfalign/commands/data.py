"""`data`: the real evaluation sets, fetched and listed."""

from __future__ import annotations

import os
from pathlib import Path

from selfalign.commands.arguments import new_parser


def data(arguments: list[str]) -> int:
    """The real evaluation sets, by URL and checksum or from a local copy, and which of their files are there."""
    parser = new_parser("data", "Fetch the real evaluation sets for evaluation=paper, or list which of them are there.")
    actions = parser.add_subparsers(dest="action", required=True, metavar="fetch|list")
    fetching = actions.add_parser("fetch", help="bring what is missing; every file is checked against its checksum")
    fetching.add_argument("sets", nargs="*", metavar="SET", help="truthfulqa, hhh_alignment, vicuna (default: all)")
    fetching.add_argument(
        "--from", dest="local", default="", metavar="DIR", help="a local copy in the same shape, instead of the network"
    )
    listing = actions.add_parser("list", help="each file, whether it is there, and where it comes from")
    for parser_of_one in (fetching, listing):
        parser_of_one.add_argument(
            "--to", default="", metavar="DIR", help="the data folder (default: SELFALIGN_DATA, else data/ in your folder)"
        )  # fmt: skip
    given = parser.parse_args(arguments)
    from selfalign import resources
    from selfalign.evaluation import fetch

    folder = Path(given.to or os.environ.get("SELFALIGN_DATA") or resources.user_root() / "data").expanduser()
    if given.action == "list":
        print(folder)
        for source in fetch.sources():
            print(f"  {source.state(folder):<7} {source.path:<46} {source.url}")
        return 0
    wanted = fetch.chosen(given.sets, fetch.sources())
    done = fetch.fetch(wanted, folder, Path(given.local).expanduser() if given.local else None)
    for source, is_new in done:
        print(f"  {'fetched' if is_new else 'there':<7} {source.path}")
    print(f"{folder}: {len(done)} files, all with their published checksums")
    return 0
