"""`python -m benchmarks`: run the groups, print the table, write the results."""

import argparse
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import (
    machine,
    rows_centrifugo,
    rows_chat,
    rows_cli,
    rows_fanout,
    rows_filters,
    rows_idle,
    rows_latency,
    rows_publish,
    rows_stored,
    table,
)
from benchmarks.plan import Plan
from benchmarks.row import Row

GROUPS: dict[str, Callable[[Plan], list[Row]]] = {
    "filters": rows_filters.rows,
    "cli": rows_cli.rows,
    "fanout": rows_fanout.rows,
    "latency": rows_latency.rows,
    "publish": rows_publish.rows,
    "idle": rows_idle.rows,
    "centrifugo": rows_centrifugo.rows,
    "chat": rows_chat.rows,
    "stored": rows_stored.rows,
}


def main(words: list[str] | None = None) -> int:
    """Measure, print the table, write it down. Exit code 1 only if a group broke."""
    options = _options(words)
    if sys.platform != "linux":
        print("The benchmarks need Linux: epoll, MSG_TRUNC, sched_setaffinity.", file=sys.stderr)
        return 2
    machine.raise_file_limit()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that every `finally` runs
    options.folder.mkdir(parents=True, exist_ok=True)
    facts = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "quick": options.quick,
        "machine": machine.describe(options.folder),
        "foreign_load": machine.foreign_load(),
    }
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="claw-bench-", dir=options.folder) as folder:
        size = Plan.quick if options.quick else Plan.full
        plan = size(Path(folder), events=options.events, rounds=options.rounds)
        plan.say(f"load average before: {facts['foreign_load']}")
        for name, measure in GROUPS.items():
            if options.only and name not in options.only:
                continue
            try:
                rows += measure(plan)
            except Exception:  # a group that breaks must not cost the others their results
                traceback.print_exc()
                plan.say(f"the group {name} broke")
                rows.append(_broken(name))
        facts["took_s"] = round(time.monotonic() - plan.began, 1)
    print(table.render(rows))
    kind = "partial" if options.only else "latest"
    facts["length"] = "quick" if options.quick else "full"
    path = table.write(rows, facts, kind)
    print(f"\nwritten to {path}")
    # A missed target is a finding, not a failure: what may be missed is judged by a reader.
    return 1 if any(row.name.startswith("group ") for row in rows) else 0


def _broken(name: str) -> Row:
    return Row(
        name=f"group {name}", unit="", ours=None, spread=None, peer="", peer_value=None, ratio=None,
        ratio_spread=None, target="", met=False, rounds=0, note=f"the group {name} broke",
    )  # fmt: skip


def _options(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=main.__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, one round, 2 minutes")
    parser.add_argument(
        "--only", action="append", choices=list(GROUPS), metavar="NAME",
        help="one group of rows: " + ", ".join(GROUPS),
    )  # fmt: skip
    parser.add_argument("--events", type=int, help="events stored for the group `stored`")
    parser.add_argument("--rounds", type=int, help="interleaved rounds")
    parser.add_argument(
        "--folder", type=Path, default=Path(__file__).with_name("run"),
        help="where the servers keep their data during the run; not a tmpfs",
    )  # fmt: skip
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(main())
