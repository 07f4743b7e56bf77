"""A login that has begun and waits for its proof: what `claw login` leaves for `claw verify`.

The claim is what makes the proof ours and nobody else's, so the file is this user's alone.
"""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any, NamedTuple

from clawnet.cli.remembered import Remembered
from clawnet.core.errors import BadConfiguration, ClawError, NotFound

FILE = "login.json"
NAMESPACE = "claw.events"
_SIGN_WITHIN_S = 120.0


class Challenge(NamedTuple):
    """What the hub asked to be shown, and what it has to be sent with the proof.

    `answer` holds the members of the request that completes it, but for what proves.
    """

    proof: str
    username: str
    answer: dict[str, Any]
    expires_at: float


class Challenges:
    """The login that waits, one for each hub."""

    def __init__(self, folder: Path) -> None:
        self._file = Remembered(folder / FILE)

    def put(self, url: str, challenge: Challenge) -> None:
        """Keep it, in place of one before. Raises BadConfiguration."""
        self._file.save({**self._load(), url: challenge._asdict()})

    def get(self, url: str) -> Challenge:
        """Raises NotFound."""
        kept = self._load().get(url)
        try:
            return Challenge(**(kept or {}))
        except TypeError:
            raise NotFound(
                f"No login at {url} waits to be verified.",
                next="Begin one: claw login --user <your_username>",
            ) from None

    def drop(self, url: str) -> None:
        """It is over."""
        kept = self._load()
        kept.pop(url, None)
        self._file.save(kept)

    def _load(self) -> dict[str, Any]:
        return {key: kept for key, kept in self._file.load().items() if isinstance(kept, dict)}


def minutes_left(challenge: Challenge) -> int:
    """For how long it still counts, at least a minute."""
    return max(1, round((challenge.expires_at - time.time()) / 60))


def sign(message: str, key: Path) -> str:
    """The armored signature by an SSH key (ssh-keygen asks for its passphrase if it has one).

    Raises ClawError.
    """
    command = ["ssh-keygen", "-Y", "sign", "-f", str(key), "-n", NAMESPACE]
    try:
        done = subprocess.run(
            command,
            input=message.encode(),
            capture_output=True,
            timeout=_SIGN_WITHIN_S,
            check=False,
        )
    except FileNotFoundError:
        raise BadConfiguration(
            "There is no ssh-keygen here to sign with.",
            next="Install OpenSSH, or sign elsewhere: claw login --user NAME --proof ssh-key",
        ) from None
    except subprocess.TimeoutExpired:
        raise ClawError(f"ssh-keygen did not sign within {_SIGN_WITHIN_S:g} s.") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().partition("\n")[0]
        raise BadConfiguration(
            f"ssh-keygen cannot sign with {key}: {said[:300]}",
            next="Name a private key (or its .pub, with the agent) behind --key.",
        )
    return done.stdout.decode(errors="replace")
