"""Tandem component: cluster."""
