"""Whether an answer equals the gold: three-valued, in bounded time, never in this process where symbols are involved."""
