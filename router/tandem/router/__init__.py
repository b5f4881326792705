"""Tandem component: router."""
