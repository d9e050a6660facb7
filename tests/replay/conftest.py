"""Make ``ocid_replay`` importable from the checkout, where it is not installed."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

TOOLS = Path(__file__).parents[2] / "tools" / "replay"

if importlib.util.find_spec("ocid_replay") is None:
    spec = importlib.util.spec_from_file_location(
        "ocid_replay", TOOLS / "__init__.py", submodule_search_locations=[str(TOOLS)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["ocid_replay"] = module
    spec.loader.exec_module(module)
