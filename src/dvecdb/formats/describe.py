"""Any of our files as text for people, or as JSON values. Pure: bytes in, values out.

Damage is shown and never raised: whatever can still be decoded is. What a file is is told by its
first bytes, or, where those are damaged, by its name.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import numpy as np

from dvecdb.formats import names
from dvecdb.formats import segment_file as sf
from dvecdb.formats.describe_json import describe_audit, describe_json, describe_lock
from dvecdb.formats.describe_log import describe_cut_tail, describe_log
from dvecdb.formats.describe_segment import describe_segment, describe_vectors
from dvecdb.formats.describe_values import SHOWN, Described, Value, hexed, sample, text_of
from dvecdb.formats.framing import FormatError
from dvecdb.formats.index_file import decode_index
from dvecdb.formats.lookup_file import decode_lookup

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dvecdb.formats.framing import Buffer

_CUT_TAIL: Final = re.compile(r"\d{10}-\d{16}\.wal-\d+\.bin")
_MAGICS: Final = {b"dvWL": "log", b"dvSG": "segment", b"dvLK": "lookup", b"dvIX": "index"}
_LOOKUP_HEAD_BYTES: Final = 64


def companion(name: str) -> str | None:
    """Return the name of the file that has to lie beside `name` to explain it, if any."""
    return {sf.VECTORS_NAME: sf.RECORDS_NAME, sf.RECORDS_NAME: sf.VECTORS_NAME}.get(name)


def describe(
    data: Buffer, name: str = "", *, beside: Mapping[str, Buffer] | None = None, vectors: int = 0
) -> Described:
    """Return what is in a file called `name`. `vectors`: rows to show with their vectors.

    `beside` holds the files that lie in the same directory, by name, as far as they are wanted:
    see `companion`.
    """
    view = memoryview(data)
    others = {key: memoryview(value) for key, value in (beside or {}).items()}
    kind = _kind(view, name)
    if kind == "log":
        return describe_log(view, vectors)
    if kind == "cut":
        return describe_cut_tail(view, vectors)
    if kind == "segment":
        return describe_segment(view, others.get(sf.VECTORS_NAME), vectors)
    if kind == "vectors":
        return describe_vectors(view, others.get(sf.RECORDS_NAME), vectors)
    if kind == "lookup":
        return describe_lookup(view)
    if kind == "index":
        return describe_index(view)
    if kind == "lock":
        return describe_lock(view)
    if kind == "audit":
        return describe_audit(view)
    if kind == "json":
        return describe_json(view)
    return {"kind": "unknown", "size_bytes": len(view), "text": text_of(view, 64)}


def _kind(view: memoryview, name: str) -> str:
    """Return what a file is. Raw files have no first bytes of their own: their name decides."""
    if name == sf.VECTORS_NAME:
        return "vectors"
    if name == names.LOCK:
        return "lock"
    if names.parse_audit_name(name) is not None or bytes(view[:21]) == b'{"dvecdb":"audit log"':
        return "audit"
    if _CUT_TAIL.fullmatch(name):
        return "cut"
    found = _MAGICS.get(bytes(view[:4]))
    if found is not None:
        return found
    if names.parse_wal_name(name) is not None:
        return "log"
    if name == sf.RECORDS_NAME or bytes(view[-sf.HEAD_SIZE :][:4]) == b"dvST":
        return "segment"
    if names.parse_lookup_name(name) is not None:
        return "lookup"
    if names.parse_index_name(name) is not None:
        return "index"
    if bytes(view[:1]) == b"{":
        return "lock" if bytes(view[:10]) == b'{"dvecdb":' else "json"
    return "json" if name.endswith(".json") else "unknown"


def describe_lookup(data: memoryview) -> Described:
    """Return what a lookup file covers."""
    described: Described = {"kind": "lookup", "size_bytes": len(data), "derived": True}
    try:
        table = decode_lookup(data)
    except FormatError as error:
        described["damaged"] = f"{error}; it is rebuilt from the segments"
        return described
    described["collection_uuid"] = str(table.collection_uuid)
    described["lineage"] = str(table.lineage)
    described["rows"] = {"first": table.first_row, "end": table.row_end}
    described["sorted"] = bool(np.all(table.hashes[:-1] <= table.hashes[1:]))
    pairs = zip(table.hashes[:5].tolist(), table.rows[:5].tolist(), strict=True)
    entries = [{"hash": hexed(number), "row": row} for number, row in pairs]
    described["entries"] = {**sample(entries), "count": len(table.hashes)}
    return described


def describe_index(data: memoryview) -> Described:
    """Return what an index file covers, but for the codes, which only faiss can read."""
    described: Described = {"kind": "index", "size_bytes": len(data), "derived": True}
    try:
        index = decode_index(data)
    except FormatError as error:
        described["damaged"] = f"{error}; it is rebuilt from the segments"
        return described
    header = index.header
    described["collection_uuid"] = str(index.collection_uuid)
    described["lineage"] = str(index.lineage)
    described["rows"] = {"first": 0, "end": index.row_end}
    if index.numbers is not None:
        described["places"] = sample(index.numbers[:SHOWN].tolist())
        described["places"]["count"] = len(index.numbers)
    described["dimension"], described["metric"] = header.dimension, header.metric
    described["vector_type"], described["reach"] = header.vector_type, header.reach
    described["horizon_lsn"] = header.horizon_lsn
    described["trained_rows"] = header.trained_rows
    efforts = [
        {"probes": probes, "depth": depth, "recall": recall}
        for probes, depth, recall in header.efforts
    ]
    described["efforts"] = sample(efforts, len(efforts))
    described["zeros"], described["apart"] = sample(header.zeros), sample(header.apart)
    described["codes_bytes"] = len(index.codes)
    return described


# --- text ---


def text_lines(value: Described, indent: str = "") -> list[str]:
    """Return the lines that show `value`: one per field, one or more per item of a list."""
    lines: list[str] = []
    for key, item in value.items():
        label = f"{indent}{key.replace('_', ' ')}:"
        if _is_sample(item):
            count, first = item["count"], item["first"]
            more = f", first {len(first)} shown" if len(first) < count else ""
            lines.append(f"{label} {count}{more}")
            lines += _list_lines(first, indent + "  ")
        elif isinstance(item, dict) and item:
            lines.append(label)
            lines += text_lines(item, indent + "  ")
        elif isinstance(item, list) and any(isinstance(one, dict) for one in item):
            lines.append(label)
            lines += _list_lines(item, indent + "  ")
        else:
            lines.append(f"{label} {_scalar(item)}")
    return lines


def _list_lines(items: list[Value], indent: str) -> list[str]:
    if not any(isinstance(item, dict) for item in items):
        return [indent + _scalar(items)] if items else []
    lines: list[str] = []
    for item in items:
        if not isinstance(item, dict):
            lines.append(f"{indent}- {_scalar(item)}")
            continue
        flat = {key: one for key, one in item.items() if not _is_nested(one)}
        nested = {key: one for key, one in item.items() if key not in flat}
        shown = ", ".join(f"{key.replace('_', ' ')} {_scalar(one)}" for key, one in flat.items())
        lines.append(f"{indent}- {shown}")
        lines += text_lines(nested, indent + "    ")
    return lines


def _is_sample(item: Value) -> bool:
    return isinstance(item, dict) and item.keys() == {"count", "first"} and _is_list(item["first"])


def _is_list(item: Value) -> bool:
    return isinstance(item, list)


def _is_nested(item: Value) -> bool:
    if isinstance(item, dict):
        return bool(item)
    return isinstance(item, list) and any(isinstance(one, dict) for one in item)


def _scalar(item: Value) -> str:
    if isinstance(item, bool):
        return "yes" if item else "no"
    if item is None or item in ([], {}):
        return "none"
    if isinstance(item, list):
        return ", ".join(map(_scalar, item))
    if isinstance(item, float):
        return f"{item:g}"
    return str(item) if not isinstance(item, str) else _printable(item)


def _printable(text: str) -> str:
    """Return `text` with what would disturb a terminal escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
