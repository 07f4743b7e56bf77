"""claw explain: what an error means and what leads out of it. Asks no hub."""

from __future__ import annotations

import click

from clawnet.cli.exits import MEANINGS
from clawnet.cli.options import Command, invocation
from clawnet.cli.terminal import harmless, say, say_json, table
from clawnet.core.errors import NotFound


@click.command(cls=Command, short_help="Say what an error means and what leads out of it.")
@click.argument("code", required=False)
@click.option("--list", "is_list", is_flag=True, help="List every error.")
def explain(code: str | None, is_list: bool) -> None:
    """Explain the error CODE, such as forbidden or rate_limited.

    Errors show their code with --json, in an answer's `code`, and at the end
    of its `type`, which is understood here too.
    """
    from clawnet.cli.explanations import every_error, explanation

    at = invocation()
    errors = [explanation(error) for error in every_error()]
    if is_list:
        if at.is_json:
            say_json({"errors": errors})
        else:
            table(
                ("code", "status", "retry", "exit", "meaning"),
                [
                    (one["code"], one["status"], "yes" if one["retryable"] else "no",
                     one["exit_code"], one["meaning"])
                    for one in errors
                ],
                empty="There are no errors.",
            )  # fmt: skip
        return
    if code is None:
        raise click.UsageError("Give a code, or --list: claw explain forbidden")
    wanted = code.strip().lower().removeprefix("urn:clawnet:error:").replace("-", "_")
    known = {str(one["code"]): one for one in errors}
    found = known.get(wanted)
    if found is None:
        raise _unknown(code, wanted, list(known))
    if at.is_json:
        say_json(found)
        return
    retry = "the same request may succeed later" if found["retryable"] else "not as it is"
    exit_code = found["exit_code"]
    lines = [
        f"{found['code']}: {found['meaning']}",
        f"  status   {found['status']}",
        f"  exit     {exit_code} ({MEANINGS[exit_code]})",
        f"  retry    {retry}",
        f"  next     {found['next']}",
    ]
    if found["example"] is not None:
        lines += [
            f"  example  {found['example']['meets']}",
            f"      out  {found['example']['leads_out']}",
        ]
    for line in lines:
        say(harmless(line))


def _unknown(code: str, wanted: str, known: list[str]) -> NotFound:
    import difflib

    near = difflib.get_close_matches(wanted, known, n=1, cutoff=0.4)
    advice = f"Run claw explain {near[0]}." if near else "See claw explain --list."
    return NotFound(f"There is no error {ascii(code[:80])}.", next=advice)
