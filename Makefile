# make install [VENV=.venv]          what the daemon and its tests need, in a virtual environment
# make serve [PORT=8000] [MODEL=...] the daemon in the foreground; no MODEL: the built-in demo model
# make test [PROCESSES=2]            the tests, side by side in so many processes; `pytest` itself takes one
# make lint | clean
# make fuzz                          10,000 damaged pictures and 1,000 damaged clips; for the night
# make chaos                         thousands of faults under load, over both queues; tables in benchmarks/results
# make conformance                   5,000 requests generated from /openapi.json; a table in benchmarks/results
# make smoke                         other clients (litellm, langchain-openai, openai-node) against the demo model
# make goldens GOLDENS=DIR           the tests against reference results, with a full set in place of the lean copy
#
# Another package index (for example torch's own, with smaller CPU builds) is chosen as pip has it:
# PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make install

VENV ?= .venv
PORT ?= 8000
MODEL ?=
TORCH ?= torch==2.13.0
PROCESSES ?= 2

BIN := $(VENV)/bin
DAEMON := $(VENV)/.glimpsed-daemon
TESTS := $(VENV)/.glimpsed-tests
SMOKE := $(VENV)/smoke
# Not with the tests: litellm wants another openai, and both are 260 MB together.
SMOKED := 'litellm[mcp]==1.106.2' langchain-openai==1.7.3
SMOKED_NODE := openai@6.49.0
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet --no-compile --constraint constraints.txt

.PHONY: install serve test fuzz chaos conformance smoke lint goldens clean

install: $(TESTS)

$(DAEMON): pyproject.toml constraints.txt
	@test -x $(BIN)/python || ( \
		for python in python3 python3.11 python3.12 python3.13; do \
			if $$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then \
				$$python -m venv $(VENV) && exit 0; \
				echo "$$python cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv" >&2; \
				rm -rf $(VENV); exit 1; \
			fi; \
		done; \
		echo "Python 3.11, 3.12 or 3.13 is needed and none is on the PATH" >&2; exit 1 )
	$(PIP) $(TORCH) setuptools
	$(PIP) --no-build-isolation --editable '.[worker]'
	$(BIN)/python -c 'import server.launch, workers.handlers.open, workers.families.internvl, workers.media.decode_child'
	@touch $@

$(TESTS): $(DAEMON)
	$(PIP) --no-build-isolation --editable '.[worker,test]'
	@touch $@

serve: $(DAEMON)
	@exec $(BIN)/glimpsed serve --port $(PORT) $(MODEL)

# A file stays in one process, as its tests share a daemon; files begin in the order of their names, so the slow ones early.
test: install
	$(BIN)/python -m pytest --numprocesses $(PROCESSES) --dist loadfile --no-loadscope-reorder

fuzz: install
	$(BIN)/python -m pytest -m slow tests/workers/media/test_fuzz.py

conformance: install
	$(BIN)/python -m benchmarks.conformance

smoke: install
	test -x $(SMOKE)/bin/python || $(BIN)/python -m venv $(SMOKE)
	$(SMOKE)/bin/python -m pip install --disable-pip-version-check --quiet $(SMOKED)
	npm install --silent --no-audit --no-fund --prefix $(SMOKE)/node $(SMOKED_NODE)
	$(BIN)/python -m tests.smoke $(SMOKE)/bin/python $(SMOKE)/node

chaos: install
	$(BIN)/python -m benchmarks.chaos --kills 1000
	$(BIN)/python -m benchmarks.chaos --kills 1000 --transport redis
	$(BIN)/python -m benchmarks.chaos --kills 50 --model demo
	$(BIN)/python -m benchmarks.chaos --kills 50 --model demo --transport redis
	$(BIN)/python -m benchmarks.chaos.hosts --trials 100

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p schemas -p server -p workers.engine

goldens: install
	@test -d "$(GOLDENS)" || { echo "make goldens GOLDENS=DIR: the folder with the full set" >&2; exit 2; }
	GLIMPSED_GOLDENS=$(abspath $(GOLDENS)) $(BIN)/python -m pytest tests/e2e/test_goldens.py tests/workers/models \
		tests/workers/families tests/workers/media/test_tiling.py tests/workers/media/test_frames.py

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -not -path './$(VENV)/*' -prune -exec rm -rf {} +
