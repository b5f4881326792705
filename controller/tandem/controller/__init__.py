"""The SLO controller: observe, decide (pure), act. Keeps the prefill:decode ratio where the SLOs need it.

``policy`` is the model of an `AutoscalingPolicy` file; ``decide`` turns what was observed into at most one move, with
its reason; ``moves`` carries one out under fencing. Zero I/O: the loop around it lives with whoever runs it.
"""
