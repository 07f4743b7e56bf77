"""What a foreign token says, and everything that is no token of this door or not for its bearer."""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import AsyncIterator
from typing import Any

import jwt
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from clawnet.core.callers import Caller
from clawnet.core.calls.tokens import IssueJwt, RevokeToken
from clawnet.core.errors import Unauthenticated
from clawnet.doors.centrifugo.settings import CentrifugoSettings
from clawnet.doors.centrifugo.tokens import FOREIGN_MAX_CHARS, Refused, Tokens
from clawnet.engines.memory import MemoryEngine
from clawnet.hub.hub import Hub
from clawnet.hub.settings import ChannelSettings, HubSettings, LimitSettings, NamespaceSettings
from clawnet.hub.settings import TokenSettings as HubTokens
from clawnet.testing.clocks import FakeClock, FakeRandomness
from clawnet.testing.hubs import HubRig, started_hub

SECRET = "a key that the application's backend has too"
KEY = SECRET.encode()
HEADER = {"alg": "HS256", "typ": "JWT"}
SETTINGS = HubSettings(
    limits=LimitSettings(enabled=False),
    tokens=HubTokens(jwt_key=SECRET),
    channels=ChannelSettings(namespaces={"": NamespaceSettings(), "chat": NamespaceSettings()}),
)


def encoded(part: bytes | object) -> str:
    raw = part if isinstance(part, bytes) else json.dumps(part, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def signed(
    claims: bytes | object, *, header: object = HEADER, key: bytes = KEY, digest: str = "sha256"
) -> str:
    """A token as whoever has the key can make it; nothing is checked here."""
    text = f"{encoded(header)}.{encoded(claims)}"
    return f"{text}.{encoded(hmac.digest(key, text.encode(), digest))}"


@pytest.fixture
async def rig() -> AsyncIterator[HubRig]:
    async with started_hub(SETTINGS) as made:
        yield made


@pytest.fixture
def tokens(rig: HubRig) -> Tokens:
    return Tokens(rig.hub, CentrifugoSettings())


@pytest.fixture
def now(rig: HubRig) -> int:
    return rig.hub.retention.now_ms() // 1000


def refusal(tokens: Tokens, token: str) -> str:
    with pytest.raises(Refused) as caught:
        tokens.connection(token)
    return caught.value.reason


def ticket_refusal(
    tokens: Tokens, token: str, *, user: str = "42", client: str = "c", channel: str = "chat:a"
) -> str:
    with pytest.raises(Refused) as caught:
        tokens.subscription(token, user=user, client=client, channel=channel)
    return caught.value.reason


# --- who is admitted ----------------------------------------------------------------------------


async def test_an_account_s_token_is_its_account(rig: HubRig, tokens: Tokens) -> None:
    ada = await rig.account("ada")
    for text in (await rig.token("ada"), (await rig.hub.call(IssueJwt(), caller=ada)).token):
        found = tokens.connection(text)
        assert not found.is_foreign
        assert (await tokens.admit(found)).account == "ada"


async def test_a_foreign_token_is_its_subject(rig: HubRig, tokens: Tokens, now: int) -> None:
    subject = "Ünï 42 #,\x00\u2028<b>"
    found = tokens.connection(
        signed({"sub": subject, "exp": now + 60, "info": {"name": "x"}, "meta": {"a": 1}})
    )
    assert (found.is_foreign, found.expires_ms) == (True, (now + 60) * 1000)
    assert bytes(found.info) == b'{"name":"x"}'
    caller = await tokens.admit(found)
    assert caller.user == caller.subject == subject
    assert caller.kind == "ext" and caller.role == "worker" and caller.world == "main"
    assert caller.account is not None and caller.account.startswith("ext-")
    assert caller.scopes == {"events:read", "events:write"}
    assert not (caller.rules_free or caller.is_confined or caller.tickets)


async def test_what_pyjwt_makes_is_admitted(tokens: Tokens, now: int) -> None:
    made = jwt.encode({"sub": "42", "exp": now + 60.5, "iat": now, "jti": "7"}, SECRET, "HS256")
    assert tokens.connection(made).expires_ms == int((now + 60.5) * 1000)


async def test_a_token_without_a_subject_is_for_an_anonymous_one(tokens: Tokens, now: int) -> None:
    for claims in ({}, {"sub": ""}, {"sub": None}):
        caller = await tokens.admit(tokens.connection(signed(claims | {"exp": now + 9})))
        assert (caller.account, caller.user, caller.is_confined) == (None, "", True)
        assert caller.scopes == {"events:read"} and caller.expires_ms == (now + 9) * 1000


async def test_a_subject_is_never_an_account_of_the_hub(rig: HubRig, tokens: Tokens) -> None:
    await rig.account("ada", role="master")
    caller = await tokens.admit(tokens.connection(signed({"sub": "ada"})))
    assert caller.account != "ada" and caller.role == "worker" and caller.user == "ada"


async def test_without_a_key_of_the_operator_s_nothing_foreign_is_admitted() -> None:
    bare = HubSettings(limits=LimitSettings(enabled=False))
    async with started_hub(bare) as rig:
        tokens = Tokens(rig.hub, CentrifugoSettings())
        from clawnet.hub.jwts import signing_key

        for key in (signing_key(None, b"pepper"), b"", KEY):
            assert refusal(tokens, signed({"sub": "42"}, key=key)) == "invalid"
            text = signed({"sub": "42", "channel": "chat:a"}, key=key)
            assert ticket_refusal(tokens, text) == "invalid"


async def test_the_lifetime_of_a_connection(tokens: Tokens, now: int) -> None:
    table: list[tuple[dict[str, object], int | None]] = [
        ({}, None),
        ({"exp": now + 5}, (now + 5) * 1000),
        ({"exp": now + 5, "expire_at": now + 99}, (now + 99) * 1000),
        ({"exp": now + 5, "expire_at": 0}, None),
        ({"expire_at": now + 7}, (now + 7) * 1000),
        ({"exp": None}, None),
        ({"exp": (now + 5) * 1000 * 1000}, 253_402_300_799_000),
    ]
    for claims, expected in table:
        assert tokens.connection(signed({"sub": "42", **claims})).expires_ms == expected, claims


async def test_over_or_not_begun(tokens: Tokens, now: int) -> None:
    for claims in (
        {"exp": now},
        {"exp": now - 1, "expire_at": 0},
        {"exp": 0},
        {"nbf": now + 5},
        {"exp": now + 5, "expire_at": now - 1},
    ):
        assert refusal(tokens, signed({"sub": "42"} | claims)) == "expired", claims
        text = signed({"sub": "42", "channel": "chat:a"} | claims)
        assert ticket_refusal(tokens, text) == "expired", claims


async def test_server_side_subscriptions(tokens: Tokens) -> None:
    found = tokens.connection(signed({"sub": "42", "channels": ["chat:a", "chat:a", "$x"]}))
    assert list(found.channels) == ["chat:a", "$x"]
    said = {
        "chat:a": {
            "info": {"x": 1},
            "b64data": base64.b64encode(b'{"y":2}').decode(),
            "override": {"presence": {"value": True}, "join_leave": {}, "position": {"value": 1}},
        },
        "public.news": {},
    }
    found = tokens.connection(signed({"sub": "42", "subs": said, "channels": ["chat:b"]}))
    assert list(found.channels) == ["chat:a", "public.news"]
    options = found.channels["chat:a"]
    assert bytes(options.info) == b'{"x":1}' and bytes(options.data) == b'{"y":2}'
    assert options.overrides == {"presence": True, "join_leave": False}
    # It opens the free name, and nothing of the hub's own.
    assert (await tokens.admit(found)).tickets == {"chat:a"}


async def test_info_in_base64(tokens: Tokens) -> None:
    claims = {"sub": "42", "info": 1, "b64info": base64.b64encode(b'{"a":\n"b"}').decode()}
    assert bytes(tokens.connection(signed(claims)).info) == b'{"a":"b"}'


@pytest.mark.parametrize(
    "info",
    [b'"\xff"', b"[" * 70 + b"]" * 70, b"1e999", b"1" * 400, b'"' + b"x" * 5_000 + b'"', b"{"],
    ids=["utf8", "deep", "infinite", "huge-int", "long", "broken"],
)
async def test_info_that_is_not_fit_for_a_frame(tokens: Tokens, info: bytes) -> None:
    claims = b'{"sub":"42","info":' + info + b"}"
    assert refusal(tokens, signed(claims)) == "invalid"
    in_base64 = {"sub": "42", "b64info": base64.b64encode(info).decode()}
    assert refusal(tokens, signed(in_base64)) == "invalid"


async def test_audience_and_issuer_where_the_operator_wants_them(rig: HubRig) -> None:
    chosen = CentrifugoSettings(token_audience="chat", token_issuer="shop")
    tokens = Tokens(rig.hub, chosen)
    good = {"sub": "42", "aud": ["x", "chat"], "iss": "shop", "channel": "chat:a"}
    ticket = tokens.subscription(signed(good), user="42", client="c", channel="chat:a")
    assert ticket.channel == "chat:a"
    del good["channel"]
    assert tokens.connection(signed(good)).subject == "42"
    assert tokens.connection(signed(good | {"aud": "chat"})).subject == "42"
    wrong: tuple[dict[str, object], ...]
    wrong = ({"aud": "y"}, {"aud": []}, {"aud": None}, {"iss": "x"}, {"iss": None})
    for changed in wrong:
        assert refusal(tokens, signed(good | changed)) == "invalid"


# --- forgeries ----------------------------------------------------------------------------------

HEADERS: dict[str, object] = {
    "none": {"alg": "none", "typ": "JWT"},
    "None": {"alg": "None", "typ": "JWT"},
    "HS512": {"alg": "HS512", "typ": "JWT"},
    "HS384": {"alg": "HS384", "typ": "JWT"},
    "RS256": {"alg": "RS256", "typ": "JWT"},
    "ES256": {"alg": "ES256", "typ": "JWT"},
    "no-alg": {"typ": "JWT"},
    "alg-list": {"alg": ["HS256"], "typ": "JWT"},
    "alg-small": {"alg": "hs256", "typ": "JWT"},
    "kid": {"alg": "HS256", "typ": "JWT", "kid": "../../dev/null"},
    "jku": {"alg": "HS256", "typ": "JWT", "jku": "http://127.0.0.1:1/keys"},
    "jwk": {"alg": "HS256", "typ": "JWT", "jwk": {"kty": "oct", "k": "AAAA"}},
    "x5u": {"alg": "HS256", "x5u": "http://127.0.0.1:1/cert"},
    "crit": {"alg": "HS256", "typ": "JWT", "crit": ["exp"]},
    "b64": {"alg": "HS256", "typ": "JWT", "b64": False, "crit": ["b64"]},
    "typ": {"alg": "HS256", "typ": "at+jwt"},
    "typ-null": {"alg": "HS256", "typ": None},
    "no-object": "HS256",
    "no-JSON": b"{",
    "deep": b"[" * 300,
    "empty": b"",
}


@pytest.mark.parametrize("name", HEADERS)
async def test_no_other_header(tokens: Tokens, name: str) -> None:
    header = HEADERS[name]
    for digest in ("sha256", "sha384", "sha512"):
        assert refusal(tokens, signed({"sub": "42"}, header=header, digest=digest)) == "invalid"
    unsigned = f"{encoded(header)}.{encoded({'sub': '42'})}."
    for text in (unsigned, unsigned[:-1], unsigned + "AAAA"):
        assert refusal(tokens, text) == "invalid"


DAMAGED: dict[str, Any] = {
    "sub-number": {"sub": 42},
    "sub-list": {"sub": ["42"]},
    "sub-object": {"sub": {"a": 1}},
    "sub-long": {"sub": "x" * 256},
    "sub-surrogate": b'{"sub":"\\ud800"}',
    "sub-reserved": {"sub": "anonymous"},
    "sub-twice": b'{"sub":"42","sub":"43"}',
    "exp-string": {"sub": "42", "exp": "99999999999"},
    "exp-nan": b'{"sub":"42","exp":NaN}',
    "exp-infinite": b'{"sub":"42","exp":Infinity}',
    "exp-huge": b'{"sub":"42","exp":1e999}',
    "exp-digits": b'{"sub":"42","exp":' + b"9" * 5_000 + b"}",
    "exp-negative": {"sub": "42", "exp": -1},
    "exp-bool": {"sub": "42", "exp": True},
    "exp-list": {"sub": "42", "exp": [1]},
    "exp-twice": b'{"sub":"42","exp":99999999999,"exp":1}',
    "expire_at-negative": {"sub": "42", "expire_at": -1},
    "expire_at-bool": {"sub": "42", "expire_at": False},
    "nbf-string": {"sub": "42", "nbf": "0"},
    "iat-negative": {"sub": "42", "iat": -5},
    "jti-number": {"sub": "42", "jti": 5},
    "info-base64": {"sub": "42", "b64info": "!!!"},
    "channels-string": {"sub": "42", "channels": "chat:a"},
    "channels-numbers": {"sub": "42", "channels": [1]},
    "channels-many": {"sub": "42", "channels": [f"chat:{n}" for n in range(200)]},
    "channels-empty": {"sub": "42", "channels": [""]},
    "channels-long": {"sub": "42", "channels": ["x" * 256]},
    "subs-list": {"sub": "42", "subs": ["chat:a"]},
    "subs-twice": b'{"sub":"42","subs":{"chat:a":{},"chat:a":{"info":1}}}',
    "subs-override": {"sub": "42", "subs": {"chat:a": {"override": {"presence": {"value": 1}}}}},
    "no-object": [],
    "text": "42",
    "null": None,
    "no-JSON": b"{",
    "empty": b"",
    "utf-16": '{"sub":"42"}'.encode("utf-16"),
    "bom": b"\xef\xbb\xbf{}",
    "utf-8": b'{"sub":"\xff"}',
    "deep": b'{"sub":"42","x":' + b"[" * 5_000 + b"]" * 5_000 + b"}",
    "trailing": b'{"sub":"42"} {}',
}


@pytest.mark.parametrize("name", DAMAGED)
async def test_damaged_claims_with_a_good_signature(tokens: Tokens, name: str) -> None:
    assert refusal(tokens, signed(DAMAGED[name])) == "invalid"


async def test_texts_that_are_no_token(tokens: Tokens) -> None:
    good = signed({"sub": "42"})
    head, claims, signature = good.split(".")
    for text in (
        "", ".", "..", "...", "a.b.c", good[:-1], good + "A", good + "=", f" {good}", f"{good}\n",
        f"{head}.{claims}", f"{head}.{claims}.{signature}.x", f"{head}..{signature}",
        f".{claims}.{signature}", good.replace(".", "\x00"), "\ud800.\ud800.\ud800",
        f"{head}.{encoded({'sub': '43'})}.{signature}", f"{head}.{claims}.{'A' * 43}",
        f"{head}.{claims}é.{signature}", "x" * 100_000, f"{head}.{'A' * 60_000}.{signature}",
        signed({"sub": "42"}, key=b"another key"), signed({"sub": "42"}, key=b""),
        signed({"sub": "42"}, key=KEY + b"\n"), signed({"sub": "42", "x": "y" * FOREIGN_MAX_CHARS}),
    ):  # fmt: skip
        assert refusal(tokens, text) == "invalid", text[:80]
        assert ticket_refusal(tokens, text) == "invalid", text[:80]


async def test_a_token_of_the_hub_is_never_taken_for_a_foreign_one(
    rig: HubRig, tokens: Tokens, now: int
) -> None:
    """The key is the same: what was revoked or is over must not come back as somebody's sub."""
    ada = await rig.account("ada")
    made = await rig.hub.call(IssueJwt(), caller=ada)
    claims = jwt.decode(made.token, options={"verify_signature": False, "verify_aud": False})
    await rig.hub.call(RevokeToken(id=made.jti), caller=ada)
    assert refusal(tokens, made.token) == "invalid"
    assert refusal(tokens, signed(claims | {"exp": now - 5})) in ("expired", "invalid")
    for name in ("iss", "ptk", "scp", "jti"):
        # One of the hub's marks is enough.
        assert refusal(tokens, signed({"sub": "42", name: claims[name]})) == "invalid", name
    assert refusal(tokens, signed({"sub": "42", "via": []})) == "invalid"
    assert refusal(tokens, signed(b'{"iss":"x","iss":"clawnet","sub":"42"}')) == "invalid"
    assert ticket_refusal(tokens, signed(claims | {"channel": "chat:a"}), user="ada") == "invalid"


async def test_an_own_token_that_is_over_says_so(rig: HubRig, tokens: Tokens, now: int) -> None:
    ada = await rig.account("ada")
    made = await rig.hub.call(IssueJwt(ttl_s=10.0), caller=ada)
    assert tokens.connection(made.token).expires_ms is not None
    rig.hub.retention.now_ms = lambda: (now + 60) * 1000  # type: ignore[method-assign]
    assert refusal(tokens, made.token) == "expired"


async def test_a_foreign_token_opens_no_other_door(rig: HubRig, tokens: Tokens) -> None:
    text = signed({"sub": "42"})
    caller = await tokens.admit(tokens.connection(text))
    for shown in (text, caller.token_id or "", f"foreign {caller.token_id}"):
        with pytest.raises(Unauthenticated):
            rig.hub.authenticate(shown)


async def test_a_signature_that_is_spelled_otherwise_is_no_other_token(
    rig: HubRig, tokens: Tokens
) -> None:
    """Its last letter has bits that mean nothing; revoked is revoked, however it is written."""
    master = await rig.account("boss", role="master")
    text = signed({"sub": "42"})
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    group = letters.index(text[-1]) & ~3
    spellings = {text[:-1] + letters[group + n] for n in range(4)}
    assert len(spellings) == 4
    caller = await tokens.admit(tokens.connection(text))
    await rig.hub.call(RevokeToken(id=caller.token_id or ""), caller=master)
    for one in sorted(spellings):
        with pytest.raises(Refused):
            await tokens.admit(tokens.connection(one))


# --- subscription tokens ------------------------------------------------------------------------


async def test_a_subscription_token(tokens: Tokens, now: int) -> None:
    claims = {
        "sub": "42", "channel": "chat:a", "client": "c", "exp": now + 5, "expire_at": now + 50,
        "info": {"x": 1}, "override": {"force_recovery": {"value": True}, "presence": None},
    }  # fmt: skip
    found = tokens.subscription(signed(claims), user="42", client="c", channel="chat:a")
    assert (found.channel, found.expires_ms) == ("chat:a", (now + 50) * 1000)
    assert bytes(found.info) == b'{"x":1}' and found.overrides == {"force_recovery": True}
    # centrifuge-python 0.5 does not say the channel when it refreshes.
    assert tokens.subscription(signed(claims), user="42", client="c", channel="").channel == (
        "chat:a"
    )


async def test_a_subscription_token_is_for_one_user_client_and_channel(tokens: Tokens) -> None:
    text = signed({"sub": "42", "channel": "chat:a", "client": "c"})
    for asked in ({"user": "43"}, {"user": ""}, {"client": "d"}, {"channel": "chat:b"}):
        assert ticket_refusal(tokens, text, **asked) == "mismatch", asked
    for_nobody = signed({"channel": "chat:a"})
    assert ticket_refusal(tokens, for_nobody) == "mismatch"
    assert tokens.subscription(for_nobody, user="", client="c", channel="chat:a").channel


async def test_one_kind_is_not_the_other(tokens: Tokens) -> None:
    for channel in ("chat:a", "", None):
        assert refusal(tokens, signed({"sub": "42", "channel": channel})) == "invalid"
    for claims in ({}, {"channel": None}, {"channel": ""}, {"channel": 5}, {"channel": "x" * 256}):
        assert ticket_refusal(tokens, signed({"sub": "42"} | claims), channel="") == "invalid"


# --- without a token ----------------------------------------------------------------------------


@pytest.mark.parametrize("option", [None, False, True])
@pytest.mark.parametrize("is_local", [True, False])
@pytest.mark.parametrize("read", [None, False, True])
async def test_who_connects_without_a_token(
    option: bool | None, is_local: bool, read: bool | None
) -> None:
    chosen = HubSettings(channels=ChannelSettings(anonymous_read=read))
    async with started_hub(chosen) as rig:
        tokens = Tokens(rig.hub, CentrifugoSettings(anonymous=option))
        found = tokens.anonymous(is_local=is_local)
        is_readable = read is True or (read is None and is_local)
        assert (found is not None) is (option is True or (option is None and is_readable))
        if found is not None:
            assert found.account is None and found.scopes == {"events:read"}
            # Let in by this door alone, it reads nothing of the hub's own.
            assert found.is_confined is not is_readable


async def test_insecure_mode_is_an_option(rig: HubRig, tokens: Tokens) -> None:
    with pytest.raises(Refused):
        await tokens.insecure()
    first, second = [
        await Tokens(rig.hub, CentrifugoSettings(insecure=True)).insecure() for _ in range(2)
    ]
    assert first == second and first.kind == "ext" and first.user == "anonymous"
    assert first.rules_free and first.is_confined and first.role == "worker"
    # What it is survives every look at its token.
    assert rig.hub.directory.refresh(first) == first


# --- anything -----------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
CLAIMS = st.dictionaries(
    st.sampled_from(
        "sub exp expire_at nbf iat aud iss jti info b64info data b64data override channels subs"
        " channel client meta ptk via scp world".split()
    )
    | st.text(max_size=5),
    JSON | st.dictionaries(st.text(max_size=5), st.dictionaries(st.text(max_size=9), JSON)),
    max_size=6,
)


@pytest.fixture(scope="module")
def fuzzed() -> Tokens:
    """One hub that never started answers all that is made up."""
    clock, randomness = FakeClock(), FakeRandomness("engine")
    engine = MemoryEngine(clock=clock, randomness=randomness)
    hub = Hub(engine, clock=clock, randomness=randomness, pepper=b"p", settings=SETTINGS)
    return Tokens(hub, CentrifugoSettings())


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.text()
    | st.builds(signed, st.binary(max_size=60))
    | st.builds(lambda said: signed(said), CLAIMS)
    | st.builds(lambda said, head: signed(said, header=head), CLAIMS, JSON)
    | st.builds(
        lambda text, at, sign: text[:at] + sign + text[at + 1 :],
        st.just(signed({"sub": "42"})),
        st.integers(0, 120),
        st.characters(),
    )
)
@example("." * 10)
@example("\ud800.\ud800.\ud800")
def test_whatever_is_shown_is_admitted_or_refused(fuzzed: Tokens, text: str) -> None:
    """Nothing else is raised, and what is admitted is within its bounds."""
    try:
        found = fuzzed.connection(text)
        assert len(found.subject) <= 255 and isinstance(found.caller, Caller | None)
        assert found.subject or found.caller is not None
    except Refused:
        pass
    try:
        ticket = fuzzed.subscription(text, user="42", client="c", channel="chat:a")
        assert ticket.channel == "chat:a"
    except Refused:
        pass
