"""The commands beside `run`, each a function of its arguments that returns the exit code; `cli.py` names them all."""

from selfalign.commands.card import calf
from selfalign.commands.data import data
from selfalign.commands.judging import judge
from selfalign.commands.models import chat, export, serve_command
from selfalign.commands.outside import import_reference, tasks
from selfalign.commands.planning import plan
from selfalign.commands.prompting import prompt
from selfalign.commands.rows import show
from selfalign.commands.runs import report, sync, verify, why
from selfalign.commands.sweeps import sweep

__all__ = [
    "calf",
    "chat",
    "data",
    "export",
    "import_reference",
    "judge",
    "plan",
    "prompt",
    "report",
    "serve_command",
    "show",
    "sweep",
    "sync",
    "tasks",
    "verify",
    "why",
]
