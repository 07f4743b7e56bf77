"""claw import-centrifugo: a Centrifugo's configuration as a config.toml of this hub."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clawnet.cli.exits import DONE
from clawnet.cli.options import Command, invocation
from clawnet.cli.terminal import harmless, note, say, say_json

if TYPE_CHECKING:
    from clawnet.cli.centrifugo_options import Moved

FILE_MAX_BYTES = 4_194_304


@click.command(cls=Command, short_help="Turn a Centrifugo's configuration into a config.toml.")
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Write it there, for its owner alone, secrets included.",
)
@click.option("--force", is_flag=True, help="Write over a file that is there.")  # fmt: skip
def import_centrifugo(file: Path, output: Path | None, force: bool) -> int:
    """Turn the configuration FILE of a Centrifugo (v5 or v6; JSON or TOML) into a config.toml.

    It goes to stdout without its secrets, or with them to --output. On stderr
    stands for every key what it became, or why it was left out. In the
    namespaces that it declares nothing is allowed that Centrifugo denies; the
    hub's own channels (public.*, agent.* and so on) keep their own rules.
    """
    from clawnet.cli.centrifugo_options import moved

    found = moved(_read(file))
    text = _toml(found, has_secrets=output is not None)
    _try(found)
    if output is not None:
        _write(output, text, is_forced=force)
    if invocation().is_json:
        say_json(
            {
                "version": found.version,
                "settings": {
                    name: None if name in found.secrets else value
                    for name, value in found.settings.items()
                },
                "namespaces": found.namespaces,
                "keys": [
                    {"key": line.key, "became": line.became, "why": line.why or None}
                    for line in found.lines
                ],
                "written": None if output is None else str(output),
            }
        )
        return DONE
    if output is None:
        say(harmless_lines(text))
    for line in found.lines:
        why = f" ({line.why})" if line.became and line.why else line.why
        what = f"-> {line.became}{why}" if line.became else f"left out: {why}"
        note(f"{line.key}  {what}")
    if output is not None:
        note(f"Written to {output}; look at it: claw config --check {output}")
    return DONE


def harmless_lines(text: str) -> str:
    return "\n".join(harmless(line) for line in text.rstrip("\n").split("\n"))


def _read(file: Path) -> dict[str, Any]:
    """Raises BadConfiguration if it cannot be read, InvalidData for what is in it."""
    from clawnet.core.errors import BadConfiguration, InvalidData

    try:
        with file.open("rb") as source:
            raw = source.read(FILE_MAX_BYTES + 1)
    except OSError as error:
        raise BadConfiguration(
            f"{file} cannot be read ({error.strerror}).", next="Name a file that is there."
        ) from None
    if len(raw) > FILE_MAX_BYTES:
        raise InvalidData(f"{file} has more than {FILE_MAX_BYTES} bytes.")
    if file.suffix in (".yaml", ".yml"):
        raise InvalidData(
            f"{file} is YAML, which this command does not read.",
            next="Turn it into JSON first: yq -o json FILE, or any other converter.",
        )
    found = _parsed(file, raw)
    if not isinstance(found, dict):
        raise InvalidData(f"{file} holds no options.", next="Name Centrifugo's config.json.")
    return found


def _parsed(file: Path, raw: bytes) -> Any:
    import json
    import tomllib

    from clawnet.core.errors import InvalidData

    try:
        text = raw.decode("utf-8-sig")
        return tomllib.loads(text) if file.suffix == ".toml" else json.loads(text)
    # ValueError: what is no JSON, no TOML and no UTF-8.
    except (ValueError, RecursionError) as error:
        kind = "TOML" if file.suffix == ".toml" else "JSON"
        raise InvalidData(
            f"{file} is not valid {kind}: {harmless(str(error)[:200])}.",
            next="Name a .json or .toml file of Centrifugo.",
        ) from None


def _try(found: Moved) -> None:
    """What is made must be what this hub takes. Raises BadConfiguration where it is not."""
    import tempfile

    from clawnet.app.config import load

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.toml"
        _write(path, _toml(found, has_secrets=True), is_forced=False)
        load(flags={}, environment={}, file=path, is_file_required=True)


def _toml(found: Moved, *, has_secrets: bool) -> str:
    from clawnet.app.reference import toml_value

    tables: dict[str, list[str]] = {"": []}
    for name, value in found.settings.items():
        table, _, key = name.rpartition(".")
        line = f"{key} = {toml_value(value)}"
        if name in found.secrets and not has_secrets:
            line = f"# {key} is a secret: --output writes it"
        tables.setdefault(table, []).append(line)
    for name, rule in found.namespaces.items():
        tables[f"channels.namespaces.{toml_value(name)}"] = [
            f"{key} = {toml_value(value)}" for key, value in rule.items()
        ]
    parts = [f"# From a configuration of Centrifugo v{found.version}."]
    for table, lines in tables.items():
        if lines:
            parts.append("\n".join([f"[{table}]", *lines] if table else lines))
    return "\n\n".join(parts) + "\n"


def _write(path: Path, text: str, *, is_forced: bool) -> None:
    """For its owner alone from its first byte on. Raises Conflict, BadConfiguration."""
    from clawnet.core.errors import BadConfiguration, Conflict

    try:
        if is_forced:
            # Not into the old file: who may read that one is not who may read this.
            path.unlink(missing_ok=True)
        target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(target, "w", encoding="utf-8") as opened:
            opened.write(text)
    except FileExistsError:
        raise Conflict(
            f"{path} exists.", next="Name another file, or write over it with --force."
        ) from None
    except OSError as error:
        raise BadConfiguration(
            f"{path} cannot be written ({error.strerror}).",
            next="Name a file in a folder of yours.",
        ) from None
