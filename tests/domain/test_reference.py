"""Image references, as Docker and Kubernetes read them."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from ocid.domain.reference import parse
from ocid.errors import InvalidRequest

HEX = "0123456789abcdef" * 4
DIGEST = f"sha256:{HEX}"


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("nginx", "docker.io/library/nginx:latest"),
        ("nginx:1.27", "docker.io/library/nginx:1.27"),
        ("library/nginx", "docker.io/library/nginx:latest"),
        ("docker.io/nginx", "docker.io/library/nginx:latest"),
        ("index.docker.io/nginx", "docker.io/library/nginx:latest"),
        ("docker.io/grafana/grafana:11", "docker.io/grafana/grafana:11"),
        ("grafana/grafana", "docker.io/grafana/grafana:latest"),
        ("registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10"),
        ("localhost/app", "localhost/app:latest"),
        ("localhost:5000/app", "localhost:5000/app:latest"),
        ("127.0.0.1:5000/a/b/c:x", "127.0.0.1:5000/a/b/c:x"),
        ("[::1]:5000/app", "[::1]:5000/app:latest"),
        ("host:5000/app:v1", "host:5000/app:v1"),
        ("Host/app", "Host/app:latest"),
        ("nginx@" + DIGEST, "docker.io/library/nginx@" + DIGEST),
        ("nginx:1.27@" + DIGEST, "docker.io/library/nginx@" + DIGEST),
        ("a__b/c.d/e-f/g--h", "docker.io/a__b/c.d/e-f/g--h:latest"),
        ("app:_A.b-c", "docker.io/library/app:_A.b-c"),
        ("a" * 255 + "/b", None),
        ("x/" + "a" * (255 - len("docker.io/x/")), "docker.io/x/" + "a" * (255 - len("docker.io/x/")) + ":latest"),
        ("x/" + "a" * (256 - len("docker.io/x/")), None),
        ("app:" + "t" * 128, "docker.io/library/app:" + "t" * 128),
        ("app:" + "t" * 129, None),
        ("", None),
        (" nginx", None),
        ("nginx ", None),
        ("nginx\n", None),
        ("nginx:1\n", None),
        ("NGINX", None),
        ("reg.io/Upper", None),
        ("nginx:", None),
        ("nginx:.x", None),
        ("nginx:-x", None),
        ("nginx:a/b:c", None),
        ("nginx@", None),
        ("nginx@sha256:abc", None),
        ("nginx@" + DIGEST.upper(), None),
        ("nginx@md5:" + HEX[:32], None),
        ("@" + DIGEST, None),
        (DIGEST, None),
        (HEX, None),
        ("https://reg.io/app", None),
        ("reg.io//app", None),
        ("reg.io/app/", None),
        ("/app", None),
        ("../../etc/passwd", None),
        ("reg.io/../app", None),
        ("reg.io/a..b", None),
        ("reg.io/a___b", None),
        ("reg.io:port/app", None),
        ("reg.io:123456/app", None),
        ("-reg.io/app", None),
        ("user:pw@reg.io/app", None),
        ("nginx\x00", None),
        ("ngïnx", None),
        ("nginx:١", None),
        ("\ud800", None),
        ("a" * 10_000, None),
    ],
)
def test_parse(text: str, canonical: str | None) -> None:
    if canonical is None:
        with pytest.raises(InvalidRequest):
            parse(text)
    else:
        assert str(parse(text)) == canonical


def test_a_name_with_tag_and_digest_keeps_both_and_means_the_digest() -> None:
    name = parse("reg.io/app:v1@" + DIGEST)
    assert (name.domain, name.path, name.tag, name.digest) == ("reg.io", "app", "v1", DIGEST)
    assert name.repository == "reg.io/app"
    assert name.target == DIGEST


def test_a_refusal_names_the_reference_and_the_part() -> None:
    with pytest.raises(InvalidRequest, match=r"'reg.io/Upper'.*'Upper'.*lower case"):
        parse("reg.io/Upper")


PART = st.from_regex(r"[a-z0-9]{1,5}((\.|_|__|-{1,2})[a-z0-9]{1,5}){0,2}", fullmatch=True)


@given(
    domain=st.sampled_from(["docker.io", "reg.io:5000", "localhost", "[::1]:80"]),
    path=st.lists(PART, min_size=2, max_size=4),
    tag=st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True),
)
def test_the_canonical_name_reads_back_as_itself(domain: str, path: list[str], tag: str) -> None:
    text = f"{domain}/{'/'.join(path)}:{tag}"
    assert str(parse(text)) == text


@given(st.text(max_size=80) | st.text(alphabet="ab/.:@-_[]Z0", max_size=30))
def test_any_text_is_read_or_refused_and_never_changes_again(text: str) -> None:
    try:
        name = parse(text)
    except InvalidRequest:
        return
    assert parse(str(name)).repository == name.repository
    assert parse(str(name)).target == name.target
