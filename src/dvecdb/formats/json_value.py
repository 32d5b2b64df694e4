"""JSON values of users as bytes: what goes in comes back exactly, or is refused by name."""

from __future__ import annotations

import msgspec

from dvecdb.errors import Code, InvalidRequestError

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


def encode_metadata(value: object, item: int, size_max: int) -> bytes:
    """Return the JSON bytes of a metadata object.

    Raises:
        InvalidRequestError: `invalid-metadata` or `metadata-too-large`, names the item.
    """
    if not isinstance(value, dict):
        raise bad_metadata(item, f"expected a JSON object or None, found {type(value).__name__}")
    encoded = encode_json(value, f"metadata of item {item}", Code.INVALID_METADATA)
    if len(encoded) > size_max:
        raise InvalidRequestError(
            Code.METADATA_TOO_LARGE,
            f"item {item}: metadata of {len(encoded)} bytes, at most {size_max} are allowed",
            item=item,
            found=len(encoded),
            limit=size_max,
        )
    return encoded


def encode_json(value: object, what: str, code: Code) -> bytes:
    """Return JSON bytes that decode to exactly `value`.

    Raises:
        InvalidRequestError: `code`; NaN, keys that are no text, tuples, dates and the like would
            come back as something else.
    """
    try:
        encoded = _encode(value)
        same = _decode(encoded) == value
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        raise InvalidRequestError(code, f"{what} is not JSON: {error}") from None
    if not same:
        raise InvalidRequestError(
            code,
            f"{what} would not come back as it is: use text keys and only objects, lists, text, "
            "finite numbers, true, false and null",
        )
    return encoded


def bad_metadata(item: int, message: str) -> InvalidRequestError:
    """Return the refusal of one item's metadata."""
    return InvalidRequestError(Code.INVALID_METADATA, f"item {item}: {message}", item=item)
