import base64
import datetime as dt
import json
import math
import uuid
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvecdb.embedding.job import SourceSpec
from dvecdb.embedding.sources.positions import position_of, values_of
from dvecdb.embedding.sources.template import NOTHING, Projection, parse_template
from dvecdb.embedding.sources.values import (
    UnfitError,
    iso_of,
    key_of,
    keys_of,
    number_of,
    to_json,
    to_text,
)
from dvecdb.errors import Code, InvalidRequestError

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
ANY_TEXT = st.text(st.characters())  # lone surrogates and NUL too
NAME = st.text(st.sampled_from("abcxyz_ é"), min_size=1, max_size=6).filter(
    lambda name: name == name.strip()
)
CELL = st.one_of(
    st.none(), ANY_TEXT, st.integers(), st.floats(), st.booleans(), st.binary(), st.decimals(),
    st.dates(), st.datetimes(), st.times(), st.timedeltas(), st.uuids(),
    st.recursive(
        st.none() | ANY_TEXT | st.floats(),
        lambda inner: st.lists(inner) | st.dictionaries(ANY_TEXT, inner), max_leaves=5
    ),
)  # fmt: skip


def projection(text, metadata=(), key="id"):
    return Projection("s", SourceSpec(key=key, text=text, table="t", metadata=tuple(metadata)))


# --- templates -----------------------------------------------------------------------------------


@given(st.lists(st.one_of(TEXT.map(lambda text: ("text", text)),
                          NAME.map(lambda name: ("column", name)))),
       st.dictionaries(NAME, TEXT))  # fmt: skip
def test_a_template_puts_each_column_where_its_name_stands(parts, values):
    written = "".join(
        part.replace("{", "{{").replace("}", "}}") if kind == "text" else f"{{{part}}}"
        for kind, part in parts
    )
    expected = "".join(part if kind == "text" else values.get(part, "") for kind, part in parts)
    names = [part for kind, part in parts if kind == "column"]
    if not names:
        if "{" in written or "}" in written:
            with pytest.raises(ValueError, match="no column in braces"):
                parse_template(written)
        return
    template = parse_template(written)
    assert template.columns == tuple(dict.fromkeys(names))
    assert template.render([values.get(name, "") for name in template.columns]) == expected


@pytest.mark.parametrize(
    ("text", "columns", "rendered"),
    [
        ("title", ("title",), "T"),
        (" title ", ("title",), "T"),
        ("two words", ("two words",), "T"),
        ("{title}", ("title",), "T"),
        ("{{{title}}}", ("title",), "{T}"),
        ("{title}{title}", ("title",), "TT"),
        ("a { title } b", ("title",), "a T b"),
    ],
)
def test_a_text_without_braces_is_a_column(text, columns, rendered):
    template = parse_template(text)
    assert (template.columns, template.render(["T"])) == (columns, rendered)


@pytest.mark.parametrize("text", ["{title", "title}", "{}", "{ }", "{{title}}", "", "  ", "{a{b}}"])
def test_a_template_that_cannot_be_is_refused_with_its_source(text):
    with pytest.raises(InvalidRequestError) as caught:
        projection(text)
    assert caught.value.code is Code.INVALID_JOB
    assert "source s" in caught.value.message


@pytest.mark.parametrize(
    "fields",
    [
        {"key": ""}, {"key": "a,,b"}, {"key": "a, a"}, {"metadata": ("a", "a")},
        {"metadata": ("a as x", "b as x")}, {"metadata": ("",)},
    ],
)  # fmt: skip
def test_names_that_cannot_be_are_refused(fields):
    with pytest.raises(InvalidRequestError) as caught:
        Projection("s", SourceSpec(**{"key": "id", "text": "t", "table": "t", **fields}))
    assert caught.value.code is Code.INVALID_JOB


def test_columns_are_read_once_and_metadata_can_be_renamed():
    found = Projection(
        "s",
        SourceSpec(
            key="a, b", text="{title} {body}", table="t", changed_since="at",
            metadata=("title", "published_at as published", "as as AS", "x AS y"),
        ),
    )  # fmt: skip
    assert found.columns == ("title", "body", "published_at", "as", "x")
    assert found.needed == ("a", "b", *found.columns, "at")
    row = found.row("k", 1, ["T", "B", "P", "A", "X"])
    assert row.text == "T B"
    assert row.metadata == {"title": "T", "published": "P", "AS": "A", "y": "X"}


# --- rows ----------------------------------------------------------------------------------------


@given(st.lists(CELL, min_size=3, max_size=3))
def test_any_values_give_a_row_that_json_holds_or_a_row_with_a_problem(cells):
    row = projection("{a} and {b}", ["b", "c as d"]).row("k", [1], cells)
    assert (row.key, row.position) == ("k", [1])
    assert (row.text is None) == (row.problem is not None)
    if row.text is None:
        assert row.metadata == {}
        row.problem.encode()
        assert row.problem.startswith((NOTHING, "a: ", "b: ", "c: "))
        return
    row.text.encode()
    assert row.text.strip()
    assert "\0" not in row.text
    assert list(row.metadata) == ["b", "d"]
    assert msgspec.json.decode(msgspec.json.encode(row.metadata)) == row.metadata


@given(st.lists(st.sampled_from([None, "", " ", "\n\t", "\u2003"]), min_size=2, max_size=2))
def test_a_row_whose_columns_are_all_blank_has_nothing_to_embed_whatever_stands_around(cells):
    row = projection("Title: {title}\n{body}.").row("k", 1, cells)
    assert (row.text, row.problem) == (None, f"{NOTHING}: title, body are all null or blank")


@pytest.mark.parametrize("blank", [None, "", "  "])
def test_a_blank_column_beside_a_full_one_is_empty(blank):
    row = projection("{title}|{body}").row("k", 1, [blank, "B"])
    assert row.text == f"{blank or ''}|B"


@pytest.mark.parametrize("bad", ["a\udce4b", "\ud800", "a\0b", ["\udce4"], {"\ud800": 1}])
def test_text_that_is_none_is_a_problem_that_names_its_column(bad):
    row = projection("{title}{body}").row("k", 1, ["T", bad])
    if bad == "a\0b":
        assert "NUL" in row.problem
    assert row.problem.startswith("body: ")
    row = projection("title", ["severity as s"]).row("k", 1, ["T", bad])
    assert bad == "a\0b" or row.problem.startswith("severity: ")


def test_what_has_no_form_in_json_is_a_problem():
    row = projection("title", ["x"]).row("k", 1, ["T", object()])
    assert row.problem == "x: a value of type object has no form in JSON"
    deep = []
    for _ in range(100_000):
        deep = [deep]
    assert "x: lists" in projection("title", ["x"]).row("k", 1, ["T", deep]).problem


# --- values --------------------------------------------------------------------------------------


@given(st.decimals(allow_nan=False, allow_infinity=False))
def test_a_decimal_keeps_every_digit(number):
    found = to_json(number)
    if isinstance(found, str):
        assert Decimal(found) == number
    else:
        assert Decimal(repr(found)) == number
    assert Decimal(to_text(number)) == number


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Decimal(12), 12), (Decimal("12.50"), 12.5), (Decimal("12.00"), 12.0),
        (Decimal("0.1"), 0.1), (Decimal("NaN"), None), (Decimal("-Infinity"), None),
        (Decimal("0.12345678901234567890"), "0.12345678901234567890"),
        (Decimal("1E+3"), 1000), (math.nan, None), (-math.inf, None), (1.5, 1.5), (True, True),
        (dt.date(2025, 10, 29), "2025-10-29"),
        (dt.datetime(2025, 10, 29, 10, tzinfo=dt.UTC), "2025-10-29T10:00:00+00:00"),
        (dt.time(10), "10:00:00"), (dt.timedelta(seconds=90), "PT90S"),
        (dt.timedelta(milliseconds=1500), "PT1.5S"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (b"abc", base64.b64encode(b"abc").decode()), (memoryview(b"abc"), "YWJj"),
        ([1, (2, math.nan)], [1, [2, None]]), ({"a": [Decimal(1)]}, {"a": [1]}),
        (2**70, 2**70),
    ],
)  # fmt: skip
def test_values_have_one_form_in_json(value, expected):
    found = to_json(value)
    assert (found, type(found)) == (expected, type(expected))


def test_huge_exponents_stay_text_and_cost_nothing():
    assert number_of("1E+999999999") == "1E+999999999"
    assert number_of("1E-999999999") == "1E-999999999"
    assert number_of("no number") == "no number"
    assert to_text(Decimal("1E+999999999")) == "1E+999999999"


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, ""), (12, "12"), (Decimal("12.50"), "12.50"), (Decimal("0.0000001"), "0.0000001"),
     (1.5, "1.5"), (True, "true"), ({"a": [1, "ä"]}, '{"a":[1,"ä"]}'), (["a"], '["a"]')],
)  # fmt: skip
def test_values_have_one_form_in_a_text(value, expected):
    assert to_text(value) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("2025-10-29 10:00:00+00", "2025-10-29T10:00:00+00:00"),
     ("2025-10-29 10:00:00.5-05:30", "2025-10-29T10:00:00.5-05:30"),
     ("2025-10-29 10:00:00", "2025-10-29T10:00:00"), ("infinity", "infinity"),
     ("2025-10-29 10:00:00Z", "2025-10-29T10:00:00Z"), ("", "")],
)  # fmt: skip
def test_moments_of_databases_become_iso(text, expected):
    assert iso_of(text) == expected


@given(TEXT.filter(bool))
def test_a_text_key_is_itself(text):
    assert key_of(text) == text


@pytest.mark.parametrize("value", [None, "", [], {}, math.nan, "a\0", "\udce4", object()])
def test_what_cannot_name_a_row_is_no_key(value):
    with pytest.raises(UnfitError):
        key_of(value)


@given(st.lists(st.lists(TEXT.filter(bool) | st.integers(), min_size=2, max_size=2)))
def test_different_composite_keys_have_different_texts(keys):
    texts = {keys_of(key) for key in keys}
    assert len(texts) == len({tuple(map(str, key)) for key in keys})


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])) | st.integers() | st.binary()
                | st.floats(allow_nan=False) | st.binary().map(
                    lambda raw: raw.decode(errors="surrogateescape"))))  # fmt: skip
def test_a_position_comes_back_from_json_as_it_was(values):
    position = json.loads(json.dumps(position_of(values), allow_nan=True))
    assert values_of(position, len(values)) == values
    assert values_of(position, len(values) + 1) is None


@pytest.mark.parametrize("position", [None, 5, "x", {}, [[]], [None], [True], [{"a": "b"}], [{}],
                                      [{"bytes": "?"}], [{"bytes": 5}]])  # fmt: skip
def test_what_is_no_position_is_seen(position):
    assert values_of(position, 1) is None
