# Two commands do everything on a fresh machine with Python 3.11+: `make demo` and `make test`.

PYTHON ?= python3
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu
export PYTHON TORCH_CPU_INDEX

TUNER := .venv
ENGINE_HOME := .venv-engine
BIN := $(TUNER)/bin
# `make demo ENGINE=simulated` (or another profile of the simulated engine); without it the real engine is installed.
SIMULATED := $(filter simulated%,$(ENGINE))
DEVICES := $(if $(SIMULATED),CPU,$(if $(wildcard /dev/davinci[0-9]*),NPU,$(if $(wildcard /dev/nvidia[0-9]*),GPU,CPU)))
TUNER_READY := $(TUNER)/.ready
ENGINE_READY := $(ENGINE_HOME)/.ready

# One more test process than cores: many tests wait.
TEST_PROCESSES := $(shell expr $$(nproc) + 1)

.PHONY: demo test check lint kills pinning soak engine install format clean

demo: $(TUNER_READY) $(if $(SIMULATED),,$(ENGINE_READY))  ## A real tuning job on the real vLLM, and its winner in ./best.yaml; ENGINE=simulated: in a minute, without an engine
	AUTOTUNE_HOME=$(CURDIR)/.demo $(BIN)/autotune run autotune/demo/job.yaml --set devices.resource=$(DEVICES) $(if $(filter-out CPU,$(DEVICES)),--set devices.max_per_trial=1) $(if $(SIMULATED),--set engine=$(SIMULATED) --set devices.max_per_trial=1) --best best.yaml --page pareto.html

test: check $(ENGINE_READY)  ## Everything, the real engine, Ray and the browser included
	AUTOTUNE_REQUIRE_ENGINE=1 $(BIN)/python -m pytest -m "live or ray or browser or process"

check: lint  ## Lint, types, import rules and the fast tests: no engine, under three minutes
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) -m "not live and not ray and not browser and not process"

lint: $(TUNER_READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(TUNER_READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

kills: $(TUNER_READY)  ## Jobs whose processes are killed 50 times at random moments, on SQLite and on PostgreSQL
	AUTOTUNE_KILLS=50 $(BIN)/python -m pytest tests/integration/test_recovery.py -k kills

pinning: $(TUNER_READY)  ## 200 short trials side by side on a cluster of four nodes with pretended NPUs
	AUTOTUNE_PINNING=200 $(BIN)/python -m pytest tests/integration/test_pinning.py

soak: $(TUNER_READY)  ## 300 trials with random faults and kills: nothing is lost, repeated or left
	$(BIN)/python benchmarks/soak.py

install: $(TUNER_READY)

engine: $(ENGINE_READY)

$(TUNER_READY): pyproject.toml docker/constraints.txt docker/install-tuner.sh
	sh docker/install-tuner.sh $(TUNER) gp,postgres,notebook dev
	touch $@

$(ENGINE_READY): $(wildcard autotune/engines/requirements/*.txt) docker/install-engine.sh
	mkdir -p $(ENGINE_HOME)
	sh docker/install-engine.sh $(ENGINE_HOME)
	touch $@

clean:
	rm -rf $(TUNER) $(ENGINE_HOME) .demo best.yaml pareto.html .mypy_cache .ruff_cache .pytest_cache .hypothesis
