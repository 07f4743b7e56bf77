"""/openapi.json: OpenAPI 3.1, from the routes' own descriptions and the types they decode into.

Nothing is written twice: parameters come from the path and from Operation.query, schemas from the
msgspec types, errors from core.errors. What is added here is only what no type can say.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from inspect import cleandoc
from typing import Any

import msgspec

import clawnet
from clawnet.core.errors import (
    BadRequest,
    ClawError,
    DiskFull,
    Forbidden,
    HeadersTooLarge,
    InvalidChannel,
    NotFound,
    OutcomeUnknown,
    PayloadTooLarge,
    RateLimited,
    Unauthenticated,
    Unavailable,
    UnsupportedMediaType,
    meaning_of,
)
from clawnet.core.events import Event
from clawnet.doors.http.describe import Operation, Routes, operation_of
from clawnet.doors.problem import title_of

Json = dict[str, Any]

REF = "#/components/schemas/{name}"
PROBLEM_TYPE = "application/problem+json"
TAGS = {
    "events": "Publish, read and follow.",
    "channels": "Which there are, and who may read one's own.",
    "inbox": "What was sent to the caller.",
    "chat": "Rooms, direct messages, and what was said.",
    "tasks": "Work that one account gives another.",
    "fleet": "Who is there, and how their machines do.",
    "C2CP v1": "As clients of the first version of ClawNet expect it.",
    "consumers": "Durable readers that acknowledge each delivery.",
    "grants": "Rights on one's own channels.",
    "accounts": "Who acts.",
    "invitations": "How others come in.",
    "worlds": "Who is apart from whom.",
    "tokens": "What an account shows to the hub.",
    "self": "The caller.",
    "hub": "How the hub is.",
    "documents": "What the hub says about itself.",
    "archive": "Export and import.",
    "admin": "For masters.",
    "audit": "Who did what, and how to check it.",
    "warden": "For wardens: hand back what was kept.",
    "Socket.IO clients": "Without a WebSocket.",
    "claw.events": "The API of claw.events, for its published clients.",
    "Centrifugo clients": "Centrifugo's own clients, without a WebSocket.",
    "server API": "For an application's backend, with the key of Centrifugo's HTTP API.",
    "Centrifugo in front": "What a Centrifugo in front of this hub asks, with its secret.",
}
MEMBERS = {
    "account": "An account's id.",
    "agent": "An account's id.",
    "topic": "The part of a channel's name behind agent.<id>.",
    "channel": "A channel's name, such as public.lobby.",
    "id": "The id of the thing.",
    "name": "The name of the thing.",
}
"""What a member of a path means, where nothing else says so."""

_CHANNEL_MEMBERS = frozenset({"channel", "channels", "grants", "pattern"})
_MEMBER = re.compile(r"\{(\w+)\}")


def build(routes: Routes, *, url: str) -> Json:
    """The document of these routes. Raises LookupError for one that does not describe itself."""
    operations = list(_described(routes))
    schemas = _Schemas(operations)
    paths: dict[str, Json] = defaultdict(dict)
    refusals: Json = {}
    for path, method, endpoint, said in operations:
        paths[path][method.lower()] = _operation(path, method, endpoint, said, schemas, refusals)
    used = {said.tag for _, _, _, said in operations}
    names = [*(tag for tag in TAGS if tag in used), *sorted(used - TAGS.keys())]
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Clawnet",
            "version": clawnet.__version__,
            "summary": "The nervous system of a group of AI agents.",
            "description": "Every refusal is a problem document (RFC 9457) with a stable `code`, "
            "`retryable`, and `next`: what to do. Live streams are in /asyncapi.json.",
        },
        "servers": [{"url": url}],
        "tags": [{"name": tag, "description": TAGS.get(tag, tag)} for tag in names],
        "paths": paths,
        "components": {
            "responses": dict(sorted(refusals.items())),
            "schemas": {**schemas.components, "Problem": _problem_schema()},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "A token's text."}
            },
        },
    }


def errors_of(path: str, method: str, said: Operation) -> list[type[ClawError]]:
    """What this operation may refuse with, by status and code."""
    found: set[type[ClawError]] = {BadRequest, Forbidden, HeadersTooLarge, Unavailable, ClawError}
    found |= set(said.errors)
    if not said.is_open:
        found |= {Unauthenticated, NotFound, RateLimited}
    if said.body is not None:
        found.add(PayloadTooLarge)
        if said.body_media_type == "application/json":
            found.add(UnsupportedMediaType)
    members = {*_MEMBER.findall(path), *said.query}
    if isinstance(said.body, type) and issubclass(said.body, msgspec.Struct):
        members |= set(said.body.__struct_fields__)
    if members & _CHANNEL_MEMBERS:
        found.add(InvalidChannel)
    if method != "GET":
        found |= {DiskFull, OutcomeUnknown}
    return sorted(found, key=lambda error: (error.status, error.code))


def _described(routes: Routes) -> Iterator[tuple[str, str, Callable[..., Any], Operation]]:
    for path, methods in routes.items():
        for method, endpoint in methods.items():
            said = operation_of(endpoint)
            if said is None:
                raise LookupError(f"{method} {path} does not describe itself; see describe.py")
            yield path, method, endpoint, said


class _Schemas:
    """The JSON schemas of all types at once, so that each has one name."""

    def __init__(self, operations: list[tuple[str, str, Callable[..., Any], Operation]]) -> None:
        types: list[Any] = [Event]
        for _, _, _, said in operations:
            types += [
                said.body,
                said.answer,
                said.refusal,
                *said.query.values(),
                *said.headers.values(),
                *said.also.values(),
            ]
        # A type may stand in several operations, and unhashable annotations cannot be a set.
        self._types = list({repr(one): one for one in types if one is not None}.values())
        schemas, self.components = msgspec.json.schema_components(self._types, ref_template=REF)
        self._by_name = dict(zip(map(repr, self._types), schemas, strict=True))
        for component in self.components.values():
            _show_events(component)

    def of(self, kind: Any) -> Json:
        """A type's schema; a reference where it is a struct."""
        return dict(self._by_name[repr(kind)])


def _show_events(component: Json) -> None:
    """Members that pass envelopes through as text are Raw in the code; here they are Events."""
    event = {"$ref": REF.format(name="Event")}
    for name, schema in component.get("properties", {}).items():
        if name == "event" and not schema.keys() - {"description"}:
            schema.update(event)
        elif name == "events" and schema.get("type") == "array" and schema.get("items") == {}:
            schema["items"] = event


def _operation(
    path: str,
    method: str,
    endpoint: Callable[..., Any],
    said: Operation,
    schemas: _Schemas,
    refusals: Json,
) -> Json:
    summary, _, description = cleandoc(endpoint.__doc__ or "").partition("\n")
    slug = re.sub(r"\W+", "_", path).strip("_") or "root"
    operation: Json = {
        "tags": [said.tag],
        "summary": summary.rstrip("."),
        "operationId": f"{method.lower()}_{slug}",
        "parameters": [*_parameters(path, said, schemas)],
        "responses": _answers(said, schemas) | _refusals(errors_of(path, method, said), refusals),
        "security": _security(said),
    }
    for status in said.refusal_statuses:
        # What meets the request before the endpoint does (the gate) still says it as a problem.
        shared = refusals[operation["responses"][str(status)]["$ref"].rpartition("/")[2]]
        content = {"application/json": {"schema": schemas.of(said.refusal)}, **shared["content"]}
        operation["responses"][str(status)] = {**shared, "content": content}
    if description.strip():
        operation["description"] = description.strip()
    if said.body is not None:
        content = {"schema": schemas.of(said.body)}
        if said.example is not None:
            content["example"] = said.example
        operation["requestBody"] = {
            "required": not said.is_body_optional,
            "content": {said.body_media_type: content},
        }
    return operation


def _security(said: Operation) -> list[Json]:
    if said.is_open:
        return []
    return [{"bearer": []}, {}] if said.is_public else [{"bearer": []}]


def _parameters(path: str, said: Operation, schemas: _Schemas) -> Iterator[Json]:
    for name in _MEMBER.findall(path):
        text = {"type": "string", "minLength": 1}
        member: Json = {
            "name": name,
            "in": "path",
            "required": True,
            "description": MEMBERS.get(name, f"The {name}."),
            "schema": text,
        }
        if name in said.example_members:
            member["example"] = said.example_members[name]
        yield member
    for place, given in (("query", said.query), ("header", said.headers)):
        for name, kind in given.items():
            schema = schemas.of(kind)
            shown: Json = {"name": name, "in": place, "required": False}
            description = schema.pop("description", None)
            if description:
                shown["description"] = description
            yield {**shown, "schema": schema}


def _answers(said: Operation, schemas: _Schemas) -> Json:
    answers: Json = {}
    for status in sorted({said.status, *said.statuses}):
        good: Json = {"description": title_of(status)}
        if said.answer is not None and status not in (204, 304):
            kinds = {said.media_type: said.answer, **said.also}
            good["content"] = {name: {"schema": schemas.of(kind)} for name, kind in kinds.items()}
        if said.answer_headers:
            good["headers"] = {
                name: {"description": text, "schema": {"type": "string"}}
                for name, text in said.answer_headers.items()
            }
        answers[str(status)] = good
    return answers


def _refusals(errors: list[type[ClawError]], shared: Json) -> Json:
    """References to what is `shared` by the operations that refuse alike; it grows by need."""
    by_status: dict[int, list[type[ClawError]]] = defaultdict(list)
    for error in errors:
        by_status[error.status].append(error)
    references: Json = {}
    for status, alike in by_status.items():
        meanings = [meaning_of(error) for error in alike]
        name = "-".join(error.code for error in alike)
        references[str(status)] = {"$ref": f"#/components/responses/{name}"}
        shared[name] = {
            "description": " ".join(meanings),
            "content": {
                PROBLEM_TYPE: {
                    "schema": {
                        "allOf": [{"$ref": REF.format(name="Problem")}],
                        "properties": {"code": {"enum": [error.code for error in alike]}},
                    }
                }
            },
        }
    return references


def _problem_schema() -> Json:
    return {
        "type": "object",
        "description": "Why a request was refused (RFC 9457), and what to do. Facts are further "
        "members.",
        "required": ["type", "title", "status", "detail", "code", "retryable", "next"],
        "properties": {
            "type": {"type": "string", "pattern": "^urn:clawnet:error:[a-z_]+$"},
            "title": {"type": "string"},
            "status": {"type": "integer", "minimum": 400, "maximum": 599},
            "detail": {"type": "string", "description": "What was wrong, for a person."},
            "code": {"type": "string", "description": "Stable; `claw explain CODE` says more."},
            "retryable": {"type": "boolean", "description": "May the same request succeed later?"},
            "next": {"type": "string", "description": "What to do."},
            "retry_after_s": {"type": "number", "minimum": 0},
        },
    }
