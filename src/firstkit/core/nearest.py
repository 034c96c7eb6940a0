# SPDX-License-Identifier: Apache-2.0
"""The names most like a mistyped one."""

from __future__ import annotations

from collections.abc import Iterable


def distance(first: str, second: str, *, limit: int) -> int:
    """Count insertions, deletions, substitutions and swaps of neighbours between words; beyond `limit`, `limit` + 1.

    Source: optimal string alignment distance (Damerau 1964, Levenshtein 1966), two rows back.
    """
    if abs(len(first) - len(second)) > limit:
        return limit + 1
    before: list[int] = []
    previous = list(range(len(second) + 1))
    for row, left in enumerate(first, 1):
        current = [row]
        for column, right in enumerate(second, 1):
            cost = min(previous[column] + 1, current[column - 1] + 1, previous[column - 1] + (left != right))
            if row > 1 and column > 1 and left == second[column - 2] and first[row - 2] == right:
                cost = min(cost, before[column - 2] + 1)
            current.append(cost)
        if min(current) > limit:
            return limit + 1
        before, previous = previous, current
    return min(previous[-1], limit + 1)


def nearest(word: str, names: Iterable[str], *, most: int = 3) -> tuple[str, ...]:
    """List the names that `word` may have been meant for, those equally near together, at most `most`; often none.

    Case, hyphens and underscores count for nothing. About one letter in three may be wrong.
    """
    plain = _plain(word)
    if not plain:
        return ()
    limit = max(1, min(4, len(plain) // 3))
    found: dict[str, int] = {}
    for name in names:
        far = distance(plain, _plain(name), limit=limit)
        if far <= limit:
            found[name] = far
    best = min(found.values(), default=0)
    return tuple(sorted(name for name, far in found.items() if far == best)[:most])


def _plain(word: str) -> str:
    return word.lower().replace("-", "").replace("_", "")


def or_list(words: Iterable[str]) -> str:
    """Join words as in a sentence: "a", "a or b", "a, b or c"."""
    listed = list(words)
    return " or ".join([", ".join(listed[:-1]), listed[-1]]) if len(listed) > 1 else "".join(listed)
