"""Tandem component: prefill_worker."""
