# SPDX-License-Identifier: Apache-2.0
"""How the documents between controller and launcher become bytes and back."""

from __future__ import annotations

from typing import Protocol

from firstkit.core.control import Desired, JobDocument, Status


class ControlDocuments(Protocol):
    """Read what launchers write, write what they read."""

    def read_status(self, data: bytes) -> Status:
        """Raise InvalidRequest, with a sentence that holds nothing of the content, when it is no status."""
        ...

    def write_job(self, job: JobDocument) -> bytes: ...
    def write_desired(self, desired: Desired) -> bytes: ...
