# Targets for developers of aside. Most run a function of .ci/common.sh, as .ci/run and
# .ci/nightly do.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help test race lint bench proof breakages models fuzz release-check ci nightly

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' Makefile

test: ## all tests, on the servers that are installed
	go test ./... ./asideotel/... ./asideprom/... ./examples/... ./proof/...

race: ## tests of the library under the race detector, but for the slowest
	@. .ci/common.sh; race

lint: ## gofmt, go vet, staticcheck, go mod tidy, and the limits on the root's files
	@. .ci/common.sh; lint; tidy; knot

bench: ## the root's benchmarks; go run ./bench compares with other libraries
	go test -run '^$$' -bench . -benchmem .

proof: ## simulations, processes and faults; SEEDS=n simulates n runs more
	go test ./proof/... $(if $(SEEDS),&& go test -run '^TestSimulation$$' -timeout 1h ./proof -seeds $(SEEDS))

breakages: ## deliberate bugs, each of which a test must catch; RUN=regexp selects some
	go run ./proof/mutate -run '$(RUN)'

models: ## models of the protocol, with spin
	@. .ci/common.sh; models

fuzz: ## each fuzz target, for FUZZTIME (10s)
	@. .ci/common.sh; fuzz $(or $(FUZZTIME),10s)

release-check: ## the dry run of docs/releasing.md, at HEAD
	@. .ci/common.sh; release_check

ci: ## the gate of each change, a quarter of an hour; installs missing programs
	.ci/run

nightly: ## all checks that take longer, some two hours
	.ci/nightly
