# `make` alone says what there is. As root, everything sets itself up: Debian packages, system users, and a root-owned
# copy of the programs under PREFIX. As an ordinary user, .venv in this folder is used and nothing else is touched.

.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := --norc -eu -o pipefail -c
MAKEFLAGS += --no-print-directory

UID := $(shell id -u)
ifeq ($(UID),0)
# One tree per checkout: two checkouts on one machine do not run each other's code.
DEV := /opt/nebh-dev-$(firstword $(shell printf %s '$(CURDIR)' | cksum))
SETUP := setup-root
# Wherever the checkout is, and whoever owns it: what runs as root is the copy that only root can change.
SOURCES := -o pythonpath=
else
DEV := $(CURDIR)/.venv
SETUP := setup-user
SOURCES :=
endif
PYTHON := $(DEV)/venv/bin/python
TOOLS := $(DEV)/venv/bin
# Caches by user, so that root's do not stand in the way of the checkout's owner.
CACHE := build/cache-$(UID)
ARGS ?=
KILLS ?= 100

export PYTHONDONTWRITEBYTECODE := 1
export HYPOTHESIS_STORAGE_DIRECTORY := $(CURDIR)/$(CACHE)/hypothesis
# Tests wait more than they work, and each has its own folders and networks: two at a time, file by file.
PYTEST = $(PYTHON) -m pytest -o cache_dir=$(CACHE)/pytest -n 2 --dist loadfile $(ARGS)
# A fresh system is often a chroot, in which the kernel refuses what containers need.
SETTLED := $(PYTHON) -P -m nebh.testing.settled

.PHONY: help demo demo-data test test-long check crash bench docs install uninstall setup setup-root setup-user setup-python pins

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1	\2/p' $(MAKEFILE_LIST) | expand -t 20

demo: $(SETUP) ## the story on this machine, as root: deploy, update, rollback, attack, power cut -> build/demo.json
	@[ "$(UID)" = 0 ] || { echo 'cannot run the demo: it starts containers, which needs root' >&2; \
		echo '  hint: sudo make demo' >&2; exit 1; }
	@$(SETTLED) $(PYTHON) -P -m nebh.testing.demo $(ARGS)

demo-data: $(SETUP) ## a PostgreSQL converted, broken and taken back, as root -> build/demo-data.json
	@[ "$(UID)" = 0 ] || { echo 'cannot run the demo: it starts containers, which needs root' >&2; \
		echo '  hint: sudo make demo-data' >&2; exit 1; }
	@$(SETTLED) $(PYTHON) -P -m nebh.testing.demo.data $(ARGS)

test: $(SETUP) ## all tests but the long ones; as an ordinary user those that need no root
	@$(SETTLED) $(PYTEST) $(SOURCES)

test-long: $(SETUP) ## the long ones too
	@[ "$(UID)" != 0 ] || packaging/packages.sh guest
	@$(SETTLED) $(PYTEST) $(SOURCES) --long

check: setup-python ## style, types, floors and the quick tests that need no root: under two minutes
	@failed=(); \
	$(TOOLS)/ruff check --output-format concise --cache-dir $(CACHE)/ruff . || failed+=(ruff); \
	$(TOOLS)/ruff format --check --cache-dir $(CACHE)/ruff . || failed+=(format); \
	$(TOOLS)/mypy --strict --cache-dir $(CACHE)/mypy || failed+=(mypy); \
	PYTHONPATH=src $(TOOLS)/lint-imports --no-logo --cache-dir $(CACHE)/import_linter || failed+=(floors); \
	$(PYTEST) -q -m 'not root and not long and not e2e and not slow' || failed+=(tests); \
	[ $${#failed[@]} = 0 ] || { echo "make check: failed: $${failed[*]}" >&2; exit 1; }

crash: $(SETUP) ## KILLS=100: kill -9 of everything there is, under load, and look; ARGS=--seed=S for the same again
	@[ "$(UID)" = 0 ] || { echo 'cannot run the crash suite: it starts containers, which needs root' >&2; \
		echo '  hint: sudo make crash' >&2; exit 1; }
	@$(SETTLED) $(PYTHON) -P -m nebh.testing.crash --kills $(KILLS) $(ARGS)

bench: $(SETUP) ## speed and memory, as root -> build/bench/; ARGS=--quick for a short look
	@$(SETTLED) $(PYTHON) -P -m nebh.testing.bench $(ARGS)

docs: setup-python ## write the generated pages of docs/ again
	@PYTHONPATH=src $(PYTHON) -P -m nebh.testing.docs

install: ## install on this machine, as root: /opt/nebh, the users nebh-*, /usr/local/bin/nebh
	@packaging/install.sh

uninstall: ## take away what install made, and say what stays
	@packaging/uninstall.sh

setup: $(SETUP) ## what demo and test do first

setup-root:
	@packaging/packages.sh base runtime test
	@packaging/users.sh
	@packaging/tree.sh $(DEV) dev

setup-user:
	@packaging/tree.sh $(DEV) dev

setup-python:
	@[ "$(UID)" != 0 ] || packaging/packages.sh base
	@packaging/tree.sh $(DEV) dev

pins: setup-python ## choose versions anew and pin them by hash (needs pip-tools on PATH)
	@packaging/pins.sh
