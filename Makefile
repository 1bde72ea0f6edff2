# Thin calls into Python; `make help` lists them. PYTHON=/path/to/python picks another interpreter (>= 3.11).

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
DATA ?= ./data
HTTP ?= 127.0.0.1:8080
SCALE ?= 1
APT := DEBIAN_FRONTEND=noninteractive apt-get

.DEFAULT_GOAL := help
.PHONY: help install run cluster test quick demo bench page clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/.installed ## make .venv and install the project in it

run: install ## start one node on HTTP (127.0.0.1:8080) with DATA (./data)
	@exec $(BIN)/kalamdb-server --data $(DATA) --http $(HTTP)

cluster: install ## three nodes and a router (127.0.0.1:8080) on this machine; Ctrl-C stops all
	@exec $(BIN)/python -m cluster.local

test: install browser ## the whole gate, at most 15 minutes
	@$(BIN)/python -m tests --all

quick: install ## the quick gate, under 3 minutes
	@$(BIN)/python -m tests

demo: install ## a node, real conversations and a live query in the terminal
	@$(BIN)/kalam demo

bench: $(VENV)/.installed-bench ## the benchmarks beside their comparison stacks; SCALE=0.1 is a tenth
	@$(BIN)/python -m benchmarks.http_sql --scale $(SCALE)
	@$(BIN)/python -m benchmarks.live_fanout --scale $(SCALE)
	@$(BIN)/python -m benchmarks.recovery --scale $(SCALE)
	@$(BIN)/python -m benchmarks.cluster_sql --scale $(SCALE)

page: ## build the page at / from ui/ (needs Node 20 and npm)
	@command -v npm >/dev/null || { echo "npm is needed to build the page: https://nodejs.org" >&2; exit 1; }
	@cd ui && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error && npm run --silent build

clean: ## remove the virtualenv and what the tools left; data stays
	rm -rf $(VENV) ui/node_modules build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 is needed: apt-get install python3 python3-venv" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$(PYTHON) is older than Python 3.11; say PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			$(APT) update -q && $(APT) install -qy python3-venv; \
		else \
			echo "$(PYTHON) cannot make virtualenvs: run 'sudo apt-get install python3-venv' first" >&2; exit 1; \
		fi; }
	@$(PYTHON) -m venv $(VENV)

# The stamp is as new as pyproject.toml: code is used in place and needs no new install.
$(VENV)/.installed: pyproject.toml | $(BIN)/python
	@$(BIN)/python -m pip install -q --disable-pip-version-check \
		--config-settings editable_mode=compat -e '.[dev]'
	@touch $@

# The page is tested in a real browser; without one its tests fail.
.PHONY: browser
browser:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || { \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			$(APT) update -q && $(APT) install -qy --no-install-recommends chromium; \
		else \
			echo "the page is tested in a browser: run 'sudo apt-get install chromium' first" >&2; exit 1; \
		fi; }

$(VENV)/.installed-bench: $(VENV)/.installed
	@$(BIN)/python -m pip install -q --disable-pip-version-check \
		--config-settings editable_mode=compat -e '.[dev,bench]'
	@command -v postgres >/dev/null || ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || { \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			$(APT) update -q && $(APT) install -qy --no-install-recommends postgresql; \
		else \
			echo "the benchmarks compare with PostgreSQL: run 'sudo apt-get install postgresql' first" >&2; exit 1; \
		fi; }
	@command -v etcd >/dev/null || { \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			$(APT) update -q && $(APT) install -qy --no-install-recommends etcd-server; \
		else \
			echo "the benchmarks compare with etcd: run 'sudo apt-get install etcd-server' first" >&2; exit 1; \
		fi; }
	@touch $@
