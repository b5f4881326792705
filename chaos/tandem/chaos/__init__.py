"""Proof under fault: a tagged engine, fault tools, leak checks, a trace checker and a seeded simulation of the cluster.

Nothing that serves imports it; it sits on top of everything else.
"""
