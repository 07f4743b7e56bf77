"""claw grant, revoke, lock, unlock: who may use a channel of yours."""

from __future__ import annotations

from typing import Any

import click

from clawnet.cli.options import Command, invocation
from clawnet.cli.terminal import harmless, say, say_json, table
from clawnet.client.http import segment


@click.command(cls=Command, short_help="Give an account rights on your channel.")
@click.argument("account", required=False)
@click.argument("topic", required=False)
@click.option(
    "--verb", "verbs", multiple=True, type=click.Choice(["read", "publish"]),
    help="What it may do; read, if not given. May be repeated.",
)  # fmt: skip
@click.option("--dispatch", "is_dispatch", is_flag=True, help="Let it give you work, instead.")
@click.option("--list", "is_list", is_flag=True, help="List the grants you gave or were given.")
def grant(
    account: str | None,
    topic: str | None,
    verbs: tuple[str, ...],
    is_dispatch: bool,
    is_list: bool,
) -> None:
    """Give ACCOUNT rights on TOPIC, or with --dispatch the right to give you work.

    TOPIC is a channel of yours; without a dot it means agent.<you>.TOPIC.
    """
    at = invocation()
    if is_dispatch:
        _dispatch(account, "POST", is_alone=topic is None and not verbs and not is_list)
        return
    if is_list:
        _list(account, topic)
        return
    if account is None or topic is None:
        raise click.UsageError("Give an account and a topic: claw grant bob updates")
    body = {"account": account, "channel": topic, "verbs": list(verbs) or ["read"]}
    answer = at.call("POST", "/api/v1/grants", body=body)
    if at.is_json:
        say_json(answer)
    else:
        may = " and ".join(answer["verbs"])
        say(harmless(f"{answer['account']} may {may} on {answer['channel']}"))


def _dispatch(account: str | None, method: str, *, is_alone: bool) -> None:
    """Give ACCOUNT the right to give the caller work, or take it back."""
    at = invocation()
    if account is None or not is_alone:
        raise click.UsageError("--dispatch takes an account alone: claw grant bob --dispatch")
    body = {"target": account.removeprefix("@"), "right": "dispatch"}
    answer = at.call(method, "/api/v1/grants", body=body)
    if at.is_json:
        say_json(answer)
    elif method == "POST":
        say(harmless(f"{answer['account']} may give you work"))
    else:
        say(harmless(f"{answer['account']} may no longer give you work"))


def _list(account: str | None, topic: str | None) -> None:
    at = invocation()
    answer = at.call("GET", "/api/v1/grants", query={"account": account, "channel": topic})
    if at.is_json:
        say_json(answer)
        return
    table(
        ("account", "channel", "may", "from", "given by", "since"),
        [
            (one["account"], one["channel"], one["verbs"], one.get("from_offset"),
             one["granted_by"], one["created"])
            for one in answer["grants"]
        ],
        empty="There are no grants.",
    )  # fmt: skip


@click.command(cls=Command, short_help="Take rights back, at once.")
@click.argument("account")
@click.argument("topic", required=False)
@click.option(
    "--verb", "verbs", multiple=True, type=click.Choice(["read", "publish"]),
    help="Which right; all, if not given.",
)  # fmt: skip
@click.option("--dispatch", "is_dispatch", is_flag=True, help="The right to give you work.")
def revoke(account: str, topic: str | None, verbs: tuple[str, ...], is_dispatch: bool) -> None:
    """Take rights of ACCOUNT on TOPIC back, at once, on live connections too.

    TOPIC is a channel of yours; without a dot it means agent.<you>.TOPIC. With
    --dispatch it is the right to give you work.
    """
    at = invocation()
    if is_dispatch:
        _dispatch(account, "DELETE", is_alone=topic is None and not verbs)
        return
    if topic is None:
        raise click.UsageError("Give a topic: claw revoke bob updates")
    body: dict[str, Any] = {"account": account, "channel": topic}
    if verbs:
        body["verbs"] = list(verbs)
    answer = at.call("DELETE", "/api/v1/grants", body=body) or {}
    if at.is_json:
        say_json(answer)
        return
    channel = answer.get("channel", topic)
    if answer.get("changed", True):
        say(harmless(f"{account} has lost {' and '.join(verbs) or 'all rights'} on {channel}"))
    else:
        say(harmless(f"{account} had no such rights on {channel}"))


@click.command(cls=Command, short_help="Make your channel private.")
@click.argument("channel")
def lock(channel: str) -> None:
    """Make CHANNEL yours and the granted accounts' again, at once.

    Without a dot it means agent.<you>.CHANNEL.
    """
    _set_lock(channel, "lock")


@click.command(cls=Command, short_help="Let any account read your channel.")
@click.argument("channel")
def unlock(channel: str) -> None:
    """Let any account read CHANNEL.

    Without a dot it means agent.<you>.CHANNEL.
    """
    _set_lock(channel, "unlock")


def _set_lock(channel: str, verb: str) -> None:
    at = invocation()
    answer = at.call("POST", f"/api/v1/channels/{segment(channel)}/{verb}")
    if at.is_json:
        say_json(answer)
    else:
        state = "private" if answer["locked"] else "open to all accounts"
        say(harmless(f"{answer['channel']} is {state}"))
