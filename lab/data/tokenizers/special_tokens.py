"""The special tokens of a tokenizer: what stands before and after a text, and where generation ends."""

from __future__ import annotations

from dataclasses import dataclass

from lab.data.tokenizers.separators import SEPARATOR


@dataclass(frozen=True)
class SpecialTokens:
    """The special tokens that an encoder uses.

    Attributes:
        separator: the token that follows every document (the end-of-text token, EOS).
        bos: the token before every document and prompt (the begin-of-text token); None for none.
        separator_after_prompts: whether a prompt ends with the separator too, as with `add_eos_token` of published
            tokenizers.
        stop_ids: the ids at which generation ends; None for the separator alone.
    """

    separator: str = SEPARATOR
    bos: str | None = None
    separator_after_prompts: bool = False
    stop_ids: tuple[int, ...] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The separator and, if there is one, the begin token."""
        return (self.separator,) if self.bos is None else (self.separator, self.bos)
