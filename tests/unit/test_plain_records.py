"""The compiled walk over plain records does what the one in Python does, to the last byte."""

import math
import struct
from random import Random

import msgspec
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dvecdb.rescue.legacy import plain
from dvecdb.rescue.legacy.effort import Budget
from dvecdb.rescue.legacy.layout import Marks, used_size
from dvecdb.rescue.legacy.metadata import MetadataReader
from dvecdb.rescue.legacy.plain import VectorsAt
from dvecdb.rescue.legacy.stream import Walk
from dvecdb.search.compiled import library
from dvecdb.testing.legacy_bytes import encode_body, encode_entries

pytestmark = pytest.mark.skipif(
    library() is None, reason="nothing is compiled here: `pip install .` with a C compiler"
)
DIMENSION = 40
KNOWN = {
    "title": 'Über \x1f "all" \\ \t\r\n\b\f\x7f 🜚', "page": 7, "score": 0.25, "new": True,
    "tags": ["x", ""], "sizes": [1, 2.5], "inner": {"deep": {"er": "yes", "n": 3}}, "id": 2**53 - 1,
    "offset": -5, "time": 1_700_000_000_123_456_789, "minus": -0.5,
}  # fmt: skip


def utf8(letter):
    """Return a letter as UTF-8, also those that are none."""
    if letter < 0x80:
        return bytes([letter])
    size = 2 if letter < 0x800 else 3 if letter < 0x10000 else 4
    tail = [0x80 | letter >> 6 * at & 0x3F for at in reversed(range(size - 1))]
    return bytes([0x100 - (0x100 >> size) & 0xFF | letter >> 6 * (size - 1), *tail])


def vector(number):
    return np.random.default_rng(number).standard_normal(DIMENSION).astype("<f4").tobytes()


def record(number, metadata=None, stored=None):
    """Return a record; stored: its metadata as bytes."""
    body = encode_body(number.to_bytes(16, "big"), vector(number), metadata, json_text=False)
    return body if stored is None else body[:-1] + b"\1" + stored


def walked(data, reader, *, compiled):
    reader.budget = Budget(1 << 20)  # what is in question costs some of it
    used = used_size(data, len(data))
    walk = Walk(data, Marks(data, len(data), DIMENSION, used), used, reader, "vectors.bin")
    if not compiled:
        walk._plain._compiled = None
    else:
        assert walk._plain._compiled is not None
    return walk.run()


def reader_of(samples):
    reader = MetadataReader(1 << 20)
    reader.learn([encode_entries(item) for item in samples])
    return reader


def check_same(data, reader):
    found = walked(data, reader, compiled=True)
    assert found == walked(data, reader, compiled=False)
    return found


@pytest.fixture(scope="module")
def reader():
    """Return one that knows the keys, of records that have them in any order."""
    return reader_of(
        [dict(Random(number).sample(sorted(KNOWN.items()), 11)) for number in range(64)]
    )


def file_of(*records):
    return b"".join([record(1, KNOWN), *records, record(98, KNOWN), record(99)])


def test_every_kind_of_value_is_read_without_python(reader, monkeypatch):
    monkeypatch.setattr(plain.PlainRecords, "_by_python", lambda self, at, *rest: ([], at))
    data = b"".join(record(number, KNOWN) for number in range(1, 30)) + record(30)
    found, end = plain.PlainRecords(data, Marks(data, len(data), DIMENSION), reader).take(
        0, len(data), 5
    )
    assert len(found) == 29
    assert end == found[-1].end
    assert [item.run for item in found] == [5] * 29
    assert all(msgspec.json.decode(item.json) == KNOWN for item in found)


scalars = st.one_of(
    st.text(), st.booleans(), st.integers(-(1 << 63), (1 << 64) - 1), st.floats(), st.none()
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)  # fmt: skip


@given(
    st.lists(
        st.dictionaries(st.sampled_from([*KNOWN, "", "unknown"]), values)
        | st.permutations(list(KNOWN.items())).map(dict),
        max_size=5,
    )
)
def test_any_metadata_is_read_as_before(reader, some):
    check_same(file_of(*(record(2 + number, item) for number, item in enumerate(some))), reader)


@pytest.mark.parametrize("keys", [b"pp", b"pq", b"qp"])
def test_keys_that_are_there_twice_or_unknown_are_seen_as_before(reader, keys):
    entries = [struct.pack("<Q4sQ", 4, key, 7) for key in (b"page", b"pagf")]
    named = {b"p": entries[0], b"q": entries[1]}
    stored = struct.pack("<Q", 2) + b"".join(named[keys[at : at + 1]] for at in range(2))
    check_same(file_of(record(2, stored=stored)), reader)


@given(st.binary(max_size=12) | st.integers(0, 0x110000).map(utf8))
@example(b"\xed\xa0\x80")
@example(b"\xf4\x90\x80\x80")
@example(b"\xc0\x80")
@example(b"\xe0\x9f\xbf")
def test_text_is_what_python_takes_for_text(reader, stored):
    entry = struct.pack("<QQ", 1, 5) + b"title" + struct.pack("<Q", len(stored)) + stored
    check_same(file_of(record(2, stored=entry)), reader)


@given(
    st.binary(min_size=8, max_size=8)
    | st.floats().map(lambda value: struct.pack("<d", value))
    | st.integers(-(1 << 54), 1 << 54).map(lambda value: struct.pack("<q", value)),
    st.sampled_from(["page", "score"]),
)
@example(bytes(8), "score")
@example(struct.pack("<Q", 1_700_000_000_123_456_789), "page")
@example(struct.pack("<d", math.nan), "score")
def test_numbers_are_what_they_were_before(reader, stored, key):
    entry = struct.pack("<QQ", 1, len(key)) + key.encode() + stored
    check_same(file_of(record(2, stored=entry)), reader)


@given(st.data())
def test_damage_anywhere_is_seen_as_before(reader, data):
    stored = bytearray(file_of(*(record(number, KNOWN) for number in range(2, 6))))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(stored) - 1))
        new = data.draw(st.binary(min_size=1, max_size=12) | st.just(bytes(40)))
        stored[at : at + data.draw(st.sampled_from([0, len(new)]))] = new
    check_same(bytes(stored[: data.draw(st.integers(0, len(stored)))]), reader)


@pytest.mark.parametrize("zeros", [1, 2, 7, 8, 9])
@pytest.mark.parametrize("at", [0, 3, 20, DIMENSION - 1])
def test_holes_are_seen_as_before(reader, zeros, at):
    stored = bytearray(record(2, KNOWN))
    for shift in (0, 1, 3):
        begin = 32 + 4 * at + shift
        end = min(begin + 4 * zeros, 32 + 4 * DIMENSION)
        stored[begin:end] = bytes(end - begin)
        check_same(file_of(bytes(stored)), reader)


def test_keys_in_any_number_and_nested_as_deep_as_may_be(reader):
    for width in (200, 256, 257, 300):
        wide = {f"key {number}": number for number in range(width)}
        own = reader_of([wide] * 20)
        data = b"".join(record(number, wide) for number in range(1, 4))
        assert len(walked(data, own, compiled=width <= 256).records) == 3
    deep = {"text": "x"}
    for _ in range(8):
        deep = {"in": deep, "n": 1}
    check_same(file_of(record(2, deep)), reader_of([deep] * 20))


def test_a_long_file_is_read_in_parts(reader):
    data = record(1, KNOWN) * (plain._RECORDS_MAX * 2 + 5)
    assert len(check_same(data, reader).records) == plain._RECORDS_MAX * 2 + 5


def test_metadata_as_long_as_any_is_read(reader):
    stored = record(2, {"title": "\x01" * ((1 << 20) - 60)})
    found = check_same(file_of(*[stored] * 9), reader)
    assert len(found.records) == 12


@given(st.lists(st.sampled_from([0.5, -0.0, math.inf, -math.inf, math.nan, 3e38]), min_size=1))
def test_vectors_are_put_side_by_side(reader, values):
    data = b"".join(struct.pack(f"<b{DIMENSION}f", 1, *[value] * DIMENSION) for value in values)
    begins = np.arange(len(values)) * (4 * DIMENSION + 1) + 1
    numbers = np.zeros(len(values), np.int64)
    rows, is_finite = VectorsAt([data, None], DIMENSION).read(numbers, begins)
    assert is_finite == all(map(math.isfinite, values))
    expected = b"".join(data[at : at + 4 * DIMENSION] for at in begins.tolist())
    assert rows.tobytes() == expected


@pytest.mark.parametrize("begin", [-1, 1, 4 * DIMENSION])
def test_vectors_beyond_their_file_are_not_read(begin):
    vectors = VectorsAt([b"", bytes(4 * DIMENSION)], DIMENSION)
    with pytest.raises(ValueError, match=r"beyond the end|shape"):
        vectors.read(np.ones(1, np.int64), np.array([begin]))
