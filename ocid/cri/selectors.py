"""Label selectors of CRI filters: every label must be there with exactly that value."""

from __future__ import annotations

from collections.abc import Mapping


def labels_match(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Say whether *labels* have all that *selector* asks for."""
    return not selector or all(labels.get(key) == value for key, value in selector.items())
