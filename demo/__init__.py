"""The long tour: real records, a real PostgreSQL, real failures. `make demo` runs it."""
