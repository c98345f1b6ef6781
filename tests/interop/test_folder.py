"""Folders of published checkpoints: what is read, what is refused and how it is said, what is written."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, AutoTokenizer

from components.architecture import Architecture
from components.attention.heads import GQA, MHA
from components.attention.qk_norm import QKRMSNorm
from components.pattern import shortest_period
from components.position.positions import ALiBi, NoPosition
from components.position.rope_scaling import LinearRoPE
from components.residual import PreNorm, Sandwich
from lab.interop.configuration import load_architecture, to_architecture, to_hf_config
from lab.interop.folder import export_folder, import_folder
from lab.interop.meaning import meaning
from lab.interop.special_tokens import PublishedSettings
from lab.refusals import RequestError
from tests.components.architectures import gemma2
from tests.interop.hub import CONFIGS
from tests.interop.parity import Pair, published
from tests.interop.reference import build
from tests.interop.tiny import CASES


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Path]:
    """A tiny checkpoint as the library saves it."""

    def save(name: str, **options: Any) -> Path:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            build(CASES[name].model_type, CASES[name].options, torch.float32).save_pretrained(
                tmp_path / "it", **options
            )
        return tmp_path / "it"

    return save


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_weights(folder: Path, edit: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors")


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", ["Llama 3", "Mixtral", "GPT-2"])
def test_shards_are_read_as_the_whole(saved: Callable[..., Path], pair: Callable[[str], Pair], name: str) -> None:
    folder = saved(name, max_shard_size="8KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    assert equal(import_folder(folder)[1], pair(name).state)


def test_torch_s_own_files_are_read_as_plain_tensors_only(
    saved: Callable[..., Path], pair: Callable[[str], Pair], tmp_path: Path
) -> None:
    folder = saved("Qwen 3")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert equal(import_folder(folder)[1], pair("Qwen 3").state)
    torch.save({"run": print}, folder / "pytorch_model.bin")
    with pytest.raises(RequestError, match=r"pytorch_model\.bin: can't be read"):
        import_folder(folder)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_weights_keep_their_dtype_both_ways(pair: Callable[[str], Pair], tmp_path: Path, dtype: torch.dtype) -> None:
    one = pair("Gemma 3")
    state = {name: tensor.to(dtype) for name, tensor in one.state.items()}
    export_folder(one.architecture, state, tmp_path / "out")
    assert equal(import_folder(tmp_path / "out")[1], state)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").dtype == dtype


@pytest.mark.parametrize("name", CASES)
def test_an_exported_model_imports_as_the_same_model(pair: Callable[[str], Pair], tmp_path: Path, name: str) -> None:
    one = pair(name)
    export_folder(one.architecture, one.state, tmp_path / "out")
    architecture, state, tokenizer = import_folder(tmp_path / "out")
    assert meaning(architecture) == meaning(one.architecture)
    assert architecture.init == one.architecture.init
    assert equal(state, one.state)
    assert tokenizer is None


def test_names_without_the_prefix_and_old_buffers_are_taken(
    saved: Callable[..., Path], pair: Callable[[str], Pair]
) -> None:
    folder = saved("GPT-2")

    def as_on_the_hub(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            tensors[name.removeprefix("transformer.")] = tensors.pop(name)
        tensors["h.0.attn.bias"] = torch.ones(1, 1, 20, 20)
        tensors["lm_head.weight"] = tensors["wte.weight"].clone()

    edit_weights(folder, as_on_the_hub)
    assert equal(import_folder(folder)[1], pair("GPT-2").state)


def test_experts_are_taken_as_the_library_holds_them_in_memory(
    saved: Callable[..., Path], pair: Callable[[str], Pair]
) -> None:
    folder = saved("Mixtral")
    in_memory = {name: tensor.detach() for name, tensor in pair("Mixtral").theirs.named_parameters()}
    assert any("gate_up_proj" in name for name in in_memory)
    save_file(in_memory, folder / "model.safetensors")
    assert equal(import_folder(folder)[1], pair("Mixtral").state)


def test_tensors_that_do_not_fit_are_listed(saved: Callable[..., Path]) -> None:
    folder = saved("Llama 3")

    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        del tensors["model.layers.1.mlp.up_proj.weight"]
        tensors["model.layers.0.self_attn.k_proj.weight"] = torch.zeros(3, 24)
        tensors["model.layers.0.self_attn.extra.weight"] = torch.zeros(2)

    edit_weights(folder, spoil)
    with pytest.raises(RequestError) as refusal:
        import_folder(folder)
    message = str(refusal.value)
    assert "missing: model.layers.1.mlp.up_proj.weight" in message
    assert "model.layers.0.self_attn.k_proj.weight is [3, 24], expected [16, 24]" in message
    assert "unexpected: model.layers.0.self_attn.extra.weight" in message


def test_a_missing_expert_is_named(saved: Callable[..., Path]) -> None:
    folder = saved("Mixtral")
    edit_weights(folder, lambda tensors: tensors.__delitem__("model.layers.2.block_sparse_moe.experts.3.w1.weight"))
    with pytest.raises(RequestError, match=r"missing: model\.layers\.2\.block_sparse_moe\.experts\.3\.w1\.weight"):
        import_folder(folder)


def test_a_head_that_is_not_the_table_it_should_be_tied_to_is_refused(saved: Callable[..., Path]) -> None:
    folder = saved("Gemma 1")
    edit_weights(folder, lambda tensors: tensors.update({"lm_head.weight": tensors["model.embed_tokens.weight"] + 1}))
    with pytest.raises(RequestError, match=r"lm_head\.weight is not the embedding table"):
        import_folder(folder)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("Llama 3", {"model_type": "lama"}, "model_type 'lama' is not known; did you mean 'llama'"),
        ("Llama 3", {"hidden_act": "quick_gelu"}, "hidden_act = 'quick_gelu': the lab has silu, "),
        ("Llama 3", {"attention_dropout": 0.1}, "attention_dropout = 0.1: the lab has no such dropout"),
        ("GPT-2", {"resid_pdrop": 0.1}, "resid_pdrop = 0.1: the lab has no such dropout"),
        ("Llama 3", {"sliding_window": 8}, "sliding_window = 8: the lab doesn't know this key of llama"),
        ("Llama 3", {"mystery": 1}, "mystery = 1: the lab doesn't know this key"),
        ("Llama 3", {"quantization_config": {"quant_method": "awq"}}, "weights quantised by awq"),
        ("Llama 3", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "rope_scaling of type 'dynamic'"),
        ("Phi-3", {"rope_parameters": {"rope_type": "longrope"}}, "rope_scaling of type 'longrope'"),
        ("Llama 3", {"rope_parameters": {"rope_type": "llama3", "factor": 2.0}}, "'llama3' has no low_freq_factor"),
        (
            "Llama 3",
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "beta": 1}},
            "'linear': the lab doesn't know the keys ['beta']",
        ),
        ("Llama 3", {"rope_parameters": {"partial_rotary_factor": 0.5}}, "this family rotates whole heads"),
        ("Mistral", {"rope_theta": 3.0}, "rope_parameters has rope_theta = 500.0, the older keys have 3.0"),
        ("Llama 3", {"num_key_value_heads": 3}, "n_kv_heads: must divide n_heads = 4"),
        ("Command R", {"use_qk_norm": True}, "use_qk_norm = True can't be honoured"),
        ("Falcon", {"alibi": True}, "alibi = True can't be honoured"),
        ("gpt-oss", {"swiglu_limit": 3.0}, "swiglu_limit = 3.0 can't be honoured"),
        (
            "Gemma 2",
            {"layer_types": ["full_attention", "chunked_attention"] * 2},
            "'chunked_attention' can't be honoured",
        ),
        ("Gemma 2", {"layer_types": ["full_attention"]}, "layer_types has 1 entries for 4 layers"),
        ("SmolLM3", {"layer_types": ["sliding_attention"] * 4}, "layer_types = 'sliding_attention' can't be honoured"),
        (
            "GPT-2",
            {"scale_attn_by_inverse_layer_idx": True},
            "scale_attn_by_inverse_layer_idx = True can't be honoured",
        ),
    ],
)
def test_a_configuration_that_can_t_be_honoured_is_refused_by_key(
    saved: Callable[..., Path], name: str, changes: dict[str, Any], message: str
) -> None:
    folder = saved(name)
    edit_config(folder, **changes)
    with pytest.raises(RequestError) as refusal:
        import_folder(folder)
    assert message in str(refusal.value)
    assert str(folder) in str(refusal.value)


def test_a_missing_hidden_size_is_refused() -> None:
    config = {key: value for key, value in CONFIGS["qwen3_8b"].items() if key != "hidden_size"}
    with pytest.raises(RequestError, match=r"has no hidden_size"):
        load_architecture(config)


def test_dropout_can_be_left_out_on_request_only() -> None:
    with pytest.raises(RequestError, match=r"attn_pdrop = 0\.1"):
        to_architecture(CONFIGS["gpt2"])
    assert to_architecture(CONFIGS["gpt2"], without_dropout=True)["d_model"] == 768


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_a_folder_without_a_model_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(RequestError, match=r"config\.json"):
        import_folder(tmp_path)


def test_a_folder_without_weights_is_refused(saved: Callable[..., Path]) -> None:
    folder = saved("Llama 3")
    (folder / "model.safetensors").unlink()
    with pytest.raises(RequestError, match="has no weights"):
        import_folder(folder)


def test_an_index_cannot_reach_out_of_its_folder(saved: Callable[..., Path]) -> None:
    folder = saved("Llama 3")
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"model.norm.weight": "../elsewhere.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(RequestError, match="is not a file of this folder"):
        import_folder(folder)


WITHOUT_EQUIVALENT: dict[str, tuple[Callable[[], Architecture], str]] = {
    "position": (lambda: replace(published("llama3_8b"), position=ALiBi()), "position = alibi"),
    "residual": (
        lambda: replace(published("llama3_8b"), residual=PreNorm(multiplier=0.5)),
        "residual = pre{multiplier: 0.5}",
    ),
    "embedding": (
        lambda: replace(published("qwen3_8b"), embedding=published("qwen3_8b").embedding.replace(head_bias=True)),
        "head_bias: True",
    ),
    "norm": (lambda: replace(published("llama3_8b"), residual=Sandwich()), "residual = sandwich"),
    "sizes": (
        lambda: replace(published("gpt2"), heads=MHA(n_heads=12, head_dim=32, bias=True, output_bias=True)),
        "heads.head_dim = 32 of a layer",
    ),
}


@pytest.mark.parametrize("name", WITHOUT_EQUIVALENT)
def test_an_architecture_without_an_equivalent_is_refused_by_component(name: str, tmp_path: Path) -> None:
    make, message = WITHOUT_EQUIVALENT[name]
    with pytest.raises(RequestError) as refusal:
        export_folder(make(), {}, tmp_path / "out")
    assert message in str(refusal.value)
    assert not list(tmp_path.iterdir())


def test_layers_of_kinds_that_no_family_mixes_are_refused() -> None:
    odd = gemma2(kinds={"global": {"position": NoPosition()}})
    with pytest.raises(RequestError, match="position = nope"):
        to_hf_config(odd)
    odd = gemma2(kinds={"global": {"qk_norm": QKRMSNorm(zero_centered=True)}})
    with pytest.raises(RequestError, match="qk_norm = rmsnorm"):
        to_hf_config(odd)
    odd = gemma2(kinds={"global": {"heads": GQA(n_heads=4, n_kv_heads=1, head_dim=8, query_pre_attn_scalar=6)}})
    with pytest.raises(RequestError, match="combination of layers"):
        to_hf_config(odd)


def test_weights_of_another_architecture_are_not_written(pair: Callable[[str], Pair], tmp_path: Path) -> None:
    one = pair("Llama 3")
    state = {name: tensor for name, tensor in one.state.items() if name != "final_norm.weight"}
    with pytest.raises(RequestError, match=r"missing: final_norm\.weight"):
        export_folder(one.architecture, state, tmp_path / "out")
    with pytest.raises(RequestError, match=r"final_norm\.weight is \[3\], expected \[24\]"):
        export_folder(one.architecture, state | {"final_norm.weight": torch.zeros(3)}, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_an_export_is_whole_or_absent(
    pair: Callable[[str], Pair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = pair("Llama 3")

    def fails(*_: Any, **__: Any) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr("lab.interop.folder.save_file", fails)
        with pytest.raises(OSError, match="no space left"):
            export_folder(one.architecture, one.state, tmp_path / "out")
    assert not list(tmp_path.iterdir())
    export_folder(one.architecture, one.state, tmp_path / "out")
    with pytest.raises(RequestError, match="already exists"):
        export_folder(one.architecture, one.state, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_tokenizer_is_imported_and_exported(pair: Callable[[str], Pair], tmp_path: Path) -> None:
    one = pair("Llama 3")
    (tmp_path / "mine").mkdir()
    Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a")).save(str(tmp_path / "mine" / "tokenizer.json"))
    (tmp_path / "mine" / "merges.txt").write_text("of the tokenizer")
    export_folder(
        one.architecture,
        one.state,
        tmp_path / "out",
        settings=PublishedSettings({"eos_token_id": 1}),
        tokenizer=tmp_path / "mine" / "tokenizer.json",
    )
    tokenizer = import_folder(tmp_path / "out")[2]
    assert tokenizer == tmp_path / "out" / "tokenizer.json"
    assert (tmp_path / "out" / "merges.txt").read_text() == "of the tokenizer"
    assert AutoTokenizer.from_pretrained(tmp_path / "out").encode("b") == [1]
    assert json.loads((tmp_path / "out" / "config.json").read_text())["eos_token_id"] == 1


@pytest.mark.parametrize("older", [{"type": "linear"}, {"rope_type": "linear"}])
def test_both_spellings_of_a_rotary_scaling_are_read(older: dict[str, Any]) -> None:
    plain = CONFIGS["olmo2_7b"]
    before = load_architecture(plain | {"rope_scaling": older | {"factor": 4.0}})
    since = {"rope_type": "linear", "factor": 4.0, "rope_theta": 500000}
    after = load_architecture({key: plain[key] for key in plain if "rope" not in key} | {"rope_parameters": since})
    assert before.position == after.position == LinearRoPE(theta=500000.0, factor=4.0)
    written = to_hf_config(after)
    assert written["rope_scaling"] == {"rope_type": "linear", "factor": 4.0}
    assert written["rope_theta"] == written["rope_parameters"]["rope_theta"] == 500000.0


def test_the_shortest_period_is_found() -> None:
    assert shortest_period("aabaab") == tuple("aab")
    assert shortest_period("aabaa") == tuple("aab")
    assert shortest_period("abc") == tuple("abc")
    assert shortest_period("aaaa") == ("a",)
