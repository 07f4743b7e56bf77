"""One line of the results: what was measured, beside whom, against which target."""

from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A bound on the ratio to the peer (`of="ratio"`) or on our own value (`of="value"`)."""

    of: Literal["ratio", "value"]
    least: float | None = None
    most: float | None = None

    def holds(self, number: float) -> bool:
        return (self.least is None or number >= self.least) and (
            self.most is None or number <= self.most
        )

    def __str__(self) -> str:
        sign, bound = (">=", self.least) if self.least is not None else ("<=", self.most)
        return f"{sign} {bound:,g}" + (" x" if self.of == "ratio" else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """`met` is null where nothing can be said: no target, no peer, nothing measured."""

    name: str
    unit: str
    ours: float | None
    spread: tuple[float, float] | None
    peer: str
    peer_value: float | None
    ratio: float | None
    ratio_spread: tuple[float, float] | None
    target: str
    met: bool | None
    rounds: int
    note: str

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def compare(
    name: str,
    *,
    unit: str,
    ours: list[float],
    target: Target | None = None,
    peer: str = "",
    theirs: list[float] | None = None,
    note: str = "",
) -> Row:
    """A row from the values of each round, ours and theirs in the same order.

    The ratio is the median of the rounds' own ratios: what disturbs the machine for a while
    disturbs both sides of a round. A hub that gave no value has missed its target; a peer
    that gave none leaves the target open.
    """
    theirs = theirs or []
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=False) if other]
    met: bool | None = None
    if target is not None and (target.of == "value" or theirs):
        numbers = ours if target.of == "value" else ratios
        met = bool(numbers) and target.holds(median(numbers))
    return Row(
        name=name,
        unit=unit,
        ours=median(ours) if ours else None,
        spread=(min(ours), max(ours)) if ours else None,
        peer=peer,
        peer_value=median(theirs) if theirs else None,
        ratio=median(ratios) if ratios else None,
        ratio_spread=(min(ratios), max(ratios)) if ratios else None,
        target=str(target) if target else "",
        met=met,
        rounds=len(ours),
        note=" ".join(note.split()),
    )
