"""What compaction replaced goes although nobody writes."""

import numpy as np

from dvecdb import Database, Settings
from dvecdb.engine.maintenance import tend
from dvecdb.testing.clocks import ManualClock
from dvecdb.testing.disk import MemoryDisk

SETTINGS = Settings(
    bulk_bytes=1000, history_hours=1, settle_seconds=0, ballast_bytes=0, low_water_bytes=0
)


def test_space_of_what_left_the_window_comes_back_while_nobody_writes():
    disk, clock = MemoryDisk(), ManualClock()
    with Database("d", files=disk, clock=clock, settings=SETTINGS, background=False) as db:
        docs = db.create_collection("docs", dimension=64)
        ids = [f"{number}" for number in range(5000)]
        vectors = np.random.default_rng(1).random((5000, 64), np.float32)
        docs.upsert(ids, vectors)
        docs.upsert(ids, -vectors)
        docs.flush()
        clock.advance(3601)
        store = docs._store
        for _ in range(3):
            tend(store)
        held = [path for path in disk.tree() if path.endswith("vectors.bin")]
        sizes = sorted(len(disk.tree()[path]) for path in held)
        assert sizes[-1] == vectors.nbytes
        assert sum(sizes) == vectors.nbytes
        generation = store.manifest.generation
        tend(store)
        assert store.manifest.generation == generation
        assert (docs.get(["7"])[0].vector == -vectors[7]).all()
    with Database("d", files=disk, clock=clock, settings=SETTINGS, background=False) as db:
        assert db.findings() == []
        assert (db.collection("docs").get(["7"])[0].vector == -vectors[7]).all()
