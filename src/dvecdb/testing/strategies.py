"""Hypothesis strategies for everything a user passes in, each with what it means to the model.

Few ids, few keys and few documents, so that calls meet; every form of input that is allowed:
lists, arrays of all kinds and orders, repeated ids, ids to be made, UUIDs in every spelling.

A call is drawn as one seed: long runs of calls find more than the best of one call, and a run
shrinks by losing calls.
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
    from random import Random

    import numpy.typing as npt

    from dvecdb.records import Json, Metadata
    from dvecdb.testing.model import State

DIMENSION_MAX: Final = 8
_UUID: Final = "00c0ffee-0000-4000-8000-00000000abcd"
_SPELLINGS: Final = {
    text: text for text in ("a", "b", "c", "d", "e", "\u00e4\u4e16\U0001f600", "x" * 64, " ")
} | {
    _UUID: _UUID,
    _UUID.upper(): _UUID,
    _UUID.replace("-", ""): _UUID,
    "{" + _UUID + "}": _UUID,
    "urn:uuid:" + _UUID: _UUID,
}
_IDS: Final = sorted(_SPELLINGS)
_NAMES: Final = (("jobs", "a"), ("jobs", "b"), ("tags", "a"), ("tags", "\u00e9"))
_KEYS: Final = ("k1", "k2", "k3")
_VALUES: Final[tuple[Json, ...]] = (
    None, True, 0, 2**53, -7, 0.1, -1e300, "", "\u4e16\0\n", [], [[1, None], {}], {"": {"k": [0]}},
    "a log record of more than one sector " * 20,
)  # fmt: skip
_METHODS: Final = ("upsert", "upsert", "upsert", "insert", "delete", "update", "write", "write")


@dataclass(frozen=True, slots=True, repr=False)
class Call:
    """A call of a method of `Collection`, and what it means."""

    method: str
    arguments: Mapping[str, Any]
    batch: Batch

    def __repr__(self) -> str:
        """Return the call as it would be written, on one line."""
        shown = ", ".join(
            f"{name}={value.tolist() if isinstance(value, np.ndarray) else value!r:.300}"
            for name, value in self.arguments.items()
        )
        return f"{self.method}({shown})"

    def _repr_pretty_(self, printer: Any, _cycle: bool) -> None:  # noqa: FBT001  # as called
        printer.text(repr(self))


def schemas() -> st.SearchStrategy[Schema]:
    """Return every metric and type, in few dimensions."""
    return st.builds(
        Schema,
        st.integers(1, DIMENSION_MAX),
        st.sampled_from(Metric),
        st.sampled_from(VectorType),
    )


def tiny_settings(*, idle_marker_ms: int = 0) -> st.SearchStrategy[Settings]:
    """Return settings that flush, merge, write in bulk and make an index after a few rows."""
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
    ).map(_with_index)


def _with_index(settings: Settings) -> Settings:
    """Return half of the settings with an index after a few rows.

    Not drawn: the runs that Hypothesis makes of a seed, and what they find, stay as they are.
    """
    chosen = settings.flush_commits + settings.merge_count + settings.memtables_max
    return replace(settings, index_rows_min=4 if chosen % 2 else 20_000)


def random_query(rng: Random, schema: Schema) -> list[float]:
    """Return a query of exact values, at times one that points nowhere."""
    return [rng.choice([0, rng.randint(-20, 20)]) / 4 for _ in range(schema.dimension)]


def random_call(rng: Random, schema: Schema, state: State) -> Call:
    """Return a call of any writing method."""
    method = rng.choice(_METHODS)
    arguments: dict[str, Any] = {}
    meant = Batch()
    match method:
        case "upsert" | "insert":
            distinct = method == "insert"
            arguments, meant = _rows(rng, schema, distinct=distinct)
            meant = replace(meant, is_insert=distinct)
        case "delete":
            texts = _present(rng, state, rng.randint(0, 4))
            arguments, meant = {"ids": texts}, Batch(deletes=tuple(map(stored, texts)))
        case "update":
            method = "update_metadata"
            arguments, meant = _updates(rng, state)
        case "write":
            arguments, meant = _writes(rng, schema, state)
    meant = replace(meant, content=_content(method, meant))
    return _with_options(rng, Call(method, arguments, meant), state)


def stored(text: str) -> str:
    """Return the form in which an id is kept."""
    return _SPELLINGS.get(text, text)


def vectors(rng: Random, schema: Schema, count: int) -> tuple[Any, tuple[bytes, ...]]:
    """Return `count` vectors as users pass them, and the bytes that are stored of each."""
    generator = np.random.default_rng(rng.getrandbits(32))
    whole = generator.integers(-100, 101, (count, schema.dimension))
    forms = ["lists", "arrays", "float32", "float64", "fortran", "strided", "big-endian"]
    values: npt.NDArray[Any]
    if schema.vector_type is VectorType.INT8:
        values = whole
        forms += ["int8", "int64"]
    elif rng.random() < 0.5:
        values = whole / 8  # exact in every type
        forms += ["float16"]
    else:
        values = generator.normal(size=whole.shape) * 100  # rounded to the stored type
        if schema.vector_type is VectorType.FLOAT16:
            forms.remove("float32")  # would be rounded twice
    kept = values.astype(schema.vector_type.dtype)
    return _shaped(values, rng.choice(forms)), tuple(row.tobytes() for row in kept)


def _shaped(values: npt.NDArray[Any], form: str) -> Any:
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


def _metadata(rng: Random) -> Metadata:
    keys = rng.sample(["k", "l", "", "\u00fc"], rng.randint(0, 3))
    return {key: rng.choice(_VALUES) for key in keys}


def _rows(rng: Random, schema: Schema, *, distinct: bool) -> tuple[dict[str, Any], Batch]:
    """Return ids, vectors and metadata as arguments and as they are meant."""
    texts: list[str] | None = None
    if rng.random() < 0.8:
        texts = rng.choices(_IDS, k=rng.randint(0, 6))
        if distinct:
            texts = list({stored(text): text for text in texts}.values())
    count = rng.randint(1, 5) if texts is None else len(texts)
    given, kept = vectors(rng, schema, count)
    values: list[Metadata | None] | None = None
    if rng.random() < 0.5:
        values = [_metadata(rng) if rng.random() < 0.7 else None for _ in range(count)]
    arguments: dict[str, Any] = {"vectors": given}
    if texts is not None or rng.random() < 0.5:
        arguments["ids"] = texts
    if values is not None or rng.random() < 0.5:
        arguments["metadata"] = values
    meant = Batch(
        ids=None if texts is None else tuple(map(stored, texts)),
        vectors=kept,
        metadata=tuple(values or [None] * count),
    )
    return arguments, meant


def _present(rng: Random, state: State, count: int) -> list[str]:
    """Return ids, most of them of records that exist."""
    known = list(state.rows)
    return [rng.choice(known if known and rng.random() < 0.8 else _IDS) for _ in range(count)]


def _updates(rng: Random, state: State) -> tuple[dict[str, Any], Batch]:
    known = list(state.rows) if state.rows and rng.random() < 0.9 else _IDS
    chosen = rng.choices(known, k=rng.randint(0, 3))
    texts = list({stored(text): text for text in chosen}.values())
    values = [_metadata(rng) for _ in texts]
    mode = rng.choice(["merge", "replace"])
    meant = [
        Update(stored(text), value, mode == "merge")
        for text, value in zip(texts, values, strict=True)
    ]
    return {"ids": texts, "metadata": values, "mode": mode}, Batch(updates=tuple(meant))


def _writes(rng: Random, schema: Schema, state: State) -> tuple[dict[str, Any], Batch]:
    arguments: dict[str, Any] = {}
    meant = Batch()
    if rng.random() < 0.5:
        arguments["upserts"], meant = _rows(rng, schema, distinct=True)
    taken = set(meant.ids or ())
    texts = [text for text in _present(rng, state, rng.randint(0, 3)) if stored(text) not in taken]
    chosen = rng.sample(_NAMES, rng.randint(0, 3))
    documents: dict[tuple[str, str], Json] = {name: rng.choice(_VALUES) for name in chosen}
    if texts or rng.random() < 0.5:
        arguments["deletes"] = texts
    if documents or rng.random() < 0.5:
        arguments["documents"] = documents
    meant = replace(meant, deletes=tuple(map(stored, texts)), documents=tuple(documents.items()))
    return arguments, meant


def _with_options(rng: Random, call: Call, state: State) -> Call:
    """Add what any write may carry: conditions that hold or do not, keys new or used."""
    arguments, meant = dict(call.arguments), call.batch
    if rng.random() < 0.15:
        name = rng.choice(_NAMES)
        value = state.documents.get(name) if rng.random() < 0.7 else "other"
        arguments["expect"] = {name: value}
        meant = replace(meant, expect=((name, value),))
    if rng.random() < 0.2:
        arguments["if_lsn"] = rng.choice([state.lsn, rng.randint(0, state.lsn)])
        meant = replace(meant, if_lsn=arguments["if_lsn"])
    if rng.random() < 0.2:
        arguments["idempotency_key"] = rng.choice(_KEYS)
        meant = replace(meant, key=arguments["idempotency_key"])
    for option in ("actor", "reason", "request_id"):
        if rng.random() < 0.1:
            arguments[option] = rng.choice(["someone", "\u00e9" * 9])
    return Call(call.method, arguments, meant)


def _content(method: str, meant: Batch) -> str:
    """Return text that is equal for calls that ask for the same, conditions aside."""
    updates = [(update.id, update.metadata, update.merge) for update in meant.updates]
    documents: Sequence[object] = [[*name, value] for name, value in meant.documents]
    data = [vector.hex() for vector in meant.vectors]
    parts = (meant.ids, data, meant.metadata, meant.deletes, updates, documents)
    return json.dumps([method, *parts])
