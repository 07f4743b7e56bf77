"""claw key: the SSH keys by which one logs in."""

from __future__ import annotations

from pathlib import Path

import click

from clawnet.cli.options import Group, invocation
from clawnet.cli.terminal import harmless, say, say_json, table
from clawnet.core.errors import BadConfiguration

_PATH = "/auth/keys"


@click.group(cls=Group, short_help="SSH keys to log in with: add, list, remove.")
def key() -> None:
    """The SSH keys by which you log in (claw login --user YOU --key FILE)."""


@key.command(short_help="Register a public key.")
@click.argument("file")
@click.option(
    "--name", default="main", metavar="NAME", show_default=True, help="What it is called."
)
def add(file: str, name: str) -> None:
    """Let whoever holds the private key of FILE (id_ed25519.pub) log in as you."""
    path = Path(file).expanduser()
    try:
        public = path.read_text().strip()
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise BadConfiguration(f"{path} cannot be read ({reason}).") from None
    if "PRIVATE KEY" in public:
        # It must not leave this machine.
        raise click.UsageError(f"{path} is the private key; name the public one, {path}.pub")
    body = {"public_key": public, "key_name": name}
    answer = invocation().call("POST", _PATH, body=body)
    if invocation().is_json:
        say_json(answer)
    else:
        say(harmless(f"{answer['key_name']} is registered: {answer['fingerprint']}"))


@key.command("list", short_help="List your keys.")
def list_() -> None:
    """List the keys with which you log in."""
    answer = invocation().call("GET", _PATH)
    if invocation().is_json:
        say_json(answer)
        return
    table(
        ("name", "type", "fingerprint", "since"),
        [
            (one["key_name"], one["type"], one["fingerprint"], one["created"])
            for one in answer["keys"]
        ],
        empty="No key is registered.",
    )


@key.command(short_help="Take a key's right to log in back.")
@click.argument("name", default="main")
def remove(name: str) -> None:
    """Let nobody log in with the key NAME any more."""
    answer = invocation().call("DELETE", _PATH, query={"key_name": name})
    if invocation().is_json:
        say_json(answer)
    else:
        say(harmless(f"{name} is removed"))
