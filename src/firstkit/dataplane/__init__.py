# SPDX-License-Identifier: Apache-2.0
"""The data plane: one HTTP server that relays inference requests to instances and everything else to the api."""

from firstkit.dataplane.answers import Local, LocalAnswer
from firstkit.dataplane.doors import PARK, REPORT
from firstkit.dataplane.plane import Plane
from firstkit.dataplane.timers import Wheel

__all__ = ["PARK", "REPORT", "Local", "LocalAnswer", "Plane", "Wheel"]
