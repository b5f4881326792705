"""The bookkeeping of one call over its attempts: what is left of its time, and whether to try again."""

import random
import time

from tandem.client.retry import RetryBudget, next_retry
from tandem.client.settings import Settings
from tandem.core.errors import DeadlineExceeded, TandemError


class Attempts:
    """Made when a call begins; its deadline covers all attempts and the pauses between them."""

    def __init__(self, settings: Settings, budget: RetryBudget) -> None:
        self._end_s = time.monotonic() + settings.timeout_s
        self._max_retries = settings.retries
        self._budget = budget
        self.num_retries = 0

    def timeout_s(self) -> float:
        """Return what the next attempt may take. Raises DeadlineExceeded when nothing is left."""
        left_s = self._end_s - time.monotonic()
        if left_s <= 0.0:
            raise DeadlineExceeded("the time for this call was over before it could be tried again", stage="client")
        return left_s

    def pause_after(self, error: TandemError) -> float:
        """Return how long to wait before the next attempt; raises ``error`` when there is none."""
        retry = next_retry(
            error,
            num_retries_done=self.num_retries,
            max_retries=self._max_retries,
            left_s=self._end_s - time.monotonic(),
            budget=self._budget,
            jitter=random.random(),
        )
        if retry is None:
            raise error
        self.num_retries += 1
        return retry.delay_s

    def note_success(self) -> None:
        """The call ended well."""
        self._budget.note_success()
