"""Many threads on one collection, on real files: nothing lost, nothing half seen."""

import itertools
import threading

import pytest

from dvecdb import Database, Settings

WRITERS, READERS, BATCHES = 4, 2, 40
SETTINGS = Settings(
    flush_commits=15, flush_bytes=4_000, merge_bytes=100_000, merge_count=2, memtables_max=2,
    wal_reserve_bytes=4_096, wal_extend_bytes=4_096, ballast_bytes=0, low_water_bytes=0,
    idle_marker_ms=1,
)  # fmt: skip


class Crowd:
    """Threads that stop at the first error, which the test then raises."""

    def __init__(self):
        self.errors = []
        self.is_over = threading.Event()
        self.threads = []

    def start(self, work, *arguments):
        thread = threading.Thread(target=self._run, args=(work, arguments))
        self.threads.append(thread)
        thread.start()
        return thread

    def _run(self, work, arguments):
        try:
            work(*arguments)
        except BaseException as error:  # noqa: BLE001  # raised again by the test
            self.errors.append(error)
            self.is_over.set()

    def join(self, threads):
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive(), "a thread hangs"

    def finish(self):
        self.is_over.set()
        self.join(self.threads)
        if self.errors:
            raise self.errors[0]


def check_pairs(snapshot):
    """Each batch wrote two rows with one number: a snapshot sees both or none."""
    left, right = {}, {}
    records = list(snapshot.scan(with_vectors=True))
    for record in records:
        side = left if record.id.startswith("left") else right
        side[record.id.partition("-")[2]] = record.metadata["n"]
        assert record.vector.tolist() == [record.metadata["n"], 1.0]
        assert record.lsn <= snapshot.lsn
    assert left == right
    assert snapshot.count() == len(records)
    assert [record.lsn for record in records] == sorted(record.lsn for record in records)
    hits = snapshot.search([0.0, 1.0], limit=10_000)
    assert sorted(hit.id for hit in hits) == sorted(record.id for record in records)
    got = snapshot.get([record.id for record in records])
    assert [record.metadata for record in got] == [record.metadata for record in records]
    return left


def write_pairs(books, writer, acknowledged, bulk):
    """Write pairs, some again, delete some; note what was acknowledged."""
    for number in range(BATCHES):
        name = f"{writer}-{number % 25}"
        ids = [f"left-{name}", f"right-{name}"]
        value = writer * 1000 + number
        if number % 7 == 6:
            assert books.delete(ids).count == (2 if name in acknowledged else 0)
            acknowledged.pop(name, None)
            continue
        pad = "x" * 2_000 if bulk and number % 5 == 4 else ""
        commit = books.upsert(ids, [[value, 1.0]] * 2, [{"n": value, "pad": pad}] * 2)
        assert commit.ids == ids
        acknowledged[name] = value


@pytest.mark.parametrize("bulk_bytes", [1_000_000, 3_000], ids=["small", "some in bulk"])
def test_snapshots_are_consistent_and_nothing_is_lost(tmp_path, bulk_bytes):
    settings = Settings(
        **{name: getattr(SETTINGS, name) for name in SETTINGS.__slots__}
        | {"bulk_bytes": bulk_bytes}
    )
    crowd, acknowledged = Crowd(), [{} for _ in range(WRITERS)]
    with Database(str(tmp_path / "data"), settings=settings) as database:
        books = database.create_collection("books", dimension=2, metric="euclidean")

        def read():
            held = []
            while not crowd.is_over.is_set():
                snapshot = books.snapshot()
                held.append((snapshot, check_pairs(snapshot)))
                for old, seen in held[::10][-5:]:
                    assert check_pairs(old) == seen
                past = books.snapshot(as_of=held[0][0].lsn)
                assert check_pairs(past) == held[0][1]

        def flush():
            while not crowd.is_over.is_set():
                books.flush()

        writers = [
            crowd.start(write_pairs, books, number, acknowledged[number], bulk_bytes < 10_000)
            for number in range(WRITERS)
        ]
        for _ in range(READERS):
            crowd.start(read)
        crowd.start(flush)
        crowd.join(writers)
        crowd.finish()
        expected = {name: value for part in acknowledged for name, value in part.items()}
        assert check_pairs(books.snapshot()) == expected
        assert books.snapshot().lsn <= WRITERS * BATCHES  # deleting nothing is no commit
        assert database.findings() == []
        assert books.verify().ok
    with Database(str(tmp_path / "data"), settings=settings) as database:
        assert check_pairs(database.collection("books").snapshot()) == expected
        assert database.findings() == []


def test_writes_that_wait_together_all_get_their_answer(tmp_path):
    crowd, lsns = Crowd(), []
    with Database(str(tmp_path / "data"), settings=SETTINGS) as database:
        books = database.create_collection("books", dimension=1)

        def write(writer):
            lsns.extend(books.upsert([f"{writer}-{n}"], [[n]]).lsn for n in range(30))

        for writer in range(8):
            crowd.start(write, writer)
        crowd.join(crowd.threads)
        crowd.finish()
        assert sorted(lsns) == list(range(1, 241))
        assert books.count() == 240
        assert books.stats().syncs <= 240


def test_one_of_many_inserts_of_an_id_wins(tmp_path):
    crowd, outcomes = Crowd(), []
    with Database(str(tmp_path / "data"), settings=SETTINGS) as database:
        books = database.create_collection("books", dimension=1)

        def insert(number):
            for index in range(20):
                try:
                    books.insert([f"id-{index}"], [[number]])
                    outcomes.append((index, number))
                except Exception as error:  # noqa: BLE001  # its code is what counts
                    assert error.code == "id-exists"  # noqa: PT017

        for number in range(6):
            crowd.start(insert, number)
        crowd.join(crowd.threads)
        crowd.finish()
        winners = dict(outcomes)
        assert len(outcomes) == len(winners) == 20
        for record in books.scan(with_vectors=True):
            assert record.vector[0] == winners[int(record.id.partition("-")[2])]


def test_one_key_used_by_many_at_once_writes_once(tmp_path):
    crowd, lsns = Crowd(), []
    with Database(str(tmp_path / "data"), settings=SETTINGS) as database:
        books = database.create_collection("books", dimension=1)

        def write():
            for index in range(20):
                commit = books.upsert(None, [[index]], idempotency_key=f"k{index}")
                lsns.append(commit.lsn)

        for _ in range(5):
            crowd.start(write)
        crowd.join(crowd.threads)
        crowd.finish()
        assert sorted(lsns) == list(itertools.chain(*([lsn] * 5 for lsn in range(1, 21))))
        assert books.count() == 20
