# SPDX-License-Identifier: Apache-2.0
"""Everything that touches the outside: schedulers, runners, links, engines, identity, store, telemetry."""
