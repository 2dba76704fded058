# Two commands on a fresh machine: `make snli` runs the main job, `make test` the tests. Each sets up what it needs.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
SPACE  ?= spaces/snli.yaml
PORT   ?= 8765
PIP    := $(BIN)/python -m pip install --quiet
UV     := $(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --compile-bytecode

.PHONY: snli hosted-demo test test-cpus check bench lock clean

snli: $(VENV)/.runs
	$(BIN)/sweep run $(SPACE)

# The same task at a host: `sweep serve` is started, used as any OpenAI-like service, and ended.
hosted-demo: $(VENV)/.runs
	$(BIN)/python scripts/hosted_demo.py $(PORT)

test: $(VENV)/.develops $(VENV)/.image
	$(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

# Repeats the tests that train under other instruction sets, because rounding differs and training amplifies it.
# ATen, MKL and oneDNN each choose their own instructions, so all three are limited. `make test` covers the native
# set. With SSE only the tests of the trainer and of the server over it run, which saves two minutes.
TRAINS := $(BIN)/python -m pytest -m trains --numprocesses 2 --dist loadfile --no-loadscope-reorder
test-cpus: $(VENV)/.develops
	ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2 ONEDNN_MAX_CPU_ISA=AVX2 $(TRAINS)
	ATEN_CPU_CAPABILITY=default MKL_ENABLE_INSTRUCTIONS=SSE4_2 ONEDNN_MAX_CPU_ISA=SSE41 $(TRAINS) \
		tests/unit tests/contract tests/integration/server/test_server_local.py

check: $(VENV)/.develops
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint Dockerfile
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml

bench: $(VENV)/.develops
	$(BIN)/python -m benchmarks.run

# Torch comes by pip, which a machine may be set up to give a CPU build; the rest by uv, which takes half the time.
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

# What the container image has beyond the package, in a folder of its own: the tests run the services of docker-compose.yml.
$(VENV)/.image: $(VENV)/.runs requirements-image.lock
	rm -rf $(VENV)/image
	$(UV) --target $(VENV)/image --requirement requirements-image.lock || \
		$(PIP) --no-deps --target $(VENV)/image --requirement requirements-image.lock
	touch $@

# Resolves the ranges of pyproject.toml anew and writes the three lock files.
lock:
	$(PYTHON) scripts/lock.py

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
