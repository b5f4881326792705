"""From command-line options to options of the SDK; what was not given is left out, so that the server decides."""

from typing import Any, cast

from tandem.client import GenerateOptions
from tandem.core.errors import InvalidArgument


def sampling_options(**given: Any) -> GenerateOptions:
    """Keep what was given; names are those of `GenerateOptions`."""
    kept = {name: value for name, value in given.items() if value is not None and value != ""}
    return cast(GenerateOptions, kept)


def parse_logit_bias(given: list[str] | None) -> dict[int, float] | None:
    """Read ``TOKEN_ID=NUMBER`` words. Raises InvalidArgument naming the word that is none."""
    if not given:
        return None
    bias: dict[int, float] = {}
    for word in given:
        token_id, _, value = word.partition("=")
        try:
            bias[int(token_id)] = float(value)
        except ValueError:
            remedy = "write TOKEN_ID=NUMBER, as in 42=-5"
            raise InvalidArgument("logit_bias", f"is {word!r}", remedy=remedy) from None
    return bias
