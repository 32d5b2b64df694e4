"""What trash and backups let go of: for every set of entries, not for examples."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from dvecdb.protection.retention import EARLIEST, BackupRule, expired_backups, expired_entries
from dvecdb.records import Backup, Lsn, TrashEntry

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def entry(number, age, hours, size):
    return TrashEntry(
        name=f"docs_{number}", path="", collection="docs", uuid=str(number), deleted=NOW - age,
        age_hours=age / HOUR, expires=NOW - age + hours * HOUR, actor=None, reason=None, rows=1,
        size_bytes=size,
    )  # fmt: skip


AGES = st.integers(0, 30 * 24 * 60).map(lambda minutes: timedelta(minutes=minutes))
ENTRIES = st.lists(
    st.tuples(AGES, st.integers(0, 100), st.integers(0, 100) | st.none()), max_size=12
).map(lambda found: [entry(number, *values) for number, values in enumerate(found)])


@given(ENTRIES)
def test_without_a_budget_what_is_due_goes_and_nothing_else(entries):
    gone = expired_entries(entries, NOW, None)
    assert set(map(id, gone)) == {id(item) for item in entries if item.expires <= NOW}
    assert [item.deleted for item in gone] == sorted(item.deleted for item in gone)


@given(ENTRIES, st.integers(0, 500))
def test_a_budget_takes_the_oldest_and_no_more_than_it_must(entries, budget):
    due = expired_entries(entries, NOW, None)
    gone = expired_entries(entries, NOW, budget)
    assert gone[: len(due)] == due
    early, left = gone[len(due) :], [item for item in entries if item not in gone]
    size = sum(item.size_bytes or 0 for item in left)
    for item in early:
        assert NOW - item.deleted >= EARLIEST
        assert all(item.deleted <= other.deleted for other in left)
    if early:
        assert size + (early[-1].size_bytes or 0) > budget
    if size > budget:
        assert (
            all(NOW - item.deleted < EARLIEST for item in left[-1:])
            or not left
            or any(NOW - item.deleted < EARLIEST for item in left)
        )


def backup(number, uuid, age, own, automatic):
    return Backup(
        name=f"{uuid}_{number:03}", path="", collection=uuid, uuid=uuid, created=NOW - age,
        lsn=Lsn(1), rows=1, size_bytes=own, own_bytes=own, reason=None, actor=None,
        automatic=automatic, independent=False, verified=None, ok=None,
    )  # fmt: skip


BACKUPS = st.lists(
    st.tuples(st.sampled_from("abc"), AGES, st.integers(0, 100), st.booleans()), max_size=25
).map(lambda found: [backup(number, *values) for number, values in enumerate(found)])
RULES = st.builds(
    BackupRule, st.integers(0, 8), st.integers(0, 20), st.sampled_from([0, 0, 1, 50, 400])
)
ALIVE = st.sets(st.sampled_from("abc"))


def newest(backups, uuid):
    own = [item for item in backups if item.uuid == uuid]
    return max(own, key=lambda item: (item.created, item.name), default=None)


@given(BACKUPS, RULES, ALIVE)
def test_only_automatic_ones_go_and_never_the_last_of_what_lives(backups, rule, alive):
    gone = expired_backups(backups, NOW, rule, alive)
    assert len({item.name for item in gone}) == len(gone)
    assert all(item.automatic for item in gone)
    assert not {newest(backups, uuid).name for uuid in alive if newest(backups, uuid)} & {
        item.name for item in gone
    }


@given(BACKUPS, RULES, ALIVE)
def test_the_young_and_the_newest_stay_unless_the_budget_is_exceeded(backups, rule, alive):
    for item in expired_backups(backups, NOW, BackupRule(rule.keep_last, rule.keep_days, 0), alive):
        assert NOW - item.created >= rule.keep_days * DAY
        own = [other for other in backups if other.automatic and other.uuid == item.uuid]
        newer = [other for other in own if (other.created, other.name) > (item.created, item.name)]
        assert len(newer) >= rule.keep_last


@given(BACKUPS, RULES, ALIVE)
def test_the_budget_holds_as_far_as_the_last_ones_allow(backups, rule, alive):
    gone = expired_backups(backups, NOW, rule, alive)
    left = [item for item in backups if item.automatic and item not in gone]
    bound = {newest(backups, uuid).name for uuid in alive if newest(backups, uuid)}
    if rule.bytes_max:
        size = sum(item.own_bytes for item in left)
        assert size <= rule.bytes_max or all(item.name in bound for item in left)
