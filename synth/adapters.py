"""What a backend is given of an adapter: where its weights are, once for each scale that is asked for."""

from dataclasses import dataclass
from pathlib import Path

from tracemill.schemas.request import Adapter


@dataclass(frozen=True)
class Lora:
    """One adapter at one scale, as a PEFT folder whose lora_alpha carries the scale already."""

    adapter: Adapter
    folder: Path
