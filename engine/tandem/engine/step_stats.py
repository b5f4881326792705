"""What a step is about to compute, in numbers: food for the latency model. Pure."""

from tandem.engine.results import StepStats
from tandem.engine.scheduling.scheduler import StepPlan


def step_stats(plan: StepPlan) -> StepStats:
    """Sum up a plan; the wall time is not known yet."""
    return StepStats(
        num_prefill_sequences=len(plan.chunks),
        num_prefill_tokens=sum(chunk.num_tokens for chunk in plan.chunks),
        num_cached_tokens=sum(chunk.sequence.num_computed for chunk in plan.chunks),
        num_decode_rows=len(plan.decoding),
        num_context_tokens=sum(sequence.num_tokens for sequence in plan.decoding),
        num_preempted=plan.num_preempted,
    )
