"""Which rows of a range are held, and where: all in order, or some by their numbers.

A row keeps its number for ever. A segment covers a range of numbers; once rows of it were dropped,
it holds only some of them, and a sorted list says which.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt


class RowRange:
    """Rows `first_row` .. `row_end` - 1, of which `rows` are held.

    row_numbers: int64[rows], rising; None where all are held, which is the usual case and costs
    nothing but an addition.
    """

    first_row: int
    row_end: int
    rows: int
    row_numbers: npt.NDArray[np.int64] | None

    def set_range(
        self, first_row: int, row_end: int, stored: int, numbers: npt.NDArray[np.int64] | None
    ) -> None:
        """Take the range, out of `stored` rows with these `numbers`; those beyond do not count."""
        self.first_row, self.row_end = first_row, row_end
        if numbers is None:
            self.rows = min(row_end - first_row, stored)
            self.row_numbers = None
        else:
            self.rows = int(np.searchsorted(numbers, row_end))
            self.row_numbers = numbers[: self.rows]

    def rows_at(self, ordinals: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the row numbers of held rows by ordinal."""
        numbers = self.row_numbers
        return ordinals + self.first_row if numbers is None else numbers[ordinals]

    def ordinals_of(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the ordinals of rows of this range, -1 for those that are not held."""
        numbers = self.row_numbers
        if numbers is None:
            return rows - self.first_row
        if not len(numbers):
            return np.full(len(rows), -1, dtype=np.int64)
        found = np.minimum(np.searchsorted(numbers, rows), len(numbers) - 1)
        found[numbers[found] != rows] = -1
        return found

    def ordinal_of(self, row: int) -> int:
        """Return the ordinal of one row of this range, -1 if it is not held."""
        if self.row_numbers is None:
            return row - self.first_row
        return int(self.ordinals_of(np.array([row]))[0])

    def count_below(self, row_limit: int) -> int:
        """Return how many of the held rows have a number below `row_limit`."""
        if self.row_numbers is None:
            return max(0, min(self.rows, row_limit - self.first_row))
        return int(np.searchsorted(self.row_numbers, row_limit))


def runs_of(numbers: Sequence[int], length_max: int) -> list[list[int]]:
    """Return rising `numbers` as runs of neighbours, each at most `length_max` long."""
    runs: list[list[int]] = []
    run: list[int] = []
    for number in numbers:
        if run and (number != run[-1] + 1 or len(run) == length_max):
            runs.append(run)
            run = []
        run.append(number)
    if run:
        runs.append(run)
    return runs
