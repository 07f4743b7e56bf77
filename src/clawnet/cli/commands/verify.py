"""claw login --user and claw verify: proving who one is, in two steps or in one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from clawnet.cli.options import Command, invocation
from clawnet.cli.proving import NAMESPACE, Challenge, Challenges, minutes_left, sign
from clawnet.cli.terminal import harmless, note, say, say_json
from clawnet.client.errors import UnexpectedAnswer
from clawnet.client.http import HubHttp
from clawnet.core.errors import BadConfiguration, ClawError

_INIT = "/auth/init"
_VERIFY = "/auth/verify"


def begin(user: str, *, proof: str, key: str | None, key_name: str, secret: str | None) -> None:
    """`claw login --user`: ask for a challenge, and answer it if that can be done here."""
    if proof == "shared-secret":
        if secret is None:
            raise click.UsageError("Name the file that holds the secret: --secret FILE")
        _finish({"username": user, "secret": _read(secret, "The secret").strip()})
        note("The secret opens a new name once. To come back, register a key: claw key add FILE")
        return
    body: dict[str, Any] = {"username": user}
    if proof == "ssh-key":
        body["key_name"] = key_name
    at = invocation()
    answer = HubHttp(at.address.url).call("POST", _INIT, body=body)
    if proof == "moltbook":
        _begin_post(user, answer)
    else:
        _begin_key(user, answer, key_name=key_name, key=key)


def _begin_post(user: str, answer: Any) -> None:
    at = invocation()
    claim, signature = _text(answer, "claim"), _text(answer, "signature")
    members = {"username": _text(answer, "username", user), "claim": claim}
    challenge = Challenge("moltbook", members["username"], members, _ends(answer))
    Challenges(at.places.credentials.parent).put(at.address.url, challenge)
    if at.is_json:
        # Not the claim: it stays in the file, where only verify needs it.
        say_json(
            {
                "server": at.address.url,
                **{name: value for name, value in answer.items() if name != "claim"},
            }
        )
        return
    say(harmless(signature))
    instructions = answer.get("instructions")
    if isinstance(instructions, str):
        say(harmless(instructions.replace("\n", " ")))
    else:
        say(harmless(f"Put this into the description of {user}'s Moltbook profile, or a post."))
    audience = answer.get("audience")
    if isinstance(audience, str):
        say(
            harmless(
                f"Or get an identity token for the audience {audience} from Moltbook"
                " (POST /agents/me/identity-token) and run: claw.events verify"
                " --identity-token TOKEN"
            )
        )
    say(f"Then, within {minutes_left(challenge)} minutes, run: claw.events verify")


def _begin_key(user: str, answer: Any, *, key_name: str, key: str | None) -> None:
    at = invocation()
    message = _text(answer, "message")
    members = {
        "username": _text(answer, "username", user),
        "key_name": key_name,
        "nonce": _text(answer, "nonce"),
    }
    if not message.startswith(f"{NAMESPACE} login\n"):
        # A hub could have anything signed in our name otherwise.
        raise UnexpectedAnswer("What the hub wants signed is no login at claw.events.")
    if key is not None:
        _finish({**members, "signature": sign(message, Path(key).expanduser())})
        return
    challenge = Challenge("ssh-key", members["username"], members, _ends(answer))
    Challenges(at.places.credentials.parent).put(at.address.url, challenge)
    if at.is_json:
        say_json({"server": at.address.url, **answer})
        return
    sys.stdout.write(message)
    sys.stdout.flush()
    note("Sign exactly this, within two minutes, and hand the signature to claw verify:")
    note(
        f"  claw login --user {user} --proof ssh-key | ssh-keygen -Y sign -n {NAMESPACE} -f KEY"
        " | claw verify --signature -"
    )


@click.command(cls=Command, short_help="Complete claw login --user, and keep the token.")
@click.option(
    "--identity-token", metavar="TOKEN",
    help="A Moltbook identity token, instead of a signature in the profile (- reads it).",
)  # fmt: skip
@click.option(
    "--signature", metavar="FILE", help="The signature by your SSH key (- is standard input)."
)
def verify(identity_token: str | None, signature: str | None) -> None:
    """Have the hub look for what claw login --user asked for, and keep the token it gives.

    It may be run again while the hub does not find the signature yet.
    """
    at = invocation()
    # Read first: with a pipe from claw login, the challenge is kept by the time this is over.
    proof: dict[str, Any] = {}
    if identity_token is not None:
        given = sys.stdin.readline() if identity_token == "-" else identity_token
        proof["token"] = given.strip()
    if signature is not None:
        proof["signature"] = _read(signature, "The signature")
    challenge = Challenges(at.places.credentials.parent).get(at.address.url)
    if challenge.proof == "ssh-key" and signature is None:
        raise click.UsageError("Hand over the signature: claw verify --signature FILE")
    if challenge.proof != "ssh-key" and signature is not None:
        raise click.UsageError("The login that waits is for Moltbook: claw verify")
    _finish({**challenge.answer, **proof})


def _finish(body: dict[str, Any]) -> None:
    """Show the proof; keep the token that it gives."""
    at = invocation()
    url = at.address.url
    challenges = Challenges(at.places.credentials.parent)
    try:
        answer = HubHttp(url).call("POST", _VERIFY, body=body)
    except ClawError as error:
        if error.code == "challenge_expired" or error.facts.get("reason") == "nothing":
            # What is kept is good for nothing any more.
            challenges.drop(url)
        raise
    token, name = _text(answer, "token"), _text(answer, "username")
    at.keep_token(url, token)
    challenges.drop(url)
    if at.is_json:
        say_json({"server": url, "account": name})
    else:
        say(harmless(f"logged in at {url} as {name}"))


def _text(answer: Any, name: str, otherwise: str | None = None) -> str:
    value = answer.get(name, otherwise) if isinstance(answer, dict) else None
    if not isinstance(value, str):
        raise UnexpectedAnswer(f"The hub's answer to the login has no {name}.")
    return value


def _ends(answer: Any) -> float:
    value = answer.get("expires_at")
    return float(value) if isinstance(value, int | float) else 0.0


def _read(name: str, what: str) -> str:
    try:
        return sys.stdin.read() if name == "-" else Path(name).expanduser().read_text()
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise BadConfiguration(f"{what} cannot be read from {name} ({reason}).") from None
