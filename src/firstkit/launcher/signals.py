# SPDX-License-Identifier: Apache-2.0
"""Requests to end that come as signals: heard from the launcher's first moment to its last."""

from __future__ import annotations

import signal
from typing import Any, Callable, List, Optional

REQUESTS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class Signals:
    """Remembers requests until somebody listens. Never the default action: that would leave no report."""

    def __init__(self) -> None:
        self._early: List[int] = []
        self._listener: Optional[Callable[[int], None]] = None

    def trap(self) -> None:
        """Begin; a closed terminal (SIGHUP) is no request."""
        for number in REQUESTS:
            signal.signal(number, self._arrive)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    @property
    def arrived(self) -> bool:
        """Tell whether a request waits for a listener."""
        return bool(self._early)

    def listen(self, listener: Callable[[int], None]) -> None:
        """Hand on every request, also those remembered, from within a signal handler."""
        self._listener = listener
        while self._early:
            listener(self._early.pop(0))

    def ignore(self) -> None:
        """Take no more requests: the end is being carried out."""
        for number in REQUESTS:
            signal.signal(number, signal.SIG_IGN)

    def _arrive(self, number: int, _frame: Any) -> None:
        if self._listener is None:
            self._early.append(number)
        else:
            self._listener(number)
