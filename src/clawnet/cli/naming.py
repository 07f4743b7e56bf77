"""Accounts as people name them: by id or by handle, with or without `@`."""

from __future__ import annotations

import click

from clawnet.cli.options import invocation
from clawnet.core.errors import ClawError


def account_id(name: str) -> str:
    """The id of an account that is named by its id or by its handle; else the name as it is, of
    which the hub says what is wrong with it."""
    from clawnet.client.http import segment
    from clawnet.core.handles import fold

    at = invocation()
    name = name.removeprefix("@")
    if not name:
        raise click.UsageError("Name an account by its id or its handle, such as @bob.")
    try:
        return str(at.hub().call("GET", f"/api/v1/accounts/{segment(name)}")["id"])
    except ClawError as error:
        # A token that reads no accounts may still write to one whose id is given.
        if error.code not in ("not_found", "forbidden", "bad_request"):
            raise at.explained(error) from None
    after: str | None = None
    try:
        while True:
            page = at.hub().call("GET", "/api/v1/accounts", query={"after": after, "limit": 1_000})
            for one in page["accounts"]:
                if fold(str(one["handle"])) == fold(name):
                    return str(one["id"])
            after = page.get("next")
            if not after:
                return name
    except ClawError:
        return name
