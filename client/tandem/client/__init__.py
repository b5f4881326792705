"""Tandem component: client."""
