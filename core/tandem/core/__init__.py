"""Tandem component: core."""
