"""`tandem init`: a commented cluster.yaml to begin with, and the schema that editors check it by."""

from pathlib import Path

from tandem.cluster.commands.terminal import open_terminal
from tandem.cluster.config.schemas import SCHEMA_FILE, render_cluster_schema
from tandem.core.environment import read_environment
from tandem.core.errors import ConfigError

CONFIG_FILE = "cluster.yaml"
TEMPLATE = f"""\
# yaml-language-server: $schema={SCHEMA_FILE}
# One Tandem cluster.  Start it with `tandem up -f cluster.yaml`; `tandem doctor` looks at this machine first.
# Every line but model.source may be left out; what is shown commented out is the default.
apiVersion: tandem/v1
kind: Cluster
metadata:
  name: tandem

model:
  source: builtin:smollm2      # or a folder with safetensors, a .gguf file, a hub id such as Qwen/Qwen3-0.6B
  # dtype: float32             # bfloat16 on GPUs
  # name: my-model             # what clients ask for

runtime:
  kind: local                  # local: plain processes; ray: actors, restarted by Ray, on one or many machines
  # address: auto              # ray only: join a running Ray cluster instead of starting one

router:
  host: 127.0.0.1              # beyond loopback give tls and keys (`tandem certs init`, `tandem keys new`)
  port: 8700
  # placement:
  #   mode: auto               # auto | split (always a pair) | aggregated (always where it decodes)

pools:
  prefill:
    replicas: 1                # workers that read prompts
    # cpus: 1
    # gpus: 0
  decode:
    replicas: 1                # workers that write answers

engine:
  # kv_memory_bytes: 512MiB    # memory of one worker's KV cache
  # block_size: 16             # tokens per block
  # max_batched_tokens: 512    # prompt tokens per step
  num_threads: 1               # CPU threads of one worker; the workers share the cores

transfer:
  transports: [shm, tcp]       # best first; shm serves workers of one machine

# registry:
#   redis_url: redis://localhost:6379/0   # without one, an embedded server or the router's memory
"""


def run_init(folder: Path, *, force: bool) -> None:
    """Write both files. Raises ConfigError when one exists and ``force`` is not given."""
    terminal = open_terminal(read_environment())
    files = {folder / CONFIG_FILE: TEMPLATE, folder / SCHEMA_FILE: render_cluster_schema()}
    existing = [str(path) for path in files if path.exists()]
    if existing and not force:
        raise ConfigError(f"{existing[0]} exists already", remedy="name another folder, or overwrite it with --force")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in files.items():
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{folder}: can't write here: {error.strerror}", remedy="name a folder of yours") from error
    terminal.say(f"wrote {folder / CONFIG_FILE} and {folder / SCHEMA_FILE}")
    terminal.say(f"next: tandem up -f {folder / CONFIG_FILE}")
