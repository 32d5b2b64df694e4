"""Codes go into the blocks of faiss as faiss itself puts them there, and come out again."""

import faiss
import numpy as np
import pytest

from dvecdb.search.packing import BLOCK_ROWS, pack, put, take, unpack

DIMENSION, LISTS = 24, 5


@pytest.fixture(scope="module")
def trained():
    rows = np.random.default_rng(1).standard_normal((600, DIMENSION)).astype(np.float32)
    quantizer = faiss.IndexFlatL2(DIMENSION)
    index = faiss.IndexIVFPQFastScan(quantizer, DIMENSION, LISTS, DIMENSION // 4, 4)
    quantizer.this.disown()
    index.own_fields = True
    index.train(rows)
    return index, rows


def coded(index, rows):
    stored = index.sa_encode(rows)
    return stored[:, 0].astype(np.int64), stored[:, 1:]


@pytest.mark.parametrize("count", [0, 1, 31, 32, 33, 64, 100])
@pytest.mark.parametrize("size", [1, 2, 6, 192])
def test_what_is_packed_comes_out_again(count, size):
    codes = np.random.default_rng(count).integers(0, 256, (count, size)).astype(np.uint8)
    blocks = pack(codes)
    assert blocks.shape == (-(-count // BLOCK_ROWS), size, BLOCK_ROWS)
    assert np.array_equal(unpack(blocks, count), codes)


@pytest.mark.parametrize("steps", [[600], [1] * 40 + [560], [31, 1, 32, 33, 503], [7, 0, 593]])
def test_an_index_filled_by_put_is_that_which_faiss_fills(trained, steps):
    index, rows = trained
    by_faiss, by_put = faiss.clone_index(index), faiss.clone_index(index)
    by_faiss.add_with_ids(rows, np.arange(600) + 7)
    first = 0
    for step in steps:
        part = slice(first, first + step)
        lists, codes = coded(index, rows[part]) if step else (np.zeros(0, int), np.zeros((0, 3)))
        put(by_put, lists, codes.astype(np.uint8), np.arange(600)[part] + 7)
        first += step
    assert by_put.ntotal == 600
    assert np.array_equal(faiss.serialize_index(by_put), faiss.serialize_index(by_faiss))


def test_what_is_taken_out_can_be_put_elsewhere(trained):
    index, rows = trained
    full = faiss.clone_index(index)
    full.add_with_ids(rows, np.arange(600)[::-1].copy())
    lists, codes, numbers = take(full)
    assert sorted(numbers.tolist()) == list(range(600))
    other = faiss.clone_index(index)
    put(other, lists, codes, numbers)
    assert np.array_equal(faiss.serialize_index(other), faiss.serialize_index(full))


def test_nothing_can_be_taken_of_an_empty_index(trained):
    lists, codes, numbers = take(faiss.clone_index(trained[0]))
    assert (len(lists), codes.shape, len(numbers)) == (0, (0, DIMENSION // 8), 0)
