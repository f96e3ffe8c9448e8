# PhantomMesh. `make` alone prints the targets.

SHELL      := /bin/bash
GO         ?= go
BIN        := bin/phantom
VERSION    ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS    := -s -w -X main.version=$(VERSION)
FUZZTIME   ?= 20s
SEEDS      ?= 3
BENCHFLAGS ?=
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.9.0

.DEFAULT_GOAL := help
.PHONY: help build demo test bench sim nat-grid fuzz check clean

help: ## print the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

build: ## bin/phantom: one static binary, version stamped from git
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN) ./cmd/phantom

demo: build ## a five-node mesh on this machine: no root, no configuration (DEMO_SECONDS=n ends it by itself)
	@$(BIN) demo

test: ## everything that proves it works: unit, race and, as root, end-to-end tests
	@./test/run

bench: build ## throughput against plain wireguard-go, join time, idle cost, failover (BENCHFLAGS='-only throughput -pairs 3')
	@$(GO) run ./test/bench $(BENCHFLAGS)

sim: build ## every scenario of the simulator, and drawn ones, SEEDS=3 new seeds each; the soak of three days, and churn-1000 with sixty machines, once
	@for s in --random $$($(BIN) sim list --json | grep -o '"name":"[^"]*"' | cut -d'"' -f4); do \
	  seeds=$(SEEDS); nodes=; \
	  case $$s in soak-72h) seeds=1;; churn-1000) seeds=1 nodes='--nodes 60';; esac; \
	  for n in $$(seq $$seeds); do $(BIN) sim run $$s $$nodes || exit 1; done; done

nat-grid: build ## which kinds of NAT reach each other how: measures every pair and writes the table of docs/nat.md
	@$(GO) run ./test/nat -write docs/nat.md

fuzz: ## every fuzz target in turn, FUZZTIME=20s each
	@./test/fuzz $(FUZZTIME)

check: ## format, vet, static analysis, known vulnerabilities, layout, tidy modules
	@STATICCHECK=$(STATICCHECK) GOVULNCHECK=$(GOVULNCHECK) ./test/check

clean: ## remove what the build made
	rm -rf bin
