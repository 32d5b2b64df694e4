"""How the embedding service fails when it is told to: which request, and in what way.

A share is a probability; of each request at most one of the shares comes true. Randomness is
injected, so a seed gives the same failures to the same sequence of requests.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from dvecdb.errors import Code, InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Count = Annotated[int, msgspec.Meta(ge=0)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]


class Fault(StrEnum):
    """What is wrong with one answer. Values: the fields of `Faults` that hold their shares."""

    ERRORS = "errors"
    """500 at once, nothing embedded."""
    RATE_LIMITS = "rate_limits"
    """429 with Retry-After, to this request and the next `rate_limit_burst` - 1."""
    TIMEOUTS = "timeouts"
    """The answer is whole, but held back for `timeout_seconds`."""
    WRONG_COUNT = "wrong_count"
    """The last vector is missing."""
    WRONG_DIMENSION = "wrong_dimension"
    """Every vector lacks its last number."""
    NOT_FINITE = "not_finite"
    """One number is NaN."""
    HALF = "half"
    """The connection is closed in the middle of the body."""
    NOT_JSON = "not_json"
    """200 with a page of HTML, as of a proxy."""
    SHUFFLED = "shuffled"
    """`/v1/embeddings`: items in another order, each with its right index. That is no error."""
    WRONG_INDEX = "wrong_index"
    """`/v1/embeddings`: the first two items have the same index."""
    REFUSED = "refused"
    """400: a text contains `refuse_marker`. No share."""


INDEXED_ONLY = frozenset({Fault.SHUFFLED, Fault.WRONG_INDEX})
"""Nothing in an answer of `/embed` could show these."""


class Faults(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What goes wrong. Without arguments: nothing.

    fail_next: this many requests get `fail_status` before anything else is decided.
    refuse_marker: a request that has it in a text gets 400. slow_ms: added to every answer.
    retry_after_seconds: fractions are sent as they are, although HTTP has none.
    """

    errors: Share = 0.0
    rate_limits: Share = 0.0
    timeouts: Share = 0.0
    wrong_count: Share = 0.0
    wrong_dimension: Share = 0.0
    not_finite: Share = 0.0
    half: Share = 0.0
    not_json: Share = 0.0
    shuffled: Share = 0.0
    wrong_index: Share = 0.0
    fail_next: Count = 0
    fail_status: Annotated[int, msgspec.Meta(ge=400, le=599)] = 500
    rate_limit_burst: Annotated[int, msgspec.Meta(ge=1)] = 3
    retry_after_seconds: Seconds = 1.0
    timeout_seconds: Seconds = 30.0
    slow_ms: Seconds = 0.0
    refuse_marker: str | None = None

    def __post_init__(self) -> None:
        """Refuse shares that cannot all come true."""
        total = sum(share for _, share in self.shares())
        if total > 1 + 1e-9:
            raise ValueError(f"the shares of faults are {total:g} together, expected at most 1")

    def shares(self) -> Sequence[tuple[Fault, float]]:
        """Return the share of each fault that has one."""
        return [(fault, getattr(self, fault)) for fault in Fault if fault is not Fault.REFUSED]


def parse_faults(values: Mapping[str, Any]) -> Faults:
    """Return the faults that a mapping describes; values may be text, as of flags.

    Raises:
        InvalidRequestError: `invalid-argument`, says which field, what was expected and found.
    """
    try:
        return msgspec.convert(values, Faults, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidRequestError(
            Code.INVALID_ARGUMENT,
            f"these faults cannot be: {error}. There are {', '.join(Faults.__struct_fields__)}",
        ) from error


class FaultPlan:
    """Decides for request after request. For one thread. `happened`: how often, by fault.

    draw: a number in [0, 1) each time it is called.
    """

    def __init__(self, faults: Faults, draw: Callable[[], float]) -> None:
        self._draw = draw
        self.happened: dict[str, int] = {}
        self.change(faults)

    @property
    def faults(self) -> Faults:
        """What it goes by. `fail_next` is what is left of it."""
        return msgspec.structs.replace(self._faults, fail_next=self._fail_next)

    def change(self, faults: Faults) -> None:
        """Go by other faults from the next request on."""
        self._faults = faults
        self._fail_next = faults.fail_next
        self._burst = 0

    def decide(self, texts: Sequence[str], *, is_indexed: bool) -> Fault | None:
        """Return what goes wrong with this request. is_indexed: its answer numbers the vectors."""
        fault = self._decide(texts)
        if fault in INDEXED_ONLY and not (is_indexed and len(texts) > 1):
            return None
        if fault is not None:
            self.happened[fault] = self.happened.get(fault, 0) + 1
        return fault

    def _decide(self, texts: Sequence[str]) -> Fault | None:
        faults = self._faults
        if self._fail_next:
            self._fail_next -= 1
            return Fault.ERRORS
        if self._burst:
            self._burst -= 1
            return Fault.RATE_LIMITS
        marker = faults.refuse_marker
        if marker is not None and any(marker in text for text in texts):
            return Fault.REFUSED
        left = self._draw()
        for fault, share in faults.shares():
            left -= share
            if left < 0:
                if fault is Fault.RATE_LIMITS:
                    self._burst = faults.rate_limit_burst - 1
                return fault
        return None
