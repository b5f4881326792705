"""Tandem component: decode_worker."""
