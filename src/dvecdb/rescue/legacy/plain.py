"""Runs of records in which nothing is in question: nearly all of most files. See `plain.c`."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
import numpy as np

from dvecdb.rescue.legacy import plausible
from dvecdb.rescue.legacy.evidence import ARRAY, OBJECT
from dvecdb.rescue.legacy.found import RAW, Found
from dvecdb.rescue.legacy.layout import HEAD_SIZE, METADATA_BYTES_MAX, SIXTEEN
from dvecdb.search.compiled import address_of, library

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from dvecdb.media.files import Mapped
    from dvecdb.rescue.legacy.layout import Marks
    from dvecdb.rescue.legacy.metadata import FastKeys, MetadataReader

_POINTER, _NUMBER = ctypes.c_void_p, ctypes.c_int64
_KEYS_MAX: Final = 256  # of one object, as plain.c has it
_COPIES_BYTES: Final = 4 * METADATA_BYTES_MAX
_REALS_MAX: Final = _COPIES_BYTES // 8
_RECORDS_MAX: Final = 4096
_CLOSER_LOOKS: Final = 16
"""So many records are looked at in Python where the compiled walk ends, before it goes on."""
_encode: Final = msgspec.json.Encoder().encode


class _Records(ctypes.Structure):
    _fields_ = (
        ("begins", _POINTER), ("copied", _POINTER), ("json_sizes", _POINTER), ("copies", _POINTER),
        ("copies_max", _NUMBER), ("reals", _POINTER), ("reals_max", _NUMBER),
        ("real_count", _NUMBER),
    )  # fmt: skip


class _Keys(NamedTuple):
    """What plain.c knows of keys, and the bytes that the numbers point into."""

    keys: npt.NDArray[np.int64]
    tables: npt.NDArray[np.int64]
    text: npt.NDArray[np.uint8]


class _Functions(NamedTuple):
    walk: Any
    write: Any
    side_by_side: Any


@cache
def _functions() -> _Functions | None:
    found = library()
    if found is None:
        return None
    walk, write, side_by_side = (
        found.dvecdb_plain,
        found.dvecdb_plain_json,
        found.dvecdb_side_by_side,
    )
    side_by_side.argtypes, side_by_side.restype = (
        [_POINTER, _NUMBER, _NUMBER, _POINTER],
        ctypes.c_int,
    )
    walk.argtypes = [
        _POINTER, _NUMBER, _NUMBER, _NUMBER, _NUMBER, _POINTER, _POINTER, _POINTER, _NUMBER,
        ctypes.POINTER(_Records),
    ]  # fmt: skip
    walk.restype = _NUMBER
    write.argtypes = [
        _POINTER, _POINTER, _POINTER, _NUMBER, ctypes.POINTER(_Records), _POINTER, _POINTER,
        _POINTER,
    ]  # fmt: skip
    write.restype = None
    return _Functions(walk, write, side_by_side)


class VectorsAt:
    """Vectors of several files, by where they begin: nothing of them is read before."""

    def __init__(self, files: Sequence[Mapped | None], dimension: int) -> None:
        self._stored = [np.frombuffer(data or b"", np.uint8) for data in files]
        self._bases = np.array([address_of(stored) for stored in self._stored], np.int64)
        self._dimension = dimension

    def read(
        self, numbers: npt.NDArray[np.int64], begins: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.float32], bool]:
        """Return those of files, by number, float32[n, dimension], and whether all are finite."""
        size = 4 * self._dimension
        vectors = np.empty((len(begins), self._dimension), "<f4")
        functions = _functions()
        if functions is None:
            target = vectors.view(np.uint8)
            for row, (number, begin) in enumerate(
                zip(numbers.tolist(), begins.tolist(), strict=True)
            ):
                target[row] = self._stored[number][begin : begin + size]
            return vectors, bool(np.isfinite(vectors).all())
        sizes = np.array([len(stored) for stored in self._stored])
        if ((begins < 0) | (begins + size > sizes[numbers])).any():
            raise ValueError("vectors beyond the end of their file")
        addresses = self._bases[numbers] + begins
        is_finite = functions.side_by_side(
            address_of(addresses), len(begins), self._dimension, address_of(vectors)
        )
        return vectors, bool(is_finite)


class PlainRecords:
    """Takes records without a length out of one file for as long as all is well.

    All is well: two whole markers with nothing in question between them. It is the inner loop of an
    import; `Walk` reads everything.
    """

    def __init__(self, data: Mapped, marks: Marks, reader: MetadataReader) -> None:
        self._data = data
        self._marks = marks
        self._reader = reader
        self._compiled: _Compiled | None = None
        if _functions() is not None and _is_narrow(reader.keys):
            self._compiled = _Compiled(data, marks, reader.keys)

    def take(self, at: int, used: int, run: int) -> tuple[list[Found], int]:
        """Return the records from `at` on, a few thousand at most, and where they end.

        used: where the content of the file ends; run: of the records.
        """
        if self._compiled is None:
            return self._by_python(at, used, run, _RECORDS_MAX)
        found: list[Found] = []
        while True:
            some, at = self._compiled.take(at, used, run)
            found += some
            if len(some) == _RECORDS_MAX:
                return found, at
            more, at = self._by_python(at, used, run, _CLOSER_LOOKS)
            found += more
            if len(more) < _CLOSER_LOOKS or len(found) >= _RECORDS_MAX:
                return found, at

    def _by_python(self, at: int, used: int, run: int, count: int) -> tuple[list[Found], int]:
        data, fast, size = self._data, self._reader.fast, self._marks.size
        tag_offset, dimension = self._marks.vector_end, self._marks.dimension_bytes
        found: list[Found] = []
        for _ in range(count):
            tag_at = at + tag_offset
            if tag_at >= used or data[at : at + 8] != SIXTEEN:
                break
            if data[at + 24 : at + HEAD_SIZE] != dimension or data[tag_at] > 1:
                break
            json = b""
            if data[tag_at]:
                limit = min(size, tag_at + METADATA_BYTES_MAX + HEAD_SIZE)
                end = data.find(dimension, tag_at + HEAD_SIZE, limit) - 24
                while end > 0 and data[end : end + 8] != SIXTEEN:
                    end = data.find(dimension, end + 25, limit) - 24
                if not tag_at + 8 < end <= tag_at + METADATA_BYTES_MAX:
                    break
                read = fast(data[tag_at + 1 : end])  # type: ignore[arg-type]  # a map gives bytes
                if read is None:
                    break
                json = read
            else:
                end = tag_at + 1
            if plausible.may_have_hole(data, at + HEAD_SIZE, tag_at):
                break
            if data[end : end + 8] != SIXTEEN or data[end + 24 : end + HEAD_SIZE] != dimension:
                break
            encoding = "untagged" if json else ""
            found.append(Found(at, at + HEAD_SIZE, end, json, RAW, encoding, run))
            at = end
        return found, at


class _Compiled:
    """The functions, with room for what they find."""

    def __init__(self, data: Mapped, marks: Marks, keys: FastKeys) -> None:
        found = _functions()
        assert found is not None
        self._walk, self._write = found.walk, found.write
        self._bytes = np.frombuffer(data, np.uint8)
        self._size = min(marks.size, len(self._bytes))
        self._dimension = (marks.vector_end - HEAD_SIZE) // 4
        self._keys = _keys_of(keys)
        self._begins = np.empty(_RECORDS_MAX + 1, np.int64)
        self._copied, self._sizes, self._ends = np.empty((3, _RECORDS_MAX), np.int64)
        self._copies = np.empty(_COPIES_BYTES, np.uint8)
        self._reals = np.empty(_REALS_MAX, np.float64)

    def take(self, at: int, used: int, run: int) -> tuple[list[Found], int]:
        records = _Records(
            address_of(self._begins), address_of(self._copied), address_of(self._sizes),
            address_of(self._copies), len(self._copies), address_of(self._reals), len(self._reals),
            0,
        )  # fmt: skip
        keys = [address_of(array) for array in self._keys]
        count = self._walk(
            address_of(self._bytes), self._size, used, at, self._dimension, *keys, _RECORDS_MAX,
            ctypes.byref(records),
        )  # fmt: skip
        if not count:
            return [], at
        reals = _encode(self._reals[: records.real_count].tolist())[1:-1] + b","
        out = np.empty(int(self._sizes[:count].sum()) + len(reals), np.uint8)
        ends = address_of(self._ends)
        self._write(*keys, count, ctypes.byref(records), reals, address_of(out), ends)
        begins, json, first = self._begins[: count + 1].tolist(), out.tobytes(), 0
        found = []
        for index, end in enumerate(self._ends[:count].tolist()):
            begin, encoding = begins[index], "untagged" if first < end else ""
            own, first = json[first:end], end
            found.append(
                Found(begin, begin + HEAD_SIZE, begins[index + 1], own, RAW, encoding, run)
            )
        return found, begins[-1]


def _is_narrow(keys: FastKeys) -> bool:
    inside = (inner for _, kind, inner in keys.values() if kind == OBJECT)
    return len(keys) <= _KEYS_MAX and all(map(_is_narrow, inside))


def _keys_of(keys: FastKeys) -> _Keys:
    rows: list[list[int]] = []
    tables: list[tuple[int, int]] = []
    text = bytearray()

    def add(table: FastKeys) -> int:
        number, own = len(tables), [[0] * 6 for _ in table]
        tables.append((len(rows), len(table)))
        rows.extend(own)
        for row, (stored, (name, kind, inner)) in zip(own, table.items(), strict=True):
            shown = _encode(name) + b":"
            row[:] = [len(text), len(stored), len(text) + len(stored), len(shown), kind, 0]
            text.extend(stored + shown)
            if kind == OBJECT:
                row[5] = add(inner)
            elif kind == ARRAY:
                row[5] = inner
        return number

    add(keys)
    return _Keys(
        np.array(rows, np.int64).reshape(-1, 6),
        np.array(tables, np.int64),
        np.frombuffer(bytes(text) or b"\0", np.uint8),
    )
