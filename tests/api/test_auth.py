"""Who may do what: scopes, patterns, headers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvecdb.api.auth import ANONYMOUS, Guard, Principal, Scope
from dvecdb.api.keys import KeyStore
from dvecdb.errors import AuthError, Code
from dvecdb.testing.clocks import ManualClock
from dvecdb.testing.disk import MemoryDisk

COLLECTION_NAMES = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z")
SCOPES = st.sampled_from(Scope)


@pytest.fixture(scope="module")
def keys():
    disk = MemoryDisk()
    return KeyStore(disk, disk.open_root("/keys", create=True), clock=ManualClock())


@pytest.fixture(scope="module")
def new(keys):
    return keys.create("ingest", [Scope.WRITE], ["docs*"])


def principal(*scopes, patterns=("*",)):
    return Principal("somebody", frozenset(scopes), tuple(patterns))


def refused(call, *arguments):
    with pytest.raises(AuthError) as caught:
        call(*arguments)
    return caught.value


# --- headers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", [
    {"authorization": "Bearer TOKEN"},
    {"authorization": "bearer   TOKEN "},
    {"api-key": "TOKEN"},
    {"api-key": " TOKEN "},
    {"authorization": "Basic Zm9vOmJhcg==", "api-key": "TOKEN"},
    {"authorization": "Bearer TOKEN", "api-key": "another"},
])  # fmt: skip
def test_a_key_is_found_in_either_header(keys, new, headers):
    sent = {name: value.replace("TOKEN", new.token) for name, value in headers.items()}
    found = Guard(keys).authenticate(sent)
    assert found == Principal("ingest", frozenset({Scope.WRITE}), ("docs*",), new.key.id)


@pytest.mark.parametrize("headers", [
    {}, {"authorization": ""}, {"authorization": "Bearer"}, {"authorization": "Bearer  "},
    {"authorization": "Basic dvk_x"}, {"api-key": " "}, {"x-api-key": "dvk"},
])  # fmt: skip
def test_a_missing_key_is_unauthenticated(keys, new, headers):
    error = refused(Guard(keys).authenticate, headers)
    assert (error.code, error.details["reason"]) == (Code.UNAUTHENTICATED, "missing")


def test_a_wrong_key_is_unauthenticated_and_its_secret_is_not_repeated(keys, new):
    wrong = new.token[:-2] + ("AA" if new.token[-2:] != "AA" else "BA")
    error = refused(Guard(keys).authenticate, {"api-key": wrong})
    assert (error.code, error.details) == (Code.UNAUTHENTICATED, {"reason": "unknown"})
    assert wrong[17:] not in str(error)


def test_without_a_key_store_everybody_may_do_everything():
    guard = Guard(None)
    assert guard.authenticate({"api-key": "whatever"}) is ANONYMOUS
    for scope in Scope:
        guard.require(ANONYMOUS, scope, "docs")
        guard.require(ANONYMOUS, scope)
    assert ANONYMOUS.may_see("docs")


# --- scopes ----------------------------------------------------------------------------------


@given(st.sets(SCOPES), SCOPES)
def test_a_scope_is_needed_and_admin_has_all(scopes, needed):
    guard, somebody = Guard(None), principal(*scopes)
    if needed in scopes or Scope.ADMIN in scopes:
        guard.require(somebody, needed, "docs")
        guard.require(somebody, needed)
    else:
        error = refused(guard.require, somebody, needed, "docs")
        assert error.code == Code.FORBIDDEN
        assert error.details == {"scope": needed, "collection": "docs", "key": "somebody"}
        assert f"'{needed}'" in error.message


# --- patterns --------------------------------------------------------------------------------


@given(COLLECTION_NAMES)
def test_a_name_is_its_own_pattern_in_any_case(name):
    for pattern in (name, name.upper(), name.lower(), name[0] + "*", "?" * len(name), "*"):
        assert principal(Scope.READ, patterns=[pattern]).may_see(name)
        assert principal(Scope.READ, patterns=["other!", pattern]).may_see(name.swapcase())


@given(COLLECTION_NAMES, COLLECTION_NAMES)
def test_a_pattern_without_wildcards_is_for_one_collection(pattern, name):
    same = pattern.lower() == name.lower()
    assert principal(Scope.READ, patterns=[pattern]).may_see(name) == same


@pytest.mark.parametrize(("pattern", "name", "allowed"), [
    ("docs*", "docs", True), ("docs*", "DOCS-2024", True), ("docs*", "my-docs", False),
    ("docs?", "docs", False), ("docs?", "docs1", True), ("d[ab]", "dA", True),
    ("d[!ab]", "da", False), ("d.cs", "docs", False), ("docs", "docs.old", False),
    ("d[ab", "d[ab", True),
])  # fmt: skip
def test_patterns_are_those_of_a_shell(pattern, name, allowed):
    somebody = principal(Scope.READ, patterns=[pattern])
    assert somebody.may_see(name) == allowed
    if allowed:
        Guard(None).require(somebody, Scope.READ, name)
    else:
        error = refused(Guard(None).require, somebody, Scope.READ, name)
        assert error.code == Code.FORBIDDEN
        assert error.details == {"scope": "read", "collection": name, "key": "somebody"}
        assert repr(name) in error.message


def test_no_pattern_is_no_collection():
    assert not principal(Scope.ADMIN, patterns=[]).may_see("docs")
    error = refused(Guard(None).require, principal(Scope.ADMIN, patterns=[]), Scope.READ, "docs")
    assert error.code == Code.FORBIDDEN


@pytest.mark.parametrize("scope", [Scope.ADMIN, Scope.BACKUP, Scope.RESTORE])
def test_what_concerns_the_whole_server_takes_a_key_for_all_collections(scope):
    Guard(None).require(principal(scope, patterns=["docs", "*"]), scope)
    restricted = principal(scope, patterns=["docs*"])
    Guard(None).require(restricted, scope, "docs")
    error = refused(Guard(None).require, restricted, scope)
    assert error.code == Code.FORBIDDEN
    assert error.details["collection"] is None


@pytest.mark.parametrize("scope", [Scope.READ, Scope.WRITE])
def test_listing_and_creating_leave_the_collection_to_the_caller(scope):
    Guard(None).require(principal(scope, patterns=["docs*"]), scope)
