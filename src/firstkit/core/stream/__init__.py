# SPDX-License-Identifier: Apache-2.0
"""Reading streamed answers without touching them: event boundaries, tokens, times."""
