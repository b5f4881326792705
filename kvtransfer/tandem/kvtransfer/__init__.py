"""Tandem component: kvtransfer."""
