"""The report page: one HTML file with everything in it, which asks the network for nothing.

Style and script stand in the page and are named in its Content-Security-Policy by their hashes: whatever a file's names
may hold, a browser runs nothing else and loads nothing. The tables are written here and read without JavaScript; the
script adds the map, sorting and filters. It draws with the page's own elements: plotly would be 4.6 MB in every report,
and its heatmap is a picture that neither keyboard nor screen reader can enter.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from gguftool.errors import GGUFToolError
from gguftool.show import reporttables as tables
from gguftool.show.reporttables import Table, shown
from gguftool.show.tables import size_text

if TYPE_CHECKING:
    from gguftool.verbs.report import Report

#: The statistic that the map shows first.
FIRST_FIGURE = "mean"
_SCRIPTS = ("data.js", "tables.js", "colours.js", "map.js", "experts.js")


def report_page(report: Report) -> str:
    """The page for a report: the same bytes for the same facts. GGUFToolError if jinja2 is not installed."""
    check_installed()
    import jinja2

    parts = tables.all_tables(report)
    style, script = _style(parts), "".join(_asset(name) for name in _SCRIPTS)
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = environment.from_string(_asset("report.html"))
    return template.render(
        name=shown(report.statistics.path.name),
        tiles=_tiles(report),
        warnings=[shown(line) for line in warnings(report)],
        tables=parts,
        experts=bool(report.experts),
        provenance=_provenance(report),
        glossary=_glossary(parts),
        policy=f"default-src 'none'; img-src data:; style-src {_source(style)}; script-src {_source(script)}; "
        "base-uri 'none'; form-action 'none'",
        style=style,
        script=script,
        data=_data(report, parts),
    )


def check_installed() -> None:
    """GGUFToolError if jinja2 is not installed, before any work is done in vain."""
    try:
        import jinja2  # noqa: F401
    except ImportError:
        raise GGUFToolError("the report needs jinja2: pip install 'gguftool[report]'") from None


def warnings(report: Report) -> list[str]:
    """What a reader has to know before trusting the figures, whole sentences of one line."""
    found = list(report.statistics.warnings)
    if report.model is not None:
        found += report.model.misfits
        found += report.model.weights.warnings if report.model.weights is not None else ()
        missing = [t.name for t in report.model.tensors if t.entry is None and t.why_kept is None]
        found += _counted(missing, "tensors of the model could be quantized but have no importance")
        found += _counted(report.model.unused, "entries belong to no tensor of the model")
    return found


def _counted(names: Sequence[str], what: str) -> list[str]:
    """One line for any number of names, the first three of them in it; none for no name."""
    more = ", ..." if len(names) > 3 else ""
    return [f"{len(names)} {what}: {', '.join(names[:3])}{more}"] if names else []


def _tiles(report: Report) -> list[tuple[str, str]]:
    """(number, what it counts): the report in one line."""
    found = report.statistics
    tiles = [(f"{len(found.tensors):,}", "tensors"), (f"{len(found.layers):,}", "layers")]
    if found.tokens is not None:
        tiles.append((f"{found.tokens:,}", "tokens" if found.chunk_size else "tokens, if chunks have 512"))
    if found.n_experts:
        percent = 100 * (found.n_experts - found.unreached) / found.n_experts
        tiles.append((f"{percent:.4g} %", f"of {found.n_experts:,} expert matrices reached"))
    if report.model is not None:
        info = report.model.info
        tiles.append((size_text(info.nbytes), "in the model's tensors"))
        if info.bpw is not None:
            tiles.append((f"{info.bpw:.3f}", "bits per weight"))
    return tiles


def _provenance(report: Report) -> list[tuple[str, list[str]]]:
    """(term, lines) of where the figures come from."""
    found = report.statistics
    size = f" of {found.chunk_size:,} tokens" if found.chunk_size is not None else ", their size is not in the file"
    lines: list[tuple[str, list[str]]] = [
        ("Importance matrix", [found.path.name]),
        ("SHA-256", [report.sha256]),
        ("Size", [f"{size_text(report.nbytes)} ({report.nbytes:,} bytes)"]),
        ("Format", ["GGUF" if found.format == "gguf" else "older binary form (.dat)"]),
        ("Made from", list(found.datasets) or ["not in the file"]),
        ("Chunks", [f"{found.chunk_count:,}{size}" if found.chunk_count is not None else "not in the file"]),
        ("Tokens", [f"{found.tokens:,}" if found.tokens is not None else "not in the file"]),
    ]
    if found.inferred:
        lines.append(("Experts", ["their number is not in the file; it follows from the width of the routers"]))
    if found.ignored:
        lines.append(("Tensors of no entry", list(found.ignored)))
    if report.model is not None:
        lines += _model_provenance(report)
    lines.append(("Statistics by", [f"gguftool {report.version}"]))
    return [(term, [shown(line) for line in texts]) for term, texts in lines]


def _model_provenance(report: Report) -> list[tuple[str, list[str]]]:
    assert report.model is not None
    info = report.model.info
    shards = f" in {len(info.shards)} files" if len(info.shards) > 1 else ""
    lines = [
        ("Model", [info.path.name]),
        ("Model's name", [info.name or "not in the file"]),
        ("Architecture", [info.architecture or "not in the file"]),
        ("File type", [info.file_type or "not in the file"]),
        ("Model's size", [f"{size_text(info.file_bytes)}{shards}, {info.n_elements:,} parameters"]),
        ("SHA-256 of its header", [report.model.header_sha256]),
    ]
    used = [name for name in info.metadata if name.startswith("quantize.imatrix.")]
    return lines + [(name, _lines(info.metadata[name])) for name in used]


def _lines(value: Any) -> list[str]:
    return [str(part) for part in (value if isinstance(value, list) else [value])]


def _glossary(parts: list[Table]) -> list[tuple[str, str, str]]:
    """(title, head, note) of every figure in the page, each once."""
    figures = {figure.key: figure for table in parts for figure in table.columns if figure.note}
    return [(figure.title, figure.head, figure.note) for figure in figures.values()]


def _data(report: Report, parts: list[Table]) -> str:
    """What the script reads, as JSON that no HTML parser can mistake for markup; None for what has no value."""
    document = {
        "first": FIRST_FIGURE,
        "tables": {
            table.id: {
                "columns": [{"key": c.key, "title": c.title, "note": c.note, "scale": c.scale} for c in table.columns],
                "rows": [[_json_value(value) for value in row] for row in table.rows],
            }
            for table in parts
        },
        "figures": tables.map_figures(parts[0]),
        "experts": tables.expert_groups(report.experts),
    }
    text = json.dumps(document, separators=(",", ":"), allow_nan=False, ensure_ascii=True)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _json_value(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return shown(value) if isinstance(value, str) else value


def _style(parts: list[Table]) -> str:
    """The style sheet, with a line for each table on which columns show at first."""
    more = (
        f"#t-{table.id}:not(.all) tr>:nth-child(n+{table.essential + 1}){{display:none}}\n"
        for table in parts
        if table.essential < len(table.columns)
    )
    panel = f"#t-panel:not(.all) tr>:nth-child(n+{parts[0].essential + 1}){{display:none}}\n"
    return _asset("report.css") + "".join(more) + panel


def _asset(name: str) -> str:
    return (files("gguftool.show") / "page" / name).read_text("utf-8")


def _source(text: str) -> str:
    """The source expression of a Content-Security-Policy that allows exactly this text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"
