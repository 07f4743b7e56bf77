"""Backups: a folder with the engine's own copy, the key of its tokens, and what it is.

    backup.json   what, when, by which version, and the copy's hash
    log.db        the copy, consistent by the engine's word
    secret.key    without it no token in the copy could be recognised

A restore never deletes: what it replaces stays beside.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import msgspec

import clawnet
from clawnet.app.clocks import SystemClock, SystemRandomness
from clawnet.app.config import EngineName, Settings
from clawnet.app.engines import ENGINE_FILES, open_engine, put_back
from clawnet.app.folder import SECRET_KEY, DataFolder, write_private
from clawnet.core.errors import BadConfiguration, Conflict, StorageCorrupt
from clawnet.core.times import rfc3339
from clawnet.ports.log import Engine

Progress = Callable[[int, int], None]
"""Called with what is done and what there is to do, in no particular unit."""

MANIFEST = "backup.json"
FORMAT = 1


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup says about itself."""

    format: int
    version: str
    engine: EngineName
    created: str
    epoch: str
    last_seq: int
    file: str
    sha256: str


def back_up(settings: Settings, folder: Path, target: Path, *, progress: Progress) -> Manifest:
    """Copy a stopped hub's data into the new folder `target`.

    Raises AlreadyRunning while a hub has the folder, Conflict if `target` exists.
    """
    if not folder.is_dir():
        raise BadConfiguration(f"There is no data folder {folder}.", next="Name it: --data-dir.")
    if settings.engine not in ENGINE_FILES:
        raise BadConfiguration(f"The engine {settings.engine} keeps nothing to back up.")
    with DataFolder.open(folder) as data:
        engine = open_engine(
            settings.engine, data.path, clock=SystemClock(), randomness=SystemRandomness()
        )
        try:
            make_folder(target)
            copy: Callable[..., None] = engine.backup  # type: ignore[attr-defined]
            copy(target / ENGINE_FILES[settings.engine], progress=progress)
            return describe(target, data, engine=engine, name=settings.engine)
        finally:
            engine.close()


def describe(target: Path, folder: DataFolder, *, engine: Engine, name: EngineName) -> Manifest:
    """Complete a backup whose copy is there: the key, and last what it is.

    A folder without the last is no backup, so one that was broken off is not taken for one.
    """
    copy = target / ENGINE_FILES[name]
    copy.chmod(0o600)
    write_private(target / SECRET_KEY, f"{folder.secret_key().hex()}\n".encode())
    manifest = Manifest(
        format=FORMAT,
        version=clawnet.__version__,
        engine=name,
        created=rfc3339(SystemClock().wall_ms()),
        epoch=engine.epoch,
        last_seq=engine.last_seq,
        file=copy.name,
        sha256=_hash(copy),
    )
    write_private(target / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest)))
    return manifest


def restore(source: Path, folder: Path, *, progress: Progress) -> Manifest:
    """Put a backup in place of the data in `folder`.

    The hub then begins a new epoch, so that clients whose positions the
    restore took back are told. Raises StorageCorrupt for what is no (whole)
    backup, AlreadyRunning while a hub has the folder; nothing is changed then.
    """
    manifest = read_manifest(source)
    copy = source / manifest.file
    if not copy.is_file() or _hash(copy) != manifest.sha256:
        raise StorageCorrupt(
            f"{copy} is not what was backed up.", next="Use another copy of this backup."
        )
    with DataFolder.open(folder) as data:
        put_back(manifest.engine, copy, data.path, progress=progress)
        _put_key_back(source / SECRET_KEY, data.path / SECRET_KEY)
    return manifest


def read_manifest(source: Path) -> Manifest:
    """What a backup says about itself. Raises StorageCorrupt."""
    try:
        manifest = msgspec.json.decode((source / MANIFEST).read_bytes(), type=Manifest)
    except (OSError, msgspec.DecodeError) as error:
        raise StorageCorrupt(
            f"{source} is no backup of clawnet ({error}).",
            next="Name the folder that claw backup made.",
        ) from None
    if manifest.format != FORMAT or Path(manifest.file).name != manifest.file:
        raise StorageCorrupt(
            f"{source} was made by clawnet {manifest.version}, which this one cannot read.",
            next="Restore it with that version.",
        )
    return manifest


def make_folder(target: Path) -> None:
    """A new private folder. Raises Conflict if there is one: a backup never overwrites."""
    try:
        target.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        raise Conflict(
            f"{target} exists; a backup never overwrites.", next="Name a folder that is not there."
        ) from None
    except OSError as error:
        raise BadConfiguration(f"{target} cannot be made ({error.strerror}).") from None


def _put_key_back(key: Path, place: Path) -> None:
    if not key.is_file():
        return  # the hub was given its key as a setting, and has to be given it again
    content = key.read_bytes()
    if place.exists() and place.read_bytes() != content:
        number, beside = 1, place.with_name(f"{place.name}.replaced")
        while beside.exists():
            number += 1
            beside = place.with_name(f"{place.name}.replaced-{number}")
        place.replace(beside)
    write_private(place, content)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
