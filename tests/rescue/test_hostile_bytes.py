"""Bytes that are there to cost time: an import counts what it looks at, and stops."""

import struct
import time
from random import Random

import msgspec
import pytest
from tests.model.test_mutated_legacy import check, mutated, ours

from dvecdb import reports
from dvecdb.rescue.legacy import collection
from dvecdb.rescue.legacy.effort import STEPS_MAX
from dvecdb.rescue.legacy.found import TOO_MANY
from dvecdb.testing import legacy_bytes as lb
from dvecdb.testing.legacy_reading import read
from dvecdb.testing.legacy_scenes import NAME, SCENES

DIMENSION = 8
SECONDS_MAX = 60.0  # of a processor that others use as well; steps are what counts
ONE_STEP_MAX = 40_000  # the largest that is counted at once: a text of one MiB
# Seeds that took 1.5 to 3 s before effort was counted: there is nothing but damage to read.
DEAR = (88996267960074, 157741834663453, 214990007681954, 50996876587150, 168660870724202)


def u64(number):
    return struct.pack("<Q", number)


def anything(random, size):
    """Return what metadata is made of, in any order."""
    parts = [u64(0), u64(1), u64(2), u64(3), b"\0", b"\1", b"ab", u64(5) + b"hello", bytes(3)]
    data = u64(random.randrange(2, 30))
    while len(data) < size:
        data += random.choice(parts)
    return data[:size]


def many_keys(random, size):
    """Return entries whose values are short and may be anything."""
    entries, length = [], 8
    while length < size:
        key = bytes(random.choices(b"abcdefgh", k=random.randrange(1, 4)))
        value = random.choice([u64(0), u64(1) + b"\0", u64(2) + u64(0) + u64(1) + b"a", b"", b"\0"])
        entries.append(u64(len(key)) + key + value)
        length += len(entries[-1])
    return u64(len(entries)) + b"".join(entries)


def nulls_and_flags(random, size):
    """Return an array of anything that takes a byte, or none."""
    flags = bytes(random.choices((0, 1), k=size - 25))
    return u64(1) + u64(1) + b"k" + u64(size // 2) + flags


def lengths(random, size):
    """Return nothing but lengths, each of a text that reaches to the end."""
    count = size // 8 - 3
    numbers = [max(1, size - 8 * at - 60) if random.random() < 0.7 else 1 for at in range(count)]
    return u64(1) + u64(1) + b"k" + b"".join(map(u64, numbers))


def small_numbers(random, size):
    return u64(random.randrange(2, 40)) + b"".join(
        u64(random.choice((0, 0, 0, 1, 1, 2, 3, 8))) for _ in range(size // 8)
    )


def noise(random, size):
    return random.randbytes(size)


KINDS = [anything, many_keys, nulls_and_flags, lengths, small_numbers, noise]


def file_of(metadata_blocks, seed=1, *, prefixed=False):
    """Return a file with a record for each block of metadata, and what ids and vectors it holds."""
    random, data, written = Random(seed), b"", []
    for metadata in metadata_blocks:
        vector = lb.vector_bytes([random.gauss(0, 1) for _ in range(DIMENSION)])
        body = lb.encode_body(random.randbytes(16), vector, None, json_text=False)
        written.append((body[8:24].hex(), vector))
        data += lb.encode_record(body[:-1] + b"\1" + metadata, prefixed=prefixed)
    return data, written


def hostile(kind, total, each, *, prefixed=False):
    random = Random(7)
    blocks = [kind(random, each) for _ in range(total // each)]
    return file_of(blocks, prefixed=prefixed)


@pytest.fixture
def budgets(monkeypatch):
    """Return the list that gets the budget of each import."""
    found = []

    class Watched(collection.MetadataReader):
        def __init__(self, size):
            super().__init__(size)
            found.append(self.budget)

    monkeypatch.setattr(collection, "MetadataReader", Watched)
    return found


def rows_of(found):
    rows = zip(found.ids, found.vectors, strict=True)
    return [(id.replace("-", ""), vector) for id, vector in rows]


def read_bytes(data, tmp_path, **choice):
    directory = tmp_path / NAME
    directory.mkdir(exist_ok=True)
    (directory / "vectors.bin").write_bytes(data)
    return read(directory, DIMENSION, dimension=DIMENSION, **choice)


# --- time -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefixed", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_ambiguous_metadata_costs_a_bounded_number_of_steps(kind, prefixed, tmp_path, budgets):
    data, written = hostile(kind, 120_000, 900, prefixed=prefixed)
    began = time.process_time()
    found = read_bytes(data, tmp_path)
    assert time.process_time() - began < SECONDS_MAX
    (budget,) = budgets
    assert budget.done <= budget.limit + ONE_STEP_MAX
    assert budget.in_vain <= 1_000_000 + STEPS_MAX + 8 * len(data) + ONE_STEP_MAX
    assert sorted(rows_of(found)) == sorted(written)


@pytest.mark.parametrize("kind", KINDS)
def test_one_huge_block_costs_no_more_than_one_search_may(kind, tmp_path, budgets):
    data, written = file_of([kind(Random(3), 400_000), many_keys(Random(4), 60)])
    found = read_bytes(data, tmp_path)
    assert budgets[0].largest <= STEPS_MAX + ONE_STEP_MAX
    assert sorted(rows_of(found)) == sorted(written)


def test_twice_the_bytes_cost_no_more_than_twice_the_steps(tmp_path, budgets):
    for total in (50_000, 100_000):
        read_bytes(hostile(many_keys, total, 900)[0], tmp_path)
    first, second = budgets
    assert second.done <= 2 * first.done


def test_steps_do_not_depend_on_the_clock(tmp_path, budgets):
    data, _ = hostile(anything, 60_000, 900)
    answers = [read_bytes(data, tmp_path).report for _ in range(2)]
    assert answers[0] == answers[1]
    assert budgets[0] == budgets[1]


@pytest.mark.parametrize("seed", DEAR)
def test_a_mutant_that_once_took_long_takes_few_steps(seed, tmp_path, budgets):
    check(ours, tmp_path, *mutated(seed))
    assert 0 < budgets[0].done < budgets[0].limit / 2


# --- giving up ------------------------------------------------------------------------------------


def test_what_is_given_up_says_so_and_keeps_the_bytes(tmp_path, budgets):
    block = many_keys(Random(4), 30_000)
    data, written = file_of([block, lb.encode_entries({"a": 7})], prefixed=True)
    found = read_bytes(data, tmp_path, keep_raw=True)
    assert budgets[0].given_up
    doubt = found.report.doubtful[0]
    assert (doubt.why, doubt.text) == ("metadata-lost", TOO_MANY)
    assert bytes.fromhex(doubt.raw) == b"\1" + block
    assert msgspec.json.decode(found.metadata[0]) == {"_dvecdb_raw": doubt.raw}
    assert any(note.startswith("the metadata of 1 records has more") for note in found.report.notes)
    assert sorted(rows_of(found)) == sorted(written)


@pytest.fixture
def spent(monkeypatch):
    """Have nothing left of every budget, as soon as the keys are known."""

    class Spent(collection.MetadataReader):
        def learn(self, samples):
            super().learn(samples)
            self.budget.done = self.budget.limit

    def spend():
        monkeypatch.setattr(collection, "MetadataReader", Spent)

    return spend


@pytest.mark.parametrize("name", sorted(SCENES))
def test_giving_up_changes_no_id_and_invents_no_vector(name, tmp_path, spent):
    scene = SCENES[name](5, 6)
    scene.write_to(tmp_path / "data")
    before = read(tmp_path / "data", 6, collection=NAME)
    spent()
    after = read(tmp_path / "data", 6, collection=NAME)
    assert sorted(after.ids) == sorted(before.ids)
    truth = scene.truth()
    written = truth.written | {(id, one.vector) for id, all in truth.allowed.items() for one in all}
    assert set(zip(after.ids, after.vectors, strict=True)) - written <= set(
        zip(before.ids, before.vectors, strict=True)
    )
    if "same-ids" not in name:  # there, only metadata tells where the newer records end
        assert dict(zip(after.ids, after.vectors, strict=True)) == dict(
            zip(before.ids, before.vectors, strict=True)
        )


# --- what must not be given up --------------------------------------------------------------------


def rich(random):
    """Return metadata with all that is hard to tell: nulls, arrays, objects, zeros."""
    words = ["ñandú", "line\nbreak", "alpha", "", "path/to/file.txt"]
    inner = [random.choice(words), random.random() < 0.5, None, random.randrange(5)]
    entries = [
        ("nothing", None),
        ("nested", {"k": random.choice(words), "n": {"deep": random.randrange(10), "l": inner}}),
        ("list", [random.randrange(9), random.choice(words), -1.5, None][: random.randrange(1, 5)]),
        ("score", random.random()),
        ("empty", []),
        ("title", f"Item {random.randrange(10**6)}"),
    ]
    return dict(random.sample(entries, random.randrange(3, len(entries) + 1)))


@pytest.mark.parametrize("prefixed", [False, True])
def test_metadata_that_is_hard_to_read_is_read(prefixed, tmp_path, budgets):
    random = Random(4)
    blocks = [lb.encode_entries(rich(random)) for _ in range(300)]
    found = read_bytes(file_of(blocks, prefixed=prefixed)[0], tmp_path)
    assert not [doubt for doubt in found.report.doubtful if doubt.why == "metadata-lost"]
    assert not budgets[0].given_up
    assert budgets[0].done * 2 < budgets[0].limit


@pytest.mark.parametrize(
    "metadata",
    [
        {f"key{number}": f"value {number}" for number in range(5_000)},
        {"embedding": [number / 7 for number in range(1, 4_000)]},
        {"text": "lorem ipsum " * 80_000},
    ],
)
def test_large_metadata_is_read(metadata, tmp_path, budgets):
    blocks = [lb.encode_entries(metadata), lb.encode_entries({"a": 1})]
    data, _ = file_of(blocks, prefixed=True)
    found = read_bytes(data, tmp_path)
    assert msgspec.json.decode(found.metadata[0]) == metadata
    assert budgets[0].given_up == 0


# --- the report -----------------------------------------------------------------------------------


def test_a_report_lists_some_of_what_is_lost_and_counts_the_rest(tmp_path, monkeypatch):
    data, _ = file_of([noise(Random(number), 20) for number in range(60)])
    whole = read_bytes(data, tmp_path).report
    monkeypatch.setattr(reports, "LOST_LISTED_MAX", 10)
    some = read_bytes(data, tmp_path).report
    rest = whole.lost[10:]
    assert some.lost == whole.lost[:10]
    size = sum(item.end - item.start for item in rest)
    assert some.notes[-1] != whole.notes[-1]
    assert f"{len(rest)} more ranges with {size:,} bytes are lost, not listed" in some.notes
    assert msgspec.to_builtins(some).keys() == msgspec.to_builtins(whole).keys()
    assert reports.LOST_LISTED_MAX == 10


def test_a_badly_damaged_file_makes_no_endless_report(tmp_path):
    data, written = file_of([u64(3)] * 11_000)
    report = read_bytes(data, tmp_path).report
    assert len(report.lost) == reports.LOST_LISTED_MAX
    assert any("1,000 more ranges with" in note for note in report.notes)
    assert report.imported == len(written)
