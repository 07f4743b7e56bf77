"""A progress bar on stderr, if somebody watches there."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from clawnet.cli.terminal import is_terminal


@contextmanager
def bar(label: str) -> Iterator[Callable[[int, int], None]]:
    """Gives `show(done, total)`, to be called as work goes on."""
    if not is_terminal(sys.stderr):
        yield lambda done, total: None
        return
    import click

    with click.progressbar(length=100, label=label, file=sys.stderr) as shown:

        def show(done: int, total: int) -> None:
            share = min(100 * done // max(total, 1), 100)
            if share > shown.pos:
                shown.update(share - shown.pos)

        yield show
