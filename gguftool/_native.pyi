from gguftool.codecs.values import Buffer

class UnfitValue(ValueError):
    args: tuple[int, int]

isas: list[str]

def use(name: str | None, /) -> tuple[str, dict[int, tuple[int, int, int, bool, bool]]]: ...
def decode(type_id: int, src: Buffer, n_rows: int, n_cols: int, out: Buffer, /) -> None: ...
def transcode(
    src_id: int,
    dst_id: int,
    src: Buffer,
    n_rows: int,
    n_cols: int,
    weights: Buffer | None,
    importance: Buffer | None,
    out: Buffer,
    objective: int,
    effort: int,
    errors: bool,
    /,
) -> tuple[float, float, float, float] | None: ...
