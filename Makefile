# Two commands do everything on a fresh machine with Python 3.11+: `make demo` and `make test`.

PYTHON ?= python3
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu
export PYTHON TORCH_CPU_INDEX

TUNER := .venv
ENGINE := .venv-engine
BIN := $(TUNER)/bin
DEVICES := $(if $(wildcard /dev/davinci[0-9]*),NPU,$(if $(wildcard /dev/nvidia[0-9]*),GPU,CPU))
TUNER_READY := $(TUNER)/.ready
ENGINE_READY := $(ENGINE)/.ready

.PHONY: demo test check lint engine install format clean

demo: $(TUNER_READY) $(ENGINE_READY)  ## A real tuning job on the real vLLM, and its winner in ./best.yaml
	AUTOTUNE_HOME=$(CURDIR)/.demo $(BIN)/autotune run autotune/demo/job.yaml --set devices.resource=$(DEVICES) $(if $(filter-out CPU,$(DEVICES)),--set devices.max_per_trial=1) --best best.yaml --page pareto.html

test: check $(ENGINE_READY)  ## Everything, the real engine, Ray and the browser included
	AUTOTUNE_REQUIRE_ENGINE=1 $(BIN)/python -m pytest -m "live or ray or browser"

check: lint  ## Lint, types, import rules and the fast tests: no engine, under three minutes
	$(BIN)/python -m pytest -m "not live and not ray and not browser"

lint: $(TUNER_READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(TUNER_READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

install: $(TUNER_READY)

engine: $(ENGINE_READY)

$(TUNER_READY): pyproject.toml docker/constraints.txt docker/install-tuner.sh
	sh docker/install-tuner.sh $(TUNER) gp,postgres,notebook dev
	touch $@

$(ENGINE_READY): $(wildcard autotune/engines/requirements/*.txt) docker/install-engine.sh
	mkdir -p $(ENGINE)
	sh docker/install-engine.sh $(ENGINE)
	touch $@

clean:
	rm -rf $(TUNER) $(ENGINE) .demo best.yaml pareto.html .mypy_cache .ruff_cache .pytest_cache .hypothesis
