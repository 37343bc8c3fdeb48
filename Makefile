# Two commands for a fresh machine with Python and pip: `make demo` and `make test`.
# VENV: where the environment lies. PYTHON: what it is made of. Nothing is installed twice; once installed, all works offline.

VENV ?= .venv
PYTHON ?= python3
WORKERS ?= 2
BUNDLE ?= demo-bundle
PORT ?= 8080

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# What some test skips without: tests/test_ci_extras.py compares.
TEST_EXTRAS := train,language,adapt,deepspeed,qlora,tracking,baselines,serving,postgres,tracing,ray,client,onnx,openvino,tune,plot,fpga,pyg,mlflow,qdrant,docs,test,check
BENCHMARKS := "quality --suite foundation" "quality --suite published" ablation time_to_quality kernels evaluation encoding loading sampling compression export serving house far_trans fpga federated explained lora parity parallel gradient_compression training_simulator training_faults gpu
export HF_HUB_OFFLINE := 1
# Nothing of DeepSpeed is compiled: none of its own operators is used.
export DS_BUILD_OPS := 0

.PHONY: demo test check audit bench docs site wheels sbom clean

demo: $(VENV)/.demo-installed ## run the whole pipeline on the bundled dataset, and serve what it learnt
	@echo "==> lanner run (bundled MovieLens latest-small) -> $(BUNDLE)"
	@$(BIN)/lanner run --out $(BUNDLE)
	@echo "==> lanner compress $(BUNDLE) -> $(BUNDLE)-compressed"
	@$(BIN)/lanner compress $(BUNDLE) --seconds 30
	@echo "==> lanner serve $(BUNDLE)-compressed"
	@$(BIN)/lanner serve $(BUNDLE)-compressed --store $(BUNDLE)-events.db --port $(PORT)

test: $(VENV)/.test-installed ## run the whole test suite
	@echo "==> pytest, $(WORKERS) workers of one thread each"
	@OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 POLARS_MAX_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

check: $(VENV)/.test-installed ## format, lint, types and known vulnerabilities
	@echo "==> ruff and mypy --strict"
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(MAKE) --no-print-directory audit

audit: $(VENV)/.test-installed ## ask for known vulnerabilities of the pinned versions; offline it says so and passes
	@echo "==> pip-audit"
	@$(BIN)/python .ci/audit.py $(BIN)/pip-audit

bench: $(VENV)/.bench-installed ## measure every figure anew (needs LANNER_DATA; hours)
	@for one in $(BENCHMARKS); do echo "==> python -m benchmarks.$$one"; $(BIN)/python -m benchmarks.$$one || exit 1; done

docs: $(VENV)/.test-installed ## regenerate the README's results and the command reference
	@echo "==> README.md, docs/commands.md"
	@$(BIN)/python -m benchmarks.readme

site: $(VENV)/.test-installed ## build the documentation's pages into site/; a broken link is an error
	@echo "==> mkdocs build -> site/index.html"
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

wheels: ## build the wheel and try it in clean environments: alone and with each extra, for each Python here (an hour or more)
	@$(PYTHON) .ci/wheels.py --record

sbom: ## write sbom.json, what the pinned versions are, in CycloneDX
	@$(PYTHON) -m venv $(VENV)-sbom
	@$(VENV)-sbom/bin/python -m pip install --quiet --disable-pip-version-check cyclonedx-bom
	@$(VENV)-sbom/bin/cyclonedx-py requirements constraints.txt --pyproject pyproject.toml --output-format JSON -o sbom.json
	@rm -rf $(VENV)-sbom
	@echo "==> sbom.json"

clean: ## remove the environment and the demo's bundles
	rm -rf $(VENV) $(BUNDLE) $(BUNDLE)-compressed

$(BIN)/python:
	@echo "==> environment $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.demo-installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "==> installing lanner[train,language,baselines,serving,onnx,openvino] (a few minutes, once)"
	@$(PIP) -e '.[train,language,baselines,serving,onnx,openvino]'
	@touch $@

$(VENV)/.test-installed: $(VENV)/.demo-installed
	@echo "==> installing what the tests and checks need (once)"
	@$(PIP) -e '.[$(TEST_EXTRAS)]'
	@touch $@

$(VENV)/.bench-installed: $(VENV)/.test-installed
	@echo "==> installing what the benchmarks compare with (once)"
	@$(PIP) -e '.[$(TEST_EXTRAS),bench]'
	@touch $@
