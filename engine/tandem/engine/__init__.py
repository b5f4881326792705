"""Tandem component: engine."""
