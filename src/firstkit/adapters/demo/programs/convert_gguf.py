# SPDX-License-Identifier: Apache-2.0
"""Turn a GGUF file into a folder of bf16 safetensors with its tokenizer, by vLLM's own transformers."""

import importlib
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    """Convert `gguf`, the first argument, into the folder named by the second."""
    gguf, out = Path(sys.argv[1]), sys.argv[2]
    torch: Any = importlib.import_module("torch")
    transformers: Any = importlib.import_module("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(
        str(gguf.parent),
        gguf_file=gguf.name,
        dtype=torch.float32,
        quantization_config=transformers.GgufConfig(dequantize=True),
    ).to(torch.bfloat16)
    # Dequantised, yet still marked as GGUF, which would have it saved and loaded as such.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    model.is_quantized = False
    model.save_pretrained(out)
    transformers.AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name).save_pretrained(out)


if __name__ == "__main__":
    main()
