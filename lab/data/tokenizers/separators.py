"""The separator tokens between documents."""

SEPARATOR = "<|endoftext|>"
"""The separator of tokenizers that the lab trains."""

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
