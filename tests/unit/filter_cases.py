"""Random metadata and filters over a small world, so that they meet."""

from hypothesis import strategies as st

BIG = 2**53
NAMES = ["a", "b", "a.b", "ü\n", 'q"']
TEXTS = ["", "a", "1", "Ein Haus", "das HAUS am See", "2024-01-31", "2024-01-31T12:00:00+02:00",
         "20240201", "Straße", "STRASSE am see", "0001-01-01T00:00:00+10:00"]  # fmt: skip
NUMBERS = [0, 1, 1.0, -0.0, 2, 2.5, -1, BIG, BIG + 1, float(BIG), -BIG - 1, 2**63, 2**64 + 1,
           10**30, 1e30, 1e300, 10**400]  # fmt: skip
SCALARS = st.sampled_from([None, True, False, *NUMBERS, *TEXTS])
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=3)
    ),
    max_leaves=6,
)
METADATA = st.none() | st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=4)
KEYS = st.sampled_from(
    ["a", "b", "a.b", "a.a", "a[].b", "a.b.a", '"a.b"', '"a.b".a', "ü\n", 'q"', "nobody"]
)
IDS = [f"{number}" for number in range(12)]
WANTED = st.sampled_from([True, False, *NUMBERS, *TEXTS])
BOUNDS = st.sampled_from(["gt", "gte", "lt", "lte"])
DATES = [text for text in TEXTS if text[:1] in {"2", "0"}]
MATCHES = st.one_of(
    st.fixed_dictionaries({"value": WANTED}),
    st.fixed_dictionaries({"any": st.lists(WANTED, max_size=4)}),
    st.fixed_dictionaries({"except": st.lists(WANTED, max_size=4)}),
    st.fixed_dictionaries({"text": st.sampled_from(["haus", "SEE haus", "strasse", "ein", "1"])}),
)
RANGES = st.dictionaries(BOUNDS, st.sampled_from(NUMBERS), min_size=1, max_size=2) | (
    st.dictionaries(BOUNDS, st.sampled_from(DATES), min_size=1, max_size=2)
)
LEAVES = st.one_of(
    st.fixed_dictionaries({"key": KEYS, "match": MATCHES}),
    st.fixed_dictionaries({"key": KEYS, "match": MATCHES}),
    st.fixed_dictionaries({"key": KEYS, "range": RANGES}),
    st.fixed_dictionaries({"key": KEYS, "range": RANGES}),
    st.fixed_dictionaries({"key": KEYS, "exists": st.booleans()}),
    st.fixed_dictionaries({"key": KEYS, "is_null": st.booleans()}),
    st.fixed_dictionaries({"key": KEYS, "is_empty": st.booleans()}),
    st.fixed_dictionaries({"is_null": st.fixed_dictionaries({"key": KEYS})}),
    st.fixed_dictionaries({"is_empty": st.fixed_dictionaries({"key": KEYS})}),
    st.fixed_dictionaries({"has_id": st.lists(st.sampled_from([*IDS, "none"]), max_size=4)}),
)


@st.composite
def trees(draw, depth):
    """Return a tree of conditions, `depth` trees inside each other at most."""

    def conditions():
        inner = LEAVES if depth == 1 or draw(st.booleans()) else trees(depth - 1)
        return draw(st.lists(inner, max_size=3))

    parts = draw(st.sets(st.sampled_from(["must", "should", "must_not", "min_should"]), min_size=1))
    tree = {part: conditions() for part in sorted(parts)}
    if "min_should" in tree:
        tree["min_should"] = {
            "conditions": tree["min_should"], "min_count": draw(st.integers(0, 3))
        }  # fmt: skip
    return tree


MAPS = st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=2)
"""Equality maps."""
FILTERS = trees(3) | trees(1) | MAPS
