# The two that matter: `make demo` and `make test`. Both install what they need into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# The calls of TensorRT are checked against each recorded version; pyproject.toml has the newest.
OTHER_TENSORRT := 10.16 rtx-1.7

# Each of three processes takes the next module of tests at a time; most of them wait for real peers.
# One that crashes is not replaced: by modules, pytest-xdist would then wait for ever.
PARALLEL := -n 3 --dist loadscope --no-loadscope-reorder --max-worker-restart 0
# A test that hangs fails and tells its threads' stacks; where Python cannot interrupt it, its process
# ends. As long as that because whole machines stand still for minutes. Not for test-all: slow tests
# and long fuzzing take their time.
LIMITS := --timeout 600 --timeout-method signal -o faulthandler_timeout=900 -o faulthandler_exit_on_timeout=true

# For install and uninstall; DESTDIR is put before all of it, for packagers.
PREFIX := /opt/streamd
UNITS := /etc/systemd/system

.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint format bench bench-quick chaos soak install uninstall clean

help: ## what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(VENV)/.demo ## the whole system with synthetic cameras; Ctrl-C ends it
	$(BIN)/streamd demo $(ARGS)

test: $(VENV)/.dev ## all tests but the slow ones
	@$(BIN)/python -m compileall -q streamd # hundreds of processes import it, none of which may keep it
	$(BIN)/pytest $(PARALLEL) $(LIMITS) $(ARGS)

test-all: $(VENV)/.dev ## all tests that this machine can run
	$(BIN)/pytest -m "not gpu or gpu" $(ARGS)

lint: $(VENV)/.dev ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	set -e; for version in $(OTHER_TENSORRT); do \
		MYPYPATH=typings/tensorrt-$$version $(BIN)/mypy --cache-dir .mypy_cache/$$version streamd/engines; \
	done

format: $(VENV)/.dev ## lay the code out
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev ## the figures of docs/benchmarks.md: make bench MODEL=yolov8n.onnx
	$(BIN)/python -m bench.daemon --model $(MODEL) $(ARGS)

bench-quick: $(VENV)/.dev ## fails where a ratio dropped by a tenth since bench/baseline.json
	$(BIN)/python -m bench.quick $(ARGS)

chaos: $(VENV)/.dev ## faults drawn at random, and what they cost: make chaos ARGS="--seed 7"
	$(BIN)/python -m bench.chaos $(ARGS)

soak: $(VENV)/.dev ## an hour at full speed, or more: make soak ARGS="--hours 8"
	$(BIN)/python -m bench.soak $(ARGS)

install: ## as a systemd service, below $(PREFIX) and /etc/streamd; as root
	$(PYTHON) -m venv $(DESTDIR)$(PREFIX)/.venv
	$(DESTDIR)$(PREFIX)/.venv/bin/pip install --quiet .
	install -d -m 755 $(DESTDIR)$(PREFIX) $(DESTDIR)/usr/local/bin $(DESTDIR)$(UNITS)
	cp -r docs config engines LICENSE $(DESTDIR)$(PREFIX)/
	chmod -R a+rX $(DESTDIR)$(PREFIX) # the service reads it, whatever root's umask keeps from others
	ln -sf $(PREFIX)/.venv/bin/streamd $(DESTDIR)/usr/local/bin/streamd
	install -m 644 systemd/streamd.service $(DESTDIR)$(UNITS)/
	install -d -m 755 $(DESTDIR)/etc/streamd
	test -e $(DESTDIR)/etc/streamd/streamd.yaml || install -m 644 systemd/streamd.yaml $(DESTDIR)/etc/streamd/
	test -e $(DESTDIR)/etc/streamd/secrets.env || install -m 600 /dev/null $(DESTDIR)/etc/streamd/secrets.env
	if [ -z "$(DESTDIR)" ]; then \
		getent passwd streamd >/dev/null || \
			useradd --system --home-dir /var/lib/streamd --shell /usr/sbin/nologin streamd; \
		systemctl daemon-reload; \
	fi
	@echo "Edit /etc/streamd/streamd.yaml, then: systemctl enable --now streamd"

uninstall: ## removes the service; /etc/streamd, /var/lib/streamd and /var/log/streamd stay
	if [ -z "$(DESTDIR)" ]; then systemctl disable --now streamd; fi
	rm -rf $(DESTDIR)$(PREFIX) $(DESTDIR)/usr/local/bin/streamd $(DESTDIR)$(UNITS)/streamd.service
	if [ -z "$(DESTDIR)" ]; then systemctl daemon-reload; fi

clean: ## remove what was installed and cached
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --editable '.[demo]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --editable '.[demo,dev]'
	@touch $@ $(VENV)/.demo
