# Everything here runs through the Go tool with pinned versions: nothing has to
# be installed first. The first use of a tool compiles it, which takes minutes.

TOOL := go tool -modfile=tools/go.mod
LINT := go tool -modfile=tools/lint/go.mod golangci-lint

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

.PHONY: generate
generate: ## write the Go code of every .proto file again
	$(TOOL) buf generate

.PHONY: check
check: ## everything that CI runs
	.ci/run

.PHONY: test
test: ## the tests, without the race detector
	go test ./...

.PHONY: lint
lint: ## the linters, formatting included
	$(TOOL) buf lint
	go vet ./...
	$(LINT) run ./...

.PHONY: format
format: ## format the Go code and the .proto files
	$(TOOL) gofumpt -w .
	$(TOOL) buf format -w

.PHONY: bench
bench: ## micro-benchmarks, then the table of docs/benchmarks.md
	go test -run '^$$' -bench . -benchmem ./...
	go run ./internal/bench

.PHONY: browser
browser: ## two browsers in examples/chat; needs npm, and Chromium, which it installs if it can
	examples/chat/e2e/run

.PHONY: typescript
typescript: ## the tests of web/durable-client; needs npm
	npm ci --prefix web/durable-client --no-audit --no-fund
	npm test --prefix web/durable-client

.PHONY: conformance
conformance: ## Connect's conformance suite against a durable object
	go run ./internal/conformance

.PHONY: torture
torture: ## kill a server under load for a minute, and check that nothing promised is lost
	go run ./internal/torture $(TORTURE)
