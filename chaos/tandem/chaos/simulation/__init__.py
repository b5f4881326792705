"""A whole cluster in one thread on virtual time: production objects, a hostile network, faults drawn from a seed.

``world`` holds time, chance and the trace; ``process``, ``network``, ``kv_links`` and ``attach`` stand in for
processes, wires and streams; ``worker``, ``router`` and ``client`` put the production objects into them; ``faults``
breaks things; ``client``, ``cluster`` and the trace checker behind ``events`` judge.
`python -m tandem.chaos.simulation` runs seeds.
"""
