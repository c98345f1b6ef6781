"""How the separator between documents is written."""

SEPARATOR = "<|endoftext|>"
"""How the separator between documents is written by tokenizers that are made here."""

USUAL_SEPARATORS = (
    SEPARATOR,
    "<|end_of_text|>",
    "<eos>",
    "</s>",
    "<｜end▁of▁sentence｜>",
    "<|eot_id|>",
    "[EOS]",
    "[SEP]",
)
