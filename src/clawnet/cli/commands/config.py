"""claw config: what is set and where, a file to begin from, and the server to talk to."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clawnet.cli.exits import DONE
from clawnet.cli.options import Command, invocation
from clawnet.cli.terminal import harmless, say, say_json

if TYPE_CHECKING:
    from clawnet.app.config import Given, Setting
    from clawnet.cli.invocation import Invocation

HIDDEN = "(set)"


@click.command(cls=Command, short_help="Show, check and keep settings.")
@click.option("--show", is_flag=True, help="What a hub started here would use, and why.")
@click.option("--defaults", is_flag=True, help="With --show: a complete config.toml.")
@click.option("--check", is_flag=True, help="Whether a hub would start with these settings.")
@click.argument("file", required=False, metavar="[FILE]")
def config(show: bool, defaults: bool, check: bool, file: str | None) -> int:
    """Show and check a hub's settings, and keep the server to talk to.

    \b
    claw config --server URL        talk to this hub from now on
    claw config --show              what is set, and where: variable, file or default
    claw config --show --defaults   every setting explained: a config.toml to begin from
    claw config --check [FILE]      whether a hub would start with this file

    Secrets are never shown.
    """
    at = invocation()
    if file is not None and not check:
        raise click.UsageError("A FILE is for --check.")
    if defaults:
        return _defaults()
    if check:
        return _check(at, file)
    if at.server is not None and not show:
        return _keep(at, at.server)
    return _show(at)


def _keep(at: Invocation, server: str) -> int:
    from clawnet.cli.places import Credentials, save
    from clawnet.client.address import parse_address

    url = parse_address(server).url
    save(at.places.credentials, Credentials(url, at.credentials.tokens))
    if at.is_json:
        say_json({"server": url})
        return DONE
    known = "" if url in at.credentials.tokens else "; no token is kept for it (claw login)"
    say(harmless(f"talking to {url} from now on{known}"))
    return DONE


def _defaults() -> int:
    from clawnet.app.reference import toml

    sys.stdout.write(toml())
    return DONE


def _show(at: Invocation) -> int:
    from clawnet.app.config import catalogue

    found = _given(at, None)
    rows = [(setting, found.get(name)) for name, setting in catalogue().items()]
    if at.is_json:
        settings = [
            {"name": setting.name, "value": _value(setting, one), "from": _source(one)}
            for setting, one in rows
        ]
        say_json({"server": at.address.url, "settings": settings})
        return DONE
    where = at.places.config
    is_there = "" if where.exists() else " (not there)"
    say(harmless(f"# {where}{is_there}; talking to {at.address.url}"))
    lines = [(f"{setting.name} = {_text(setting, one)}", _source(one)) for setting, one in rows]
    width = min(60, max(len(line) for line, _ in lines))
    for line, source in lines:
        say(harmless(f"{line:<{width}}  # {source}"))
    return DONE


def _check(at: Invocation, file: str | None) -> int:
    from clawnet.app.app import certificate_of, check
    from clawnet.app.config import load

    if file is None:
        path, environment, is_required = at.places.config, dict(os.environ), _is_named(at)
    else:
        # A file alone: what this shell happens to have set says nothing about it.
        path, environment, is_required = Path(file), {}, True
    settings = load(flags={}, environment=environment, file=path, is_file_required=is_required)
    check(settings)
    certificate_of(settings)
    found = _given(at, path, environment=environment)
    if at.is_json:
        say_json({"file": str(path), "ok": True, "set": sorted(found)})
        return DONE
    what = "1 setting is" if len(found) == 1 else f"{len(found)} settings are"
    origin = path if path.exists() else "its defaults"
    say(harmless(f"a hub would start with {origin}: {what} given"))
    return DONE


def _given(
    at: Invocation, path: Path | None, *, environment: dict[str, str] | None = None
) -> dict[str, Given]:
    from clawnet.app.config import given

    return given(
        flags={},
        environment=dict(os.environ) if environment is None else environment,
        file=path or at.places.config,
        is_file_required=path is None and _is_named(at),
    )


def _is_named(at: Invocation) -> bool:
    return at.config is not None and at.config.endswith(".toml")


def _source(one: Given | None) -> str:
    return "default" if one is None else one.source


def _value(setting: Setting, one: Given | None) -> Any:
    import msgspec

    value = setting.default if one is None else one.value
    if setting.is_secret:
        return HIDDEN if value else None
    return msgspec.to_builtins(value)


def _text(setting: Setting, one: Given | None) -> str:
    from clawnet.app.reference import toml_value

    value = _value(setting, one)
    if value is None and setting.name == "data_dir":
        # What is used if nothing is said depends on this machine's user.
        from clawnet.app.folder import default_path

        return toml_value(str(default_path()))
    if value is None:
        return "(not set)"
    return value if value == HIDDEN else toml_value(value)
