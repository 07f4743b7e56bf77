"""claw join's links and nonces, without a hub."""

import json
import stat
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clawnet.cli.commands.join import parse_link
from clawnet.cli.joining import FILE, REMEMBERED_MAX, Joining
from clawnet.core.errors import BadConfiguration, ClawError


@pytest.mark.parametrize(
    "link",
    [
        "", "inv_x", "http://h/join", "http://h/join#", "http://h/join#x", "http://h/#inv_x",
        "http://h/joint#inv_x", "http://h/join/#inv_x", "h/join#inv_x", "http://h/join?a=1#inv_x",
        "/join#inv_x", "http://[/join#inv_x",
    ],
)  # fmt: skip
def test_what_is_no_link_is_refused(link: str) -> None:
    with pytest.raises(click.UsageError):
        parse_link(link)


@pytest.mark.parametrize("link", ["ftp://h/join#inv_x", "http://u:p@h/join#inv_x",
                                  "http:///join#inv_x", "http://h:x/join#inv_x"])  # fmt: skip
def test_what_is_no_hub_is_refused(link: str) -> None:
    with pytest.raises(BadConfiguration):
        parse_link(link)


@pytest.mark.parametrize(
    ("link", "url"),
    [
        ("http://127.0.0.1:8080/join#inv_abc", "http://127.0.0.1:8080"),
        (" https://hub.example/join#inv_abc\n", "https://hub.example:443"),
        ("https://hub.example/claw/join#inv_abc", "https://hub.example:443/claw"),
        ("https://hub.example/join/join#inv_abc", "https://hub.example:443/join"),
        ("http://[::1]:1/join#inv_abc", "http://[::1]:1"),
    ],
)
def test_a_link_names_the_hub_and_the_secret(link: str, url: str) -> None:
    address, secret = parse_link(link)
    assert (address.url, secret) == (url, "inv_abc")


@given(st.text(max_size=60) | st.text(max_size=40).map(lambda text: f"http://h/join#inv_{text}"))
def test_no_text_does_more_than_be_refused(text: str) -> None:
    try:
        _, secret = parse_link(text)
    except (click.UsageError, ClawError):
        return
    assert secret.startswith("inv_")


def test_a_nonce_is_kept_until_it_is_done(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    first = Joining(folder).nonce("inv_secret")
    assert Joining(folder).nonce("inv_secret") == first
    assert Joining(folder).nonce("inv_other") != first
    path = folder / FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "inv_secret" not in path.read_text()
    Joining(folder).done("inv_secret")
    assert Joining(folder).nonce("inv_secret") != first
    Joining(folder).done("inv_secret")
    Joining(folder).done("inv_other")
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 1}', '{"x": "short"}', "\xff"])
def test_a_damaged_file_is_written_anew(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text, encoding="latin-1")
    nonce = Joining(tmp_path).nonce("inv_secret")
    assert len(nonce) >= 16
    assert Joining(tmp_path).nonce("inv_secret") == nonce


def test_only_so_many_are_remembered(tmp_path: Path) -> None:
    for n in range(REMEMBERED_MAX + 5):
        Joining(tmp_path).nonce(f"inv_{n}")
    assert len(json.loads((tmp_path / FILE).read_text())) == REMEMBERED_MAX


def test_without_a_place_for_the_token_nothing_is_begun(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadConfiguration):
        Joining(tmp_path / "file" / "below").nonce("inv_x")
