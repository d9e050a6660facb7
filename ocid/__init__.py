"""ocid: a container runtime daemon for Kubernetes nodes that remembers everything."""

__version__ = "0.1.0"
