"""What is no short-lived token of this hub is nobody's: forged, foreign, damaged, misplaced."""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from clawnet.core.callers import Caller
from clawnet.core.calls.tokens import IssueJwt, JwtIssued, RevokeToken
from clawnet.core.errors import BadConfiguration, Unauthenticated
from clawnet.hub.directory import Account, Directory, Token
from clawnet.hub.jwts import HEADER, Jwts, signing_key
from clawnet.hub.settings import ChannelSettings, HubSettings, LimitSettings, TokenSettings
from clawnet.hub.vault import Vault
from clawnet.testing.clocks import FakeRandomness
from clawnet.testing.hubs import HubRig

KEY = signing_key(None, b"pepper")
NOW_S = 1_800_000_000


def encoded(part: bytes | dict[str, Any]) -> str:
    raw = part if isinstance(part, bytes) else json.dumps(part, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def signed(
    payload: bytes | dict[str, Any],
    *,
    header: bytes | dict[str, Any] | None = None,
    key: bytes = KEY,
    digest: str = "sha256",
) -> str:
    """A token as an attacker with the key would make it: nothing is checked here."""
    head = HEADER if header is None else encoded(header)
    text = f"{head}.{encoded(payload)}"
    return f"{text}.{encoded(hmac.digest(key, text.encode(), digest))}"


def claims_of(token: str) -> dict[str, Any]:
    found: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return found


@pytest.fixture
async def made(rig: HubRig, ada: Caller) -> JwtIssued:
    issued: JwtIssued = await rig.hub.call(IssueJwt(), caller=ada)
    return issued


def refused(rig: HubRig, token: str) -> None:
    with pytest.raises(Unauthenticated):
        rig.hub.authenticate(token)


async def test_the_forgers_tools_make_what_the_hub_makes(rig: HubRig, made: JwtIssued) -> None:
    """Or the tests below would refuse everything for another reason than theirs."""
    assert signed(base64.urlsafe_b64decode(made.token.split(".")[1] + "==")) == made.token
    assert rig.hub.authenticate(signed(claims_of(made.token))).account == "ada"


HEADERS: dict[str, bytes | dict[str, Any]] = {
    "none": {"alg": "none", "typ": "JWT"},
    "None": {"alg": "None", "typ": "JWT"},
    "HS512": {"alg": "HS512", "typ": "JWT"},
    "HS384": {"alg": "HS384", "typ": "JWT"},
    "RS256": {"alg": "RS256", "typ": "JWT"},
    "no alg": {"typ": "JWT"},
    "alg list": {"alg": ["HS256"], "typ": "JWT"},
    "kid": {"alg": "HS256", "typ": "JWT", "kid": "../../dev/null"},
    "jku": {"alg": "HS256", "typ": "JWT", "jku": "http://127.0.0.1:1/keys"},
    "x5u": {"alg": "HS256", "typ": "JWT", "x5u": "http://127.0.0.1:1/cert"},
    "jwk": {"alg": "HS256", "typ": "JWT", "jwk": {"kty": "oct", "k": "AAAA"}},
    "crit": {"alg": "HS256", "typ": "JWT", "crit": ["exp"]},
    "b64": {"alg": "HS256", "typ": "JWT", "b64": False, "crit": ["b64"]},
    "other typ": {"alg": "HS256", "typ": "at+jwt"},
    "no typ": {"alg": "HS256"},
    "twice": b'{"alg":"none","alg":"HS256","typ":"JWT"}',
    "spaces": b'{"alg": "HS256", "typ": "JWT"}',
    "no object": b'"HS256"',
    "no JSON": b"{",
    "deep": b"[" * 2_000,
}


@pytest.mark.parametrize("name", HEADERS)
async def test_any_other_header_is_refused(rig: HubRig, made: JwtIssued, name: str) -> None:
    claims, header = claims_of(made.token), HEADERS[name]
    for digest in ("sha256", "sha384", "sha512"):
        refused(rig, signed(claims, header=header, digest=digest))
    unsigned = f"{encoded(header)}.{encoded(claims)}."
    for token in (unsigned, unsigned[:-1], unsigned + "AAAA"):
        refused(rig, token)


def _without(name: str) -> Callable[[dict[str, Any]], Any]:
    return lambda claims: {key: value for key, value in claims.items() if key != name}


def _with(**changed: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda claims: claims | changed


CHANGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    **{f"no {name}": _without(name) for name in
       ("iss", "aud", "sub", "world", "scp", "iat", "exp", "jti", "ptk")},
    "other aud": _with(aud="other"),
    "aud list": _with(aud=["clawnet", "other"]),
    "other iss": _with(iss="https://clawnet"),
    "other sub": _with(sub="bob"),
    "unknown sub": _with(sub="nobody"),
    "upper sub": _with(sub="ADA"),
    "other world": _with(world="other"),
    "sub null": _with(sub=None),
    "no scopes": _with(scp=[]),
    "scope text": _with(scp="*"),
    "expired": _with(exp=NOW_S - 1),
    "exp now": _with(exp=NOW_S),
    "exp later than jti": lambda claims: claims | {"exp": claims["exp"] + 1},
    "exp text": lambda claims: claims | {"exp": str(claims["exp"])},
    "exp float": lambda claims: claims | {"exp": claims["exp"] + 0.5},
    "exp huge": _with(exp=10**40),
    "exp negative": _with(exp=-1),
    "exp true": _with(exp=True),
    "nbf in future": _with(nbf=NOW_S + 60),
    "nbf text": _with(nbf="0"),
    "other jti": _with(jti="jwt_1"),
    "jti of another end": lambda claims: claims | {"jti": claims["jti"][:20] + "0" * 24},
    "jti path": _with(jti="../token/tok_1"),
    "jti number": _with(jti=1),
    "other ptk": _with(ptk="tok_0000000000000000"),
    "ptk empty": _with(ptk=""),
    "more claims": _with(role="master"),
    "is a list": lambda claims: [claims],
    "is empty": lambda claims: {},
    "is no JSON": lambda claims: b"{",
    "is no UTF-8": lambda claims: b'{"sub":"\xff"}',
    "is deep": lambda claims: b'{"scp":' + b"[" * 2_000,
    "sub twice": lambda claims: json.dumps(claims).encode()[:-1] + b',"sub":"bob"}',
    "aud twice": lambda claims: json.dumps(claims).encode()[:-1] + b',"aud":"other"}',
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
async def test_other_claims_are_refused_even_well_signed(
    rig: HubRig, bob: Caller, made: JwtIssued, name: str
) -> None:
    refused(rig, signed(CHANGES[name](claims_of(made.token))))
    assert rig.hub.authenticate(made.token).account == "ada"


@pytest.mark.parametrize("wider", [["*"], ["events:write"], ["events:read", "events:write"]])
async def test_scopes_that_its_token_does_not_have_now_are_refused_even_well_signed(
    rig: HubRig, ada: Caller, wider: list[str]
) -> None:
    narrow = await rig.caller("ada", scopes=["events:read", "accounts:read"])
    made = await rig.hub.call(IssueJwt(), caller=narrow)
    refused(rig, signed(claims_of(made.token) | {"scp": wider}))
    less = signed(claims_of(made.token) | {"scp": ["events:read"]})
    assert rig.hub.authenticate(less).scopes == {"events:read"}


async def test_a_life_beyond_its_tokens_is_cut_even_well_signed(rig: HubRig, ada: Caller) -> None:
    short = await rig.caller("ada", expires_in_s=100)
    claims = claims_of((await rig.hub.call(IssueJwt(ttl_s=60), caller=short)).token)
    claims["exp"] += 800
    claims["jti"] = f"{claims['jti'][:20]}{claims['exp']:08x}{claims['jti'][28:]}"
    token = signed(claims)
    assert rig.hub.authenticate(token).expires_ms == short.expires_ms
    rig.clock.advance(100)
    refused(rig, token)
    rig.hub.directory.forget_transient(claims["jti"])
    refused(rig, token)


async def test_two_of_one_name_are_one_at_a_time(rig: HubRig, ada: Caller, made: JwtIssued) -> None:
    claims = claims_of(made.token)
    narrow = signed(claims | {"scp": ["events:read"]})
    before = len(rig.hub.directory._by_hash)
    for _ in range(3):
        assert rig.hub.authenticate(made.token).scopes == {"*"}
        assert rig.hub.authenticate(narrow).scopes == {"events:read"}
        assert len(rig.hub.directory._by_hash) == before + 1
    await rig.hub.call(RevokeToken(id=made.jti), caller=ada)
    for token in (made.token, narrow):
        refused(rig, token)


@pytest.mark.parametrize("place", [0, 1, 2])
async def test_a_token_that_was_changed_anywhere_is_refused(
    rig: HubRig, made: JwtIssued, place: int
) -> None:
    parts = made.token.split(".")
    for index in range(len(parts[place])):
        if place == 2 and index == len(parts[2]) - 1:
            break  # the last character has two bits that mean nothing
        swapped = "A" if parts[place][index] != "A" else "B"
        text = parts[place][:index] + swapped + parts[place][index + 1 :]
        refused(rig, ".".join([*parts[:place], text, *parts[place + 1 :]]))


async def test_a_token_that_was_never_shown_is_refused_when_changed(
    rig: HubRig, made: JwtIssued
) -> None:
    claims = claims_of(made.token)
    body = encoded(claims | {"sub": "boss", "scp": ["*"]})
    refused(rig, f"{HEADER}.{body}.{made.token.rpartition('.')[2]}")


@pytest.mark.parametrize(
    "mangle",
    [
        lambda t: t + "=",
        lambda t: t + " ",
        lambda t: " " + t,
        lambda t: t + "\n",
        lambda t: t.replace(".", "..", 1),
        lambda t: t + ".",
        lambda t: "." + t,
        lambda t: t + "." + t,
        lambda t: t.upper(),
        lambda t: t.replace(".", ".é", 1),
        lambda t: t.replace(".", ".!", 1),
        lambda t: t.replace(".", ".\x00", 1),
        lambda t: t.replace(".", "．"),
        lambda t: "claw_" + t,
        lambda t: t + "A" * 100_000,
        lambda t: f"{HEADER}.{'A' * 100_000}.{t.rpartition('.')[2]}",
        lambda t: "..",
        lambda t: ".." + "A" * 43,
        lambda t: HEADER + "..",
    ],
)
async def test_another_spelling_is_another_text(
    rig: HubRig, made: JwtIssued, mangle: Callable[[str], str]
) -> None:
    refused(rig, mangle(made.token))


async def test_what_is_too_long_is_not_even_hashed(
    rig: HubRig, made: JwtIssued, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[str] = []
    monkeypatch.setattr(rig.hub.vault, "hash", hashed.append)
    refused(rig, made.token + "A" * 100_000)
    assert hashed == []


async def test_another_hubs_token_is_refused_with_the_same_key_too(
    rig: HubRig, made: JwtIssued
) -> None:
    refused(rig, signed(claims_of(made.token), key=b"another hub's key, of 32 bytes!!"))
    theirs = claims_of(made.token)
    parent = "0123456789abcdef"
    theirs |= {"ptk": f"tok_{parent}", "jti": f"jwt_{parent}{theirs['exp']:08x}{'0' * 16}"}
    refused(rig, signed(theirs))


async def test_changing_the_key_ends_all_jwts_and_no_other_token(rig: HubRig, ada: Caller) -> None:
    opaque = await rig.token("ada")
    keys = ("first key of 32 bytes or a few more", "second key of 32 bytes or a few more")
    tokens: list[str] = []
    for key in keys:
        await rig.restart(
            HubSettings(limits=LimitSettings(enabled=False), tokens=TokenSettings(jwt_key=key))
        )
        for token in tokens:
            refused(rig, token)
        caller = rig.hub.authenticate(opaque)
        tokens.append((await rig.hub.call(IssueJwt(), caller=caller)).token)
        rig.hub.authenticate(tokens[-1])
    jwt.decode(tokens[1], keys[1], algorithms=["HS256"], audience="clawnet",
               options={"verify_exp": False, "verify_iat": False})  # fmt: skip


@pytest.mark.parametrize("key", ["", "short", "x" * 31, "é" * 15])
def test_a_short_key_is_refused(key: str) -> None:
    with pytest.raises(BadConfiguration, match="32"):
        signing_key(key, b"pepper")


def test_the_derived_key_is_not_the_pepper_and_differs_with_it() -> None:
    keys = {signing_key(None, pepper) for pepper in (b"a", b"b")}
    assert len(keys) == 2 and all(len(key) == 32 for key in keys)
    assert signing_key("é" * 16, b"a") == ("é" * 16).encode()


# --- any text at all ----------------------------------------------------------


def a_vault() -> tuple[Vault, Jwts, Caller]:
    """Known to it: the account ada with one token."""
    directory = Directory(ChannelSettings(), is_loopback=True)
    account = Account(
        world="main", id="ada", name="ada", handle="ada", role="worker", kind="agent", created_ms=0
    )
    directory.put_account(account)
    token = Token(
        id=f"tok_{'0' * 16}", hash="0", world="main", account="ada", name="x", scopes=["*"],
        created_ms=0,
    )  # fmt: skip
    directory.put_token(token)
    chance = FakeRandomness()
    jwts = Jwts(directory, key=KEY, ttl_max_s=900, randomness=chance)
    vault = Vault(
        directory, pepper=b"pepper", randomness=chance, jwts=jwts, in_use=lambda *_: set()
    )
    caller = directory.caller(token.id)
    assert caller is not None
    return vault, jwts, caller


VAULT, JWTS, ADA = a_vault()
GOOD, _ = JWTS.issue(ADA, ttl_s=900, scopes=None, now_ms=NOW_S * 1000)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from([*claims_of(GOOD), "nbf", "via", "x"]), inner, max_size=12
        )
    ),
    max_leaves=8,
)


def only_unauthenticated(token: str) -> None:
    try:
        caller = VAULT.authenticate(token, now_ms=NOW_S * 1000)
    except Unauthenticated:
        return
    assert caller.account == "ada"


@given(st.text() | st.text(alphabet="abcAB01-_.="))
@example("\ud800.\ud800.\ud800")
def test_any_text_is_a_token_or_unauthenticated(text: str) -> None:
    only_unauthenticated(text)
    only_unauthenticated(f"{HEADER}.{text}")


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(JSON | st.binary(max_size=200))
def test_any_signed_payload_is_a_token_or_unauthenticated(payload: Any) -> None:
    raw = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    only_unauthenticated(signed(raw))


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from([*claims_of(GOOD), "nbf", "via", "x"]), JSON, max_size=3))
@example({"via": ["jwt_1"]})
@example({"scp": ["events:read"]})
def test_any_change_of_a_good_payload_gives_no_other_account(changed: dict[str, Any]) -> None:
    only_unauthenticated(signed(claims_of(GOOD) | changed))


@given(st.integers(0, len(GOOD) - 1), st.characters())
def test_any_changed_character_makes_no_other_account(at: int, character: str) -> None:
    only_unauthenticated(GOOD[:at] + character + GOOD[at + 1 :])
