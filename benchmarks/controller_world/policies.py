"""The policies that the benchmark applies. Pure."""

TTFT_S = 6.0
TPOT_S = 0.5
ATTAINMENT = 0.9


def slo_policy(
    *, workers: int, dwell: str = "6s", reverse: str = "10s", cooldown: str = "60s", most: int = 4, mode: str = "Auto"
) -> str:
    """Promises kept by moving the ratio of a fixed number of workers."""
    return _policy(
        f"""  mode: {mode}
  strategy: Slo
  classes:
    standard:
      ttft: {{target: {TTFT_S:g}s}}
      tpot: {{target: {1e3 * TPOT_S:g}ms}}
      attainment: {ATTAINMENT}
  budget: {{min: {workers}, max: {workers}}}
  roleSwitch: {{maxWorkers: {most}}}
  damping: {{dwell: {dwell}, reverseDwell: {reverse}, cooldown: {cooldown}}}
""",
        workers=workers,
    )


def fixed_policy(prefill: int, decode: int) -> str:
    """So many of each, at once: to provoke switches."""
    workers = prefill + decode
    return _policy(
        f"""  strategy: Fixed
  budget: {{min: {workers}, max: {workers}}}
  damping: {{dwell: 1s, reverseDwell: 1s, cooldown: 1s}}
""",
        workers=workers,
        replicas=(prefill, decode),
    )


def _policy(middle: str, *, workers: int, replicas: tuple[int, int] | None = None) -> str:
    pools = ""
    for index, role in enumerate(("prefill", "decode")):
        count = f"replicas: {replicas[index]}, " if replicas is not None else ""
        pools += f"    {role}: {{{count}maxReplicas: {workers - 1}, drain: {{timeout: 4s, onTimeout: Recover}}}}\n"
    return f"""apiVersion: tandem/v1
kind: AutoscalingPolicy
metadata: {{name: benchmark}}
spec:
  interval: 1s
{middle}  predictor: {{window: 8s, horizon: 5s}}
  fallback: {{staleAfter: 4s}}
  sizing: {{catchUp: 30s}}
  pools:
{pools}"""
