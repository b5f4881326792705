"""From command-line options to options of the SDK; what was not given is left out, so that the server decides."""

from typing import Any, cast

from tandem.client import GenerateOptions


def sampling_options(**given: Any) -> GenerateOptions:
    """Keep what was given; names are those of `GenerateOptions`."""
    kept = {name: value for name, value in given.items() if value is not None and value != ""}
    return cast(GenerateOptions, kept)
