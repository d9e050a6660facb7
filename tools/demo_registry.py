"""A container registry for one image on loopback, and that image, made from the machine's own busybox.

The registry speaks as much of the OCI distribution protocol as a pull needs. Nothing is kept on disk.
"""

import gzip
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

REPOSITORY, TAG = "ocid/demo", "1"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "ppc64le": "ppc64le", "s390x": "s390x", "riscv64": "riscv64"}


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Layer:
    """A tar archive in memory, the same bytes for the same content."""

    def __init__(self) -> None:
        self._buffer = io.BytesIO()
        self._tar = tarfile.open(fileobj=self._buffer, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115
        self._made: set[str] = set()

    def directory(self, name: str, mode: int = 0o755) -> None:
        self._add(name, tarfile.DIRTYPE, mode)

    def file(self, name: str, data: bytes, mode: int = 0o644) -> None:
        self._add(name, tarfile.REGTYPE, mode, data)

    def hard_link(self, name: str, target: str) -> None:
        self._add(name, tarfile.LNKTYPE, 0o755, link=target)

    def program(self, name: str, path: str) -> None:
        """A program of this machine, with the libraries it needs if it is not a static one."""
        self.file(name, Path(path).read_bytes(), 0o755)
        needed = subprocess.run(["ldd", path], capture_output=True, text=True, check=False)
        for library in re.findall(r"(/\S+)", needed.stdout) if needed.returncode == 0 else []:
            self.file(library.lstrip("/"), Path(library).read_bytes(), 0o755)

    def finish(self) -> bytes:
        self._tar.close()
        return self._buffer.getvalue()

    def _add(self, name: str, kind: bytes, mode: int, data: bytes = b"", link: str = "") -> None:
        parent = os.path.dirname(name)
        if parent and parent not in self._made:
            self.directory(parent)
        if name not in self._made:
            self._made.add(name)
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.size, info.linkname = kind, mode, len(data), link
            self._tar.addfile(info, io.BytesIO(data))


def build() -> dict[str, tuple[str, bytes]]:
    """Make the image: two layers, a config and a manifest, by digest, as (media type, bytes)."""
    busybox = shutil.which("busybox")
    if busybox is None:
        raise FileNotFoundError("no busybox on PATH: install busybox-static")
    system = Layer()
    system.program("bin/busybox", busybox)
    for applet in subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split():
        if applet != "busybox":
            system.hard_link(f"bin/{applet}", "bin/busybox")
    system.directory("tmp", 0o1777)
    for name in ("proc", "sys", "dev", "root", "etc"):
        system.directory(name)
    system.file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")
    system.file("etc/group", b"root:x:0:\nnogroup:x:65534:\n")
    greeting = Layer()
    greeting.file("etc/motd", b"This file came with the second layer.\n")

    layers = [layer.finish() for layer in (system, greeting)]
    packed = [gzip.compress(layer, 6, mtime=0) for layer in layers]
    config = json.dumps(
        {
            "architecture": MACHINES.get(os.uname().machine, os.uname().machine),
            "os": "linux",
            "created": "2026-01-01T00:00:00Z",
            "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"], "WorkingDir": "/"},
            "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]},
            "history": [{"created": "2026-01-01T00:00:00Z", "created_by": "tools/demo_registry.py"}] * len(layers),
        }
    ).encode()

    def descriptor(kind: str, data: bytes) -> dict[str, Any]:
        return {"mediaType": kind, "digest": digest(data), "size": len(data)}

    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(CONFIG, config),
            "layers": [descriptor(LAYER, data) for data in packed],
        }
    ).encode()
    content = {digest(data): (LAYER, data) for data in packed}
    return content | {digest(config): (CONFIG, config), digest(manifest): (MANIFEST, manifest)}


class Registry:
    """Serves the image from a thread: `with Registry(port) as registry: … registry.reference`."""

    def __init__(self, port: int = 0) -> None:
        content = build()
        tagged = next(key for key, (kind, _) in content.items() if kind == MANIFEST)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                self.do_GET(body=False)

            def do_GET(self, body: bool = True) -> None:
                if self.path in ("/v2", "/v2/"):
                    return self._answer(200, "application/json", b"{}", "", body)
                match = re.fullmatch(rf"/v2/{REPOSITORY}/(manifests|blobs)/([^/?]+)(\?.*)?", self.path)
                key = tagged if match and match[1] == "manifests" and match[2] == TAG else match[2] if match else ""
                if key in content:
                    kind, data = content[key]
                    return self._answer(200, kind, data, key, body)
                missing = {"errors": [{"code": "NOT_FOUND", "message": f"no {self.path} here"}]}
                return self._answer(404, "application/json", json.dumps(missing).encode(), "", body)

            def _answer(self, status: int, kind: str, data: bytes, key: str, body: bool) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data)))
                if key:
                    self.send_header("Docker-Content-Digest", key)
                self.end_headers()
                if body:
                    self.wfile.write(data)

            def log_message(self, format: str, *args: object) -> None:
                pass  # the demonstration has its own story to tell

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        self.reference = f"{self.address}/{REPOSITORY}:{TAG}"

    def __enter__(self) -> "Registry":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
