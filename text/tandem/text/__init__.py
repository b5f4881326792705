"""Tandem component: text."""
