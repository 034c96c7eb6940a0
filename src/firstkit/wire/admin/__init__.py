# SPDX-License-Identifier: Apache-2.0
"""The management API's objects, `/api/v1`: what people and tools see of records, and what they send."""
