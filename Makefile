# What a developer of aside runs. .ci/run and .ci/nightly share the steps, which
# are functions in .ci/common.sh.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help test race lint bench proof breakages models fuzz release-check ci nightly

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' Makefile

test: ## all tests, with the servers that are installed
	go test ./... ./asideotel/... ./asideprom/... ./examples/... ./proof/...

race: ## the root's and the internal packages' tests under the race detector
	@. .ci/common.sh; race

lint: ## gofmt, go vet, staticcheck, go mod tidy, and the limits of the root's files
	@. .ci/common.sh; lint; tidy; knot

bench: ## the root's benchmarks; go run ./bench compares with other libraries
	go test -run '^$$' -bench . -benchmem .

proof: ## simulated runs, real processes, network faults; SEEDS=n simulates more
	go test ./proof/... $(if $(SEEDS),&& go test -run '^TestSimulation$$' -timeout 1h ./proof -seeds $(SEEDS))

breakages: ## bugs made on purpose, which the tests must find; RUN=regexp for some
	go run ./proof/mutate -run '$(RUN)'

models: ## the protocol's models, with spin
	@. .ci/common.sh; models

fuzz: ## each fuzz target; FUZZTIME=10s each
	@. .ci/common.sh; fuzz $(or $(FUZZTIME),10s)

release-check: ## the dry run of docs/releasing.md, at HEAD
	@. .ci/common.sh; release_check

ci: ## the gate of each change, some quarter of an hour: installs what is missing
	.ci/run

nightly: ## everything, some two hours
	.ci/nightly
