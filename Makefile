# What can be done here? `make` alone says it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PYTEST := $(BIN)/python -m pytest -p tests.allowed_skips
ARGS ?=
OUT ?= docs/results/accuracy
PAGE ?= docs/results/poster.html
BENCHES ?= storage client_cost intake hours daemon_cost everyday query query_10m query_year query_billion
# Images of Python often set it; then each of a thousand interpreters that tests start compiles our modules anew,
# and each of pytest's workers rewrites all tests' asserts: 2.5 times the CPU time of its collection.
unexport PYTHONDONTWRITEBYTECODE
# A tool that talks only when something is wrong.
quietly = log=$$(mktemp); $(1) >$$log 2>&1 && rm -f $$log || { cat $$log; rm -f $$log; exit 1; }

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help deps setup check test faults test-long test-gpu bench bench-coverage bench-accuracy bench-same bench-sync bench-service bench-demo bench-overhead bench-study screenshots bench-lake test-fleet two-gpus demo clean

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

deps: ## install what tests need beside Python (root), or say what is missing
	@PYTHON='$(PYTHON)' tests/deps.sh test

setup: $(READY) ## make .venv with everything for development in it
	@:

$(READY): pyproject.toml constraints.txt
	@PYTHON='$(PYTHON)' tests/deps.sh demo
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "development needs Python 3.11 or newer: make PYTHON=python3.11 …" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@echo "installing into $(VENV) (some minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

check: setup ## style, types and import arrows
	@$(call quietly,$(BIN)/ruff check)
	@$(call quietly,$(BIN)/mypy)
	@$(call quietly,$(BIN)/lint-imports)

test: deps setup check ## what CI runs: checks and the whole suite (ARGS="-k top" narrows it)
	@$(MAKE) --no-print-directory build/fleet/.ready \
		|| echo "no environment for a ledger: its tests are skipped, which ask DuckLake and S3" >&2
	@$(PYTEST) -n 4 --dist worksteal -m "not long and not gpu" $(ARGS)

faults: deps setup ## break things on purpose: what survives? (docs/faults.md; a part of `make test`)
	@$(PYTEST) -n 4 --dist worksteal -m "fault and not long and not gpu" $(ARGS)

test-long: setup ## tests that take minutes
	@PYTHON='$(PYTHON)' tests/deps.sh long
	@$(PYTEST) -m "long and not gpu" --timeout 1800 $(ARGS)

build/fleet/.ready: pyproject.toml
	@echo "installing DuckDB 1.5.5 with its extensions into $(@D)"
	@rm -rf $(@D).new && $(PYTHON) -m venv $(@D).new
	@$(call quietly,$(@D).new/bin/python -m pip install --quiet --disable-pip-version-check '.[fleet]')
	@rm -rf $(@D) && mv $(@D).new $(@D) && touch $@

test-fleet: deps setup build/fleet/.ready ## tests of a fleet's lake and ledger alone; a part of `make test`
	@$(PYTEST) tests/fleet $(ARGS)

test-gpu: deps setup ## tests that need an NVIDIA GPU
	@$(PYTEST) -m gpu --timeout 1800 $(ARGS)

bench: setup build/peers ## what does measuring cost, how fast is it? 25 minutes alone on a machine (BENCHES="query hours")
	@failed=; for each in $(BENCHES); do rm -f docs/results/performance/$$each.json; \
		BENCH_PEERS=build/peers $(BIN)/python tests/bench/$$each.py --out docs/results/performance $(ARGS) \
		|| failed="$$failed $$each"; done; \
	$(BIN)/python tests/bench/report.py docs/results/performance > docs/results/performance.md || exit 1; \
	echo docs/results/performance.md; test -z "$$failed" || { echo "failed:$$failed" >&2; exit 1; }

build/peers:
	@echo "installing the tools to compare with into $@"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --target $@.new 'nvitop>=1.7' 'zeus>=0.16' && mv $@.new $@

bench-lake: setup ## how long do answers over a fleet take? 64 hosts, 1.3 billion samples, 8 GB; 30 minutes
	@$(BIN)/python tests/bench/lake.py --out docs/results $(ARGS)
	@$(BIN)/python tests/bench/lake_page.py > docs/results/lake.md

bench-coverage: setup ## how often the stated doubt holds the truth, on closed-form loads (docs/measurement.md)
	@PYTHONPATH=tests $(BIN)/python tests/bench/coverage.py $(ARGS)

bench-accuracy: setup ## how wrong is each tool? Needs an NVIDIA GPU, 15 minutes (OUT=…, ARGS="--loads idle,bursts")
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,bench,pipelines]'
	@$(BIN)/python tests/bench/accuracy/run.py --out $(OUT) --budget-seconds 1200 $(ARGS)
	@$(BIN)/python tests/bench/accuracy/report.py $(OUT) > $(OUT).md

bench-same: setup ## is the same load called different? Forty runs on an NVIDIA GPU, 5 minutes
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,pipelines]'
	@folder=$$(mktemp -d)/store; $(BIN)/python tests/bench/same_load.py measure $$folder $(ARGS) \
		&& $(BIN)/python tests/bench/same_load.py judge $$folder

bench-sync: setup ## what an edge that does not wait for the GPU gets wrong; needs an NVIDIA GPU, 2 minutes
	@$(BIN)/python tests/bench/sync_edges.py $(ARGS)

bench-service: setup ## how soon is the service there again after kill -9? Root, a minute (docs/results/service.md)
	@$(BIN)/python tests/bench/service.py > docs/results/service.md.new && mv docs/results/service.md.new docs/results/service.md

bench-demo: setup ## the demo in an empty clone, twice: how long from nothing, what does the second spare? 8 minutes
	@$(BIN)/python tests/bench/demo_twice.py $(ARGS) > docs/results/demo-twice.new
	@mv docs/results/demo-twice.new docs/results/demo-twice.md

screenshots: setup ## how a report looks, light, dark and printed (PAGE=docs/results/poster.html); needs chromium
	@$(BIN)/python tests/bench/screenshots.py $(PAGE)

bench-overhead: setup ## what measuring adds to a training step; needs an NVIDIA GPU, 8 minutes
	@$(BIN)/python tests/bench/overhead_gpu.py $(ARGS)

bench-study: setup ## docs/results/h100-study.md, .csv and .html from the stores beside them; needs no GPU
	@$(BIN)/python tests/bench/h100_study.py report docs/results/h100-study

two-gpus: setup ## docs/results/two-gpus.md on a host with two NVIDIA GPUs, 6 minutes
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,pipelines]'
	@folder=$$(mktemp -d); page=docs/results/two-gpus$${FAKE_NVML_CONTROL:+-fake}; \
		$(BIN)/python tests/hardware/two_gpus.py measure --out $$folder $(ARGS) > $$page.new; \
		code=$$?; tail -n 1 $$page.new | grep -q . && mv $$page.new $$page.md; echo "$$folder: what was read"; exit $$code

demo: setup ## three sizes of student, three pipelines: what does distilling cost, when does it pay? (ARGS="quick --seeds 3")
	@PATH="$(CURDIR)/$(BIN):$$PATH" pipelines/energyd_pipelines/demo.sh demo-store $(ARGS)

clean: ## remove .venv, caches and the demo
	@rm -rf $(VENV) demo-store build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	@rm -rf tests/fake_nvml/build
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
