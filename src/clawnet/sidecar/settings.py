"""What a sidecar can be told. The command line makes it from flags and environment."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from clawnet.core.channels import is_account_id
from clawnet.core.errors import BadConfiguration
from clawnet.sidecar.commands import EXACTLY

EXEC_TIMEOUT_S = 300.0
REPORT_EVERY_S = 5.0
_SECRET = re.compile(r"(CLAW|SUPABASE)\w*(SECRET|TOKEN|KEY|PASS)\w*", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """An OpenAI-compatible endpoint for the orchestrator."""

    base_url: str
    model: str
    key: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SidecarSettings:
    """Who it is, where the hub is, and what it may run. `secret` and `token` are never logged."""

    server: str
    agent_id: str
    token: str | None = field(default=None, repr=False)
    fallback_token: str | None = field(default=None, repr=False)
    """Shown if there is neither a kept one nor a secret."""
    secret: str | None = field(default=None, repr=False)
    role: str = "worker"
    state_dir: Path
    openclaw_bin: str = "openclaw"
    exec_allow: tuple[tuple[str, ...], ...] = ()
    exec_deny: tuple[str, ...] = ()
    exec_timeout_s: float = EXEC_TIMEOUT_S
    concurrency: int = 4
    health_port: int | None = None
    is_orchestrating: bool = False
    model: ModelSettings | None = None
    report_every_s: float = REPORT_EVERY_S
    backoff_first_s: float = 2.0
    backoff_most_s: float = 60.0
    grace_s: float = 2.0


def is_secret(variable: str) -> bool:
    """Whether a variable is Clawnet's own secret, which no process of a task sees: the sidecar's,
    and those of a hub or a warden that shares its environment."""
    return _SECRET.fullmatch(variable) is not None


def agent_id_of(text: str) -> str:
    """An account's id as the hub folds it. Raises BadConfiguration."""
    folded = text.strip().removeprefix("@").casefold()
    if not is_account_id(folded):
        raise BadConfiguration(
            f"{ascii(text[:80])} is no agent's id.",
            next="Set AGENT_ID (or --agent-id) to letters, digits, _ and -, 64 at most.",
        )
    return folded


def state_dir_of(agent_id: str) -> Path:
    """Where an agent's sidecar keeps its token, journal, log and lock."""
    given = os.environ.get("XDG_STATE_HOME", "")
    # The XDG specification: a relative path is invalid and to be ignored.
    home = Path(given) if given.startswith("/") else Path.home() / ".local/state"
    return home / "clawnet" / "sidecar" / agent_id


def listed(text: str | None) -> list[str]:
    """The entries of a variable: separated by commas or line ends."""
    if not text:
        return []
    return [
        entry for part in text.splitlines() for entry in map(str.strip, part.split(",")) if entry
    ]


def prefixes_of(entries: Iterable[str]) -> tuple[tuple[str, ...], ...]:
    """The argv prefixes of an allow-list. Raises BadConfiguration."""
    found = []
    for entry in entries:
        try:
            words = tuple(shlex.split(entry.removeprefix(EXACTLY)))
        except ValueError as error:
            raise BadConfiguration(
                f"The allow-list's entry {ascii(entry[:80])} cannot be read ({error}).",
                next="Write it as in a shell: 'git status', or '/opt/deploy.sh'.",
            ) from None
        if words and entry.startswith(EXACTLY):
            words = (EXACTLY + words[0], *words[1:])
        if words:
            found.append(words)
    return tuple(found)
