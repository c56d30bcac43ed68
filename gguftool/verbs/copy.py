"""A model copied as it is: shards joined or kept, layers pruned, metadata set by hand; no value changes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from gguftool.run.pool import Progress
from gguftool.verbs.rewrite import Request, Result, layers_of, prepare, texts_of


def copy(
    src: str | Path,
    dst: str | Path,
    *,
    prune_layers: str | Collection[int] = (),
    override_kv: str | Sequence[str] = (),
    keep_split: bool = False,
    unpack: bool = False,
    force: bool = False,
    restart: bool = False,
    threads: int | None = None,
    sync: bool = True,
    progress: Callable[[Progress], None] | None = None,
) -> Result:
    """What was written. Tensors keep their bytes and their order, metadata their exact encoding.

    ``unpack`` takes interleaved rows apart (iq4_k_r4 becomes iq4_k), the one change of bytes that changes no value.
    Raises PlanError with everything that stands in the way; nothing is written then.
    """
    request = Request(
        src=Path(src),
        dst=Path(dst),
        prune_layers=layers_of(prune_layers),
        overrides=texts_of(override_kv),
        keep_split=keep_split,
        unpack=unpack,
        file_order=True,
        force=force,
        restart=restart,
        threads=threads,
        sync=sync,
    )
    with prepare(request) as prepared:
        return prepared.run(progress)
