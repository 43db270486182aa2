# Everything runs from a fresh clone: each target installs what it needs first.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
# Prometheus comes from Debian's package, unpacked here: nothing on the machine is changed and no service is started.
PROMETHEUS := .tools/usr/bin/prometheus
ARGS ?=

.PHONY: help demo test test-crash check serve bench bench-overload bench-streams bench-guard format clean

help:
	@echo "make demo    replay a drifting camera against the server (ARGS=--once stops it at the end)"
	@echo "make test    run every test"
	@echo "make test-crash kill the server 200 times, at every failpoint, and fill its disk"
	@echo "make check   format, lint, types, import contracts"
	@echo "make serve   run the server (ARGS='--config my.yaml')"
	@echo "make bench   measure predict and adapt steps against the plain forward"
	@echo "make bench-overload ask ten times more than the server can answer, for a minute"
	@echo "make bench-streams measure many streams stacked against one after another"
	@echo "make bench-guard measure what the guard prevents and what it costs"

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

$(PROMETHEUS):
	mkdir -p .tools
	cd .tools && (apt-get download prometheus || (apt-get update && apt-get download prometheus))
	dpkg-deb -x .tools/prometheus_*.deb .tools && rm .tools/prometheus_*.deb

demo: $(INSTALLED)
	$(BIN)/tta-server demo $(ARGS)

test: $(INSTALLED) $(PROMETHEUS)
	@command -v curl > /dev/null || apt-get install --yes curl
	$(BIN)/pytest $(ARGS)

test-crash: $(INSTALLED)
	$(BIN)/pytest tests/crash --kills 200 --server-kills 200 $(ARGS)

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

serve: $(INSTALLED)
	$(BIN)/tta-server serve $(ARGS)

bench: $(INSTALLED)
	$(BIN)/python -m load_tests.bench $(ARGS)

bench-overload: $(INSTALLED)
	$(BIN)/python -m load_tests.overload $(ARGS)

bench-streams: $(INSTALLED)
	$(BIN)/python -m load_tests.streams $(ARGS)

bench-guard: $(INSTALLED)
	$(BIN)/python -m load_tests.guard $(ARGS)

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv .tools demo build dist *.egg-info
