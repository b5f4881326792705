"""Options that several commands share, spelled once."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

_CONNECTION, _SAMPLING = "Connection", "Sampling"


class RuntimeKind(StrEnum):
    """Who runs the workers."""

    local = "local"
    ray = "ray"


Name = Annotated[
    str | None,
    typer.Option(help="Which cluster of this machine; needed when several run.", rich_help_panel=_CONNECTION),
]
Address = Annotated[
    str | None,
    typer.Option(help="host:port of a server; else the cluster of this machine.", rich_help_panel=_CONNECTION),
]
Ca = Annotated[
    Path | None,
    typer.Option(help="Authority of the server's certificate; switches TLS on.", rich_help_panel=_CONNECTION),
]
Cert = Annotated[Path | None, typer.Option(help="Your own certificate, for mTLS.", rich_help_panel=_CONNECTION)]
Key = Annotated[Path | None, typer.Option(help="Private key of --cert.", rich_help_panel=_CONNECTION)]
KeyFile = Annotated[Path | None, typer.Option(help="File that holds your bearer key.", rich_help_panel=_CONNECTION)]
Insecure = Annotated[
    bool, typer.Option("--insecure", help="Plain text to another machine.", rich_help_panel=_CONNECTION)
]
Timeout = Annotated[float, typer.Option(help="Seconds that a request may take.", rich_help_panel=_CONNECTION)]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]

Model = Annotated[str, typer.Option(help="Model by name; by default the one that is served.")]
MaxTokens = Annotated[int | None, typer.Option(help="Longest answer in tokens.", rich_help_panel=_SAMPLING)]
Temperature = Annotated[float | None, typer.Option(help="0 takes the likeliest token.", rich_help_panel=_SAMPLING)]
TopK = Annotated[int | None, typer.Option(help="Draw among the k likeliest.", rich_help_panel=_SAMPLING)]
TopP = Annotated[float | None, typer.Option(help="Draw among the likeliest of this sum.", rich_help_panel=_SAMPLING)]
MinP = Annotated[
    float | None, typer.Option(help="Drop what is less likely than this share of the best.", rich_help_panel=_SAMPLING)
]
RepetitionPenalty = Annotated[
    float | None,
    typer.Option(help="Above 1 makes tokens of prompt and answer less likely.", rich_help_panel=_SAMPLING),
]
PresencePenalty = Annotated[
    float | None, typer.Option(help="Taken off tokens that the answer has already.", rich_help_panel=_SAMPLING)
]
FrequencyPenalty = Annotated[
    float | None, typer.Option(help="Taken off a token for each time it was said.", rich_help_panel=_SAMPLING)
]
LogitBias = Annotated[
    list[str] | None,
    typer.Option(help="TOKEN_ID=NUMBER, added to its score; may be repeated.", rich_help_panel=_SAMPLING),
]
Seed = Annotated[int | None, typer.Option(help="Makes the draw repeatable.", rich_help_panel=_SAMPLING)]
Stop = Annotated[list[str] | None, typer.Option(help="End at this text; may be repeated.", rich_help_panel=_SAMPLING)]
