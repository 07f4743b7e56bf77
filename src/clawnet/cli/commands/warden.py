"""claw warden: keep what happens on a hub, and hand it back if the hub began empty."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

import click

from clawnet.cli import exits
from clawnet.cli.options import Command, invocation
from clawnet.cli.terminal import harmless, note
from clawnet.core.errors import BadConfiguration, ClawError


@click.command(cls=Command, short_help="Keep what happens in Supabase or in files.")
@click.option(
    "--supabase", "supabase", metavar="URL", envvar="SUPABASE_URL",
    help="The project's URL (SUPABASE_URL); its service role key is SUPABASE_KEY. Without: files.",
)  # fmt: skip
@click.option(
    "--folder", metavar="FOLDER",
    help="Where the cursor and the files lie; $XDG_STATE_HOME/clawnet/warden, if not given.",
)  # fmt: skip
@click.option(
    "--channel", "channels", multiple=True, metavar="NAME",
    help="What to keep: a channel or a pattern. May be repeated; everything, if not given.",
)  # fmt: skip
@click.option(
    "--per-channel", type=click.IntRange(1, 100_000), default=1_000, show_default=True,
    help="How many events of each channel are handed back.",
)  # fmt: skip
def warden(
    supabase: str | None, folder: str | None, channels: tuple[str, ...], per_channel: int
) -> int:
    """Follow the hub's traffic and keep it, until Ctrl-C.

    Kept in Supabase if there is one, else in files, else in memory; what level it is on is said
    when it changes, and what went down a level goes up again in order. Use the token of an account
    with the role warden (claw account create eye --role warden). A hub with the memory engine and
    warden.restores = true waits for it at its start and is handed back what it lost.
    """
    import asyncio
    import signal

    from clawnet.client import Client
    from clawnet.connectors.warden import Warden
    from clawnet.connectors.warden.jsonl import JsonLines
    from clawnet.connectors.warden.levels import Levels
    from clawnet.connectors.warden.supabase import Supabase

    at = invocation()
    key = os.environ.get("SUPABASE_KEY", "").strip()
    if supabase and not key:
        raise BadConfiguration(
            "There is a Supabase URL and no key.",
            next="Set SUPABASE_KEY to the project's service role key.",
        )
    if supabase:
        _check(supabase, key)
    place = Path(folder) if folder else _default_folder()

    async def run() -> None:
        task = asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, task.cancel)
        top = Supabase(supabase, key) if supabase else None
        files = JsonLines(place / ("spool" if top is not None else "events"))
        levels = Levels(
            top, files, told=lambda level, why: note(f"keeping in {level}: {harmless(why)}")
        )
        note(f"keeping in {levels.level}, the cursor in {place}")
        async with Client(at.address.url, at.effective_token) as client:
            made = Warden(
                client,
                levels,
                place,
                channels=channels or (">",),
                per_channel=per_channel,
                told=lambda text: note(harmless(text)),
            )
            await made.run()

    try:
        asyncio.run(run())
    except ClawError as error:
        raise at.explained(error) from None
    except asyncio.CancelledError:
        return exits.DONE
    return exits.DONE


def _check(url: str, key: str) -> None:
    """Raises BadConfiguration, which says nothing of what the two are."""
    try:
        parts = urlsplit(url)
        scheme, host = parts.scheme, parts.hostname
    except ValueError:
        scheme, host = "", None
    if scheme not in ("http", "https") or not host or "@" in url:
        raise BadConfiguration(
            "The Supabase URL is no URL of a project.", next="Give it as https://….supabase.co."
        )
    if scheme == "http" and host not in ("localhost", "127.0.0.1", "::1"):
        raise BadConfiguration(
            "The service role key would cross the network in the clear.",
            next="Give the Supabase URL with https.",
        )
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise BadConfiguration(
            "SUPABASE_KEY is no key.", next="Copy the project's service role key, without spaces."
        )


def _default_folder() -> Path:
    """$XDG_STATE_HOME/clawnet/warden, else ~/.local/state/clawnet/warden."""
    given = os.environ.get("XDG_STATE_HOME", "")
    home = Path(given) if given.startswith("/") else Path.home() / ".local/state"
    return home / "clawnet" / "warden"
