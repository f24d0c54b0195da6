"""The commands beside `run`, each a function of its arguments that returns the exit code; `cli.py` names them all."""

from selfalign.commands.card import calf
from selfalign.commands.outside import import_reference, tasks
from selfalign.commands.planning import plan, prompt
from selfalign.commands.rows import show
from selfalign.commands.runs import report, serve_command, sync, verify, why

__all__ = [
    "calf",
    "import_reference",
    "plan",
    "prompt",
    "report",
    "serve_command",
    "show",
    "sync",
    "tasks",
    "verify",
    "why",
]
