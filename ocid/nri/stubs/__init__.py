"""The messages of NRI and of ttrpc, generated from ``proto/nri``: ``from ocid.nri.stubs import nri_pb2, ttrpc_pb2``."""
