"""Looking into a trash entry or a backup without bringing it back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from dvecdb.engine.collection import Collection as EngineCollection
from dvecdb.engine.storage import read_only_error
from dvecdb.errors import Code, HandleError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from dvecdb.engine.store import Store


class Preview(EngineCollection):
    """A collection that can only be read. Close it, or use it in a `with` statement."""

    def __init__(self, store: Store, check_open: Callable[[], None]) -> None:
        store.stopped = read_only_error()
        super().__init__(store, lambda _: None, check_open)

    def __enter__(self) -> Self:
        """Return the preview."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the preview."""
        self.close()

    def close(self) -> None:
        """Close its files. Snapshots that are held go on reading."""
        if self._gone is None:
            self.leave(HandleError(Code.HANDLE_CLOSED, "this preview is closed; open it again"))
            self._store.close(seal=False)
