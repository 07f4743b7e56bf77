"""Agents over Socket.IO: chat that everybody acknowledges, a fleet that reports, tasks."""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median

from benchmarks import load
from benchmarks.machine import come_to_rest
from benchmarks.peers import Missing, Server, node, relay
from benchmarks.peers.hub import start_for_agents
from benchmarks.plan import Plan
from benchmarks.row import Row, Target, compare

ENGINES = ("memory", "sqlite")
RECEIVERS = 50
WINDOW = 64
STORED = 20_000
DELIVERIES_LEAST = 30_000
FULL_LEAST = 0.9
AGENTS = 100
EVERY_S = 5.0
FLEET_BYTES_MAX = 1_000_000
FLEET_SHARE_MAX = 10.0
WORKERS = 10
TASKS_RATE = 1_000
TASKS_WINDOW = 100
TASK_P50_MAX_MS = 10.0
REST_MAX_S = 10.0

PEERS: dict[str, Callable[[Path], Server]] = {
    "python-socketio": relay.start,
    "socket.io": node.start_socketio,
    "JSON-file relay": node.start_json_relay,
    "full JSON-file relay": lambda folder: node.start_full_json_relay(folder, stored=STORED),
}
ACKED = {"c2cp", "relayed"}
"""The wires whose receivers acknowledge. The node peers are spared that."""

Values = dict[tuple[str, ...], list[float]]


def rows(plan: Plan) -> list[Row]:
    """All rows of this group."""
    values: Values = defaultdict(list)
    notes: list[str] = []
    for number in range(plan.rounds):
        for name in plan.shuffled([*ENGINES, *PEERS], number):
            plan.say(f"chat round {number + 1}/{plan.rounds}: {name}")
            folder = plan.folder / "chat" / f"{number}-{name.replace(' ', '-')}"
            folder.mkdir(parents=True)
            if name in PEERS:
                _peer(plan, name, folder, values, notes)
            else:
                _hub(plan, name, folder, values, notes)
    return _rows(values, "; ".join(dict.fromkeys(notes)))


def _hub(plan: Plan, engine: str, folder: Path, values: Values, notes: list[str]) -> None:
    """A new hub for each part: accounts and events of one would be there in the next."""
    parts: list[tuple[str, Callable[[Server], None]]] = [
        ("empty", lambda hub: _chat(plan, hub, (engine, "empty"), values, notes)),
        ("full", lambda hub: _chat(plan, hub, (engine, "full"), values, notes, stored=STORED)),
        ("tasks", lambda hub: _tasks(plan, hub, engine, values, notes)),
    ]
    if engine == ENGINES[0]:
        parts.append(("fleet", lambda hub: _fleet(plan, hub, values, notes)))
    for name, measure in parts:
        try:
            hub = start_for_agents(folder / name, engine=engine)
        except Missing as reason:
            notes.append(str(reason))
            continue
        try:
            measure(hub)
        finally:
            hub.close()


def _chat(
    plan: Plan,
    server: Server,
    key: tuple[str, ...],
    values: Values,
    notes: list[str],
    *,
    stored: int = 0,
) -> None:
    job = {"receivers": RECEIVERS, "seconds": plan.chat_s, "window": WINDOW, "stored": stored}
    done = load.run_or_note(plan, "chat", server, notes, **job)
    if done is not None:
        values["clock", *key].append(done["deliveries"] / done["wall_s"])
        values["cpu", *key].append(done["deliveries"] / max(done["server_cpu_s"], 0.01))


def _peer(plan: Plan, name: str, folder: Path, values: Values, notes: list[str]) -> None:
    try:
        server = PEERS[name](folder)
    except Missing as reason:
        notes.append(str(reason))
        plan.say(f"chat without {name}: {reason}")
        return
    try:
        if server.wire in ACKED:
            _chat(plan, server, (name,), values, notes)
            return
        phases = [{"mode": "pipelined", "seconds": plan.chat_s, "window": WINDOW}]
        result = load.run_or_note(
            plan, "fanout", server, notes, subscribers=RECEIVERS, phases=phases
        )
        for done in result["phases"] if result else ():
            values["clock", name].append(done["deliveries"] / done["wall_s"])
            values["cpu", name].append(done["deliveries"] / max(done["server_cpu_s"], 0.01))
    finally:
        server.close()


def _tasks(plan: Plan, hub: Server, engine: str, values: Values, notes: list[str]) -> None:
    phases = [
        {"rate": TASKS_RATE, "seconds": plan.chat_s},
        {"window": TASKS_WINDOW, "seconds": plan.chat_s},
    ]
    result = load.run_or_note(plan, "tasks", hub, notes, workers=WORKERS, phases=phases)
    if result is not None:
        paced, pushed = result["phases"]
        values["reached", engine].append(paced["tasks"] / paced["wall_s"])
        values["p50", engine].append(paced["latency_ms"]["p50"])
        values["p99", engine].append(paced["latency_ms"]["p99"])
        values["most", engine].append(pushed["tasks"] / pushed["wall_s"])


def _fleet(plan: Plan, hub: Server, values: Values, notes: list[str]) -> None:
    come_to_rest(hub.pid, longest_s=REST_MAX_S)
    done = load.run_or_note(
        plan, "fleet", hub, notes, agents=AGENTS, every_s=EVERY_S, seconds=plan.fleet_s
    )
    if done is not None:
        values["fleet", "bytes"].append(done["bytes_per_s"])
        values["fleet", "share"].append(100 * done["server_share"])


def _rows(values: Values, note: str) -> list[Row]:
    made: list[Row] = []
    for engine in ENGINES:
        made += _chat_rows(engine, values, note)
    made += [
        compare(
            f"fleet: {AGENTS} v1 agents report every {EVERY_S:g} s, both directions",
            unit="bytes/s",
            ours=values["fleet", "bytes"],
            target=Target(of="value", most=FLEET_BYTES_MAX),
            note=note,
        ),
        compare(
            "fleet: the hub's share of a core",
            unit="%",
            ours=values["fleet", "share"],
            target=Target(of="value", most=FLEET_SHARE_MAX),
            note=note,
        ),
    ]
    for engine in ENGINES:
        made += _task_rows(engine, values, note)
    return made


def _chat_rows(engine: str, values: Values, note: str) -> list[Row]:
    name = f"chat to {RECEIVERS} Socket.IO clients, acknowledged, {engine}"
    clock = values["clock", engine, "empty"]
    beside = {
        "python-socketio": "a relay, acknowledged, nothing stored",
        "socket.io": "not acknowledged, nothing stored",
        "JSON-file relay": "not acknowledged, a file of 1,000 messages",
        "full JSON-file relay": f"not acknowledged, a file of {STORED:,} messages",
    }
    full = [
        compare(
            f"{name}, {STORED:,} stored before",
            unit=unit,
            ours=values[of, engine, "full"],
            peer="with nothing stored",
            theirs=values[of, engine, "empty"],
            # By the clock the two are not of one moment, and who else works then counts.
            target=Target(of="ratio", least=FULL_LEAST) if of == "cpu" else None,
            note=note,
        )
        for of, unit in (("cpu", "deliveries/cpu-s"), ("clock", "deliveries/s"))
    ]
    return [
        compare(
            name,
            unit="deliveries/s",
            ours=clock,
            target=Target(of="value", least=DELIVERIES_LEAST),
            note=note,
        ),
        *full,
        *(
            compare(
                name + (f", {STORED:,} stored before" if peer.startswith("full") else ""),
                unit="deliveries/s",
                ours=values["clock", engine, "full" if peer.startswith("full") else "empty"],
                peer=peer.removeprefix("full "),
                theirs=values["clock", peer],
                note="; ".join(filter(None, (words, note))),
            )
            for peer, words in beside.items()
        ),
        compare(
            name,
            unit="deliveries/cpu-s",
            ours=values["cpu", engine, "empty"],
            peer="python-socketio",
            theirs=values["cpu", "python-socketio"],
            note=note,
        ),
    ]


def _task_rows(engine: str, values: Values, note: str) -> list[Row]:
    reached = values["reached", engine]
    at = f"{median(reached):,.0f} tasks/s were reached" if reached else ""
    name = f"tasks, dispatch to result at {TASKS_RATE:,}/s, {engine}"
    told = "; ".join(filter(None, (at, note)))
    return [
        compare(
            f"{name}, p50",
            unit="ms",
            ours=values["p50", engine],
            target=Target(of="value", most=TASK_P50_MAX_MS),
            note=told,
        ),
        compare(f"{name}, p99", unit="ms", ours=values["p99", engine], note=told),
        compare(
            f"tasks, dispatch to result, {TASKS_WINDOW} open at a time, {engine}",
            unit="tasks/s",
            ours=values["most", engine],
            target=Target(of="value", least=TASKS_RATE),
            note=note,
        ),
    ]
