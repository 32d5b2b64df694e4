"""What a run may cost: requests, tokens, money. Pure; one lock around it is the caller's.

A request is let through only if everything that was spent, is under way, and it itself stay within
the budget. So a budget is exceeded by nothing but the error of an estimate.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dvecdb.embedding.job import TOKENS_OF_A_PRICE
from dvecdb.errors import Code, InvalidRequestError

if TYPE_CHECKING:
    from dvecdb.embedding.job import FlowSpec


class Budget:
    """What is left of the budgets of a run.

    price: of a million tokens, in the unit of `flow.budget_money`.

    Raises:
        InvalidRequestError: `invalid-job`, money is limited and nobody said what tokens cost.
    """

    def __init__(self, flow: FlowSpec, price: float | None) -> None:
        if flow.budget_money is not None and price is None:
            raise InvalidRequestError(
                Code.INVALID_JOB,
                "flow.budget_money is set, but not what tokens cost: set "
                "embedder.price_per_million_tokens too",
            )
        self._flow = flow
        self._requests = 0
        self._tokens = 0  # spent
        self._reserved = 0  # by requests under way
        self._limits: list[tuple[float, str]] = []
        if flow.budget_tokens is not None:
            self._limits.append((flow.budget_tokens, f"{flow.budget_tokens} tokens"))
        if flow.budget_money is not None and price:
            tokens = flow.budget_money / price * TOKENS_OF_A_PRICE
            self._limits.append((tokens, f"{flow.budget_money:g} in money"))

    @property
    def counts_tokens(self) -> bool:
        """Whether tokens or money are limited."""
        return bool(self._limits)

    def room(self) -> float | None:
        """Return how many tokens a request may have now, None if that is not limited."""
        if not self._limits:
            return None
        return min(limit for limit, _ in self._limits) - self._tokens - self._reserved

    def admit(self, tokens: int) -> str | None:
        """Let a request through and reserve its tokens: None; or say which budget is reached."""
        requests_max = self._flow.budget_requests
        if requests_max is not None and self._requests >= requests_max:
            return f"the budget of {requests_max} requests is reached"
        for limit, text in self._limits:
            if self._tokens + self._reserved + tokens > limit:
                return f"the budget of {text} is reached: {self._tokens} tokens were embedded"
        self._requests += 1
        self._reserved += tokens
        return None

    def settle(self, reserved: int, spent: int) -> None:
        """Replace what a request reserved by what it cost."""
        self._reserved -= reserved
        self._tokens += spent
