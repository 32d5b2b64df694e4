"""dvecdb: an embedded vector database that cannot lose an acknowledged write."""

if not __debug__:
    raise RuntimeError(
        "dvecdb checks its invariants with assertions and refuses to run without them; "
        "start Python without -O and without PYTHONOPTIMIZE"
    )

__version__ = "0.1.0"
