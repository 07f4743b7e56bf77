"""The gate, as a table of who knocks and what becomes of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clawnet.core.errors import BadConfiguration, BadRequest, ClawError, Forbidden
from clawnet.doors.gate import Admitted, Gate, GateSettings, Head, admit, read_head

LOOPBACK = Gate(GateSettings())
OPEN = Gate(GateSettings(bind="0.0.0.0"))
PROXIED = Gate(GateSettings(behind_proxy=("10.0.0.0/8", "127.0.0.1")))


def head(
    *headers: tuple[str, str],
    peer: str = "127.0.0.1",
    method: str = "GET",
    is_upgrade: bool = False,
    host: str | None = "127.0.0.1:8080",
) -> Head:
    given = [(b"host", host.encode("latin-1"))] if host is not None else []
    given += [(name.encode(), value.encode("latin-1")) for name, value in headers]
    return read_head(peer=peer, method=method, is_upgrade=is_upgrade, headers=given)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:8080", "localhost:1", "LOCALHOST", "[::1]:80", "hub.localhost"]
)
def test_a_loopback_hub_answers_to_loopback_names(host: str) -> None:
    assert admit(head(host=host), LOOPBACK)[:2] == ("127.0.0.1", True)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8080",
        "127.0.0.1.evil.example",
        "192.168.1.5",
        "localhost.evil",
    ],
)
def test_a_loopback_hub_refuses_foreign_hosts(host: str) -> None:
    with pytest.raises(Forbidden):
        admit(head(host=host), LOOPBACK)


@pytest.mark.parametrize(
    "host",
    [
        "",
        "a b",
        "a@b",
        "host:port",
        "[::1",
        "[evil]",
        "a:99999",
        "a/b",
        "a:",
        "\xe9.org",
        'a"b',
        "<b>",
        "a'b",
        "a%20b",
        "a{b}",
        "a" * 254,
        "[fe80::1%eth0]",
        '[::1%"><b>]',
    ],
)
def test_an_unreadable_host_is_refused(host: str) -> None:
    with pytest.raises(BadRequest):
        admit(head(host=host), OPEN)


def test_no_host_and_two_hosts_are_refused() -> None:
    with pytest.raises(BadRequest):
        admit(head(host=None), LOOPBACK)
    with pytest.raises(BadRequest):
        admit(head(("host", "localhost")), LOOPBACK)


@pytest.mark.parametrize(
    "name", ["X-Forwarded-For", "X-Forwarded-Proto", "Forwarded", "Via", "X-Real-IP"]
)
def test_a_forwarded_request_is_not_local(name: str) -> None:
    assert not admit(head((name.lower(), "1.2.3.4")), LOOPBACK).is_local


def test_nothing_is_local_for_a_hub_that_is_not_bound_to_loopback() -> None:
    assert not admit(head(), OPEN).is_local


def test_nothing_is_local_behind_a_proxy() -> None:
    assert not admit(head(), PROXIED).is_local


def test_an_allowed_host_is_admitted_but_not_local() -> None:
    gate = Gate(GateSettings(allowed_hosts=("hub.example",)))
    assert admit(head(host="hub.example:8080"), gate) == Admitted(
        "127.0.0.1", is_local=False, host="hub.example", port=8080
    )


def test_allowed_hosts_bind_an_open_hub_too() -> None:
    gate = Gate(GateSettings(bind="0.0.0.0", allowed_hosts=("hub.example",)))
    assert admit(head(host="hub.example"), gate)
    with pytest.raises(Forbidden):
        admit(head(host="evil.example"), gate)


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example", "null", "http://127.0.0.1:9999", "https://127.0.0.1", "file://",
        "http://127.0.0.1:8080.evil.example", "http://127.0.0.1:8080@evil.example", "", "garbage",
        "http://localhost:8080",
    ],
)  # fmt: skip
@pytest.mark.parametrize(("method", "is_upgrade"), [("GET", True), ("POST", False), ("PUT", False)])
def test_a_foreign_origin_may_not_write_or_upgrade(
    origin: str, method: str, is_upgrade: bool
) -> None:
    with pytest.raises(Forbidden):
        admit(head(("origin", origin), method=method, is_upgrade=is_upgrade), LOOPBACK)


def test_a_foreign_origin_may_read_what_its_browser_will_not_show_it() -> None:
    assert admit(head(("origin", "http://evil.example")), LOOPBACK)


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("hub.example", "https://hub.example"),
        ("hub.example:443", "https://hub.example"),
        ("Hub.Example", "HTTP://hub.example:80"),
        ("[::1]:8080", "http://[::1]:8080"),
    ],
)
def test_the_own_origin_may_write(host: str, origin: str) -> None:
    gate = Gate(GateSettings(allowed_hosts=("hub.example",)))
    assert admit(head(("origin", origin), method="POST", host=host), gate)


def test_an_allowed_origin_may_write() -> None:
    gate = Gate(GateSettings(allowed_origins=("http://localhost:3000/",)))
    assert admit(head(("origin", "http://localhost:3000"), is_upgrade=True), gate)


def test_two_origins_match_nothing() -> None:
    origin = ("origin", "http://127.0.0.1:8080")
    with pytest.raises(Forbidden):
        admit(head(origin, origin, method="POST"), LOOPBACK)


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_cross_site_write_without_origin_is_refused(site: str) -> None:
    with pytest.raises(Forbidden):
        admit(head(("sec-fetch-site", site), method="POST"), LOOPBACK)


def test_a_program_without_origin_may_write() -> None:
    assert admit(head(method="POST"), LOOPBACK)
    assert admit(head(("sec-fetch-site", "same-origin"), method="POST"), LOOPBACK)


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("6.6.6.6, 203.0.113.9", "203.0.113.9"),
        ("6.6.6.6, 203.0.113.9, 10.1.1.1", "203.0.113.9"),
        ("nonsense, 10.1.1.1", "10.1.1.1"),
        ("nonsense", "10.0.0.2"),
        ("203.0.113.9:4711", "203.0.113.9"),
        ("[2001:db8::1]:4711", "2001:db8::1"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("", "10.0.0.2"),
    ],
)
def test_trusted_proxies_tell_the_client(forwarded: str, client: str) -> None:
    given = head(("x-forwarded-for", forwarded), peer="10.0.0.2", host="hub.example")
    assert admit(given, PROXIED).client == client


def test_a_stranger_cannot_forge_its_address() -> None:
    given = head(("x-forwarded-for", "1.1.1.1"), peer="203.0.113.9", host="hub.example")
    assert admit(given, PROXIED).client == "203.0.113.9"
    assert admit(head(("x-forwarded-for", "1.1.1.1")), LOOPBACK).client == "127.0.0.1"


def test_a_trusted_proxy_names_the_host_that_the_origin_is_compared_with() -> None:
    origin = ("origin", "https://hub.example")
    forwarded = ("x-forwarded-host", "evil.example, hub.example")
    assert admit(head(origin, forwarded, peer="10.0.0.2", is_upgrade=True, host="inner"), PROXIED)
    with pytest.raises(Forbidden):
        admit(head(origin, forwarded, peer="203.0.113.9", is_upgrade=True, host="inner"), PROXIED)


def from_proxy(*headers: tuple[str, str], peer: str = "10.0.0.2", host: str = "inner") -> Head:
    return head(*headers, peer=peer, host=host)


@pytest.mark.parametrize("peer", ["10.0.0.2", "127.0.0.1", "::ffff:10.0.0.2"])
def test_a_trusted_proxy_tells_host_port_and_scheme(peer: str) -> None:
    headers = (
        ("x-forwarded-for", "203.0.113.9"),
        ("x-forwarded-host", "hub.example:8443"),
        ("x-forwarded-proto", "https"),
    )
    admitted = admit(from_proxy(*headers, peer=peer), PROXIED)
    assert admitted == Admitted("203.0.113.9", False, "hub.example", 8443, "https")


@pytest.mark.parametrize("peer", ["203.0.113.9", "11.0.0.1", "2001:db8::1", "::1"])
def test_from_anybody_else_all_of_it_is_only_a_sign_of_distance(peer: str) -> None:
    headers = (
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-host", "localhost"),
        ("x-forwarded-proto", "https"),
        ("forwarded", "for=127.0.0.1;host=localhost;proto=https"),
    )
    admitted = admit(from_proxy(*headers, peer=peer, host="hub.example"), PROXIED)
    assert admitted == Admitted(peer, False, "hub.example", None, None)


def test_the_forwarded_header_is_never_believed() -> None:
    # A proxy that speaks X-Forwarded-* passes on whatever its client wrote here.
    forged = ("forwarded", "for=127.0.0.1;host=evil.example;proto=https")
    admitted = admit(from_proxy(forged, host="hub.example"), PROXIED)
    assert admitted == Admitted("10.0.0.2", False, "hub.example", None, None)


def test_of_several_proxies_each_adds_what_it_saw() -> None:
    gate = Gate(GateSettings(behind_proxy=("10.0.0.0/8", "2001:db8:1::/48")))
    for forwarded, client in (
        ("127.0.0.1, 203.0.113.9, 2001:db8:1::7, 10.9.9.9", "203.0.113.9"),
        ("127.0.0.1, [2001:db8:2::1]:99, [2001:db8:1::7]:80", "2001:db8:2::1"),
        ("10.1.1.1, 2001:db8:1::7", "10.1.1.1"),
        ("203.0.113.9, fe80::1%<b>, 10.9.9.9", "10.9.9.9"),
    ):
        assert admit(from_proxy(("x-forwarded-for", forwarded)), gate).client == client
    # Two headers are one list.
    two = (("x-forwarded-for", "127.0.0.1"), ("x-forwarded-for", "203.0.113.9"))
    assert admit(from_proxy(*two), gate).client == "203.0.113.9"
    v6 = from_proxy(("x-forwarded-for", "203.0.113.9"), peer="2001:db8:1::7")
    assert admit(v6, gate).client == "203.0.113.9"


@pytest.mark.parametrize(
    ("proto", "scheme"),
    [("https", "https"), ("http, HTTPS ", "https"), ("https, http", "http"), ("ftp", None),
     ('https"><b>', None), ("", None), ("https,", None)],
)  # fmt: skip
def test_the_nearest_proxys_scheme_counts_if_it_is_one(proto: str, scheme: str | None) -> None:
    assert admit(from_proxy(("x-forwarded-proto", proto)), PROXIED).scheme == scheme


@pytest.mark.parametrize("host", ["", "a b", '"><b>', "evil.example, ", "a:99999"])
def test_a_malformed_forwarded_host_is_refused(host: str) -> None:
    with pytest.raises(BadRequest):
        admit(from_proxy(("x-forwarded-host", host)), PROXIED)


def test_allowed_hosts_hold_for_what_a_proxy_names() -> None:
    gate = Gate(GateSettings(behind_proxy=("10.0.0.0/8",), allowed_hosts=("hub.example",)))
    assert admit(from_proxy(("x-forwarded-host", "hub.example")), gate)
    with pytest.raises(Forbidden):
        admit(from_proxy(("x-forwarded-host", "evil.example"), host="hub.example"), gate)


@pytest.mark.parametrize(
    "settings",
    [
        GateSettings(behind_proxy=("nowhere",)),
        GateSettings(allowed_origins=("chat.example",)),
        GateSettings(allowed_hosts=("a b",)),
    ],
)
def test_bad_settings_are_told(settings: GateSettings) -> None:
    with pytest.raises(BadConfiguration):
        Gate(settings)


@given(
    headers=st.lists(
        st.tuples(
            st.sampled_from(
                b"host origin sec-fetch-site x-forwarded-for x-forwarded-host "
                b"x-forwarded-proto".split()
            ),
            st.binary(max_size=40),
        ),
        max_size=6,
    ),
    gate=st.sampled_from([LOOPBACK, OPEN, PROXIED]),
    is_upgrade=st.booleans(),
)
def test_any_head_is_admitted_or_refused_with_a_documented_error(
    headers: list[tuple[bytes, bytes]], gate: Gate, is_upgrade: bool
) -> None:
    try:
        head = read_head(peer="10.0.0.2", method="POST", is_upgrade=is_upgrade, headers=headers)
        admit(head, gate)
    except ClawError as error:
        assert error.status in (400, 403)
