"""claw backup and restore."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clawnet.cli.options import Command, invocation
from clawnet.cli.progress import bar
from clawnet.cli.terminal import harmless, note, say, say_json

if TYPE_CHECKING:
    from clawnet.app.config import Settings


@click.command(cls=Command, short_help="Copy a hub's data, while it runs or not.")
@click.argument("target", type=click.Path(path_type=Path), required=False)
@click.option("--data-dir", metavar="PATH", help="The hub's data folder, if not the default.")
def backup(target: Path | None, data_dir: str | None) -> None:
    """Copy a hub's data into the new folder TARGET (clawnet-<time>, if not given).

    The copy is consistent and holds everything: events, accounts, tokens (as
    hashes), grants. Whoever has it can read all events: keep it safe. A hub
    that runs goes on while it is copied, and wants a master's token for it.
    """
    from clawnet.app.checkup import data_folder, running_hub

    settings = _settings(data_dir)
    where = (target or Path(time.strftime("clawnet-%Y%m%dT%H%M%SZ", time.gmtime()))).absolute()
    folder = data_folder(settings)
    with bar("Copying") as progress:
        if running_hub(folder) is None:
            from clawnet.app.backups import back_up

            manifest = back_up(settings, folder, where, progress=progress)
            report = {name: getattr(manifest, name) for name in manifest.__struct_fields__}
        else:
            report = _by_the_hub(folder, where, progress)
    if invocation().is_json:
        say_json({**report, "path": str(where)})
    else:
        say(harmless(f"backed up the log up to event {report['last_seq']} to {where}"))


def _by_the_hub(folder: Path, where: Path, progress: Callable[[int, int], None]) -> dict[str, Any]:
    """Have the running hub make the copy in its own folder, then move it to where it is wanted."""
    import shutil

    from clawnet.core.errors import BadConfiguration, ClawError, Conflict

    if where.exists():
        raise Conflict(
            f"{where} exists; a backup never overwrites.", next="Name a folder that is not there."
        )
    at = invocation()
    report: dict[str, Any] = {}
    try:
        for line in at.hub(timeout_s=120.0).lines("POST", "/api/v1/admin/backup"):
            if "error" in line:
                from clawnet.client.errors import from_members

                raise from_members(line["error"])
            if "path" in line:
                report = line
            else:
                progress(line["done"], line["total"])
    except ClawError as error:
        raise at.explained(error) from None
    made = Path(report.pop("path"))
    if not made.is_relative_to(folder.expanduser().absolute()):
        raise BadConfiguration(
            f"The hub at {at.address.url} is not the one on {folder}; its backup is {made} there.",
            next="Name the right hub with --server.",
        )
    try:
        where.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(made, where)
    except OSError as error:
        raise BadConfiguration(
            f"The backup lies in {made}; it cannot be moved to {where} ({error.strerror})."
        ) from None
    return report


@click.command(cls=Command, short_help="Put a backup in place of a hub's data.")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--data-dir", metavar="PATH", help="The hub's data folder, if not the default.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def restore(source: Path, data_dir: str | None, yes: bool) -> None:
    """Put the backup SOURCE in place of a stopped hub's data.

    What was there is moved beside, not deleted. Clients that were ahead of
    the backup are told that their positions are gone.
    """
    from clawnet.app.backups import read_manifest
    from clawnet.app.backups import restore as put_back
    from clawnet.app.checkup import data_folder

    folder = data_folder(_settings(data_dir))
    manifest = read_manifest(source)
    if not yes:
        question = f"Put the backup of {manifest.created} in place of what is in {folder}?"
        click.confirm(harmless(question), abort=True, err=True)
    names = f"{manifest.file}.replaced*"
    before = set(folder.glob(names))
    with bar("Restoring") as progress:
        put_back(source, folder, progress=progress)
    replaced = min(set(folder.glob(names)) - before, default=None)
    if invocation().is_json:
        say_json({"data_dir": str(folder), "last_seq": manifest.last_seq,
                  "replaced": str(replaced) if replaced else None})  # fmt: skip
        return
    say(harmless(f"restored the backup of {manifest.created} into {folder}"))
    if replaced is not None:
        note(f"What was there is now {replaced}; delete it when it is not missed.")


def _settings(data_dir: str | None) -> Settings:
    from clawnet.app.config import load

    flags = {"data_dir": data_dir}
    return load(flags=flags, environment=os.environ, file=invocation().places.config)
