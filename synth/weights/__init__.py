"""Weights beside the model's own: LoRA adapters at scales, and models between two models."""
