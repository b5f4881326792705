"""Downloads a hub model's safetensors, config and tokenizer; nothing that holds code or pickles."""

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from tandem.core.errors import ModelError

_WANTED = [
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "*.jinja",
]
_WANTED += ["vocab.json", "merges.txt", "special_tokens_map.json", "added_tokens.json", "spiece.model"]


def download(model_id: str) -> Path:
    """Return the local snapshot folder of a hub model. Raises ModelError when it can't be had, and why."""
    try:
        return Path(snapshot_download(model_id, allow_patterns=_WANTED))
    except GatedRepoError as error:
        raise ModelError(
            f"{model_id} is gated on the hub", remedy="accept its terms there and log in with `hf auth login`"
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise ModelError(
            f"there is no model {model_id!r} on the hub, or it is private",
            remedy="check the spelling; for a folder on this machine give its path",
        ) from error
    except (OfflineModeIsEnabled, LocalEntryNotFoundError) as error:
        raise ModelError(
            f"{model_id} is not on this machine and the hub can't be reached",
            remedy="connect to the network (and unset HF_HUB_OFFLINE), or give a model folder or a .gguf file",
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise ModelError(
            f"downloading {model_id} failed: {error}", remedy="try again; what has come already is kept"
        ) from error
