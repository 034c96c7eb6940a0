# SPDX-License-Identifier: Apache-2.0
"""Protocols for every outside thing: clock, scheduler, runner, engine, link, store, identity, telemetry."""
