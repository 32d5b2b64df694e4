"""Runs inside the official client's environment: reads rows by id, searches with each vector.

`host:port` is the only argument. Takes `{collection: {id: vector}}` on stdin; prints what the
client lists and, by collection and id, what it gets and the first hit of a search.
"""

import json
import sys

from vectordb_client import VectorDBClient

host, port = sys.argv[1].rsplit(":", 1)
client = VectorDBClient(host=host, port=int(port))
listed = client.list_collections().collections
answers = {"listed": sorted(getattr(item, "name", item) for item in listed), "rows": {}}
for collection, rows in json.load(sys.stdin).items():
    found = answers["rows"][collection] = {}
    for id, vector in rows.items():
        got = client.get_vector(collection, id)
        hits = client.search(collection, vector, limit=1).results
        found[id] = {
            "vector": list(map(float, got.data)), "metadata": got.metadata, "hit": hits[0].id,
        }  # fmt: skip
print(json.dumps(answers))
