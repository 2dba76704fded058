# Two commands for a fresh machine: `make snli` runs the main job, `make test` runs the tests. Both install what they need.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
SPACE  ?= spaces/snli.yaml
PORT   ?= 8765
PIP    := $(BIN)/python -m pip install --quiet
UV     := $(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --compile-bytecode

.PHONY: snli hosted-demo test test-cpus chaos check bench lock clean

snli: $(VENV)/.runs
	$(BIN)/sweep run $(SPACE)

# Runs the same task at a host: starts `sweep serve`, uses it as any OpenAI-like service, and stops it.
hosted-demo: $(VENV)/.runs
	$(BIN)/python scripts/hosted_demo.py $(PORT)

test: $(VENV)/.develops $(VENV)/.image $(VENV)/.programs
	$(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

# Repeats the tests that train under other instruction sets, because rounding differs and training amplifies it.
# ATen, MKL and oneDNN each choose their own instructions, so all three are limited. `make test` covers the native
# set. With SSE only the tests of the trainer and of the server over it run, which saves two minutes.
TRAINS := $(BIN)/python -m pytest -m trains --numprocesses 2 --dist loadfile --no-loadscope-reorder
test-cpus: $(VENV)/.develops $(VENV)/.programs
	ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2 ONEDNN_MAX_CPU_ISA=AVX2 $(TRAINS)
	ATEN_CPU_CAPABILITY=default MKL_ENABLE_INSTRUCTIONS=SSE4_2 ONEDNN_MAX_CPU_ISA=SSE41 $(TRAINS) \
		tests/unit tests/contract tests/integration/server/test_server_local.py

# Breaks sweeps: a kill at every durable write, seeded schedules of faults, bad days, and random kills of real sweeps.
# Root allows the tests that mount disks and cut networks. docs/guide/reliability.md says what each part shows.
KILLS     ?= 300
SCHEDULES ?= 20000
chaos: $(VENV)/.develops
	$(BIN)/python -m tests.chaos.kill_points --jobs 2
	$(BIN)/python -m tests.simulation --count $(SCHEDULES) --jobs 2
	SWEEP_TEST_SLOW=1 $(BIN)/python -m pytest tests/chaos tests/integration/test_tracking_kills.py \
		tests/integration/command/test_life_cycle.py
	$(BIN)/python -m tests.chaos.random_kills --kills $(KILLS)

check: $(VENV)/.develops
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint Dockerfile
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml

bench: $(VENV)/.develops
	$(BIN)/python -m benchmarks.run

# pip installs torch, because a machine may have configured it to prefer a CPU build. uv installs the rest in half the time.
$(VENV)/.runs: pyproject.toml requirements.lock
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(PIP) uv
	$(PIP) --no-deps $$(grep '^torch==' requirements.lock)
	$(UV) --requirement requirements.lock || $(PIP) --no-deps --requirement requirements.lock
	$(PIP) --no-deps --no-build-isolation --editable .
	touch $@

$(VENV)/.develops: $(VENV)/.runs requirements-dev.lock
	$(UV) --requirement requirements-dev.lock || $(PIP) --no-deps --requirement requirements-dev.lock
	touch $@

# The packages of the container image beyond ours, in their own folder. The tests run the services of docker-compose.yml with them.
$(VENV)/.image: $(VENV)/.runs requirements-image.lock
	rm -rf $(VENV)/image
	$(UV) --target $(VENV)/image --requirement requirements-image.lock || \
		$(PIP) --no-deps --target $(VENV)/image --requirement requirements-image.lock
	touch $@

# Training programs of others, in their own folder. The tests sweep them; our own processes never see the folder.
$(VENV)/.programs: $(VENV)/.runs requirements-programs.lock
	rm -rf $(VENV)/programs
	$(UV) --target $(VENV)/programs --requirement requirements-programs.lock || \
		$(PIP) --no-deps --target $(VENV)/programs --requirement requirements-programs.lock
	touch $@

# Resolves the version ranges of pyproject.toml again and writes the four lock files.
lock:
	$(PYTHON) scripts/lock.py

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
