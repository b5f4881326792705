"""Everything gRPC: the codecs, the error table, channels and servers, authentication, typed services and stubs.

Other components see core values only; protobuf and status codes stay in here. Import the submodule you need: this
package imports none of them, so that a client does not pay for what a server needs.
"""
