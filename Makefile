# make demo [SIZE=small|large] [DEVICE=cpu|cuda]   the whole way, from demonstrations to a moving robot; report in runs/demo
# make cell-demo                                   a real cell's whole way on stand-ins: calibrate, record, fine-tune, serve, drive; runs/cell
# make test [JOBS=2]                               ruff and the tests, so many files at a time
# make test-slow                                   the tests that take minutes
# make client                                      dist/clamp_client-*.whl, the robot's client, which does not pull jax
PYTHON ?= python3
SIZE ?= small
DEVICE ?= cpu
OUT ?= runs/demo
CELL_OUT ?= runs/cell
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-$(DEVICE)
EXTRA_cpu := test,viz
EXTRA_cuda := test,viz,cuda
PLATFORM_cpu := cpu
PLATFORM_cuda := cuda

.PHONY: demo cell-demo client test test-slow lint install clean
.DELETE_ON_ERROR:

install: $(STAMP)

$(STAMP): requirements.txt setup.cfg pyproject.toml
	@$(if $(EXTRA_$(DEVICE)),,echo "DEVICE=$(DEVICE) is not known; use DEVICE=cpu or DEVICE=cuda" >&2; exit 2)
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 14) else f"$(PYTHON) is Python {v[0]}.{v[1]}; 3.11 to 3.13 are supported: make PYTHON=python3.12 ...")'
	@$(PYTHON) -c 'import ensurepip, venv' || { echo "Python has no venv; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.txt -e ".[$(EXTRA_$(DEVICE))]"
	touch $@

demo: $(STAMP)
	JAX_PLATFORMS=$(PLATFORM_$(DEVICE)) $(BIN)/python -m experiments.demo --size $(SIZE) --out $(OUT)

cell-demo: $(STAMP)
	JAX_PLATFORMS=$(PLATFORM_$(DEVICE)) $(BIN)/python -m experiments.cell_demo --out $(CELL_OUT)

client: $(STAMP)
	$(BIN)/python -m experiments.client_wheel --out dist

lint: $(STAMP)
	$(BIN)/ruff check .

# With --dist loadfile a worker that takes the place of one that crashed gets nothing to do, and the run never ends.
test: lint
	JAX_PLATFORMS=cpu $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --max-worker-restart 0

test-slow: $(STAMP)
	JAX_PLATFORMS=cpu $(BIN)/python -m pytest -m slow

clean:
	rm -rf $(VENV) runs build dist *.egg-info
