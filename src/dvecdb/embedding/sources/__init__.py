"""Where rows come from: PostgreSQL, SQLite, JSON lines, CSV, Parquet. `opening.open_source`."""
