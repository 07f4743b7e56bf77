"""/openapi.json: whole, valid, and true of what the routes answer."""

from __future__ import annotations

import re
from typing import Any

import jsonschema_rs
import msgspec
import pytest

from clawnet.app.admin import PATH as BACKUP_PATH
from clawnet.app.admin import BackupApp
from clawnet.core.errors import ERRORS, ClawError
from clawnet.doors.http.app import HOT, ROUTES, described
from clawnet.doors.http.describe import Operation, operation, operation_of
from clawnet.doors.http.documents.openapi import build, errors_of
from tests.doors.http.conftest import LOBBY, Api

URL = "http://hub.example"
MEMBER = re.compile(r"\{(\w+)\}")


class _Given(msgspec.Struct, forbid_unknown_fields=True):
    n: int


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    found = build(described({BACKUP_PATH: {"POST": BackupApp.__call__}}), url=URL)
    decoded: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(found))
    return decoded


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (path, method.upper(), said)
        for path, methods in document["paths"].items()
        for method, said in methods.items()
    ]


def references(value: Any) -> list[str]:
    if isinstance(value, list):
        return [found for item in value for found in references(item)]
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [found for item in value.values() for found in references(item)]
    return []


def test_every_route_is_documented_and_nothing_else(document: dict[str, Any]) -> None:
    answered = {(path, method) for path, methods in ROUTES.items() for method in methods}
    answered |= {(path, method) for path, method in HOT.items()}
    answered |= {(BACKUP_PATH, "POST")}
    documented = {(path, method) for path, method, _ in operations(document)}
    assert documented == answered


def test_a_route_that_says_nothing_about_itself_is_refused() -> None:
    async def silent(request: Any) -> Any:
        """Nothing."""

    with pytest.raises(LookupError, match="GET /x"):
        build({"/x": {"GET": silent}}, url=URL)


def test_every_endpoint_has_a_summary_and_a_known_tag(document: dict[str, Any]) -> None:
    tags = {tag["name"]: tag["description"] for tag in document["tags"]}
    for path, method, said in operations(document):
        assert 5 < len(said["summary"]) <= 100, (path, method)
        assert not said["summary"].startswith(("GET", "POST", "PUT", "DELETE", "PATCH")), path
        assert said["tags"][0] in tags
    # A tag without words of its own would be described by its name.
    assert [name for name, words in tags.items() if words == name] == []


def test_names_of_operations_are_unique(document: dict[str, Any]) -> None:
    names = [said["operationId"] for _, _, said in operations(document)]
    assert len(names) == len(set(names))


def test_the_document_is_openapi_3_1(document: dict[str, Any]) -> None:
    from schemathesis.specs.openapi import definitions

    assert document["openapi"] == "3.1.0"
    definitions.OPENAPI_31_VALIDATOR.validate(document)


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    found = references(document)
    assert found
    for reference in found:
        at: Any = document
        for step in reference.removeprefix("#/").split("/"):
            at = at[step]


def test_every_schema_is_a_json_schema(document: dict[str, Any]) -> None:
    for schema in document["components"]["schemas"].values():
        assert jsonschema_rs.meta.is_valid(schema)


def test_members_of_the_path_are_parameters_and_the_other_way_round(
    document: dict[str, Any],
) -> None:
    for path, _, said in operations(document):
        named = [one["name"] for one in said["parameters"] if one["in"] == "path"]
        assert named == MEMBER.findall(path)


def test_only_what_needs_no_token_says_so(document: dict[str, Any]) -> None:
    for path, method, said in operations(document):
        kind = {
            (): "open",
            ("bearer",): "token",
            ("bearer", ""): "reader",
        }[tuple("".join(one) for one in said["security"])]
        is_refused = "401" in said["responses"]
        # A login needs no token and can fail.
        is_login = path in (
            "/oauth/token", "/auth/verify", "/auth/agent/verify", "/api/v1/enrol",
            "/api/auth/token",
        )  # fmt: skip
        # The server API has a key of its own, which is no account's token.
        is_keyed = "server API" in said["tags"]
        assert (kind == "open") != is_refused or is_login or is_keyed, (path, method)
        if method != "GET":
            assert kind != "reader", (path, method)


def test_bodies_refuse_unknown_members(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    for path, _, said in operations(document):
        content = said.get("requestBody", {}).get("content", {}).get("application/json")
        # What speaks Centrifugo's own protocols passes over what it does not know, as that does.
        is_lenient = bool({"server API", "Centrifugo in front"} & {*said["tags"]})
        if content is not None and not is_lenient:
            name = content["schema"]["$ref"].rpartition("/")[2]
            assert schemas[name]["additionalProperties"] is False, (path, name)


def test_codes_of_refusals_are_those_of_the_error_table(document: dict[str, Any]) -> None:
    every: list[type[ClawError]] = [ClawError, *ERRORS]
    status_of = {error.code: error.status for error in every}
    for answer in document["components"]["responses"].values():
        content = answer["content"]["application/problem+json"]["schema"]
        codes = content["properties"]["code"]["enum"]
        assert codes and len({status_of[code] for code in codes}) == 1


def test_an_operation_may_be_refused_for_its_body_only_if_it_has_one() -> None:
    plain = errors_of("/x", "GET", Operation(tag="x"))
    with_body = errors_of("/x", "POST", Operation(tag="x", body=_Given))
    assert {error.status for error in with_body} - {error.status for error in plain} == {
        413, 415, 507,
    }  # fmt: skip


def test_events_that_pass_as_text_are_shown_as_events(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    event = {"$ref": "#/components/schemas/Event"}
    assert schemas["Delivery"]["properties"]["event"] == event
    assert schemas["HistoryPage"]["properties"]["events"]["items"] == event


def test_the_url_given_is_the_server(document: dict[str, Any]) -> None:
    assert document["servers"] == [{"url": URL}]


def test_what_is_described_stays_on_the_endpoint() -> None:
    @operation(tag="x", status=201)
    async def made(request: Any) -> Any:
        """Make."""

    said = operation_of(made)
    assert said is not None and said.status == 201


TOUR: list[tuple[str, str, str, Any]] = [
    ("POST", "/api/v1/channels/{channel}/events", LOBBY, {"data": {"a": 1}, "dedupe_key": "k"}),
    ("POST", "/api/v1/channels/{channel}/events", LOBBY, {"data": {"a": 1}, "dedupe_key": "k"}),
    ("GET", "/api/v1/channels/{channel}/events", f"{LOBBY}?limit=5&reverse=true", None),
    ("POST", "/api/v1/events/batch", "/api/v1/events/batch",
     {"events": [{"channel": "public.lobby", "data": 1}]}),
    ("GET", "/api/v1/channels", "/api/v1/channels", None),
    ("POST", "/api/v1/consumers", "/api/v1/consumers",
     {"name": "c", "channels": ["public.>"], "since": "all"}),
    ("POST", "/api/v1/consumers/{name}/fetch", "/api/v1/consumers/c/fetch", {"limit": 2}),
    ("GET", "/api/v1/consumers", "/api/v1/consumers", None),
    ("GET", "/api/v1/consumers/{name}", "/api/v1/consumers/c", None),
    ("POST", "/api/v1/consumers/{name}/ack", "/api/v1/consumers/c/ack",
     {"deliveries": [{"seq": 1, "attempt": 9}]}),
    ("POST", "/api/v1/consumers/{name}/nack", "/api/v1/consumers/c/nack",
     {"deliveries": [{"seq": 1, "attempt": 9}]}),
    ("DELETE", "/api/v1/consumers/{name}", "/api/v1/consumers/c", None),
    ("POST", "/api/v1/accounts", "/api/v1/accounts", {"id": "carol"}),
    ("GET", "/api/v1/accounts", "/api/v1/accounts", None),
    ("PATCH", "/api/v1/accounts/{id}", "/api/v1/accounts/carol", {"handle": "caro"}),
    ("GET", "/api/v1/accounts/{id}", "/api/v1/accounts/carol", None),
    ("POST", "/api/v1/tokens", "/api/v1/tokens", {"account": "carol"}),
    ("GET", "/api/v1/tokens", "/api/v1/tokens", None),
    ("POST", "/api/v1/grants", "/api/v1/grants", {"account": "carol", "channel": "updates"}),
    ("GET", "/api/v1/grants", "/api/v1/grants", None),
    ("DELETE", "/api/v1/grants", "/api/v1/grants?account=carol&channel=updates", None),
    ("POST", "/api/v1/channels/{channel}/unlock", "/api/v1/channels/updates/unlock", None),
    ("POST", "/api/v1/channels/{channel}/lock", "/api/v1/channels/updates/lock", None),
    ("GET", "/api/v1/me", "/api/v1/me", None),
    ("GET", "/api/v1/presence", "/api/v1/presence", None),
    ("PUT", "/api/v1/blocks/{account}", "/api/v1/blocks/carol", None),
    ("GET", "/api/v1/blocks", "/api/v1/blocks", None),
    ("DELETE", "/api/v1/blocks/{account}", "/api/v1/blocks/carol", None),
    ("DELETE", "/api/v1/accounts/{id}", "/api/v1/accounts/carol", None),
    ("GET", "/healthz", "/healthz", None),
    ("GET", "/readyz", "/readyz", None),
    ("GET", "/version", "/version", None),
    ("GET", "/openapi.json", "/openapi.json", None),
]  # fmt: skip


async def test_what_the_routes_answer_is_what_the_document_says(
    api: Api, document: dict[str, Any]
) -> None:
    """The good answers, which requests made at random seldom reach."""
    headers = await api.bearer("root", role="master")
    components = {"components": document["components"]}
    for method, path, place, body in TOUR:
        answer = await api.client.request(method, place, json=body, headers=headers)
        assert answer.is_success, (method, place, answer.text)
        said = document["paths"][path][method.lower()]
        found = said["responses"][str(answer.status_code)]["content"]["application/json"]
        schema = {**found["schema"], **components}
        jsonschema_rs.validator_for(schema).validate(answer.json())
