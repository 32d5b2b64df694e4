"""What searches answer at the ends of what they may be asked for."""

import numpy as np

from dvecdb import Database, Settings

SETTINGS = Settings(ballast_bytes=0, low_water_bytes=0)


def test_the_last_page_that_may_be_asked_for_is_whole(tmp_path):
    rows = np.arange(20_010, dtype=np.float32)[:, None]
    with Database(str(tmp_path), background=False, settings=SETTINGS) as database:
        docs = database.create_collection("docs", dimension=1, metric="euclidean")
        docs.upsert([str(number) for number in range(len(rows))], rows)
        for limit in (3, 10_000):
            for offset in (9_999, 10_000):
                hits = docs.search([0.0], limit=limit, offset=offset, with_metadata=False)
                assert [hit.distance for hit in hits] == list(range(offset, offset + limit))
