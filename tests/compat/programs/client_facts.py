"""Runs inside the official client's environment: what it sends, what it gets, what it makes of it.

Prints one JSON object of facts; `host:port` is the only argument.
"""

import json
import sys

import numpy as np
from vectordb_client import VectorDBClient
from vectordb_client.types import Vector

host, port = sys.argv[1].rsplit(":", 1)
client = VectorDBClient(host=host, port=int(port))
exchanges = []


def record(response):
    response.read()
    exchanges.append({
        "method": response.request.method,
        "path": response.request.url.path,
        "sent": json.loads(response.request.content or b"null"),
        "status": response.status_code,
        "got": response.json(),
    })  # fmt: skip


rest = client._rest_client
rest.client.event_hooks["response"].append(record)


def during(name, call):
    """Return what a call raised or returned, and the exchanges it made."""
    start = len(exchanges)
    try:
        value = call()
        outcome = {"returned": type(value).__name__, "value": getattr(value, "metadata", None)}
    except Exception as error:  # noqa: BLE001
        outcome = {"raised": type(error).__name__, "text": str(error)}
    facts[name] = {**outcome, "exchanges": exchanges[start:]}
    return facts[name]


facts = {}
client.create_collection_simple("facts", 3, "cosine")
row = [1.0, 2.0, 2.0]
during(
    "insert",
    lambda: client.insert_vectors("facts", [Vector(id="mine", data=row, metadata={"v": 1})]),
)
changed = Vector(id="mine", data=row, metadata={"v": 2})
during("update", lambda: client.update_vector("facts", changed))
during("get_updated", lambda: client.get_vector("facts", "mine"))
during("delete", lambda: client.delete_vector("facts", "mine"))
during("get_deleted", lambda: client.get_vector("facts", "mine"))
during("get_missing", lambda: client.get_vector("facts", "none"))
during("stats_missing", lambda: client.get_collection_stats("nothing"))
during("stats", lambda: client.get_collection_stats("facts"))
during("search", lambda: client.search("facts", row, limit=5))
during("query_time_ms", lambda: client.search("facts", row, limit=5).query_time_ms)

rng = np.random.RandomState(0)
pattern, content = (rng.random_sample(256) for _ in range(2))
client.create_collection_simple("patterns", 256, "cosine")
client.insert_simple("patterns", "p", pattern, {})
hit = client.search_simple("patterns", content, limit=1)[0]
cosine = float(pattern @ content / np.linalg.norm(pattern) / np.linalg.norm(content))
facts["similarity"] = {"answered": 1 - hit.distance, "true": cosine}
print(json.dumps(facts))
