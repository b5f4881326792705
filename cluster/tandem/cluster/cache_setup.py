"""What every process of a cluster must agree on about the prefix cache: its secret and the public prefixes' tokens."""

import secrets
from pathlib import Path

from pydantic import SecretStr

from tandem.core.errors import ConfigError
from tandem.prefix_cache.config import SECRET_BYTES, PrefixCacheConfig, PrefixCacheProgram, PublicPrefixSection
from tandem.text.tokenizer import Tokenizer

_MIN_SECRET_BYTES = 16
_MAX_SECRET_BYTES = 4096


def prepare_cache(settings: PrefixCacheConfig, model_folder: Path) -> PrefixCacheProgram:
    """Return what router and workers are told; once per cluster start. Blocks while it reads files.

    Raises ConfigError for a secret file that can't be read or holds too little.
    """
    secret = _read_secret(settings.secret_file) if settings.secret_file else secrets.token_bytes(SECRET_BYTES)
    if any(public.text for public in settings.public_prefixes):
        tokenizer = Tokenizer.load(model_folder)
        public = tuple(_as_tokens(public, tokenizer) for public in settings.public_prefixes)
        settings = settings.model_copy(update={"public_prefixes": public})
    return PrefixCacheProgram(settings=settings, secret=SecretStr(secret.hex()))


def _as_tokens(public: PublicPrefixSection, tokenizer: Tokenizer) -> PublicPrefixSection:
    if not public.text:
        return public
    # Without special tokens of the tokenizer's own: the text is the beginning of a prompt that has been rendered.
    return PublicPrefixSection(token_ids=tuple(tokenizer.encode(public.text, add_special_tokens=False)))


def _read_secret(file: Path) -> bytes:
    try:
        secret = file.read_bytes().strip()
    except OSError as error:
        raise ConfigError(
            f"prefix_cache.secret_file: {file}: {error.strerror}", remedy="name a file that this user can read"
        ) from error
    if not _MIN_SECRET_BYTES <= len(secret) <= _MAX_SECRET_BYTES:
        raise ConfigError(
            f"prefix_cache.secret_file: {file}: has {len(secret)} bytes",
            remedy=f"write {_MIN_SECRET_BYTES} to {_MAX_SECRET_BYTES} random bytes into it: openssl rand -hex 32",
        )
    return secret
