"""Core values to protobuf and back, the only place that knows both. Zero I/O.

``encode_x`` never fails on a value that its core type allows; ``decode_x`` raises ``InvalidArgument`` naming the field.
"""
