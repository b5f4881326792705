"""Typed stubs for calls inside a cluster: core values in and out, Tandem's errors raised. The SDK is tandem.client."""
