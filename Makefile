# Everything is set up by the target that needs it; `uv` is used where it is installed, plain venv + pip where not.
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
PORT ?= 3456
SERVE_FLAGS ?=

.PHONY: help install serve test lint format bench benchmarks chaos scenarios example docs demo-model lock test-system clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1\t/' | expand -t 16

install: $(VENV)/.installed ## Set up .venv with everything that is pinned in requirements.lock

$(VENV)/.installed: pyproject.toml requirements.lock scripts/check-platform.sh
	@PYTHON="$(PYTHON)" sh scripts/check-platform.sh
	@echo "Setting up $(VENV) (a minute, once)..."
	@if command -v uv >/dev/null 2>&1; then \
		uv venv --quiet --allow-existing --python "$(PYTHON)" $(VENV) && \
		uv pip install --quiet --python $(BIN)/python -c requirements.lock -e '.[dev]'; \
	else \
		"$(PYTHON)" -m venv $(VENV) && \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[dev]'; \
	fi
	@touch $@

$(VENV)/.trains: $(VENV)/.installed
	@echo "Adding PyTorch to $(VENV), for the training and its tests (a minute, once)..."
	@if command -v uv >/dev/null 2>&1; then \
		uv pip install --quiet --python $(BIN)/python -c requirements.lock -e '.[dev,training]'; \
	else \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[dev,training]'; \
	fi
	@touch $@

serve: install ## Serve the embedded model on 127.0.0.1:3456, in the foreground
	@exec $(BIN)/lmx serve start --foreground --drills --port $(PORT) $(SERVE_FLAGS)

test: $(VENV)/.trains ## Pass every test
	@command -v chromium >/dev/null 2>&1 || echo "chromium is missing: the browser test needs it; run: make test-system"
	@$(BIN)/python -m pytest -n 2 --dist loadfile

test-system: ## Install the Debian packages that tests use (needs root)
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends chromium libopenblas0 >/dev/null

lint: install ## Style, types, docs in step with the code
	@$(BIN)/ruff format --check --quiet . || { echo "run: make format"; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/python scripts/generate_docs.py --check

format: install ## Mend the style
	@$(BIN)/ruff check --quiet --fix . ; $(BIN)/ruff format --quiet .

chaos: $(VENV)/.trains ## Kill a writing process a hundred times and look for what it had acknowledged
	@LMX_KILLS=100 $(BIN)/python -m pytest -q tests/ledger/test_processes.py

bench: install ## Measure this machine, beside baselines of the same run
	@$(BIN)/lmx bench ledger
	@$(BIN)/lmx bench engine
	@$(BIN)/lmx bench memory
	@$(BIN)/lmx bench guard
	@$(BIN)/lmx bench incidents

benchmarks: install ## Measure ledger, engine, memory, guard and incidents at length (an hour) and write docs/benchmarks.md
	@mkdir -p build
	@$(BIN)/lmx bench engine --kills 20 --out build/bench-engine.json
	@$(BIN)/lmx bench memory --out build/bench-memory.json
	@$(BIN)/lmx bench guard --out build/bench-guard.json
	@$(BIN)/lmx bench incidents --out build/bench-incidents.json
	@for n in 1000000 5000000; do $(BIN)/lmx bench ledger --events $$n --out build/bench-$$n.json || exit 1; done
	@$(BIN)/python scripts/write_benchmarks.py build/bench-engine.json build/bench-memory.json build/bench-guard.json build/bench-incidents.json build/bench-1000000.json build/bench-5000000.json

scenarios: $(VENV)/.trains ## Record anew the ledgers that incidents are tested with (a quarter of an hour, on an idle machine)
	@$(BIN)/python scripts/record_scenarios.py

example: $(VENV)/.trains ## Make anew the postmortem that reports/ has as its example (three minutes)
	@$(BIN)/python scripts/record_example.py

docs: install ## Write the generated references under docs/ and config.example.toml
	@$(BIN)/python scripts/generate_docs.py

demo-model: $(VENV)/.trains ## Train the embedded model from nothing, score it, write its card (about an hour on one core)
	@$(BIN)/python -m training.train
	@$(BIN)/python -m training.card

lock: $(VENV)/.trains ## Pin what .venv holds now
	@$(BIN)/python -c 'from importlib.metadata import distributions as d; v = {x.name: x.version for x in d()}; \
		v.setdefault("mlx-metal", v["mlx"]); v.setdefault("mlx-cpu", v["mlx"]); v["torch"] = v["torch"].split("+")[0]; [v.pop(n, 0) for n in ("lmx-ledger", "pip", "setuptools", "uv")]; \
		print("\n".join(f"{n}=={v[n]}" for n in sorted(v, key=str.lower)))' > requirements.lock

clean: ## Remove what the targets made
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
