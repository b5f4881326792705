"""Typed services: what a component implements to serve one of Tandem's gRPC services, in core values."""
