"""A tiny checkpoint as Gemma's are published: a begin token, bf16, shards, tied weights under the head's name, an end
token of another name, and a tokenizer.json without the files that usually stand beside it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, Gemma2Config, PreTrainedModel

TEXT = "the quick brown fox jumps over a lazy dog, and the square of 12 is 144. "
SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>")
PAD, EOS, BOS, END = 0, 1, 2, 6
VOCAB_SIZE, CONTEXT = 384, 96


@dataclass(frozen=True)
class Checkpoint:
    """A saved checkpoint, and the model in it in fp32."""

    folder: Path
    model: PreTrainedModel

    def greedy(self, ids: list[int], tokens: int) -> list[int]:
        """The tokens that transformers generates after a prompt."""
        whole = self.model.generate(torch.tensor([ids]), max_new_tokens=tokens, do_sample=False)
        return [int(i) for i in whole[0, len(ids) :]]


def gemma_tokenizer(size: int = 330, special: tuple[str, ...] = SPECIAL) -> Tokenizer:
    """Special tokens, the 256 bytes, characters and merges, as in Gemma's tokenizer: about `size` tokens."""

    def empty(model: models.BPE) -> Tokenizer:
        tokenizer = Tokenizer(model)
        tokenizer.normalizer = normalizers.Replace(" ", "▁")
        tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
        tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
        return tokenizer

    learnt = empty(models.BPE())
    learnt.train_from_iterator(
        [TEXT * 20], trainers.BpeTrainer(vocab_size=size - 256 - len(special), show_progress=False)
    )
    saved = json.loads(learnt.to_str())["model"]
    names = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *sorted(saved["vocab"], key=saved["vocab"].get)]
    merges = [tuple(pair) for pair in saved["merges"]]
    vocab = {name: i for i, name in enumerate(names)}
    tokenizer = empty(models.BPE(vocab, merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in special])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", BOS)]
    )
    return tokenizer


def save_checkpoint(folder: Path) -> Checkpoint:
    """Write the checkpoint to a new folder. A greedy continuation of "the quick" reaches the end token."""
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=VOCAB_SIZE, hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, query_pre_attn_scalar=24, sliding_window=8, max_position_embeddings=CONTEXT,
        bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            else:
                parameter.normal_(0, 0.15 if "embed" in name else 0.8)
    model = model.to(torch.bfloat16).eval()
    tokenizer = gemma_tokenizer()
    _move_end_token(model, tokenizer.encode("the quick").ids)
    folder.mkdir(parents=True)
    model.config.dtype = torch.bfloat16
    model.config.save_pretrained(folder)
    (folder / "generation_config.json").write_text(
        json.dumps({"bos_token_id": BOS, "eos_token_id": [EOS, END], "pad_token_id": PAD, "do_sample": True})
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    _save_shards(model, folder)
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return Checkpoint(folder, loaded)


def _move_end_token(model: PreTrainedModel, prompt: list[int]) -> None:
    """Exchange the rows of the end token and of a token that the model generates after a prompt, after some others."""
    generated = model.float().generate(torch.tensor([prompt]), max_new_tokens=24, do_sample=False, eos_token_id=None)[0]
    later = [int(i) for i in generated[len(prompt) :]]
    token = next(token for n, token in enumerate(later) if n > 3 and token not in [*later[:n], *prompt])
    model.to(torch.bfloat16)
    table = model.get_input_embeddings().weight
    with torch.no_grad():
        table[[token, END]] = table[[END, token]].clone()


def _save_shards(model: PreTrainedModel, folder: Path) -> None:
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    del tensors["model.embed_tokens.weight"]  # tied: saved under the name of the head alone
    names = sorted(tensors)
    half, shard_of = len(names) // 2, {}
    for number, part in enumerate((names[:half], names[half:]), 1):
        file = f"model-{number:05d}-of-00002.safetensors"
        metadata = {"format": "pt", "model.embed_tokens.weight": "lm_head.weight"}
        save_file({name: tensors[name] for name in part}, folder / file, metadata=metadata)
        shard_of |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": shard_of}))
