"""What a route says about itself: the source of /openapi.json, kept beside the code it describes.

    @operation(body=CreateAccount, answer=AccountInfo, status=201, errors=(Conflict,))
    async def create(request: Request) -> Answer:
        "Create an account."

The first line of the docstring is the summary, the rest the description.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, TypeVar

import msgspec

from clawnet.core.errors import ClawError

E = TypeVar("E", bound=Callable[..., Awaitable[Any]])

Routes = Mapping[str, Mapping[str, Callable[..., Any]]]
"""Paths, and for each method what answers it and describes itself."""

ATTRIBUTE = "__clawnet_operation__"


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """`body` and `answer` are types (None: no body); `query` names parameters with their types,
    annotated with msgspec.Meta for bounds and a description. `media_type` is the answer's,
    `body_media_type` the request's. `is_public`: works without a token (where reading does).
    `is_open`: never asks for one. `statuses` are further statuses with the same answer.
    `errors` are those beyond the ones that every route may answer with. `is_body_optional`:
    an empty body is taken too. `refusal` is the type that refusals with `refusal_statuses` have
    where it is not a problem document's (a standard says so). `also` are further media types of
    the answer with their types, `answer_headers` headers of it with what they say. `example` is a
    body and `example_members` are members of the path where what the types say would be refused.
    """

    tag: str
    body: Any = None
    answer: Any = None
    status: int = 200
    query: Mapping[str, Any] = {}
    headers: Mapping[str, Any] = {}
    errors: tuple[type[ClawError], ...] = ()
    is_public: bool = False
    is_open: bool = False
    is_stream: bool = False
    is_body_optional: bool = False
    statuses: tuple[int, ...] = ()
    refusal: Any = None
    refusal_statuses: tuple[int, ...] = ()
    media_type: str = "application/json"
    body_media_type: str = "application/json"
    also: Mapping[str, Any] = {}
    answer_headers: Mapping[str, str] = {}
    example: Any = None
    example_members: Mapping[str, str] = {}


def operation(*, tag: str, **named: Any) -> Callable[[E], E]:
    """Describe an endpoint; see Operation for what can be said."""
    described = Operation(tag=tag, **named)

    def describe(endpoint: E) -> E:
        setattr(endpoint, ATTRIBUTE, described)
        return endpoint

    return describe


def operation_of(endpoint: Callable[..., Any]) -> Operation | None:
    """What an endpoint says about itself, if it says anything."""
    found: Operation | None = getattr(endpoint, ATTRIBUTE, None)
    return found


After = Annotated[str, msgspec.Meta(description="The `next` of the page before.")]
Limit = Annotated[
    int, msgspec.Meta(ge=1, le=1_000, description="How many at most; 100 if left out.")
]
Channels = Annotated[
    str, msgspec.Meta(min_length=1, description="Names and patterns, joined by commas.")
]
Where = Annotated[
    str,
    msgspec.Meta(description="Behind which place: a cursor, an offset, a duration (`10m`), `all`."),
]
