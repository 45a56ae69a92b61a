"""What a reader may expect of a rebuild: the determinism level of a version, for its manifest and its card.

    L0 none              requests carried no seeds, or nothing is known of how they were answered
    L1 seeded            every request carried a seed made from its content; what runs beside it may still change the last bit
    L2 batch-invariant   seeded, and an answer does not depend on what runs beside it
    L3 replayed          this build drew nothing: every sample came out of the journal, or there are none

L0 to L2 are of the engine, by what it says of itself once it has started; of several the least holds. L3 is of the build, and
`fresh` beside it says which level sampling anew would have.
"""

from collections.abc import Mapping
from typing import Any

from tracemill.pipelines.plan import Plan
from tracemill.pipelines.versions.manifest import Determinism, EngineLevel

_FRESH = {
    "L0": "requests were not seeded, so sampling anew gives other samples",
    "L1": "every request is seeded by its content; sampling anew gives these samples where the engine itself repeats, which "
    "bfloat16 on a GPU may not",
    "L2": "every request is seeded by its content, and an answer does not depend on what runs beside it: sampling anew on the same "
    "engine, libraries and kind of hardware gives these samples",
}


def determinism(plan: Plan, *, samples_new: int, samples_of: Mapping[str, int]) -> Determinism:
    """The level of a build that rests on so many samples of each role, `samples_new` of them drawn by it."""
    samples = sum(samples_of.values())
    if samples == 0:
        promise = "nothing was sampled: a rebuild from the same sources is the same version."
        return Determinism(level="L3", promise=promise)
    asked = {name: role for name, role in plan.roles.items() if samples_of.get(name)}
    roles = {name: engine_level(role.seeds, role.facts(), role.model.dtype) for name, role in asked.items()}
    fresh = min((level["level"] for level in roles.values()), default="L0")
    if samples_new == 0:
        promise = f"all {samples:,} samples came out of the journal, which gives this version again. Without it: {_FRESH[fresh]}."
        return Determinism(level="L3", promise=promise, fresh=fresh, roles=roles)
    of_them = (
        "" if samples_new == samples else f" Of {samples:,} samples {samples - samples_new:,} came out of the journal."
    )
    promise = f"{_FRESH[fresh]}. A replay of the journal gives this version again.{of_them}"
    return Determinism(level=fresh, promise=promise[0].upper() + promise[1:], fresh=fresh, roles=roles)


def engine_level(seeds: str, facts: Mapping[str, Any], dtype: str) -> EngineLevel:
    """The level of one engine, by the facts that it gives for the manifest."""
    engine = facts.get("engine", "unknown")
    if seeds == "none":
        return EngineLevel(level="L0", why='seeds = "none"')
    if engine == "scripted":
        return EngineLevel(level="L2", why="a script answers each request by itself")
    if engine == "vllm" and facts.get("batch_invariant") and facts.get("platform") != "cpu":
        return EngineLevel(level="L2", why="vLLM ran with VLLM_BATCH_INVARIANT=1")
    if engine == "hf" and facts.get("batch_invariant"):
        return EngineLevel(level="L2", why="float32 on a CPU, in steps whose shapes do not depend on the batch")
    if engine == "openai":
        return EngineLevel(
            level="L1", why="seeds were sent; whether a server keeps to them, and what runs beside, is not known"
        )
    if engine == "vllm" and facts.get("platform") == "cpu" and facts.get("dtype", dtype) == "float32":
        return EngineLevel(level="L1", why="float32 on a CPU, which repeats itself in our tests; no kernel promises it")
    return EngineLevel(
        level="L1", why=f"{engine} in {facts.get('dtype', dtype)}: the batch a request runs in can change the last bit"
    )
