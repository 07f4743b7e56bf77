"""Where the command line keeps what it knows: server and tokens, one file of mode 0600.

A token belongs to the server it was given for: naming another server never
sends it there.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import NamedTuple

from clawnet.core.errors import BadConfiguration

CREDENTIALS = "credentials.json"
CONFIG = "config.toml"


class Places(NamedTuple):
    """The credentials' file, and the hub's own config file beside it."""

    credentials: Path
    config: Path


def places(config: str | None) -> Places:
    """`--config` names a folder, or one of the two files in it; else $XDG_CONFIG_HOME/clawnet."""
    if config is None:
        folder = _home("XDG_CONFIG_HOME", ".config") / "clawnet"
        return Places(folder / CREDENTIALS, folder / CONFIG)
    path = Path(config).expanduser()
    if path.suffix == ".toml":
        return Places(path.parent / CREDENTIALS, path)
    if path.suffix == ".json":
        return Places(path, path.parent / CONFIG)
    return Places(path / CREDENTIALS, path / CONFIG)


def default_data_dir() -> Path:
    """Where a hub keeps its data if nobody says otherwise."""
    return _home("XDG_DATA_HOME", ".local/share") / "clawnet"


def _home(name: str, otherwise: str) -> Path:
    # The XDG specification: a relative path is invalid and to be ignored.
    given = os.environ.get(name, "")
    return Path(given) if given.startswith("/") else Path.home() / otherwise


class Credentials(NamedTuple):
    """The server to talk to, and the token for each server by its address."""

    server: str | None
    tokens: dict[str, str]


def load(path: Path) -> Credentials:
    """Read the file; nothing if there is none. Raises BadConfiguration."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return Credentials(None, {})
    except OSError as error:
        raise BadConfiguration(
            f"{path} cannot be read ({error.strerror}).", next="Check its owner and mode."
        ) from None
    try:
        value = json.loads(raw)
    except ValueError:
        value = None
    if isinstance(value, dict):
        server, tokens = value.get("server"), value.get("tokens", {})
        if (server is None or isinstance(server, str)) and _is_text_map(tokens):
            return Credentials(server, dict(tokens))
    raise BadConfiguration(
        f"{path} is damaged: it is not the JSON that claw login writes.",
        next=f"Delete it (rm {path}) and run claw login again.",
    )


def save(path: Path, credentials: Credentials) -> None:
    """Write the file whole or not at all, for this user only. Raises BadConfiguration."""
    text = json.dumps(
        {"server": credentials.server, "tokens": credentials.tokens}, indent=2, sort_keys=True
    )
    write_private(path, text)


def write_private(path: Path, text: str) -> None:
    """Write a file whole or not at all, for this user only. Raises BadConfiguration."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # The mode is given at creation: there is no moment at which others could read it.
        handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(text + "\n")
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise BadConfiguration(
            f"{path} cannot be written ({error.strerror}).",
            next="Make the folder writable, or name another with --config.",
        ) from None


def _is_text_map(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(key, str) and isinstance(item, str) for key, item in value.items()
    )
