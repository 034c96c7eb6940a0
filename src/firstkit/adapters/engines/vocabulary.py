# SPDX-License-Identifier: Apache-2.0
"""The inference paths and reserved request fields that the engines' adapters choose from."""

from __future__ import annotations

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"
RESPONSES = "/v1/responses"
MESSAGES = "/v1/messages"
COUNT_TOKENS = "/v1/messages/count_tokens"
RERANK = "/v1/rerank"
SCORE = "/v1/score"
TRANSCRIPTIONS = "/v1/audio/transcriptions"
TRANSLATIONS = "/v1/audio/translations"
SPEECH = "/v1/audio/speech"
TOKENIZE = "/tokenize"
DETOKENIZE = "/detokenize"
POOLING = "/pooling"
CLASSIFY = "/classify"

INFERENCE_PATHS = frozenset(
    {
        CHAT,
        COMPLETIONS,
        EMBEDDINGS,
        RESPONSES,
        MESSAGES,
        COUNT_TOKENS,
        RERANK,
        SCORE,
        TRANSCRIPTIONS,
        TRANSLATIONS,
        SPEECH,
        TOKENIZE,
        DETOKENIZE,
        POOLING,
        CLASSIFY,
    }
)
"""Everything firstkit can relay; an adapter's paths are among these."""

RESERVED = frozenset({"priority", "cache_salt", "kv_transfer_params"})
"""Fields by which a client could jump the engine's queue, see by timing what others asked, or move caches about.

Every engine refuses these, also one that would ignore them, so that a request does not depend on where it lands.
"""
