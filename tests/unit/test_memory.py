"""Memory for rows is as any array's: its own, writable, and as large as asked for."""

import os

import numpy as np
import pytest

from dvecdb.media import memory
from dvecdb.media.memory import HUGE_PAGE_BYTES, new_rows

FEW, MANY = 3, HUGE_PAGE_BYTES // 6144 + 1


@pytest.mark.parametrize("dtype", ["<f4", "<f2", "i1"])
@pytest.mark.parametrize("count", [0, FEW, MANY, 5 * MANY])
def test_an_array_has_the_shape_and_type_it_was_asked_for_and_can_be_filled(count, dtype):
    rows = new_rows((count, 6144), np.dtype(dtype))
    assert (rows.shape, rows.dtype) == ((count, 6144), np.dtype(dtype))
    assert rows.flags.c_contiguous
    rows[...] = 7
    assert (rows == 7).all()


def test_arrays_share_nothing_and_outlive_their_views_and_each_other():
    first, second = (new_rows((MANY, 1536), np.dtype("<f4")) for _ in range(2))
    first[...], second[...] = 1, 2
    tail = first[-1]
    del first
    assert (tail == 1).all()
    assert (second == 2).all()


def test_a_forked_child_writes_into_its_own_copy():
    rows = new_rows((MANY, 1536), np.dtype("<f4"))
    rows[...] = 1
    pid = os.fork()
    if pid == 0:
        rows[...] = 2
        os._exit(0)
    os.waitpid(pid, 0)
    assert (rows == 1).all()


def test_without_huge_pages_it_is_an_ordinary_array(monkeypatch):
    monkeypatch.setattr(memory, "_ADVICE", None)
    rows = new_rows((MANY, 1536), np.dtype("<f4"))
    assert rows.base is None
