"""claw audit: check the chain of records that a hub keeps of who did what."""

from __future__ import annotations

from pathlib import Path

import click

from clawnet.cli import exits
from clawnet.cli.options import Group, invocation
from clawnet.cli.terminal import note, say, say_json


@click.group(cls=Group, short_help="Check the audit chain.")
def audit() -> None:
    """The audit chain: who did what, in a file whose lines hold each other."""


@audit.command()
@click.option(
    "--data-dir", metavar="FOLDER", help="The hub's data folder; the default one, if not given."
)
@click.option(
    "--key", "public_key", metavar="BASE64",
    help="The hub's public key as you noted it (GET /api/v1/audit/key); else the folder's.",
)  # fmt: skip
def verify(data_dir: str | None, public_key: str | None) -> None:
    """Check every line, offline: claw audit verify --data-dir FOLDER

    Names the first line that was edited, dropped or swapped, and lines cut off behind the last
    checkpoint. Ends with 0 if all hold, else with 1.
    """
    from clawnet.app.auditing import verify as look
    from clawnet.app.folder import default_path

    folder = default_path() if data_dir is None else Path(data_dir)
    found, doubts = look(folder, public_key=public_key)
    if invocation().is_json:
        say_json(
            {
                "folder": str(folder),
                "lines": found.lines,
                "checkpoints": found.checkpoints,
                "last_seq": found.last_seq,
                "last_hash": found.last_hash,
                "flaw": None if found.flaw is None else found.flaw._asdict(),
                "doubts": doubts,
            }
        )
    else:
        for doubt in doubts:
            note(doubt)
        if found.flaw is None:
            say(f"{found.lines} lines hold, with {found.checkpoints} checkpoints.")
        else:
            say(f"Line {found.flaw.line} {found.flaw.what}.")
    if found.flaw is not None:
        raise click.exceptions.Exit(exits.FAILED)
