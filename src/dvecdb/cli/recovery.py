"""`dvecdb restore`, `hard-delete`, `protect`, `undo`, `clone`, `configure` and `tag`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec

from dvecdb.cli.exit_codes import OK
from dvecdb.cli.output import (
    confirm,
    print_facts,
    print_json,
    print_table,
    say,
    size_text,
    working,
)
from dvecdb.cli.show import count_if_sound
from dvecdb.engine.writes import CONFIG_NAMESPACE
from dvecdb.errors import Code, ConflictError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    import dvecdb
    from dvecdb.cli.target import Target
    from dvecdb.records import Restored, Undone

_KEPT_SETTINGS = ("trash_hours", "history_hours")


def restore_entry(
    target: Target,
    entry: str,
    new_name: str | None,
    *,
    verify: Literal["quick", "full"],
    allow_damage: bool,
    actor: str | None,
    reason: str | None,
    as_json: bool,
) -> int:
    """Bring back a collection; return the exit code. Raises `DvecdbError`."""
    what = f"reading every byte of {entry}" if verify == "full" else f"restoring {entry}"
    with target.open(write=True) as database, working(what, quiet=as_json):
        try:
            restored = database.restore(
                entry, new_name, verify=verify, allow_damage=allow_damage, actor=actor,
                reason=reason,
            )  # fmt: skip
        except ConflictError as error:
            if error.code is Code.COLLECTION_EXISTS:
                error.message += ". Under another name: --new-name NAME"
            raise
    _print_restored("restored", restored, as_json=as_json)
    return OK


def _print_restored(verb: str, restored: Restored, *, as_json: bool) -> None:
    if as_json:
        print_json(restored)
        return
    copied = f", {size_text(restored.copied_bytes)} copied" if restored.copied_bytes else ""
    rewritten = restored.rows_rewritten
    written = f", {rewritten} of them written again" if rewritten else ""
    say(
        f"{verb} {restored.name} from {restored.source}: {restored.rows} records{written}, "
        f"LSN {restored.lsn}{copied}"
    )


def clone_collection(
    target: Target,
    name: str,
    new_name: str,
    *,
    as_of: int | datetime | None,
    actor: str | None,
    reason: str | None,
    as_json: bool,
) -> int:
    """Make a collection of another one's state; return the exit code. Raises `DvecdbError`."""
    with target.open(write=True) as database, working(f"cloning {name}", quiet=as_json):
        made = database.collection(name).clone(new_name, as_of=as_of, actor=actor, reason=reason)
    _print_restored("made", made, as_json=as_json)
    return OK


def hard_delete_collection(
    target: Target,
    name: str,
    *,
    include_backups: bool,
    backup: bool,
    yes: bool,
    actor: str | None,
    reason: str | None,
    as_json: bool,
) -> int:
    """Delete a collection for good; return the exit code. Raises `DvecdbError`."""
    with target.open(write=True) as database:
        if not yes:
            confirm(_hard_question(database, name, include_backups, backup), yes=False)
        done = database.hard_delete(
            name, include_backups=include_backups, backup=backup, actor=actor, reason=reason
        )
    if as_json:
        print_json(done)
        return OK
    say(f"deleted {name} for good, {size_text(done.freed_bytes)} freed")
    if done.backups:
        say(f"backups of it that are still there: {', '.join(done.backups)}")
    return OK


def _hard_question(
    database: dvecdb.Database, name: str, include_backups: bool, backup: bool
) -> str:
    records = count_if_sound(database, name)
    rows = "damage" if records is None else f"{records} records"
    count = len(database.backups(name))
    left = f"Its {count} backups go too." if include_backups else f"Its {count} backups stay."
    first = " A backup is made first." if backup else ""
    return f"Delete collection {name} with {rows} for good?{first} {left} It is not in the trash."


def protect_collection(
    target: Target,
    name: str,
    *,
    lift: bool,
    actor: str | None,
    reason: str | None,
    as_json: bool,
) -> int:
    """Refuse or allow to delete a collection; return the exit code. Raises `DvecdbError`."""
    with target.open(write=True) as database:
        database.collection(name).protect(deletion=not lift, actor=actor, reason=reason)
    if as_json:
        print_json({"name": name, "deletion": not lift})
    elif lift:
        say(f"{name} may be deleted again")
    else:
        say(f"{name} is protected: deleting it is refused; --lift allows it again")
    return OK


def undo_commits(
    target: Target,
    name: str,
    *,
    dry_run: bool,
    yes: bool,
    actor: str | None,
    reason: str | None,
    as_json: bool,
    **what: Any,
) -> int:
    """Bring rows back to an earlier state; return the exit code. Raises `DvecdbError`.

    what: to_lsn, to_time or before; ids; where.
    """
    with target.open(write=True) as database:
        collection = database.collection(name)
        if not dry_run and not yes:
            plan = collection.undo(**what, dry_run=True)
            if plan.restored or plan.removed or plan.documents:
                confirm(f"Bring {name} back to LSN {plan.to_lsn}: {_changes(plan)}?", yes=False)
        with working(f"undoing in {name}", quiet=as_json):
            undone = collection.undo(**what, dry_run=dry_run, actor=actor, reason=reason)
    if as_json:
        print_json(undone)
    elif not (undone.restored or undone.removed or undone.documents):
        say(f"nothing to undo: {name} is as it was at LSN {undone.to_lsn}")
    elif dry_run:
        say(f"would bring {name} back to LSN {undone.to_lsn}: {_changes(undone)}")
    else:
        backup = f"; backup before it: {undone.backup}" if undone.backup else ""
        say(
            f"brought {name} back to LSN {undone.to_lsn} as LSN {undone.lsn}: "
            f"{_changes(undone)}{backup}"
        )
    return OK


def _changes(undone: Undone) -> str:
    documents = f", {undone.documents} documents set back" if undone.documents else ""
    return f"{undone.restored} records restored, {undone.removed} removed{documents}"


def configure_collection(
    target: Target, name: str, changes: Mapping[str, int | None], *, as_json: bool
) -> int:
    """Set or show the settings of a collection; return the exit code. Raises `DvecdbError`."""
    with target.open(write=bool(changes)) as database:
        collection = database.collection(name)
        if changes:
            collection.configure(changes)
        stored = collection.documents.list(CONFIG_NAMESPACE)
    values = {key: stored.get(key) for key in _KEPT_SETTINGS}
    if as_json:
        print_json({"name": name, **values})
        return OK
    print_facts(
        (key, "default" if value is None else f"{value} h") for key, value in values.items()
    )
    return OK


# --- tags ---


def add_tag(target: Target, name: str, tag: str, lsn: int | None, *, as_json: bool) -> int:
    """Name a state; return the exit code. Raises `DvecdbError`."""
    with target.open(write=True) as database:
        tagged = database.collection(name).tag(tag, lsn)
    if as_json:
        print_json({"name": tag, "lsn": tagged})
    else:
        say(f"{tag} is LSN {tagged} of {name}; it stays readable until the tag is removed")
    return OK


def list_tags(target: Target, name: str, *, as_json: bool) -> int:
    """Print the tags of a collection; return the exit code. Raises `DvecdbError`."""
    with target.open() as database:
        tags = database.collection(name).tags()
    if as_json:
        print_json({"tags": msgspec.to_builtins(tags)})
    elif tags:
        print_table(["TAG", "LSN>"], sorted(tags.items()))
    else:
        say("no tags")
    return OK


def remove_tag(target: Target, name: str, tag: str, *, as_json: bool) -> int:
    """Let go of a tag; return the exit code. Raises `DvecdbError`."""
    with target.open(write=True) as database:
        database.collection(name).untag(tag)
    if as_json:
        print_json({"removed": tag})
    else:
        say(f"removed the tag {tag}")
    return OK
