"""The OpenAPI 3.1 description, made from the table of endpoints and the types of the messages."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import msgspec

import dvecdb
from dvecdb.api.status import STATUSES, WRONG_TYPE
from dvecdb.errors import Code
from dvecdb.records import ID_LENGTH_MAX, NAME_PATTERN
from dvecdb.wire.envelope import ErrorBody, LegacyErrorBody

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dvecdb.api.endpoints import Endpoint

    Document = dict[str, Any]

_REFERENCE: Final = "#/components/schemas/{name}"
_ANYWHERE: Final = {405, 429, 431, 500, 503}
_TEXT: Final = {"type": "string"}
_NOTE_TEXT: Final = {"type": "string", "minLength": 1, "maxLength": 256}
_WRITE_HEADERS: Final = {
    "Idempotency-Key": (
        _NOTE_TEXT,
        "The same call with this key is done once and answered the same. Percent-encoded UTF-8",
    ),
    "Dvecdb-Actor": (_NOTE_TEXT, "Who does it, for the history. Percent-encoded UTF-8"),
    "Dvecdb-Reason": (_NOTE_TEXT, "Why, for the history. Percent-encoded UTF-8"),
    "Dvecdb-If-LSN": (
        {"type": "integer", "minimum": 0, "maximum": 2**53},
        "Refuse if anything it touches was changed after this LSN",
    ),
}
_PATH_PARAMETERS: Final[dict[str, tuple[Document, str]]] = {
    "collection": (
        {"type": "string", "pattern": f"^{NAME_PATTERN.pattern}$"},
        "Name of a collection",
    ),
    "id": (
        {"type": "string", "minLength": 1, "maxLength": ID_LENGTH_MAX},
        "Id of a record; whatever reads as a UUID is its lower-case dashed form",
    ),
    "namespace": ({"type": "string", "minLength": 1}, "Namespace of documents"),
    "key": ({"type": "string", "minLength": 1}, "Key of a document"),
    "task": ({"type": "string", "minLength": 1}, "Id of a task"),
    "import": ({"type": "string", "minLength": 1}, "Id of the task that imported"),
    "entry": (
        {"type": "string", "minLength": 1},
        "Name of a trash entry, NAME_YYYYMMDD_HHMMSS; for reads also its path",
    ),
    "backup": (
        {"type": "string", "minLength": 1},
        "Name of a backup, NAME_YYYYMMDD_HHMMSS; for reads also its path",
    ),
    "snapshot": ({"type": "string", "minLength": 1}, "Name of a backup"),
    "tag": ({"type": "string", "minLength": 1}, "Name of a tag"),
}
_RECOVERY: Final = frozenset(
    {"trash", "backups", "deleted", "restore", "cleanup", "backup", "hard-delete", "snapshots",
     "import", "imports", "protect", "undo", "clone", "tags", "config", "clock"}
)  # fmt: skip
_RECORDS: Final = frozenset({"search", "query", "facet", "write", "scroll", "count", "documents"})
_MSGPACK_NOTE: Final = (
    "The same in MessagePack, which may also be asked for with `Accept: application/msgpack`. "
    "Vectors are bytes of little-endian float32."
)


def describe(endpoints: Sequence[Endpoint], *, legacy_errors: bool) -> Document:
    """Return the description. Same input, same output."""
    types = _types(endpoints)
    schemas, components = msgspec.json.schema_components(types, ref_template=_REFERENCE)
    schema_of = {repr(kind): schema for kind, schema in zip(types, schemas, strict=True)}
    paths: Document = {}
    for endpoint in endpoints:
        operation = _operation(endpoint, schema_of, components, legacy_errors=legacy_errors)
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "dvecdb",
            "version": dvecdb.__version__,
            "description": "A vector database that cannot lose an acknowledged write.",
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": components,
            "responses": _error_responses(),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "api-key"},
            },
        },
    }


def statuses(endpoint: Endpoint) -> list[int]:
    """Return the statuses of errors that an endpoint may answer with."""
    found = set(_ANYWHERE)
    if endpoint.scope is not None:
        found |= {401, 403}
    if endpoint.parameters:
        found |= {400, 404}
    if endpoint.query is not None or not endpoint.legacy:
        found |= {400, WRONG_TYPE}
    if endpoint.request is not None:
        found |= {400, 408, 413, 415, WRONG_TYPE}
    if endpoint.mutates:
        found |= {400, 404, 409, 507}
    if {"entry", "backup"}.intersection(endpoint.parameters):
        found.add(409)
    return sorted(found)


def _types(endpoints: Sequence[Endpoint]) -> list[Any]:
    kinds: list[Any] = [ErrorBody, LegacyErrorBody]
    for endpoint in endpoints:
        kinds += [endpoint.request, endpoint.query, endpoint.accepted, endpoint.trial]
        if endpoint.media is None:
            kinds.append(endpoint.answer)
    found: dict[str, Any] = {repr(kind): kind for kind in kinds if kind is not None}
    return list(found.values())


def _operation(
    endpoint: Endpoint, schema_of: Document, components: Document, *, legacy_errors: bool
) -> Document:
    operation: Document = {
        "operationId": endpoint.name + ("_short" if endpoint.path == "/ready" else ""),
        "summary": endpoint.summary,
        "tags": [_tag(endpoint)],
        "parameters": _parameters(endpoint, schema_of, components),
        "responses": {
            **_answers(endpoint, schema_of, legacy_errors=legacy_errors),
            **{
                str(status): {"$ref": f"#/components/responses/{status}"}
                for status in statuses(endpoint)
                if not (status == 503 and endpoint.unready)
            },
        },
    }
    if endpoint.scope is not None:
        operation["description"] = f"Needs the scope `{endpoint.scope}`, if the server has keys."
        operation["security"] = [{}, {"bearer": []}, {"key": []}]
    if endpoint.request is not None:
        schema = schema_of[repr(endpoint.request)]
        content: Document = {
            "application/json": {"schema": schema},
            "application/msgpack": {"schema": {"description": _MSGPACK_NOTE}},
        }
        if endpoint.octets is not None:
            content["application/octet-stream"] = {
                "schema": {
                    "type": "string",
                    "format": "binary",
                    "description": "The vector alone: little-endian float32",
                }
            }
        operation["requestBody"] = {"required": _is_required(endpoint), "content": content}
    return operation


def _is_required(endpoint: Endpoint) -> bool:
    return any(item.required for item in msgspec.structs.fields(endpoint.request))


def _tag(endpoint: Endpoint) -> str:
    words = [part for part in endpoint.segments if not part.startswith("{")]
    if words[0] in {"health", "ready"}:
        return "health"
    if _RECOVERY.intersection(words):
        return "recovery"
    if words[0] == "jobs":
        return "jobs"
    if words[0] == "collections" and len(words) > 1 and words[1] in {"vectors", "points"}:
        return words[1]
    if _RECORDS.intersection(words):
        return "records"
    return "collections" if words[0] == "collections" else "server"


def _parameters(endpoint: Endpoint, schema_of: Document, components: Document) -> list[Document]:
    found = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": _PATH_PARAMETERS[name][0],
            "description": _PATH_PARAMETERS[name][1],
        }
        for name in endpoint.parameters
    ]
    if endpoint.query is not None:
        reference = schema_of[repr(endpoint.query)]["$ref"].rpartition("/")[2]
        for name, schema in components[reference]["properties"].items():
            found.append({"name": name, "in": "query", "required": False, "schema": schema})
    if endpoint.mutates:
        for name, (schema, text) in _WRITE_HEADERS.items():
            found.append({"name": name, "in": "header", "required": False, "schema": schema,
                          "description": text})  # fmt: skip
    return found


def _answers(endpoint: Endpoint, schema_of: Document, *, legacy_errors: bool) -> Document:
    if endpoint.media is not None:
        media = endpoint.media.partition(";")[0]
        kind = "object" if media == "application/json" else "string"
        return {"200": {"description": "OK", "content": {media: {"schema": {"type": kind}}}}}
    schema = schema_of[repr(endpoint.answer)]
    if endpoint.trial is not None:
        schema = {"anyOf": [schema, schema_of[repr(endpoint.trial)]]}
    if endpoint.enveloped:
        schema = _envelope(schema)
        if legacy_errors and endpoint.legacy:
            schema = {"anyOf": [schema, {"$ref": _REFERENCE.format(name="LegacyErrorBody")}]}
    answers: Document = {"200": _message("OK", schema)}
    headers: Document = {
        name: {"description": text, "schema": _TEXT} for name, text in endpoint.headers.items()
    }
    if endpoint.mutates:
        headers["Dvecdb-LSN"] = {
            "description": "LSN of the commit, or of the state it is about, if there is one",
            "schema": {"type": "integer"},
        }
    if headers:
        answers["200"]["headers"] = headers
    if endpoint.accepted is not None:
        started = _envelope(schema_of[repr(endpoint.accepted)])
        answers["202"] = _message("A task does it", started)
        if "Location" in endpoint.headers:
            answers["202"]["headers"] = {"Location": headers["Location"]}
        if endpoint.answer is endpoint.accepted:  # it never does it at once
            del answers["200"]
    if endpoint.unready:
        either = [schema, {"$ref": _REFERENCE.format(name="ErrorBody")}]
        answers["503"] = _message("Not ready", {"anyOf": either})
    return answers


def _envelope(schema: Document) -> Document:
    return {
        "type": "object",
        "properties": {
            "success": {"const": True},
            "data": schema,
            "error": {"type": "null"},
        },
        "required": ["success", "data", "error"],
        "additionalProperties": False,
    }


def _message(text: str, schema: Document) -> Document:
    return {
        "description": text,
        "content": {
            "application/json": {"schema": schema},
            "application/msgpack": {"schema": {"description": _MSGPACK_NOTE}},
        },
    }


def _error_responses() -> Document:
    """Return one response for each status, naming the codes that have it."""
    codes: dict[int, list[str]] = {WRONG_TYPE: [str(Code.INVALID_BODY)]}
    for code, status in STATUSES.items():
        codes.setdefault(status, []).append(str(code))
    schema = {"$ref": _REFERENCE.format(name="ErrorBody")}
    found: Document = {}
    for status, names in sorted(codes.items()):
        text = f"{HTTPStatus(status).phrase}: {', '.join(f'`{name}`' for name in names)}"
        found[str(status)] = _message(text, schema)
        extra = {401: "WWW-Authenticate", 405: "Allow", 429: "Retry-After"}.get(status)
        if extra is not None:
            found[str(status)]["headers"] = {extra: {"schema": _TEXT}}
    return found
