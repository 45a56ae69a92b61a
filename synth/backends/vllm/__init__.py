"""A vLLM engine of our own: started, watched, healed and never left behind. Start reading in `backend.py`."""

from tracemill.synth.backends.vllm.backend import Vllm

__all__ = ["Vllm"]
