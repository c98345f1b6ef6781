"""The one exception that unusable text raises, whatever it came from."""

from lab.refusals import RequestError


class DataError(RequestError, ValueError):
    """Text, a tokenizer or the cache can't be used. The message says what, where, and what was expected."""
