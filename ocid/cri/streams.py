"""CRI StreamPodSandboxes, StreamContainers and StreamImages: the lists, for nodes with more than one message holds.

All items are those of one moment, taken before the first message, each of them comes once, and then the stream ends.
No message is empty: of an empty list there is none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from google.protobuf.message import Message

from ocid.cri import validate
from ocid.cri.container_list import container_parts
from ocid.cri.encoded import Encoded, batches
from ocid.cri.facade import Facade
from ocid.cri.image_list import matching_images
from ocid.cri.sandbox_list import pod_parts
from ocid.cri.stubs import api_pb2 as pb

BATCH_ITEMS_MAX = 500  # of one message, however small they are


def stream_pod_sandboxes(facade: Facade, request: pb.StreamPodSandboxesRequest) -> Iterator[Encoded]:
    """The filter is that of ListPodSandbox."""
    validate.list_pods(request)
    return _messages(pb.StreamPodSandboxesResponse, pod_parts(facade, request.filter))


def stream_containers(facade: Facade, request: pb.StreamContainersRequest) -> Iterator[Encoded]:
    """The filter is that of ListContainers."""
    validate.list_containers(request)
    return _messages(pb.StreamContainersResponse, container_parts(facade, request.filter))


def stream_images(facade: Facade, request: pb.StreamImagesRequest) -> Iterator[Encoded]:
    """The filter is that of ListImages."""
    validate.list_images(request)
    images = matching_images(facade, request.filter)
    return _messages(pb.StreamImagesResponse, [_encoded(image) for image in images])


def _encoded(image: pb.Image) -> bytes:
    return pb.ListImagesResponse(images=[image]).SerializeToString()


def _messages(kind: type[Message], parts: Sequence[bytes]) -> Iterator[Encoded]:
    for first in range(0, len(parts), BATCH_ITEMS_MAX):
        yield from batches(kind, parts[first : first + BATCH_ITEMS_MAX])
