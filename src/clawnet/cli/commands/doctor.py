"""claw doctor: check this machine, the data folder and the hub."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime

import click

import clawnet
from clawnet.app.checkup import Check, checks
from clawnet.app.config import load
from clawnet.cli.exits import DONE, FAILED
from clawnet.cli.invocation import Invocation
from clawnet.cli.options import Command, invocation
from clawnet.cli.terminal import harmless, is_colourful, say, say_json
from clawnet.client.http import Answer
from clawnet.core.errors import ClawError

CLOCK_APART_S = 5.0
LAG_LARGE = 100_000


@click.command(cls=Command, short_help="Check this machine, the data folder and the hub.")
@click.option("--data-dir", metavar="PATH", help="The hub's data folder, if not the default.")
def doctor(data_dir: str | None) -> int:
    """Check what a hub needs: SQLite, the data folder, its lock, the disk, the clock; and the hub.

    The exit code is 1 if something is bad. A hub that does not run is not.
    """
    at = invocation()
    found = [*_configured(at, data_dir), *_credentials(at), *_hub(at)]
    if at.is_json:
        say_json({"checks": [check._asdict() for check in found]})
    else:
        for check in found:
            _show(check)
    return FAILED if any(check.state == "bad" for check in found) else DONE


def _configured(at: Invocation, data_dir: str | None) -> Iterator[Check]:
    try:
        settings = load(flags={"data_dir": data_dir}, environment=os.environ, file=at.places.config)
    except ClawError as error:
        yield Check("configuration", "bad", error.message, error.next)
        return
    file = at.places.config
    yield Check("configuration", "ok", str(file) if file.exists() else f"{file} (not there)")
    yield from checks(settings)


def _credentials(at: Invocation) -> Iterator[Check]:
    path = at.places.credentials
    try:
        at.credentials  # noqa: B018 - reading it is the check
    except ClawError as error:
        yield Check("credentials", "bad", error.message, error.next)
        return
    if not path.exists():
        yield Check("credentials", "ok", "none are kept; claw login keeps one")
    elif path.stat().st_mode & 0o077:
        yield Check("credentials", "bad", f"{path} can be read by others", f"Run chmod 600 {path}")
    else:
        yield Check("credentials", "ok", str(path))


def _hub(at: Invocation) -> Iterator[Check]:
    try:
        hub = at.hub(timeout_s=5.0)
        before_s = time.time()
        ready = hub.send("GET", "/readyz")
    except ClawError as error:
        yield Check("hub", "warning", error.message, error.next)
        return
    if ready.status != 200:
        yield Check("hub", "bad", f"{hub.address.url} answers and is not ready", "See its log.")
    else:
        yield Check("hub", "ok", f"{hub.address.url} is ready")
    yield from _clock(ready, before_s)
    try:
        version = str((hub.call("GET", "/version") or {}).get("version"))
        same = version == clawnet.__version__
        yield Check(
            "version", "ok" if same else "warning",
            version if same else f"the hub is {version}, this is {clawnet.__version__}",
            "" if same else "Use the same version on both sides.",
        )  # fmt: skip
        yield from _lags(hub.send("GET", "/metrics"))
        account = hub.call("GET", "/api/v1/me").get("account")
        yield Check(
            "token", "ok", f"good, of {account['id']}" if account else "none (reading only)"
        )
    except ClawError as error:
        explained = at.explained(error)
        yield Check("token", "warning", explained.message, explained.next)


def _clock(answer: Answer, before_s: float) -> Iterator[Check]:
    date = answer.headers.get("date")
    if not date:
        return
    apart_s = parsedate_to_datetime(date).timestamp() - before_s
    is_close = abs(apart_s) <= CLOCK_APART_S
    yield Check(
        "hub's clock", "ok" if is_close else "warning", f"{apart_s:+.0f} s from this machine's",
        "" if is_close else "Switch NTP on, on both machines.",
    )  # fmt: skip


def _lags(metrics: Answer) -> Iterator[Check]:
    """Every gauge that counts events behind: the index and the views."""
    if metrics.status != 200:
        return
    for line in metrics.body.decode(errors="replace").splitlines():
        name, _, value = line.rpartition(" ")
        if line.startswith("#") or not name.partition("{")[0].endswith("_lag_events"):
            continue
        try:
            lag = float(value)
        except ValueError:
            continue
        is_small = lag < LAG_LARGE
        yield Check(
            "lag", "ok" if is_small else "warning", f"{name}: {lag:g}",
            "" if is_small else "Normal right after a start; otherwise the disk is too slow.",
        )  # fmt: skip


def _show(check: Check) -> None:
    colours = {"ok": "32", "warning": "33", "bad": "31"}
    mark = f"{check.state:7}"
    if is_colourful():
        mark = f"\x1b[{colours[check.state]}m{mark}\x1b[0m"
    say(f"{mark}  {check.name:13}  {harmless(check.text)}")
    if check.next and check.state != "ok":
        say(f"{'':24}{harmless(check.next)}")
