"""The audit chain: records whose lines hold each other, and how a chain is checked. Pure.

A line is a record as canonical JSON with `prev_hash` and `hash`, where `hash` is the SHA-256 of the
record's canonical JSON without these two, followed by the hash of the line before ("" for the
first). A checkpoint is such a record too; it names the hash and number of the line it stands
behind and is signed, so that who does not hold the key can neither edit what lies before it nor
cut it off unseen where the checkpoint is kept elsewhere as well.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

CHECKPOINT = "checkpoint"
OPENED = "opened"
"""The first line of a file, and of what a log of another epoch is the source of: `lines` are those
before it, and seqs begin anew."""

Record = dict[str, Any]
Signed = Callable[[bytes, str], bool]
"""Whether a text was signed by this base64 signature."""


def canonical(value: Mapping[str, Any]) -> str:
    """Sorted keys, no spaces, UTF-8: what is hashed and signed."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def hash_of(record: Mapping[str, Any], prev_hash: str) -> str:
    """The hash of a record behind the line with `prev_hash`."""
    bare = {name: value for name, value in record.items() if name not in ("hash", "prev_hash")}
    text = canonical(bare) + prev_hash
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def line_of(record: Mapping[str, Any], prev_hash: str) -> tuple[str, str]:
    """The line of a record without its end, and its hash."""
    own = hash_of(record, prev_hash)
    return canonical({**record, "prev_hash": prev_hash, "hash": own}), own


def opened(*, seq: int, lines: int, epoch: str, ts: str) -> Record:
    """The record that begins a file behind `lines` lines, or follows a log of another epoch."""
    return {
        "type": OPENED,
        "seq": seq,
        "from": "hub",
        "to": "",
        "tenant_id": "",
        "ts": ts,
        "lines": lines,
        "epoch": epoch,
    }


def checkpoint(
    *, seq: int, lines: int, at_hash: str, ts: str, key: str, sign: Callable[[bytes], str]
) -> Record:
    """The record of a checkpoint behind `lines` lines, the last of which has `at_hash`."""
    bare = {
        "type": CHECKPOINT,
        "seq": seq,
        "from": "hub",
        "to": "",
        "tenant_id": "",
        "ts": ts,
        "lines": lines,
        "at_hash": at_hash,
        "key": key,
    }
    return {**bare, "signature": sign(canonical(bare).encode())}


def signed_text(record: Mapping[str, Any]) -> bytes:
    """What a checkpoint's signature is of."""
    outside = ("hash", "prev_hash", "signature")
    bare = {n: v for n, v in record.items() if n not in outside}
    return canonical(bare).encode("utf-8", "surrogatepass")


class Flaw(NamedTuple):
    """The first thing that is wrong with a chain: `line` counts from 1 over all files."""

    line: int
    what: str


class Checked(NamedTuple):
    """What a look at a chain found. `flaw` is None if every line holds."""

    lines: int
    checkpoints: int
    last_seq: int
    last_hash: str
    flaw: Flaw | None


def check(
    lines: Iterable[bytes], *, signed: Signed | None, known: Iterable[Mapping[str, Any]] = ()
) -> Checked:
    """Check a whole chain. `known` are checkpoints that were kept elsewhere.

    Names the first line that was edited, dropped or swapped, and a truncation behind the last
    checkpoint that is known.
    """
    count = checkpoints = seq = 0
    prev = ""
    wanted = {_whole(point.get("lines")): point for point in known}
    for raw in lines:
        count += 1
        flaw, record = _line_flaw(raw, count, prev, seq)
        if flaw is None and record["type"] == CHECKPOINT:
            checkpoints += 1
            flaw = _checkpoint_flaw(record, count, prev, signed)
        if flaw is None and count in wanted and wanted[count].get("at_hash") != record["hash"]:
            flaw = Flaw(count, "is not the line that a checkpoint kept elsewhere names")
        if flaw is not None:
            return Checked(count, checkpoints, seq, prev, flaw)
        prev, seq = record["hash"], record["seq"]
    missing = max((lines for lines in wanted if lines > count), default=0)
    if missing:
        what = f"is the last, and a checkpoint stands behind line {missing}: lines were cut off"
        return Checked(count, checkpoints, seq, prev, Flaw(count, what))
    return Checked(count, checkpoints, seq, prev, None)


def _line_flaw(raw: bytes, count: int, prev: str, seq: int) -> tuple[Flaw | None, Record]:
    try:
        record = json.loads(raw)
    except (ValueError, RecursionError):
        return Flaw(count, "is no JSON: it was edited or cut"), {}
    if not isinstance(record, dict) or not isinstance(record.get("type"), str):
        return Flaw(count, "is no record"), {}
    given = record.get("seq")
    if not isinstance(given, int) or isinstance(given, bool):
        return Flaw(count, "has no seq"), {}
    before = record.get("prev_hash")
    if not isinstance(before, str) or hash_of(record, before) != record.get("hash"):
        return Flaw(count, "was edited: its hash is another"), {}
    if before != prev:
        what = "does not follow the line before: lines were dropped, put in or swapped"
        return Flaw(count, what), {}
    if given < seq and record["type"] != OPENED:
        return Flaw(count, "is older than the line before"), {}
    if canonical(record).encode("utf-8", "surrogatepass") != raw:
        return Flaw(count, "was written anew in other words"), {}
    return None, record


def _checkpoint_flaw(record: Record, count: int, prev: str, signed: Signed | None) -> Flaw | None:
    if record.get("at_hash") != prev or _whole(record.get("lines")) != count - 1:
        return Flaw(count, "is a checkpoint of another chain")
    signature = record.get("signature")
    if signed is not None and not (
        isinstance(signature, str) and signed(signed_text(record), signature)
    ):
        return Flaw(count, "is a checkpoint with a signature that is not the hub's")
    return None


def _whole(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
