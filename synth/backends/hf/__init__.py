"""Models run by transformers, LoRA adapters by peft. Start reading in `backend.py`."""

from tracemill.synth.backends.hf.backend import Hf

__all__ = ["Hf"]
