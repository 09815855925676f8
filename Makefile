# The two commands of the README are `make demo` and `make test`.
SHELL := /bin/bash
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
export CGO_ENABLED := 0

.PHONY: help demo build check test test-unit test-e2e test-vm bench lint fuzz docs clean setup

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: build ## make an isolated cluster, run an application in it, try to get out
	@bin/cloister demo

setup: ## install what building needs and is missing (Debian packages, by apt)
	@hack/setup

build: setup ## build bin/cloister
	@hack/build "$(VERSION)"

check: lint ## lint, vet, layering, documentation and unit tests that need no root
	go vet ./...
	go test ./internal/layering/... ./internal/arm/... ./internal/provider/... ./internal/azcli/... ./internal/cli/... ./internal/app/projection/... ./test/reference/...

test: build ## everything: unit, kernel, wire, end to end (sets up what it needs)
	@hack/test

test-unit: ## all packages but the end to end stories
	go test $$(go list ./... | grep -v /test/)

test-e2e: build ## the end to end stories; RUN=name runs one
	go test ./test/e2e -count=1 -timeout 45m -v $(if $(RUN),-run 'TestScripts/$(RUN)')

test-vm: build ## the demo with one node in a virtual machine with systemd and cgroup v2
	@hack/test-vm

bench: build ## measure create, delete, start and memory; BENCH="-n 5 -json FILE" passes flags
	go run ./test/bench $(BENCH)

lint: ## golangci-lint with the configuration of the tree
	$$(go -C tools tool -n golangci-lint) run ./...

docs: ## write docs/reference anew from the code
	go test ./test/reference -count=1 -update

fuzz: ## each fuzz target for a while; TIME=30s
	@hack/fuzz $(TIME)

clean: ## remove bin/
	rm -rf bin
