"""Columns shared by the log and the segments: texts, byte strings, documents, block checksums.

A column of n texts or byte strings is an array of n + 1 offsets and the bytes they cut. In
metadata columns an empty value means *no metadata* (an empty object is the two bytes `{}`).
A document is the MessagePack array [namespace, key, JSON bytes or nil], nil removing it.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np

from dvecdb.formats.framing import Buffer, FormatError, block_checksum

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

METADATA_BLOCK_BYTES: Final = 16 * 1024
_SMALL_VECTOR_BYTES: Final = 1024

DocumentEntry = tuple[str, str, bytes | None]

_documents_encoder = msgspec.msgpack.Encoder()
_documents_decoder = msgspec.msgpack.Decoder(list[DocumentEntry])


def block_rows(vector_bytes: int) -> int:
    """Return how many whole rows make a checksummed block.

    About 64 KiB; about 16 KiB where rows are small, so that a get of scattered rows reads less.
    """
    target = 64 * 1024 if vector_bytes >= _SMALL_VECTOR_BYTES else 16 * 1024
    return max(1, target // vector_bytes)


def encode_texts(texts: Sequence[str]) -> tuple[npt.NDArray[np.uint32], bytes]:
    """Return lengths in bytes (uint32[n]) and the joined UTF-8 of `texts`."""
    joined = "".join(texts).encode()
    if len(texts) == 1:  # the commonest batch
        return np.array([len(joined)], dtype=np.uint32), joined
    lengths = np.fromiter(map(len, texts), dtype=np.uint32, count=len(texts))
    if int(lengths.sum(dtype=np.uint64)) != len(joined):  # not ASCII only
        sizes = (len(text.encode()) for text in texts)
        lengths = np.fromiter(sizes, dtype=np.uint32, count=len(texts))
    return lengths, joined


def offsets_of(lengths: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint64]:
    """Return uint64[n + 1] offsets from uint32[n] lengths."""
    offsets = np.zeros(len(lengths) + 1, dtype=np.uint64)
    np.cumsum(lengths, dtype=np.uint64, out=offsets[1:])
    return offsets


def decode_texts(lengths: npt.NDArray[np.uint32], joined: Buffer) -> list[str]:
    """Return the texts cut from UTF-8 `joined` by `lengths`.

    Raises:
        FormatError: the lengths do not fit, or it is no UTF-8.
    """
    total = int(lengths.sum(dtype=np.uint64))
    if total != len(joined):
        raise FormatError(f"texts of {total} bytes in {len(joined)} bytes")
    bounds = offsets_of(lengths).tolist()
    try:
        text = str(joined, "utf-8")
        if len(text) == total:  # ASCII: characters are bytes
            return [text[start:end] for start, end in pairwise(bounds)]
        raw = bytes(joined)
        return [raw[start:end].decode() for start, end in pairwise(bounds)]
    except UnicodeDecodeError as error:
        raise FormatError(f"texts: {error}") from error


def encode_documents(documents: Sequence[DocumentEntry]) -> bytes:
    """Return the bytes of a batch's documents."""
    return _documents_encoder.encode(documents)


def encode_document(document: DocumentEntry) -> bytes:
    """Return the bytes of one document."""
    return _documents_encoder.encode(document)


def decode_documents(data: Buffer) -> list[DocumentEntry]:
    """Return a batch's documents.

    Raises:
        FormatError: not a list of documents.
    """
    try:
        return _documents_decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise FormatError(f"documents: {error}") from error


def block_checksums(data: Buffer, block_bytes: int, tag: int) -> list[int]:
    """Return the checksum of each block of `data`; the last block may be shorter."""
    size = len(data)
    if size <= block_bytes:
        return [block_checksum(data, tag, 0)] if size else []
    view = memoryview(data)
    return [
        block_checksum(view[start : start + block_bytes], tag, number)
        for number, start in enumerate(range(0, size, block_bytes))
    ]


def damaged_blocks(
    data: Buffer, block_bytes: int, tag: int, expected: Sequence[int] | npt.NDArray[np.uint64]
) -> list[int]:
    """Return the numbers of the blocks of `data` that do not match `expected`."""
    found = block_checksums(data, block_bytes, tag)
    if len(found) != len(expected):
        raise FormatError(f"{len(found)} blocks, {len(expected)} checksums")
    return [
        number
        for number, (one, other) in enumerate(
            zip(found, np.asarray(expected, np.uint64).tolist(), strict=True)
        )
        if one != other
    ]
