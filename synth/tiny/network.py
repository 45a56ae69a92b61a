"""The tiny reasoner's forward pass, written out for training on one CPU core, and the files that others read it from.

`Weights` maps the names of transformers' LlamaForCausalLM to fp32 tensors: {"model.norm.weight": tensor of 128, ...}.
transformers and vLLM run the saved folder; this file computes the same function, several times faster where batches are
small: bf16 matrices over fp32 weights, attention as plain products, one compiled graph for each shape.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from tracemill.synth.tiny.tokenizer import BOS, EOS, PAD

if TYPE_CHECKING:
    from torch import Tensor

Weights: TypeAlias = "dict[str, Tensor]"
MIXERS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
FEEDERS = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
ROPE_THETA, EPSILON = 10000.0, 1e-6


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes, under transformers' names."""

    vocab_size: int
    hidden_size: int = 128
    intermediate_size: int = 384
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    max_position_embeddings: int = 1024

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads


def new_weights(shape: Shape, seed: int) -> Weights:
    import torch

    random = torch.Generator().manual_seed(seed)
    weights: Weights = {}
    for name, size in sizes(shape).items():
        if len(size) == 1:
            weights[name] = torch.ones(size)
        else:
            weights[name] = torch.randn(size, generator=random) * 0.02
    return weights


def sizes(shape: Shape) -> dict[str, tuple[int, ...]]:
    wide, inner = shape.hidden_size, shape.intermediate_size
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (shape.vocab_size, wide)}
    for layer in range(shape.num_hidden_layers):
        home = f"model.layers.{layer}"
        found |= {f"{home}.{part}.weight": (wide, wide) for part in MIXERS}
        found |= {f"{home}.mlp.{part}_proj.weight": (inner, wide) for part in ("gate", "up")}
        found[f"{home}.mlp.down_proj.weight"] = (wide, inner)
        found |= {f"{home}.{norm}.weight": (wide,) for norm in ("input_layernorm", "post_attention_layernorm")}
    found["model.norm.weight"] = (wide,)
    return found


def is_linear(name: str) -> bool:
    """Whether a weight is the matrix of a linear layer: what Muon trains, and what a direction in weight space changes."""
    return "_proj." in name


def logits(weights: "Mapping[str, Tensor]", tokens: "Tensor", shape: Shape) -> "Tensor":
    """What follows each token, for a batch of rows that all begin at position 0."""
    import torch
    from torch.nn import functional

    rows, length = tokens.shape
    heads, wide = shape.num_attention_heads, shape.head_dim
    frequencies = 1 / (ROPE_THETA ** (torch.arange(0, wide, 2) / wide))
    angles = torch.outer(torch.arange(length).float(), frequencies)
    cos, sin = torch.cat((angles.cos(),) * 2, -1).bfloat16(), torch.cat((angles.sin(),) * 2, -1).bfloat16()
    future = torch.full((length, length), float("-inf")).triu(1)

    def turned(x: "Tensor") -> "Tensor":
        left, right = x.chunk(2, -1)
        return x * cos + torch.cat((-right, left), -1) * sin

    def normed(x: "Tensor", name: str) -> "Tensor":
        wide = x.float()
        return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + EPSILON) * weights[name]).bfloat16()

    def matrix(*names: str) -> "Tensor":
        return torch.cat([weights[f"{name}.weight"] for name in names]).bfloat16()

    stream = functional.embedding(tokens, weights["model.embed_tokens.weight"])
    for layer in range(shape.num_hidden_layers):
        home = f"model.layers.{layer}"
        x = normed(stream, f"{home}.input_layernorm.weight")
        x = functional.linear(x, matrix(*(f"{home}.{part}" for part in MIXERS[:3])))
        query, key, value = x.view(rows, length, 3, heads, wide).permute(2, 0, 3, 1, 4)
        scores = (turned(query) @ turned(key).transpose(-1, -2)) * wide**-0.5
        mixed = torch.softmax(scores.float() + future, -1).bfloat16() @ value
        mixed = mixed.transpose(1, 2).reshape(rows, length, heads * wide)
        stream = stream + functional.linear(mixed, matrix(f"{home}.{MIXERS[3]}"))
        x = normed(stream, f"{home}.post_attention_layernorm.weight")
        gate, up = functional.linear(x, matrix(f"{home}.{FEEDERS[0]}", f"{home}.{FEEDERS[1]}")).chunk(2, -1)
        stream = stream + functional.linear(functional.silu(gate) * up, matrix(f"{home}.{FEEDERS[2]}"))
    last = normed(stream, "model.norm.weight")
    return functional.linear(last, weights["model.embed_tokens.weight"].bfloat16()).float()


def loss_sum(weights: "Mapping[str, Tensor]", tokens: "Tensor", counts: "Tensor", shape: Shape) -> "Tensor":
    """Cross-entropy of every token given those before it, times what the token counts, summed."""
    from torch.nn import functional

    predicted = logits(weights, tokens[:, :-1], shape)
    each = functional.cross_entropy(predicted.flatten(0, 1), tokens[:, 1:].reshape(-1), reduction="none")
    return (each * counts[:, 1:].reshape(-1)).sum()


def save_model(weights: Weights, shape: Shape, folder: Path) -> None:
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().float().contiguous() for name, tensor in weights.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **asdict(shape),
        "num_key_value_heads": shape.num_attention_heads,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "rms_norm_eps": EPSILON,
        "rope_parameters": {"rope_type": "default", "rope_theta": ROPE_THETA},
        "rope_theta": ROPE_THETA,
        "tie_word_embeddings": True,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "pad_token_id": PAD,
        "dtype": "float32",
    }
    generation = {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD}
    for name, content in (("config.json", config), ("generation_config.json", generation)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def load_model(folder: Path) -> tuple[Weights, Shape]:
    from safetensors.torch import load_file

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    shape = Shape(**{name: config[name] for name in Shape.__dataclass_fields__})
    return load_file(folder / "model.safetensors"), shape
