"""Where a run is tracked: one frozen dataclass, and what is wrong with it, found without wandb and without network."""

from __future__ import annotations

import importlib.util
import netrc
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from urllib.parse import urlsplit

from selfalign.identity import transient


class Mode(StrEnum):
    """What happens to what a run logs."""

    offline = "offline"
    """Written below the run folder; `selfalign sync` pushes it when wanted."""
    online = "online"
    """Sent to the W&B server while the run goes on."""
    disabled = "disabled"
    """Not logged; the run's own files are complete without it."""


@dataclass(frozen=True)
class TrackingSettings:
    """Settings of tracking. None of them changes a result, so all stay out of every identity."""

    mode: Mode = transient(Mode.offline)
    """Offline, online or disabled (default ours: a run needs neither network nor account)."""
    project: str = transient("selfalign")
    """W&B project."""
    entity: str = transient("")
    """W&B user or team; empty for the account's default."""
    tags: list[str] = field(default_factory=list, metadata={"transient": True})
    """W&B tags of the run."""
    tables_max_rows: int = transient(200)
    """Most rows of a logged table (>= 1; ours). W&B shows at most 10,000, and the run folder holds all."""


INSTALL = "pip install 'wandb>=0.31'"
DEFAULT_HOST = "https://api.wandb.ai"


def is_installed() -> bool:
    """Whether the wandb package can be imported, without importing it."""
    return importlib.util.find_spec("wandb") is not None


def base_url(environment: Mapping[str, str]) -> str:
    """The W&B server that this environment talks to."""
    return environment.get("WANDB_BASE_URL") or DEFAULT_HOST


def has_credentials(environment: Mapping[str, str] | None = None) -> bool:
    """Whether a W&B login is at hand (WANDB_API_KEY, WANDB_IDENTITY_TOKEN_FILE, netrc); not whether it works."""
    environment = os.environ if environment is None else environment
    if environment.get("WANDB_API_KEY") or environment.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(base_url(environment)).netloc
    home = Path(environment.get("HOME") or Path.home())
    places = (
        [Path(environment["NETRC"]).expanduser()] if environment.get("NETRC") else [home / ".netrc", home / "_netrc"]
    )
    for path in places:
        if path.is_file():
            try:
                login = netrc.netrc(path).authenticators(host)
            except (netrc.NetrcParseError, OSError):
                # wandb cannot read it either: the caller reports that no key was found.
                return False
            return bool(login and login[2])
    return False


def problems(settings: TrackingSettings) -> list[str]:
    """What is wrong with the settings, found before anything is computed; empty where nothing is. Uses no network."""
    found: list[str] = []
    if settings.tables_max_rows < 1:
        found.append(f"tables_max_rows: expected 1 or more, found {settings.tables_max_rows}; the default is 200")
    if settings.mode is Mode.disabled:
        return found
    if not settings.project.strip() or any(character in settings.project for character in "/\\#?%:"):
        found.append(
            f"project: expected a name without any of / \\ # ? % :, found '{settings.project}'; "
            "the default is 'selfalign'"
        )
    found += [
        f"tags: expected 1 to 64 characters each (a limit of W&B), found {tag!r}; shorten it"
        for tag in settings.tags
        if not 1 <= len(tag) <= 64
    ]
    if not is_installed():
        found.append(
            f"mode={settings.mode.value} needs the package wandb, which is not installed; {INSTALL}, "
            "or use tracking=none"
        )
    elif settings.mode is Mode.online and not has_credentials():
        found.append(
            "mode=online needs a W&B API key, found neither WANDB_API_KEY nor a netrc entry for "
            f"{urlsplit(base_url(os.environ)).netloc}; run `wandb login`, or use tracking=wandb_offline and push "
            "later with `selfalign sync`"
        )
    return found
