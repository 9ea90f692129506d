# Two commands do everything on a fresh Debian machine with Rust, a C compiler and make:
#   make quickstart   build, then simulated engines + proxy + usage writer, until Ctrl-C
#   make test         install what the tests need, then run all of them
# PROFILE: the cargo profile of `quickstart` (fast: release code without link-time optimisation).
# ARGS:    more flags for `weir quickstart`, such as ARGS="--port 0 --admin-port 0 --state-dir /tmp/w".
# LAW:     the laws that `make limits` runs, by a part of their name, such as LAW=faults; none named: all.
# BENCH:   the benches that `make bench` runs, such as BENCH="wire wire_instructions"; none named: all.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PROFILE ?= fast
ARGS ?=
BENCH ?=
LAW ?=
TARGET := $(or $(CARGO_TARGET_DIR),target)
# Cargo puts the dev profile's output into debug/.
OUT := $(TARGET)/$(if $(filter dev,$(PROFILE)),debug,$(PROFILE))

.PHONY: help quickstart build test test-rust test-clients test-load test-deploy limits bench fmt lint clean

help:
	@sed -n '1,7s/^# //p' Makefile

quickstart: build
	@exec $(OUT)/weir quickstart $(ARGS)

build:
	@scripts/setup-build
	@cargo build --locked --quiet --profile $(PROFILE) --bin weir

test:
	@scripts/setup-tests
	@scripts/run-tests rust clients load deploy

# Parts of `make test`, for the inner loop.
test-rust test-clients test-load test-deploy:
	@scripts/setup-tests
	@scripts/run-tests $(@:test-%=%)

# The limits' laws in their full form, one after the other, with a line for each figure.
limits:
	@scripts/setup-tests
	@scripts/limits $(PROFILE) $(LAW)

bench:
	@scripts/setup-tests
	@scripts/bench $(BENCH)

fmt:
	@cargo fmt

lint:
	@scripts/setup-build
	@cargo fmt --check
	@cargo clippy --locked --all-targets -- -D warnings

clean:
	@cargo clean
	@rm -rf out var
