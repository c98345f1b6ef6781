"""A mistake in a request gives one message: where it stands, which key, what was expected, the nearest valid name."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.composition.compose import compose
from lab.refusals import RequestError

REFUSED = [
    (["model/headz=mha"], "override 'model/headz=mha': no group is called 'model/headz'; did you mean 'model/heads'?"),
    (["model/heads=mhaa"], "model/heads has no option 'mhaa'; did you mean 'mha'?"),
    (["model.window=-3"], "override 'model.window=-3': model.window: no such key; did you mean 'model.span.window'?"),
    (["model.span.window=0"], "model.span.window: must be at least 1 (a query sees its own key), got 0"),
    (["model.span.window=-3"], "model.span.window: must be at least 1"),
    (["model.span.window=wide"], "model.span.window: expected a whole number such as 64, 200k or 1.5M, got 'wide'"),
    (["train.tokens=banana"], "train.tokens: expected a whole number such as 64, 200k or 1.5M, got 'banana'"),
    (["train.tokens=1.5"], "train.tokens: expected a whole number"),
    (["train.tokens=true"], "train.tokens: expected a whole number"),
    (["train.token=200k"], "train.token: no such key; did you mean 'tokens'?"),
    (["~train.context"], "train.context: is missing: expected a whole number"),
    (["train.precision=fp8"], "train.precision: 'fp8' is not among its values; did you mean 'fp32'?"),
    (["train.kernel=sdpa"], "train.kernel: sdpa refuses the local layers: softcap"),
    (["train.kernel=blockwse"], "no attention kernel is called 'blockwse'; did you mean 'blockwise'?"),
    (["train.micro_batch=3"], "train.micro_batch: 3 does not divide the global batch 8"),
    (["model.heads.n_kv_heads=3"], "model.heads.n_kv_heads: must divide n_heads = 4 (one of [1, 2, 4]), got 3"),
    (["model/heads=mha", "model.heads.n_kv_heads=2"], "model.heads.n_kv_heads: no such key; did you mean 'n_heads'?"),
    (["model/softcap=none", "model.softcap.attention=3"], "model.softcap.attention: no such key"),
    (["model.heads.name=mha"], "choose a component by its group: model/heads=mha"),
    (["model.heads=mha"], "choose a component by its group: model/heads=mha"),
    (["model.pattern=[local,globl]"], "model.pattern: no layer kind is called 'globl'; did you mean 'global'?"),
    (["model.pattern=[]"], "model.pattern: must name at least one layer kind"),
    (["model.kinds={globl:{position:nope}}"], "model.kinds.globl: the pattern has no such layer kind"),
    (["model.kinds={global:{positon:nope}}"], "model.kinds.global.positon: no such slot; did you mean 'position'?"),
    (["model.kinds={global:{softcap:none}}"], "model.kinds.global.softcap: a layer kind has no such slot"),
    (["model/position=learned"], "override 'model/position=learned': model.position.context: is missing"),
    (["model/position=learned", "model.position.context=64"], "train.context: 256 tokens are beyond the model's 64"),
    (["model.position.fraction=0.1"], "model.position.fraction: rotates 3 of head_dim 32 values"),
    (["model.vocab_size=100"], "model.vocab_size: 100 is too small for the tokenizer's 257 tokens"),
    (["model.mlp.d_ff=null"], "model.mlp.d_ff: expected a whole number"),
    (["optimizer=sgd"], "optimizer has no option 'sgd' (there are: adamw)"),
    (["optimizer.lr=fast"], "optimizer.lr: expected a number, got 'fast'"),
    (["optimizer.betas=[0.9]"], "optimizer.betas"),
    (["schedule.warmup_tokens=2M"], "schedule.warmup_tokens: a warm-up of 2,000,000 tokens takes the whole budget"),
    (["train.tokens=100k,200k"], "several values need a sweep"),
    (["hydra.run.dir=x"], "Hydra's own settings have no effect here"),
    (["nonsense"], "override 'nonsense': cannot be read, expected key=value"),
    (["experimant=1"], "experimant: no such key"),
    (["name=other"], "an experiment has the name of its file"),
    (["model={d_model: wide}"], "model.d_model: expected a whole number"),
]


@pytest.mark.parametrize(("overrides", "message"), REFUSED, ids=[" ".join(overrides) for overrides, _ in REFUSED])
def test_a_mistaken_override_is_refused_with_what_would_have_been_right(overrides: list[str], message: str) -> None:
    with pytest.raises(RequestError) as refusal:
        compose("gemma2_tiny", overrides)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_an_unknown_experiment_names_the_nearest() -> None:
    with pytest.raises(RequestError, match="no experiment is called 'gemma2_tini'; did you mean 'gemma2_tiny'"):
        compose("gemma2_tini")


@pytest.mark.parametrize(
    ("addition", "message"),
    [
        ("model: {heads: {n_heads: four}}", "experiments/mine.yaml:2: model.heads.n_heads: expected a whole number"),
        ("model: {headz: {n_heads: 4}}", "experiments/mine.yaml:2: model.headz: no such key; did you mean 'heads'?"),
        (
            "train: {tokens: 1k, contxt: 4}",
            "experiments/mine.yaml:2: train.contxt: no such key; did you mean 'context'?",
        ),
        ("model: {heads: {n_headz: 4}}", "experiments/mine.yaml:2: model.heads.n_headz: no such key"),
        ("model: {mlp: {tahn: true}}", "experiments/mine.yaml:2: model.mlp.tahn: no such key; did you mean 'tanh'?"),
        ("model: {heads: {bias: 1}}", "experiments/mine.yaml:2: model.heads.bias: expected true or false"),
    ],
)
def test_a_mistake_in_a_file_is_refused_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, addition: str, message: str
) -> None:
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "mine.yaml").write_text(f"defaults: [gemma2_tiny, _self_]\n{addition}\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RequestError) as refusal:
        compose("mine")
    assert message in str(refusal.value)


@pytest.mark.parametrize("file", ["experiments/mine.yaml", "experiments/model/mine_tiny.yaml"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"seed: 0\nmodel: {heads: {n_heads: 4}", ":3: not YAML: while parsing a flow mapping"),
        (b"seed: 0\nseed: 1", ":2: not YAML: while constructing a mapping, found duplicate key seed"),
        (b"seed: 0\n\tname: x", ":2: not YAML: while scanning for the next token"),
        (b"seed: 0 # \xe9", ": not UTF-8 text: "),
        (b"seed: \x07", ": not YAML: unacceptable character #x0007"),
    ],
)
def test_a_file_that_is_no_yaml_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, content: bytes, message: str
) -> None:
    (tmp_path / "experiments" / "model").mkdir(parents=True)
    (tmp_path / "experiments" / "mine.yaml").write_text("defaults: [gemma2_tiny, override /model: mine_tiny, _self_]\n")
    (tmp_path / file).write_bytes(content + b"\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RequestError) as refusal:
        compose("mine")
    assert str(refusal.value).startswith(file + message)
    assert "\n" not in str(refusal.value)


def test_an_option_that_the_files_own_component_lacks_is_a_mistake_and_not_a_leftover(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "experiments").mkdir()
    text = "defaults: [gemma2_tiny, override /model/heads: mha, _self_]\nmodel: {heads: {n_kv_heads: 2}}\n"
    (tmp_path / "experiments" / "mine.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RequestError, match=r"mine\.yaml:2: model\.heads\.n_kv_heads: no such key"):
        compose("mine")
