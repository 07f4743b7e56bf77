"""The Centrifugo door: fan-out beside the native one, and clients that come, stay and come back."""

from collections import defaultdict
from dataclasses import replace
from statistics import median

from benchmarks import load
from benchmarks.peers import Missing, Server, start
from benchmarks.plan import Plan
from benchmarks.row import Row, Target, compare
from benchmarks.rows_fanout import MODES, UNIT, WINDOW

HUB = "hub memory"
DOORS = {"centrifugo": "centrifugo", "heard": "heard-by-centrifugo", "native": "hub"}
"""By whom is published and followed; of the second, the publisher is a native one."""
PUBLISHERS = {"centrifugo": "", "heard": ", published natively"}
FANOUT_LEAST = 0.9
CONNECTS_LEAST = 3_000
MEMORY_MAX_KB = 10
RECOVERING = 1_000
MISSED = 100
P99_MAX_MS = 2_000

Values = dict[tuple[str, ...], list[float]]


def rows(plan: Plan) -> list[Row]:
    """All rows of the Centrifugo door."""
    values: Values = defaultdict(list)
    notes: list[str] = []
    try:
        server = start(HUB, plan.folder / "centrifugo")
    except Missing as reason:
        notes.append(str(reason))
        return _rows(plan, values, notes)
    # The native door's clients and this one's, of the same process.
    doors = {name: replace(server, wire=wire) for name, wire in DOORS.items()}
    try:
        for number in range(plan.rounds):
            for name in plan.shuffled(list(doors), number):
                plan.say(f"centrifugo round {number + 1}/{plan.rounds}: fan-out, {name}")
                _fan_out(plan, name, doors[name], values, notes)
            plan.say(f"centrifugo round {number + 1}/{plan.rounds}: connects and recovery")
            _come_and_go(plan, number, doors["centrifugo"], values, notes)
    finally:
        server.close()
    _idle(plan, values, notes)
    return _rows(plan, values, notes)


def _fan_out(plan: Plan, name: str, server: Server, values: Values, notes: list[str]) -> None:
    phases = [
        {"mode": "single", "seconds": plan.phase_s},
        {"mode": "pipelined", "seconds": plan.phase_s, "window": WINDOW},
    ]
    for crowd in plan.crowds:
        result = load.run_or_note(plan, "fanout", server, notes, subscribers=crowd, phases=phases)
        for done in result["phases"] if result else ():
            cpu_s = max(done["server_cpu_s"], 0.01)  # the kernel counts in such steps
            values["fanout", name, str(crowd), done["mode"]].append(done["deliveries"] / cpu_s)


def _come_and_go(plan: Plan, number: int, server: Server, values: Values, notes: list[str]) -> None:
    came = load.run_or_note(plan, "connects", server, notes, clients=plan.comers, topic="comers")
    if came is not None:
        values["connects", "wall"].append(came["clients"] / came["wall_s"])
        values["connects", "cpu"].append(came["clients"] / max(came["server_cpu_s"], 0.01))
    back = load.run_or_note(
        plan, "recover", server, notes, clients=RECOVERING, missed=MISSED, topic=f"back{number}"
    )
    if back is not None:
        values["recover", "p99"].append(back["latency_ms"]["p99"])
        values["recover", "wrong"].append(back["wrong"])


def _idle(plan: Plan, values: Values, notes: list[str]) -> None:
    """On a hub of its own: what others left behind would be counted, too."""
    plan.say(f"centrifugo: {plan.idle_connections:,} idle connections")
    try:
        server = start(HUB, plan.folder / "centrifugo-idle")
    except Missing as reason:
        notes.append(str(reason))
        return
    try:
        result = load.run_or_note(
            plan,
            "idle",
            replace(server, wire="centrifugo"),
            notes,
            connections=plan.idle_connections,
            seconds=plan.idle_s,
        )
    finally:
        server.close()
    if result is not None:
        values["idle", "kb"].append(result["kb_per_connection"])


def _rows(plan: Plan, values: Values, notes: list[str]) -> list[Row]:
    note = "; ".join(notes)
    fanout = [
        compare(
            f"Centrifugo door: fan-out {crowd}, {words}{how}",
            unit=UNIT,
            ours=values["fanout", door, str(crowd), mode],
            peer="the native door",
            theirs=values["fanout", "native", str(crowd), mode],
            target=Target(of="ratio", least=FANOUT_LEAST),
            note=note,
        )
        for door, how in PUBLISHERS.items()
        for mode, words in MODES.items()
        for crowd in plan.crowds
    ]
    wall = values["connects", "wall"]
    by_clock = (
        f"{median(wall):,.0f} by the clock, the generator's own work included" if wall else ""
    )
    return [
        *fanout,
        compare(
            f"Centrifugo door: {plan.comers:,} clients connect and subscribe",
            unit="clients/cpu-s",
            ours=values["connects", "cpu"],
            target=Target(of="value", least=CONNECTS_LEAST),
            note="; ".join(filter(None, (by_clock, note))),
        ),
        compare(
            "Centrifugo door: memory of an idle connection",
            unit="KB",
            ours=values["idle", "kb"],
            target=Target(of="value", most=MEMORY_MAX_KB),
            note=note,
        ),
        compare(
            f"Centrifugo door: {RECOVERING:,} clients recover {MISSED} events at once, p99",
            unit="ms",
            ours=values["recover", "p99"],
            target=Target(of="value", most=P99_MAX_MS),
            note=note,
        ),
        compare(
            "Centrifugo door: of those, who lost or was repeated an event",
            unit="clients",
            ours=values["recover", "wrong"],
            target=Target(of="value", most=0),
            note=note,
        ),
    ]
