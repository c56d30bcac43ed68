"""The main job as a library call: real models, pruned layers, metadata, and files that libllama loads and runs."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support_logits import logits_of
from support_models import F16, keys, shapes, text, u32, write_imatrix, write_model
from support_oracle import needs_libllama, write_switched_off
from support_peer import peer_quantize

import gguftool
from gguftool.codecs import dispatch
from gguftool.errors import ImatrixError, PlanError, RecipeError, UsageError
from gguftool.format.metadata import MetaValue, ValueType
from gguftool.format.quanttypes import type_by_name
from gguftool.format.reader import Model, open_model
from gguftool.format.writer import write_gguf
from gguftool.recipe.decide import Recipe
from gguftool.recipe.filetypes import file_type_by_name
from gguftool.verbs.rewrite import Request, prepare

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
MODEL = EXAMPLES / "prose-llama-11m-f16.gguf"
IMATRIX = EXAMPLES / "prose-llama-11m.imatrix.gguf"


def bytes_of(path: Path) -> dict[str, tuple[str, bytes]]:
    with open_model(path) as model:
        return {t.name: (t.type.name, model.read(t)) for t in model.tensors}


def metadata_of(path: Path) -> dict[str, Any]:
    with open_model(path) as model:
        return dict(model.metadata)


@pytest.mark.parametrize("type_name", ["q4_k_m", "q8_0"])
def test_kept_tensors_are_those_of_an_unpruned_run(tmp_path: Path, type_name: str) -> None:
    wishes: dict[str, Any] = {"imatrix": IMATRIX, "threads": 2}
    pruned = gguftool.quantize(
        MODEL, tmp_path / "p.gguf", type_name, tensor_type=["attn_v=q6_k"], prune_layers=[3, 7], **wishes
    )
    assert pruned.bpw == pytest.approx(8 * pruned.nbytes / sum(np.prod(r.shape) for r in pruned.rows))
    assert metadata_of(tmp_path / "p.gguf")["llama.block_count"] == 10
    same = [f"^{row.source_name}$=".replace(".", r"\.") + row.type for row in pruned.rows if len(row.shape) > 1]
    gguftool.quantize(MODEL, tmp_path / "w.gguf", type_name, tensor_type=same, **wishes)
    found, whole = bytes_of(tmp_path / "p.gguf"), bytes_of(tmp_path / "w.gguf")
    assert len(found) == 3 + 10 * 9
    for row in pruned.rows:
        assert found[row.name] == whole[row.source_name], row.name
    assert {row.type for row in pruned.rows if "attn_v" in row.name} == {"q6_K"}


@needs_libllama
def test_libllama_runs_what_was_pruned_as_the_layers_it_keeps(tmp_path: Path) -> None:
    """Quantized with the same types, the layers switched off instead: equal logits to the last bit."""
    wishes: dict[str, Any] = {"imatrix": IMATRIX, "tensor_type": [".*=q4_0"]}
    with open_model(MODEL) as model:
        write_switched_off(model, (3, 7), tmp_path / "off.gguf")
    gguftool.quantize(tmp_path / "off.gguf", tmp_path / "off-q.gguf", "q8_0", **wishes)
    gguftool.quantize(MODEL, tmp_path / "pruned.gguf", "q8_0", prune_layers=[3, 7], **wishes)
    found = logits_of([tmp_path / "off-q.gguf", tmp_path / "pruned.gguf"])
    expected, got = found[tmp_path / "off-q.gguf"], found[tmp_path / "pruned.gguf"]
    assert isinstance(expected, np.ndarray) and isinstance(got, np.ndarray), (expected, got)
    assert got.tobytes() == expected.tobytes()


@needs_libllama
@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("openelm-arrays", (0, 3, 5)),
        ("gemma3-period3", (0, 3)),
        ("gpt-oss-expert-bias", (1, 3)),
        ("mellum-swa-array", (2, 3)),
        ("glm4moe-dense2-nextn1", (1, 4)),
        ("lfm2-hybrid", (2, 3)),
    ],
)
def test_models_with_per_layer_metadata(shared: Path, tmp_path: Path, name: str, layers: tuple[int, ...]) -> None:
    source = shared / "models" / "arch" / f"{name}.gguf"
    with open_model(source) as model:
        write_switched_off(model, layers, tmp_path / "off.gguf")
    gguftool.copy(source, tmp_path / "pruned.gguf", prune_layers=layers)
    quantized = gguftool.quantize(source, tmp_path / "q.gguf", "q8_0", prune_layers=layers)
    found = logits_of([tmp_path / "off.gguf", tmp_path / "pruned.gguf", tmp_path / "q.gguf"])
    for made in found.values():
        assert isinstance(made, np.ndarray) and np.isfinite(made).all(), found
    expected, got, rough = (np.asarray(found[tmp_path / f"{n}.gguf"]) for n in ("off", "pruned", "q"))
    assert got.tobytes() == expected.tobytes()
    assert np.abs(rough - expected).mean() < 0.3 * expected.std()  # rounding, and routers that flip
    whole = gguftool.quantize(source, tmp_path / "w.gguf", "q8_0")
    pruned_bytes, whole_bytes = bytes_of(quantized.path), bytes_of(whole.path)
    assert all(pruned_bytes[r.name] == whole_bytes[r.source_name] for r in quantized.rows)


@needs_libllama
def test_q8_0_has_the_peers_bytes(tmp_path: Path) -> None:
    peer_quantize(MODEL, tmp_path / "peer.gguf", "Q8_0")
    gguftool.quantize(MODEL, tmp_path / "ours.gguf", "q8_0")
    assert bytes_of(tmp_path / "ours.gguf") == bytes_of(tmp_path / "peer.gguf")
    ours, theirs = metadata_of(tmp_path / "ours.gguf"), metadata_of(tmp_path / "peer.gguf")
    assert {k: v for k, v in ours.items() if not k.startswith("gguftool.")} == theirs


@needs_libllama
def test_the_peer_chooses_the_same_types(tmp_path: Path) -> None:
    peer_quantize(MODEL, tmp_path / "peer.gguf", "Q5_K_M", imatrix=IMATRIX)
    with prepare(request(MODEL, "q5_k_m", imatrix=IMATRIX)) as prepared:
        ours = {m.name: m.type.name for m in prepared.plan.moves}
    assert ours == {name: kind for name, (kind, _) in bytes_of(tmp_path / "peer.gguf").items()}


def request(src: Path, type_name: str, **more: Any) -> Any:

    return Request(src, src.with_name("never-written.gguf"), Recipe(file_type_by_name(type_name)), **more)


def test_keys_that_say_how_it_was_made(tmp_path: Path) -> None:
    stale = {
        "quantize.imatrix.file": text("old.dat"),
        "quantize.imatrix.old": u32(1),
        "general.file_type": u32(1025),
        "gguftool.version": text("0"),
    }
    write_model(tmp_path / "m.gguf", more=stale)
    imatrix = write_imatrix(tmp_path / ("i" * 150), shapes(3, 256, 512, 64))
    gguftool.quantize(
        tmp_path / "m.gguf", tmp_path / "o.gguf", "q4_0", imatrix=imatrix, prune_layers=[1], exclude_weights=["ffn_up"],
        tensor_type=["attn_q=q5_1"], override_kv=["general.name=str:new", "llama.rope.scale=float:0.5"],
    )  # fmt: skip
    found = metadata_of(tmp_path / "o.gguf")
    expected = {
        "general.quantization_version": 2,
        "general.file_type": 2,
        "general.name": "new",
        "llama.rope.scale": 0.5,
        "llama.block_count": 2,
        "quantize.imatrix.file": str(imatrix)[:127],
        "quantize.imatrix.dataset": "first.txt",
        "quantize.imatrix.datasets": ["first.txt", "second.txt"],
        "quantize.imatrix.entries_count": 1 + 3 * 6,
        "quantize.imatrix.chunks_count": 5,
        "gguftool.version": gguftool.__version__,
        "gguftool.recipe": ["Q4_0", "attn_q=q5_1"],
        "gguftool.pruned_layers": [1],
    }
    assert {k: found.get(k) for k in expected} == expected
    assert "quantize.imatrix.old" not in found
    with open_model(tmp_path / "o.gguf") as model:
        assert model.metadata.entry("general.quantization_version").type is ValueType.U32
    gguftool.quantize(tmp_path / "o.gguf", tmp_path / "r.gguf", "q8_0", allow_requantize=True)
    again = metadata_of(tmp_path / "r.gguf")
    assert not [k for k in again if k.startswith("quantize.")]
    assert again["gguftool.pruned_layers"] == [1]


def test_overrides_win_over_our_own_keys(tmp_path: Path) -> None:
    write_model(tmp_path / "m.gguf")
    gguftool.quantize(
        tmp_path / "m.gguf", tmp_path / "o.gguf", "q4_0", prune_layers=[0],
        override_kv=["general.file_type=int:7", "llama.block_count=int:9"],
    )  # fmt: skip
    found = metadata_of(tmp_path / "o.gguf")
    assert (found["general.file_type"], found["llama.block_count"]) == (7, 8)


def test_every_problem_at_once_and_nothing_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "can_encode", lambda kind: not kind.name.startswith("iq"))
    path = write_model(tmp_path / "m.gguf", n_layer=2)
    imatrix = write_imatrix(tmp_path / "i.gguf", shapes(2, 128, 512, 64))
    before = sorted(tmp_path.iterdir())
    with pytest.raises(PlanError) as found:
        gguftool.quantize(
            path, path, "iq2_xxs", imatrix=imatrix, prune_layers=[5], tensor_type=["attn_q=iq3_s", "nonsense=q8_0"]
        )
    said = "\n".join(found.value.problems)
    for part in (
        "cannot prune layers 5",
        "'nonsense=q8_0' matches no tensor",
        "the output would overwrite the input",
        "cannot encode iq2_xxs yet",
        "cannot encode iq3_s yet",
        "made from another model: 1 x 128 values for blk.0.attn_k.weight",
        "and 11 more like it",
    ):
        assert part in said, said
    assert all("\n" not in problem for problem in found.value.problems)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("type_name", "needy"),
    [
        ("iq1_s", "iq1_s"),
        ("iq1_m", "iq1_m"),
        ("iq2_xxs", "iq2_xxs"),
        ("iq2_xs", "iq2_xs"),
        ("iq2_s", "iq2_xs"),
        ("iq2_m", "iq2_s"),
        ("iq3_xxs", "iq3_xxs"),
        ("iq3_xs", "iq3_xxs"),
        ("q2_k_s", "q2_K"),
    ],
)
def test_a_mixture_that_needs_importances_is_refused_in_one_line_that_says_what_needs_none(
    tmp_path: Path, type_name: str, needy: str
) -> None:
    path = write_model(tmp_path / "m.gguf", n_layer=2)
    with pytest.raises(PlanError) as found:
        gguftool.quantize(path, tmp_path / "o.gguf", type_name)
    (line,) = found.value.problems
    assert "\n" not in line and re.match(rf"(.* and )?{needy}( and .*)? needs? an importance matrix \(blk\.0\.", line)
    assert "give one with --imatrix, or choose a type that needs none: iq3_s, iq4_nl, iq4_xs, " in line
    others = line.partition("needs none: ")[2].split(", ")
    assert "tq2_0" in others and ("q2_K" in others) is (type_name != "q2_k_s")
    assert not {"iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs"} & set(others)
    assert [p.name for p in tmp_path.iterdir()] == ["m.gguf"]


@pytest.mark.parametrize("type_name", ["iq3_s", "iq3_m", "iq4_nl", "iq4_xs", "q2_k", "tq1_0", "tq2_0"])
def test_a_mixture_that_needs_none_is_made_without(tmp_path: Path, type_name: str) -> None:
    path = write_model(tmp_path / "m.gguf", n_layer=2)
    result = gguftool.quantize(path, tmp_path / "o.gguf", type_name)
    assert result.unobserved == 0 and {row.type for row in result.rows} & {type_name.replace("_m", "_s"), "q2_K"}


def test_types_that_need_importances_are_refused_without(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf", n_layer=1)
    with pytest.raises(PlanError, match="q2_K needs an importance matrix"):
        gguftool.quantize(path, tmp_path / "o", "q2_k_s")
    partial = write_imatrix(tmp_path / "i.gguf", {"blk.0.attn_q.weight": (256, 256)})
    with pytest.raises(PlanError, match=r"the imatrix has none for blk\.0"):
        gguftool.quantize(path, tmp_path / "o", "q2_k_s", imatrix=partial)


def test_requantizing_must_be_wished(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf")
    gguftool.quantize(path, tmp_path / "a.gguf", "q8_0")
    with pytest.raises(PlanError, match=r"already quantized \(q8_0\).*--allow-requantize"):
        gguftool.quantize(tmp_path / "a.gguf", tmp_path / "b.gguf", "q4_0")
    gguftool.quantize(tmp_path / "a.gguf", tmp_path / "same.gguf", "q8_0")
    assert bytes_of(tmp_path / "same.gguf") == bytes_of(tmp_path / "a.gguf")
    gguftool.quantize(tmp_path / "a.gguf", tmp_path / "b.gguf", "q4_0", allow_requantize=True)


def test_an_output_that_exists_needs_force(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf")
    (tmp_path / "o").write_text("precious")
    with pytest.raises(PlanError, match=r"exists already.*--force"):
        gguftool.quantize(path, tmp_path / "o", "q8_0")
    assert (tmp_path / "o").read_text() == "precious"
    gguftool.quantize(path, tmp_path / "o", "q8_0", force=True)
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(PlanError, match="overwrite the input"):
        gguftool.quantize(path, tmp_path / "link", "q8_0", force=True)


@pytest.mark.parametrize(("value", "shown"), [(-1, "-1"), (np.nan, "nan"), (np.inf, "inf"), (-np.inf, "-inf")])
def test_an_imatrix_with_impossible_values_is_refused(tmp_path: Path, value: float, shown: str) -> None:
    path = write_model(tmp_path / "m.gguf", n_layer=1)
    sums = np.ones((1, 256), np.float32)
    sums[0, 9] = value
    kind = type_by_name("f32")
    tensors = [("output.weight.in_sum2", sums, (1, 256), kind), ("output.weight.counts", sums[:, :1], (1, 1), kind)]
    entries = {"general.type": text("imatrix"), "imatrix.chunk_count": u32(1), "imatrix.chunk_size": u32(1)}
    entries["imatrix.datasets"] = MetaValue.of(["x"], ValueType.ARRAY, ValueType.STRING)
    write_gguf(tmp_path / "i.gguf", keys(1, 1, 1).replaced(entries), tensors)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ImatrixError, match=rf"output\.weight.*column 9: {shown} is not a sum") as found:
        gguftool.quantize(path, tmp_path / "o", "iq3_s", imatrix=tmp_path / "i.gguf")
    assert "\n" not in str(found.value) and sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("type_name", ["iq3_s", "iq4_nl", "mxfp4_moe", "tq2_0"])
def test_idle_importances_are_counted(tmp_path: Path, type_name: str) -> None:
    """Half of one tensor's columns, and one expert of four that no token reached."""
    path = write_model(tmp_path / "m.gguf", n_layer=1, width=512, n_expert=4)
    shape = {name: shape for name, shape in shapes(1, 512, 512, 64, 4).items() if len(shape) > 1}
    write_imatrix(tmp_path / "full.gguf", shape)
    with open_model(tmp_path / "full.gguf") as full:
        held = {t.name: np.frombuffer(full.read(t), np.float32).reshape(t.shape).copy() for t in full.tensors}
        held["blk.0.attn_q.weight.in_sum2"][..., :256] = 0
        held["blk.0.ffn_up_exps.weight.in_sum2"][2] = 0
        rows = [(name, values, values.shape, type_by_name("f32")) for name, values in held.items()]
        write_gguf(tmp_path / "i.gguf", full.metadata, rows)
    result = gguftool.quantize(path, tmp_path / "o.gguf", type_name, imatrix=tmp_path / "i.gguf")
    counted = {row.name: row.unobserved for row in result.rows if row.unobserved}
    assert counted == {"blk.0.attn_q.weight": 1, "blk.0.ffn_up_exps.weight": 2}
    assert result.unobserved == 3


def test_the_report_and_unobserved_blocks(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf", n_layer=1)
    zero = {"blk.0.attn_q.weight": (256, 256)}
    write_imatrix(tmp_path / "i.gguf", zero)
    result = gguftool.quantize(
        path, tmp_path / "o.gguf", "q4_0", imatrix=tmp_path / "i.gguf", report=tmp_path / "errors.csv"
    )
    with open(tmp_path / "errors.csv", newline="") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert len(rows) == len(result.rows)
    with open_model(path) as source, open_model(result.path) as model:
        x, y = (values(m, "blk.0.attn_v.weight") for m in (source, model))
    row = rows["blk.0.attn_v.weight"]
    assert (row["type"], int(row["bytes"])) == ("q4_0", 256 * 144)
    assert float(row["mse"]) == pytest.approx(float(np.mean((x - y) ** 2)), rel=1e-6)
    assert float(row["weighted_mse"]) == pytest.approx(float(row["mse"]))
    assert float(row["sqnr_db"]) == pytest.approx(10 * np.log10((x**2).sum() / ((x - y) ** 2).sum()), rel=1e-6)
    assert rows["blk.0.attn_q.weight"]["weighted_mse"] != rows["blk.0.attn_q.weight"]["mse"]
    assert rows["output_norm.weight"]["mse"] == ""


def values(model: Model, name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    tensor = model.tensor(name)
    blocks = np.frombuffer(model.read(tensor), np.uint8).reshape(tensor.shape[0], -1)
    return gguftool.decode(blocks, tensor.type, tensor.shape[-1]).astype(np.float64)


def test_wishes_that_mean_nothing(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf", n_layer=1)
    with pytest.raises(RecipeError, match="unknown TYPE"):
        gguftool.quantize(path, tmp_path / "o", "q4_kk_m")
    with pytest.raises(UsageError, match="together"):
        gguftool.quantize(path, tmp_path / "o", "q4_0", include_weights=["a"], exclude_weights=["b"])
    with pytest.raises(UsageError, match="upstream"):
        gguftool.quantize(path, tmp_path / "o", "q4_0", compat="ik")
    with pytest.raises(FileNotFoundError, match="absent"):
        gguftool.quantize(path, tmp_path / "o", "q4_0", tensor_type_file=tmp_path / "absent")


def test_fallbacks_are_reported_and_can_be_forbidden(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf", n_layer=1, width=320, ff=96)
    result = gguftool.quantize(path, tmp_path / "o", "q4_0", tensor_type=["ffn_gate=q4_k"])
    row = next(r for r in result.rows if "ffn_gate" in r.name)
    assert (row.wanted, row.type) == ("q4_K", "q5_0")
    with pytest.raises(PlanError, match="--no-fallback"):
        gguftool.quantize(path, tmp_path / "p", "q4_0", tensor_type=["ffn_gate=q4_k"], no_fallback=True)


def test_any_architecture_can_be_quantized(tmp_path: Path) -> None:
    rows = np.ones((64, 64), np.float16)
    metadata = keys(1, 64, 64).replaced({"general.architecture": text("nobody-knows")})
    write_gguf(tmp_path / "m.gguf", metadata, [("v.blk.0.thing.weight", rows, rows.shape, F16)])
    result = gguftool.quantize(tmp_path / "m.gguf", tmp_path / "o.gguf", "q8_0")
    assert result.rows[0].type == "q8_0"


@pytest.mark.parametrize(("match_names", "expected"), [("output", "blk.2"), ("source", "blk.1")])
def test_rules_for_the_names_of_the_output_or_the_input(tmp_path: Path, match_names: str, expected: str) -> None:
    path = write_model(tmp_path / "m.gguf")
    result = gguftool.quantize(
        path, tmp_path / "o", "q4_0", tensor_type=[r"blk\.1\.attn_q=q8_0"], prune_layers=[0], match_names=match_names
    )
    assert [r.source_name for r in result.rows if r.type == "q8_0"] == [f"{expected}.attn_q.weight"]


def test_one_text_and_numbers_of_any_kind_will_do(tmp_path: Path) -> None:
    source = write_model(tmp_path / "m.gguf", n_layer=3)
    lists: dict[str, Any] = {"tensor_type": ["attn_v=q6_k"], "prune_layers": [1], "override_kv": ["a.b=int:7"]}
    plain: dict[str, Any] = {"tensor_type": "attn_v=q6_k", "prune_layers": "1", "override_kv": "a.b=int:7"}
    gguftool.quantize(source, tmp_path / "a.gguf", "q8_0", **lists)
    gguftool.quantize(source, tmp_path / "b.gguf", "q8_0", **plain)
    gguftool.quantize(source, tmp_path / "c.gguf", "q8_0", **{**plain, "prune_layers": np.array([1])})
    first = (tmp_path / "a.gguf").read_bytes()
    assert (tmp_path / "b.gguf").read_bytes() == first
    assert (tmp_path / "c.gguf").read_bytes() == first
    with pytest.raises(UsageError, match="whole numbers"):
        gguftool.quantize(source, tmp_path / "d.gguf", "q8_0", prune_layers=["1"])  # type: ignore[list-item]
    with pytest.raises(UsageError, match="name of a type"):
        gguftool.encode(np.zeros((1, 32), np.float32), 8)  # type: ignore[arg-type]


def test_an_output_that_is_a_link_stays_one(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf")
    disk = tmp_path / "large disk"
    disk.mkdir()
    (tmp_path / "out.gguf").symlink_to(disk / "real.gguf")
    result = gguftool.quantize(path, tmp_path / "out.gguf", "q8_0")
    assert (tmp_path / "out.gguf").is_symlink() and (disk / "real.gguf").is_file()
    assert result.path == disk / "real.gguf"
    with pytest.raises(PlanError, match=r"real\.gguf.*exists already"):
        gguftool.quantize(path, tmp_path / "out.gguf", "q8_0")
    gguftool.quantize(path, tmp_path / "out.gguf", "q4_0", force=True)
    assert (tmp_path / "out.gguf").is_symlink() and sorted(p.name for p in disk.iterdir()) == ["real.gguf"]
