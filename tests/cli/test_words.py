"""Which words of `claw pub` are options, and which are the message."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clawnet.cli.words import Words, split

FLAGS = frozenset({"-j", "--json", "-h", "--help"})
VALUED = frozenset({"-s", "--server", "-t", "--token", "-c", "--config", "--key", "--type"})


def parted(line: str) -> Words:
    return split(line.split(), flags=FLAGS, valued=VALUED)


@pytest.mark.parametrize(
    ("line", "options", "words"),
    [
        ("lobby hello", "", "hello"),
        ("--json lobby hello", "--json", "hello"),
        ("lobby --json hello", "--json", "hello"),
        ("lobby --key k --type=x.y hello", "--key k --type=x.y", "hello"),
        ("-s http://h -t tok lobby hello", "-s http://h -t tok", "hello"),
        ("lobby hello --json", "--json", "hello"),
        ("lobby hello --key k -j", "--key k -j", "hello"),
        ("lobby -", "", "-"),
        ("lobby --json -", "--json", "-"),
        ("lobby", "", ""),
        ("lobby --json", "--json", ""),
    ],
)
def test_options_stand_around_the_message(line: str, options: str, words: str) -> None:
    assert parted(line) == Words(options.split(), "lobby", words.split())


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("lobby say --json twice", "say --json twice"),
        ("lobby -- --json", "--json"),
        ("lobby -- -t secret", "-t secret"),
        ("lobby hello -- --json", "hello --json"),
        ("lobby -- -- x", "-- x"),
        ("lobby -5", "-5"),
        ("lobby say --unknown is text", "say --unknown is text"),
        ("lobby --- rule", "--- rule"),
        ("lobby -- --unknown", "--unknown"),
        ("-- lobby --json", "--json"),
    ],
)
def test_options_are_never_taken_from_message_text(line: str, words: str) -> None:
    assert parted(line) == Words([], "lobby", words.split())


@pytest.mark.parametrize(
    ("line", "tail"),
    [
        ("lobby hi there --json", "--json"),
        ("lobby hi there -j -s http://h", "-j -s http://h"),
        ("lobby run it with -s x", "-s x"),
        ("lobby hi there --key=k", "--key=k"),
        ("lobby hi there --token", "--token"),
        ("lobby hi there --json -- more", "--json"),
    ],
)
def test_options_at_the_end_of_a_longer_message_are_told_apart_by_nobody(
    line: str, tail: str
) -> None:
    assert parted(line).tail == tuple(tail.split())


@pytest.mark.parametrize(
    "line",
    ["lobby say --json twice", "lobby -- hi there --json", "lobby hi -- there --json",
     "lobby hi there -- --json", "-- lobby hi there --json", "lobby hi --json"],
)  # fmt: skip
def test_what_is_clear_has_no_tail(line: str) -> None:
    assert parted(line).tail == ()


def test_a_quoted_message_that_looks_like_options_is_text() -> None:
    given_ = ["lobby", "-t is the flag for --token"]
    assert split(given_, flags=FLAGS, valued=VALUED) == Words([], "lobby", given_[1:])


def test_an_unknown_option_before_the_channel_is_for_the_parser() -> None:
    assert parted("--jsn lobby hello") == Words(["--jsn"], "lobby", ["hello"])


@pytest.mark.parametrize(
    ("line", "unknown"),
    [
        ("lobby --tpye x.foo hello", "--tpye"),
        ("lobby --json --bogus hello", "--bogus"),
        ("lobby --bogus", "--bogus"),
        ("lobby --bogus=1 hello", "--bogus=1"),
        ("lobby --bogus -- hello", "--bogus"),
        ("lobby x --bogus", "--bogus"),
        ("lobby x --json --bogus", "--bogus"),
        ("lobby x y --bogus --json", "--bogus"),
        ("lobby x --bogus -- more", "--bogus"),
        ("lobby hello --tpye x.foo", "--tpye"),
        ("lobby hello --json --kye k", "--kye"),
    ],
)
def test_an_unknown_option_around_the_message_is_no_text(line: str, unknown: str) -> None:
    assert parted(line).unknown == unknown


@pytest.mark.parametrize(
    "line",
    ["lobby say --unknown is text", "lobby use the --verbose flag", "lobby -- --bogus",
     "lobby x -- --bogus", "lobby -5", "lobby x -5", "lobby x --", "lobby x ---", "lobby x -k",
     "--jsn lobby hello"],
)  # fmt: skip
def test_what_may_be_text_is_no_unknown_option(line: str) -> None:
    assert parted(line).unknown is None


def test_a_quoted_text_that_begins_with_dashes_is_no_unknown_option() -> None:
    words = ["lobby", "--tpye is mistyped"]
    assert split(words, flags=FLAGS, valued=VALUED) == Words([], "lobby", words[1:])


@pytest.mark.parametrize(
    ("line", "valueless"),
    [
        ("lobby hello --key", "--key"),
        ("lobby --key", "--key"),
        ("lobby --key -- hello", "--key"),
        ("lobby hello --key --json", "--key"),
        ("--key --json lobby hello", "--key"),
        ("--json lobby hello -t", "-t"),
        ("lobby hello --key --type=x.a", "--key"),
        ("--type", "--type"),
        ("--key --jsn lobby hello", "--key"),
    ],
)
def test_an_option_without_its_value_takes_nothing_else_for_it(line: str, valueless: str) -> None:
    assert parted(line).valueless == valueless


@pytest.mark.parametrize(
    "line",
    ["lobby --key -5 x", "lobby --key= x", "lobby --key=-- x", "lobby x --key k",
     "lobby x -- --key", "lobby --key - x", "lobby say it --key now ok"],
)  # fmt: skip
def test_an_option_with_a_value_has_one(line: str) -> None:
    assert parted(line).valueless is None


@given(st.lists(st.text(min_size=1), max_size=6))
def test_everything_behind_the_double_dash_is_text(words: list[str]) -> None:
    found = split(["lobby", "--", *words], flags=FLAGS, valued=VALUED)
    assert found == Words([], "lobby", words)


@given(st.lists(st.sampled_from("lobby hello --json -t --key=1 -- - -x a".split()), max_size=8))
def test_no_word_is_lost_or_made_up(words: list[str]) -> None:
    found = split(words, flags=FLAGS, valued=VALUED)
    channel = [] if found.channel is None else [found.channel]
    kept = [*found.options, *channel, *found.words]
    lost = list(words)
    for word in kept:
        lost.remove(word)
    assert set(lost) <= {"--"}
