"""``ocid images``: the catalog, from the log."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from ocid import tables
from ocid.cli.client import Deps
from ocid.cli.log import current_view, reading
from ocid.config import Loaded
from ocid.projections import summary
from ocid.projections.summary import ImageLine
from ocid.projections.text import short, size

COLUMNS = ("IMAGE ID", "SIZE", "NAME")


def run(args: argparse.Namespace, loaded: Loaded, deps: Deps) -> int:
    """Print every image, one line for each of its names."""
    with reading(loaded) as reader:
        view = current_view(reader)
        images = summary.images(view)
    if args.output == "json":
        tables.json({"seq": view.seq, "images": images})
    else:
        tables.show(COLUMNS, rows(images))
    return 0


def rows(images: list[ImageLine]) -> Iterator[tuple[str, ...]]:
    """Yield the table's rows. Pure."""
    for image in images:
        for name in image.names or ("<no name>",):
            yield short(image.id), size(image.size_bytes), name
