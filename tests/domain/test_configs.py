"""The configs survive both encodings, and image configurations are read however odd they are."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given, strategies as st

from ocid.domain import configs as c
from ocid.domain.image_config import IMAGE_CONFIG_BYTES_MAX, ImageConfig, parse_image_config
from ocid.errors import InvalidRequest

texts = st.text(max_size=8)


@given(
    labels=st.dictionaries(texts, texts, max_size=3),
    envs=st.lists(st.builds(c.EnvVar, key=texts, value=st.binary(max_size=8)), max_size=3).map(tuple),
    user=st.none() | st.integers(-(2**63), 2**63 - 1),
    profile=st.none() | st.builds(c.SecurityProfile, profile_type=st.sampled_from(c.ProfileType), localhost_ref=texts),
)
def test_container_config_survives_json_and_msgpack(
    labels: dict[str, str], envs: tuple[c.EnvVar, ...], user: int | None, profile: c.SecurityProfile | None
) -> None:
    security = c.ContainerSecurityContext(run_as_user=user, seccomp=profile)
    config = c.ContainerConfig(labels=labels, envs=envs, linux=c.LinuxContainerConfig(security_context=security))

    for codec in (msgspec.json, msgspec.msgpack):
        assert codec.decode(codec.encode(config), type=c.ContainerConfig) == config  # type: ignore[attr-defined]


def test_defaults_are_not_written() -> None:
    assert msgspec.json.encode(c.PodConfig()) == b"{}"
    assert msgspec.json.decode(b"{}", type=c.ContainerConfig) == c.ContainerConfig()


def test_hostname_falls_back() -> None:
    node = c.LinuxPodConfig(
        security_context=c.PodSecurityContext(namespace_options=c.NamespaceOptions(network=c.NamespaceMode.NODE))
    )
    assert c.PodConfig(hostname="web").effective_hostname("abc", "node") == "web"
    assert c.PodConfig().effective_hostname("f" * 64, "node") == "f" * 12
    assert c.PodConfig(linux=node).effective_hostname("f" * 64, "node") == "node"


def test_user_namespace_is_only_one_with_mappings() -> None:
    one = (c.IdMapping(host_id=1, length=1),)
    assert c.NamespaceOptions().user_namespace is None
    assert c.NamespaceOptions(userns_options=c.UserNamespace()).user_namespace is None
    assert (
        c.NamespaceOptions(userns_options=c.UserNamespace(mode=c.NamespaceMode.NODE, uids=one)).user_namespace is None
    )
    assert c.NamespaceOptions(userns_options=c.UserNamespace(uids=one)).user_namespace is not None


def test_image_config_is_read() -> None:
    config = {
        "Entrypoint": ["/e"], "Cmd": None, "Env": ["A=1", 7], "WorkingDir": "/w", "User": "u:g",
        "StopSignal": "SIGQUIT", "Volumes": {"/b": {}, "/a": {}},
        "Labels": {"k": "v", "n": 1}, "ExposedPorts": ["80/tcp"],
    }  # fmt: skip
    raw = json.dumps({"config": config, "architecture": "arm64", "os": "linux", "variant": "v8", "history": []})

    assert parse_image_config(raw.encode()) == ImageConfig(
        entrypoint=("/e",), env=("A=1",), working_dir="/w", user="u:g", stop_signal="SIGQUIT", volumes=("/a", "/b"),
        labels={"k": "v"}, exposed_ports=("80/tcp",), architecture="arm64", os="linux", variant="v8",
    )  # fmt: skip


@pytest.mark.parametrize(
    "raw", [b"{}", b'{"config":null}', b'{"config":[]}', b'{"config":{"Cmd":{},"Env":3,"User":[]}}']
)
def test_odd_image_configs_count_as_empty(raw: bytes) -> None:
    assert parse_image_config(raw) == ImageConfig()


def test_a_lone_string_is_a_list_of_one() -> None:
    assert parse_image_config(b'{"config":{"Cmd":"sh"}}').cmd == ("sh",)


@pytest.mark.parametrize("raw", [b"", b"[]", b"nope", b"\xff", b"[" * 50_000, b" " * (IMAGE_CONFIG_BYTES_MAX + 1)])
def test_what_is_no_object_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidRequest, match="image config"):
        parse_image_config(raw)
