"""The docs page: the OpenAPI description as one HTML page that loads nothing from anywhere."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_STYLE: Final = """
:root { color-scheme: light dark; --line: #8885; --soft: #8881; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
h1 { margin-bottom: 0 } h2 { margin-top: 2.5rem; text-transform: capitalize }
code, .path { font-family: ui-monospace, monospace; font-size: .92em }
details { border: 1px solid var(--line); border-radius: .4rem; margin: .4rem 0; padding: 0 .8rem }
summary { cursor: pointer; padding: .45rem 0 }
.method { display: inline-block; width: 4.5rem; font-weight: 700 }
.say { opacity: .75; margin-left: .6rem }
table { border-collapse: collapse; width: 100%; margin: .4rem 0 1rem }
th, td { text-align: left; padding: .25rem .6rem; border-top: 1px solid var(--line) }
th { background: var(--soft) } td { vertical-align: top }
"""


def docs_page(description: Mapping[str, Any]) -> str:
    """Return the page of an OpenAPI description made by `openapi.describe`."""
    info = description["info"]
    return "\n".join([
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(info['title'])} {escape(info['version'])}</title>",
        f"<style>{_STYLE}</style></head><body>",
        f"<h1>{escape(info['title'])} <small>{escape(info['version'])}</small></h1>",
        f"<p>{escape(info['description'])}</p>",
        '<p>For programs: <a href="openapi.json">openapi.json</a></p>',
        *_calls(description),
        *_errors(description),
        *_messages(description),
        "</body></html>",
    ])  # fmt: skip


def _calls(description: Mapping[str, Any]) -> Iterator[str]:
    by_tag: dict[str, list[tuple[str, str, Mapping[str, Any]]]] = {}
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            by_tag.setdefault(operation["tags"][0], []).append((method, path, operation))
    for tag, calls in by_tag.items():
        yield f"<h2>{escape(tag)}</h2>"
        for method, path, operation in calls:
            yield (
                f"<details><summary><span class=method>{method.upper()}</span>"
                f"<span class=path>{escape(path)}</span>"
                f"<span class=say>{_text(operation['summary'])}</span></summary>"
            )
            if "description" in operation:
                yield f"<p>{_text(operation['description'])}</p>"
            yield from _parameters(operation)
            if "requestBody" in operation:
                yield "<h4>Body</h4>"
                yield _contents(operation["requestBody"]["content"])
            yield "<h4>Answers</h4>"
            yield from _answers(description, operation)
            yield "</details>"


def _parameters(operation: Mapping[str, Any]) -> Iterator[str]:
    if operation["parameters"]:
        rows = [
            (f"<code>{escape(item['name'])}</code>", item["in"], _type(item["schema"]),
             _text(item.get("description", "")))
            for item in operation["parameters"]
        ]  # fmt: skip
        yield "<h4>Parameters</h4>"
        yield _table(("name", "in", "type", ""), rows)


def _answers(description: Mapping[str, Any], operation: Mapping[str, Any]) -> Iterator[str]:
    shared = description["components"]["responses"]
    for status, answer in operation["responses"].items():
        if "$ref" not in answer:
            yield f"<p><code>{status}</code> {_text(answer['description'])}</p>"
            yield _contents(answer["content"])
    errors = [
        f'<a href="#status-{status}">{status}</a>'
        for status, answer in operation["responses"].items()
        if "$ref" in answer and status in shared
    ]
    yield f"<p>Errors: {', '.join(errors)}</p>"


def _errors(description: Mapping[str, Any]) -> Iterator[str]:
    yield "<h2>Errors</h2>"
    rows = [
        (f'<code id="status-{status}">{status}</code>', _text(answer["description"]))
        for status, answer in description["components"]["responses"].items()
    ]
    yield _table(("status", "codes"), rows)


def _messages(description: Mapping[str, Any]) -> Iterator[str]:
    yield "<h2>Messages</h2>"
    for name, schema in sorted(description["components"]["schemas"].items()):
        yield f'<details id="{escape(name)}" open><summary><code>{escape(name)}</code>'
        yield f"<span class=say>{_text(schema.get('description', ''))}</span></summary>"
        required = schema.get("required", ())
        rows = [
            (f"<code>{escape(field)}</code>", _type(inner),
             "" if field in required else _default(inner))
            for field, inner in schema.get("properties", {}).items()
        ]  # fmt: skip
        yield _table(("field", "type", "if it is missing"), rows)
        yield "</details>"


def _default(schema: Mapping[str, Any]) -> str:
    return f"<code>{escape(repr(schema['default']))}</code>" if "default" in schema else "optional"


def _contents(contents: Mapping[str, Any]) -> str:
    rows = [
        (f"<code>{escape(media)}</code>",
         _type(content["schema"]) or _text(content["schema"].get("description", "")))
        for media, content in contents.items()
    ]  # fmt: skip
    return _table(("media type", "content"), rows)


def _type(schema: Mapping[str, Any]) -> str:
    """Return a schema in a few words."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    for joint in ("anyOf", "oneOf"):
        if joint in schema:
            return " or ".join(_type(item) for item in schema[joint])
    if "const" in schema:
        return f"<code>{escape(str(schema['const']).lower())}</code>"
    if "enum" in schema:
        return " or ".join(f"<code>{escape(str(item))}</code>" for item in schema["enum"])
    kind = schema.get("type", "")
    if "prefixItems" in schema:
        return f"[{', '.join(_type(item) for item in schema['prefixItems'])}]"
    if kind == "array":
        return f"list of {_type(schema.get('items', {})) or 'anything'}"
    if kind == "object" and "properties" in schema:
        fields = ", ".join(
            f"{escape(name)}: {_type(item) or 'anything'}"
            for name, item in schema["properties"].items()
        )
        return f"{{{fields}}}"
    note = schema.get("contentEncoding") or schema.get("format")
    return escape(f"{kind} ({note})" if note else str(kind))


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = ["<table><tr>", *(f"<th>{escape(cell)}</th>" for cell in head), "</tr>"]
    for row in rows:
        lines += ["<tr>", *(f"<td>{cell}</td>" for cell in row), "</tr>"]
    return "".join([*lines, "</table>"])


def _text(text: str) -> str:
    """Return text with `code` marked."""
    pieces = escape(text).split("`")
    return "".join(
        f"<code>{piece}</code>" if number % 2 else piece for number, piece in enumerate(pieces)
    )
