"""The CRI v1 messages and services, generated from ``proto/``: ``from ocid.cri.stubs import api_grpc, api_pb2``."""
