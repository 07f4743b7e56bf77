"""Which commands run: none by default, and never by a trick of quoting."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clawnet.core.errors import BadConfiguration
from clawnet.sidecar.commands import NotAllowed, argv_of
from clawnet.sidecar.settings import agent_id_of, listed, prefixes_of

ALLOW = prefixes_of(["git status", "echo", "'/opt/my tool' run", "=git -C /srv pull", "= date"])


@pytest.mark.parametrize(
    ("command", "argv"),
    [
        ("git status", ["git", "status"]),
        ("git 'status' --short", ["git", "status", "--short"]),
        ("echo $(id); `id` && x | y", ["echo", "$(id);", "`id`", "&&", "x", "|", "y"]),
        ("'/opt/my tool' run fast", ["/opt/my tool", "run", "fast"]),
        ("git -C /srv 'pull'", ["git", "-C", "/srv", "pull"]),
        ("date", ["date"]),
    ],
)  # fmt: skip
def test_the_first_words_decide_and_no_shell_sees_the_rest(command: str, argv: list[str]) -> None:
    assert argv_of(command, allow=ALLOW, deny=()) == argv


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("git", "allow-list"),
        ("git push", "allow-list"),
        ("gitstatus", "allow-list"),
        ("/usr/bin/git status", "allow-list"),
        ("'git status'", "allow-list"),
        ("GIT status", "allow-list"),
        ("env git status", "allow-list"),
        ("", "empty"),
        ("   ", "empty"),
        ("echo 'open", "cannot be split"),
        ("echo a\0b", "NUL"),
        ("echo secret stuff", "deny-list"),
        ("echo se''cret", "deny-list"),
        ("echo SECRET", "deny-list"),
        ("echo rm '' -rf /", "deny-list"),
        ("echo 'rm\t-rf'", "deny-list"),
        ("git -C /srv pull --upload-pack=x .", "allow-list"),
        ("date -s now", "allow-list"),
        ("=date", "allow-list"),
        ("date''\n; id", "allow-list"),
        ("\uff47it status", "allow-list"),
        ("./echo", "allow-list"),
        ("../../bin/echo x", "allow-list"),
    ],
)
def test_everything_else_is_refused_with_a_reason(command: str, why: str) -> None:
    with pytest.raises(NotAllowed, match=why):
        argv_of(command, allow=ALLOW, deny=("Secret", "RM  -rf", " "[:0]))


@given(st.text(max_size=60))
def test_without_an_allow_list_nothing_runs_and_with_one_only_what_it_begins(text: str) -> None:
    with pytest.raises(NotAllowed):
        argv_of(text, allow=(), deny=())
    try:
        argv = argv_of(text, allow=ALLOW, deny=("secret",))
    except NotAllowed:
        return
    assert any(
        tuple(argv[: len(entry)]) == entry or tuple(argv) == (entry[0][1:], *entry[1:])
        for entry in ALLOW
    )


def test_lists_and_ids_are_read_or_refused_in_one_sentence() -> None:
    assert listed("git status, echo\n uptime ,") == ["git status", "echo", "uptime"]
    assert listed(None) == [] == listed(" , \n")
    assert prefixes_of(["", "  ", "=", "= "]) == ()
    assert agent_id_of(" @Bob ") == "bob"
    with pytest.raises(BadConfiguration, match="cannot be read"):
        prefixes_of(["it's"])
    for bad in ("", "../x", "a b", "x" * 65):
        with pytest.raises(BadConfiguration, match="no agent's id"):
            agent_id_of(bad)
