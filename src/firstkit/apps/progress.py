# SPDX-License-Identifier: Apache-2.0
"""What `first up` shows: short lines while things come up, one ready line, and two things to paste."""

from __future__ import annotations

import http.client
import json
import ssl
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from firstkit.adapters.probe import get
from firstkit.core.topology import Address, AddressKind
from firstkit.core.units import format_duration

_WRITE = "Write one sentence about the ocean."
_ASK = "What is the capital of France? Answer in one sentence."
"""What even a model of 135 million parameters answers sensibly."""


class Progress:
    """Write lines that begin with `first:`; on a terminal, updates replace one another."""

    def __init__(self) -> None:
        self._terminal = sys.stdout.isatty()
        self._open = False
        self._said = ""

    def say(self, text: str) -> None:
        """Write a line that stays."""
        self._close()
        print(f"first: {text}", flush=True)

    def update(self, text: str, countdown: str = "") -> None:
        """Write a line that the next one may replace; the countdown is for terminals alone, where it can run."""
        if not self._terminal:
            if text != self._said:
                self.say(text)
            self._said = text
            return
        print(f"\r\x1b[Kfirst: {', '.join(part for part in (text, countdown) if part)}", end="", flush=True)
        self._open = True

    def ready(self, text: str) -> None:
        """Write the ready line and what follows it."""
        self._close()
        print(text, flush=True)

    def _close(self) -> None:
        if self._open:
            print("\r\x1b[K", end="")
            self._open = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLine:
    """How one model is doing, for a line of progress."""

    settled: bool
    held: bool
    line: str
    countdown: str = ""


def ask(address: Address, key: str) -> dict[str, ModelLine] | None:
    """Ask the gateway for its models as any client does; None while it does not answer."""
    context = None
    if address.kind is AddressKind.TLS:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # our own process, asked over loopback
    try:
        status, body = get(address, "/v1/models", authorization=f"Bearer {key}", context=context)
        return _read(json.loads(body)) if status == 200 else None
    except (OSError, http.client.HTTPException, ValueError):
        return None


def _read(listing: Any) -> dict[str, ModelLine]:
    """Take from OpenAI's listing, with our extra field, what progress shows."""
    found: dict[str, ModelLine] = {}
    for item in cast("list[dict[str, Any]]", listing.get("data", [])):
        name, state = str(item["id"]), cast("dict[str, Any]", item.get("first") or {})
        heat, held = state.get("state"), bool(state.get("held"))
        words = [f"{name} is {heat}"]
        if held:
            words = [f"{name} cannot start: {state.get('reason')}"]
        elif state.get("fraction") is not None:
            words.append(f"{100 * float(state['fraction']):.0f} %")
        if text := state.get("progress") or state.get("detail"):
            words.append(str(text))
        eta = None if held else state.get("time_to_hot_s")
        countdown = f"about {format_duration(float(eta))} left" if eta is not None else ""
        settled = heat == "hot" or held
        found[name] = ModelLine(settled=settled, held=held, line=", ".join(words), countdown=countdown)
    return found


def ready_text(address: Address, *, key_file: Path, model: str | None) -> str:
    """Write the ready line, a curl line and a Python snippet that work when pasted."""
    if address.kind is AddressKind.UNIX:
        return f"first: ready on unix:{address.path} (API key in {key_file})"
    tls = address.kind is AddressKind.TLS
    host = f"[{address.host}]" if ":" in address.host else address.host
    base = f"{'https' if tls else 'http'}://{host}:{address.port}/v1"
    lines = [f"first: ready at {base} (API key in {key_file})"]
    if model is not None:
        request = json.dumps(
            {
                "model": model,
                "messages": [{"role": "user", "content": _WRITE}],
                "stream": True,
            }
        )
        lines += [
            "",
            f"curl -N{' -k' if tls else ''} {base}/chat/completions \\",
            f"  -H \"Authorization: Bearer $(cat '{key_file}')\" -H 'Content-Type: application/json' \\",
            f"  -d '{request}'",
            "",
            "# pip install openai",
            "from pathlib import Path",
            "from openai import OpenAI",
            f"client = OpenAI(base_url={base!r}, api_key=Path({str(key_file)!r}).read_text().strip())",
            "answer = client.chat.completions.create(",
            f"    model={model!r}, messages=[{{'role': 'user', 'content': {_ASK!r}}}]",
            ")",
            "print(answer.choices[0].message.content)",
        ]
    return "\n".join(lines)
