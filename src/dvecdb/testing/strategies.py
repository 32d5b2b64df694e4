"""Hypothesis strategies for everything a user passes in, each with what it means to the model.

Few ids, few keys and few documents, so that calls meet; every form of input that is allowed:
lists, arrays of all kinds and orders, repeated ids, ids to be made, UUIDs in every spelling.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from hypothesis import strategies as st

from dvecdb.records import Metric, Schema, VectorType
from dvecdb.settings import Settings
from dvecdb.testing.model import Batch, Update

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from dvecdb.records import Json, Metadata
    from dvecdb.testing.model import State

DIMENSION_MAX: Final = 8
_UUID: Final = "00c0ffee-0000-4000-8000-00000000abcd"
_SPELLINGS: Final = {
    text: text for text in ("a", "b", "c", "d", "e", "\u00e4\u4e16\U0001f600", "x" * 256, " ")
} | {
    _UUID: _UUID,
    _UUID.upper(): _UUID,
    _UUID.replace("-", ""): _UUID,
    "{" + _UUID + "}": _UUID,
    "urn:uuid:" + _UUID: _UUID,
}
_NAMES: Final = (("jobs", "a"), ("jobs", "b"), ("tags", "a"), ("tags", "\u00e9"))
_KEYS: Final = ("k1", "k2", "k3")


@dataclass(frozen=True, slots=True, repr=False)
class Call:
    """A call of a method of `Collection`, and what it means."""

    method: str
    arguments: Mapping[str, Any]
    batch: Batch

    def __repr__(self) -> str:
        """Return the call as it would be written, on one line."""
        shown = ", ".join(
            f"{name}={value.tolist() if isinstance(value, np.ndarray) else value!r}"
            for name, value in self.arguments.items()
        )
        return f"{self.method}({shown})"


def schemas() -> st.SearchStrategy[Schema]:
    """Return every metric and type, in few dimensions."""
    return st.builds(
        Schema,
        st.integers(1, DIMENSION_MAX),
        st.sampled_from(Metric),
        st.sampled_from(VectorType),
    )


def tiny_settings(*, idle_marker_ms: int = 0) -> st.SearchStrategy[Settings]:
    """Return settings that flush, merge and write in bulk after a few rows."""
    return st.builds(
        Settings,
        bulk_bytes=st.sampled_from([40, 100, 10_000]),
        flush_bytes=st.sampled_from([600, 2_000, 1_000_000]),
        flush_commits=st.sampled_from([1, 3, 1_000]),
        merge_bytes=st.sampled_from([1, 20_000, 1_000_000]),
        merge_count=st.sampled_from([2, 3]),
        memtables_max=st.sampled_from([1, 3]),
        wal_reserve_bytes=st.just(16_384),
        wal_extend_bytes=st.sampled_from([1, 8_192]),
        ballast_bytes=st.just(32_768),
        low_water_bytes=st.sampled_from([0, 0, 20_000]),
        idle_marker_ms=st.just(idle_marker_ms),
        orphan_age_hours=st.sampled_from([0, 24]),
    )


def ids() -> st.SearchStrategy[str]:
    """Return ids as users spell them."""
    return st.sampled_from(sorted(_SPELLINGS))


def stored(text: str) -> str:
    """Return the form in which an id of `ids` is kept."""
    return _SPELLINGS.get(text, text)


def json_values() -> st.SearchStrategy[Json]:
    """Return JSON values, small ones."""
    leaves = (
        st.none()
        | st.booleans()
        | st.integers(-(2**53), 2**53)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=5)
    )
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=4,
    )


def metadata() -> st.SearchStrategy[Metadata]:
    """Return metadata whose keys meet those of others."""
    return st.dictionaries(st.sampled_from(["k", "l", "", "\u00fc"]), json_values(), max_size=3)


@st.composite
def queries(draw: st.DrawFn, schema: Schema) -> list[float]:
    """Return a query of a few exact values."""
    values = draw(st.lists(st.integers(-20, 20), min_size=1, max_size=DIMENSION_MAX))
    return [values[index % len(values)] / 4 for index in range(schema.dimension)]


@st.composite
def vectors(draw: st.DrawFn, schema: Schema, count: int) -> tuple[Any, tuple[bytes, ...]]:
    """Return `count` vectors as users pass them, and the bytes that are stored of each."""
    generator = np.random.default_rng(draw(st.integers(0, 2**16)))
    whole = generator.integers(-100, 101, (count, schema.dimension))
    forms = ["lists", "arrays", "float32", "float64", "fortran", "strided", "big-endian"]
    values: npt.NDArray[Any]
    if schema.vector_type is VectorType.INT8:
        values = whole
        forms += ["int8", "int64"]
    elif draw(st.booleans()):
        values = whole / 8  # exact in every type
        forms += ["float16"]
    else:
        values = generator.normal(size=whole.shape) * 100  # rounded to the stored type
        if schema.vector_type is VectorType.FLOAT16:
            forms.remove("float32")  # would be rounded twice
    given = _shape(values, draw(st.sampled_from(forms)))
    kept = values.astype(schema.vector_type.dtype)
    return given, tuple(row.tobytes() for row in kept)


def _shape(values: npt.NDArray[Any], form: str) -> Any:
    match form:
        case "lists":
            return values.tolist()
        case "arrays":
            return list(values)
        case "fortran":
            return np.asfortranarray(values)
        case "strided":
            return np.repeat(np.repeat(values, 2, axis=0), 3, axis=1)[::2, ::3]
        case "big-endian":
            return values.astype(values.dtype.newbyteorder(">"))
        case _:
            return values.astype(form)


@st.composite
def _rows(draw: st.DrawFn, schema: Schema, *, distinct: bool) -> tuple[dict[str, Any], Batch]:
    """Return ids, vectors and metadata as arguments and as they are meant."""
    texts: list[str] | None = None
    if draw(st.integers(0, 4)):
        unique = stored if distinct else None
        texts = draw(st.lists(ids(), max_size=6, unique_by=unique))
        if distinct and not texts:
            texts = ["a"]
    count = draw(st.integers(1, 5)) if texts is None else len(texts)
    given, kept = draw(vectors(schema, count))
    values: list[Metadata | None] | None = None
    if draw(st.booleans()):
        values = draw(st.lists(st.none() | metadata(), min_size=count, max_size=count))
    arguments: dict[str, Any] = {"vectors": given}
    if texts is not None or draw(st.booleans()):
        arguments["ids"] = texts
    if values is not None or draw(st.booleans()):
        arguments["metadata"] = values
    meant = Batch(
        ids=None if texts is None else tuple(map(stored, texts)),
        vectors=kept,
        metadata=tuple(values or [None] * count),
    )
    return arguments, meant


def _documents() -> st.SearchStrategy[dict[tuple[str, str], Json]]:
    return st.dictionaries(st.sampled_from(_NAMES), st.none() | json_values(), max_size=3)


@st.composite
def calls(draw: st.DrawFn, schema: Schema, state: State) -> Call:
    """Return a call of any writing method, most of which succeed in `state`."""
    method = draw(st.sampled_from(["upsert", "upsert", "insert", "delete", "update", "write"]))
    arguments: dict[str, Any] = {}
    meant = Batch()
    match method:
        case "upsert" | "insert":
            distinct = method == "insert"
            arguments, meant = draw(_rows(schema, distinct=distinct))
            meant = replace(meant, is_insert=distinct)
        case "delete":
            texts = draw(st.lists(_present(state), max_size=5))
            arguments, meant = {"ids": texts}, Batch(deletes=tuple(map(stored, texts)))
        case "update":
            method = "update_metadata"
            arguments, meant = draw(_updates(state))
        case "write":
            arguments, meant = draw(_writes(schema, state))
    meant = replace(meant, content=_content(method, meant))
    return draw(_options(Call(method, arguments, meant), state))


def _present(state: State) -> st.SearchStrategy[str]:
    """Return ids, more often those that exist."""
    if not state.rows:
        return ids()
    return st.sampled_from(list(state.rows)) | ids()


@st.composite
def _updates(draw: st.DrawFn, state: State) -> tuple[dict[str, Any], Batch]:
    known = st.sampled_from(list(state.rows)) if state.rows else ids()
    texts = draw(
        st.lists(known if draw(st.integers(0, 4)) else ids(), max_size=3, unique_by=stored)
    )
    values = [draw(metadata()) for _ in texts]
    mode = draw(st.sampled_from(["merge", "replace"]))
    meant = [
        Update(stored(text), value, mode == "merge")
        for text, value in zip(texts, values, strict=True)
    ]
    return {"ids": texts, "metadata": values, "mode": mode}, Batch(updates=tuple(meant))


def _coin() -> st.SearchStrategy[Any]:
    return st.booleans()


@st.composite
def _writes(draw: st.DrawFn, schema: Schema, state: State) -> tuple[dict[str, Any], Batch]:
    arguments: dict[str, Any] = {}
    meant = Batch()
    if draw(_coin()):
        arguments["upserts"], meant = draw(_rows(schema, distinct=True))
    taken = set(meant.ids or ())
    texts = [
        text for text in draw(st.lists(_present(state), max_size=4)) if stored(text) not in taken
    ]
    documents = draw(_documents())
    if texts or draw(_coin()):
        arguments["deletes"] = texts
    if documents or draw(_coin()):
        arguments["documents"] = documents
    meant = replace(meant, deletes=tuple(map(stored, texts)), documents=tuple(documents.items()))
    return arguments, meant


@st.composite
def _options(draw: st.DrawFn, call: Call, state: State) -> Call:
    """Add what any write may carry: conditions that hold or do not, keys new or used."""
    arguments, meant = dict(call.arguments), call.batch
    if not draw(st.integers(0, 5)):
        name = draw(st.sampled_from(_NAMES))
        value = state.documents.get(name) if draw(st.integers(0, 3)) else "other"
        arguments["expect"] = {name: value}
        meant = replace(meant, expect=((name, value),))
    if not draw(st.integers(0, 5)):
        arguments["if_lsn"] = draw(st.integers(0, state.lsn) | st.just(state.lsn))
        meant = replace(meant, if_lsn=arguments["if_lsn"])
    if not draw(st.integers(0, 3)):
        arguments["idempotency_key"] = draw(st.sampled_from(_KEYS))
        meant = replace(meant, key=arguments["idempotency_key"])
    for option in ("actor", "reason", "request_id"):
        if not draw(st.integers(0, 9)):
            arguments[option] = draw(st.text("abc\u00e9", min_size=1, max_size=9))
    return Call(call.method, arguments, meant)


def _content(method: str, meant: Batch) -> str:
    """Return text that is equal for calls that ask for the same, conditions aside."""
    updates = [(update.id, update.metadata, update.merge) for update in meant.updates]
    documents: Sequence[object] = [[*name, value] for name, value in meant.documents]
    data = [vector.hex() for vector in meant.vectors]
    parts = (meant.ids, data, meant.metadata, meant.deletes, updates, documents)
    return json.dumps([method, *parts])
