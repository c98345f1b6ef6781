"""The exception for text that can't be used."""

from lab.refusals import RequestError


class DataError(RequestError, ValueError):
    """Text, a tokenizer or the cache can't be used. The message says what is wrong, where, and what was expected."""
