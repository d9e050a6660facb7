"""How fast a pod may talk."""

from __future__ import annotations

import pytest

from ocid.domain import bandwidth
from ocid.domain.bandwidth import Bandwidth, bandwidth_of
from ocid.errors import InvalidRequest


def test_without_annotations_there_is_no_limit():
    assert bandwidth_of({"other": "1M"}) == Bandwidth()


def test_both_directions():
    annotations = {"kubernetes.io/ingress-bandwidth": "10M", "kubernetes.io/egress-bandwidth": "1Mi"}
    assert bandwidth_of(annotations) == Bandwidth(ingress=10_000_000, egress=1 << 20)


@pytest.mark.parametrize("text", ["", "fast", "999", "2P", "1e99", "-1M", "1MM", "9" * 5000])
def test_what_is_no_rate_is_refused(text: str):
    with pytest.raises(InvalidRequest, match="egress bandwidth"):
        bandwidth_of({"kubernetes.io/egress-bandwidth": text})


@pytest.mark.parametrize("rate", [bandwidth.RATE_MIN, 10**6, 10**9, 10**11, bandwidth.RATE_MAX])
def test_bursts_and_queues_are_bounded(rate: int):
    assert bandwidth.BURST_BYTES_MIN <= bandwidth.burst_bytes(rate) <= bandwidth.BURST_BYTES_MAX
    assert bandwidth.burst_bytes(rate) <= bandwidth.queue_bytes(rate) < 1 << 32
