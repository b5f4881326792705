"""Tandem component: kernels."""
