r"""Resilient embedding generation script: rows of PostgreSQL become vectors, each paid for once.

    export DATABASE_URL=postgresql://USER:PASSWORD@HOST:5432/DATABASE
    export FASTAPI_URL=http://localhost:8000      # the embedding service
    export DVECDB_URL=http://localhost:3030       # dvecdb serve
    python generate_embeddings_resilient.py [TABLES.toml]

Which tables is said by a TOML, `generate_embeddings_resilient.toml` beside this file unless another
one is named. Without one, the tables that can be embedded are listed, as a TOML to begin with:

    collection = "incidents"

    [cyber]
    table = "cyber_incidents"
    key = "id"
    text = "{title}\n{description}"
    metadata = ["severity", "year"]

It may be stopped or killed at any moment, and so may everything it works with: started again, it
goes on behind the last record that is durable. `embedding_checkpoint.json` says how far it is; the
database knows, and is believed. Everything else is said in docs/embedding.md of dvecdb.

This file works alone, wherever it is copied to, once dvecdb is installed.
"""

import sys

PIP = "pip install 'dvecdb[postgres]'"

try:
    from dvecdb.cli.resilient import main
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "dvecdb":
        raise
    sys.stderr.write(f"dvecdb is missing, or too old: {PIP}\n")
    sys.exit(2)

if __name__ == "__main__":
    main(__file__)
