"""Tandem component: rpc."""
