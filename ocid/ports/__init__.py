"""What the core needs from the world, as protocols. Adapters implement them for real hosts, fakes for simulation.

All methods that make or unmake something are idempotent: called again with the same order after a crash, they find
what is there and finish the rest. All of them may be cancelled at any checkpoint; what they leave then is named by the
order, and the next call deals with it. They raise the errors of ``ocid.errors`` only.
"""

from __future__ import annotations

from ocid.ports.containers import (
    CheckpointOrder,
    ContainerOrder,
    ExecProcess,
    ExecResult,
    HandlerFeatures,
    LimitsOrder,
    Runtime,
    Signalled,
    Wanting,
)
from ocid.ports.images import (
    AS_IT_IS,
    Credentials,
    HostFiles,
    ImageFacts,
    ImageView,
    LayerBlob,
    LayerProgress,
    Layers,
    LayerSize,
    Registry,
    ResolvedImage,
    StoreUsage,
)
from ocid.ports.log import Clock, Journal, Secrets, Signer, Signers, TreeJournal
from ocid.ports.pods import (
    Attachment,
    Exit,
    FurtherAttachment,
    Network,
    NetworkOrder,
    Process,
    Sandboxes,
    SandboxOrder,
)
from ocid.ports.usage import Usage
from ocid.ports.witness import Witness

__all__ = [
    "AS_IT_IS",
    "Attachment",
    "CheckpointOrder",
    "Clock",
    "ContainerOrder",
    "Credentials",
    "ExecProcess",
    "ExecResult",
    "Exit",
    "FurtherAttachment",
    "HandlerFeatures",
    "HostFiles",
    "ImageFacts",
    "ImageView",
    "Journal",
    "LayerBlob",
    "LayerProgress",
    "LayerSize",
    "Layers",
    "LimitsOrder",
    "Network",
    "NetworkOrder",
    "Process",
    "Registry",
    "ResolvedImage",
    "Runtime",
    "SandboxOrder",
    "Sandboxes",
    "Secrets",
    "Signalled",
    "Signer",
    "Signers",
    "StoreUsage",
    "TreeJournal",
    "Usage",
    "Wanting",
    "Witness",
]
