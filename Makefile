# Keelson. `make` lists the targets.
GO       ?= go
BIN      := bin
PKGS     := ./...
GOTEST    = $(GO) test -tags $(TAGS) -vet=off -timeout 15m
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
# The release that `keelson kubectl version` tells is that of the module it is built from.
KUBERNETES = $(shell $(GO) list -m -f '{{.Version}}' k8s.io/kubectl | sed s/v0/v1/)
LDFLAGS   = $(STRIP) -X main.gitVersion=$(VERSION) -X k8s.io/component-base/version.gitVersion=$(KUBERNETES)

# Everything is compiled with these, programs and tests of all modules: what one build has compiled serves the next.
export GOFLAGS := $(strip $(shell $(GO) env GOFLAGS) $(if $(findstring -trimpath,$(shell $(GO) env GOFLAGS)),,-trimpath))
PURE      = netgo,osusergo

# The containers of a node need cgo and libseccomp. Without them all the same is built, and the node says what is missing.
CC        = $(shell $(GO) env CC)
CONTAINERS := $(shell [ "$$($(GO) env GOOS CGO_ENABLED GOARCH)" = "$$(echo linux; echo 1; $(GO) env GOHOSTARCH)" ] && \
	command -v $(firstword $(shell $(GO) env CC)) >/dev/null && pkg-config --exists libseccomp 2>/dev/null && echo yes)
TAGS      = $(PURE),invariants$(if $(CONTAINERS),$(comma)seccomp)
comma    := ,
# Linked statically where libseccomp is there for that.
STATIC    = $(if $(findstring /,$(shell $(firstword $(CC)) -print-file-name=libseccomp.a)), -extldflags=-static)
SHIM     := orchestrator/node/shim/program/keelson-shim

.DEFAULT_GOAL := help
.PHONY: help build up cluster test race stress bench fuzz lint release peers etcd36 previous etcd-e2e generate cross clean

help: ## show this list
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build bin/keelson and the links etcd, etcdctl, etcdutl to it
	@mkdir -p $(BIN)
ifeq ($(CONTAINERS),yes)
	CGO_ENABLED=1 $(GO) build -tags $(PURE),seccomp,runc_nocriu -ldflags '-s -w$(STATIC)' -o $(SHIM) ./orchestrator/node/shim/keelson-shim
	CGO_ENABLED=1 $(GO) build -tags $(PURE),seccomp,embedshim -ldflags '$(LDFLAGS)$(STATIC)' -o $(BIN)/keelson ./cmd/keelson
else
	CGO_ENABLED=0 $(GO) build -tags $(PURE) -ldflags '$(LDFLAGS)' -o $(BIN)/keelson ./cmd/keelson
endif
	@for l in etcd etcdctl etcdutl; do ln -sf keelson $(BIN)/$$l; done

up: build ## build and run the whole platform in one process: API server on https://127.0.0.1:6443, data in ./data
	$(BIN)/keelson up --data-dir data

cluster: build ## build and run the Procfile: three store members, API server, controllers, scheduler, nodes
	$(GO) tool goreman -set-ports=false start

test: build peers ## run all tests: vet, lint, unit, conformance against the real etcd
	$(MAKE) lint
	$(GOTEST) $(PKGS)
	@for m in peers peers/*/go.mod; do (cd $${m%/go.mod} && $(GO) vet -tags $(PURE) ./... && $(GO) test -tags $(PURE) -vet=off -count=1 -timeout 15m ./...) || exit 1; done

race: build peers ## run all tests under the race detector
	$(GO) test -race -tags $(TAGS) -timeout 40m $(PKGS)

stress: build peers etcd36 previous ## longer runs: kill -9 loops, linearizability under faults, rolling replacement (about 15 minutes)
	KEELSON_STRESS=1 $(GO) test -tags $(TAGS) -timeout 60m -count=1 -run 'Stress' $(PKGS)
	cd peers && KEELSON_STRESS=1 $(GO) test -tags $(PURE) -timeout 30m -count=1 -run 'Stress' ./...

bench: build peers ## compare with the real etcd, side by side; writes bin/compare.md
	$(BIN)/keelson bench compare --etcd $(BIN)/peers/etcd --out $(BIN)/compare.md

FUZZTIME ?= 30000x
fuzz: ## run every fuzz target for FUZZTIME (30000x: executions; with a duration the fuzzer now and then takes its own end for a failure)
	@$(GO) list -f '{{.Dir}}' ./... | while read -r dir; do \
		for f in $$(grep -hoE '^func Fuzz[A-Za-z0-9_]+' $$dir/*_test.go 2>/dev/null | awk '{print $$2}'); do \
			echo "$$dir $$f"; (cd $$dir && $(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) .) || exit 1; \
		done; done

lint: ## gofmt, go vet and staticcheck (pinned in tools/lint), and a type check for other platforms
	@wrong=$$(gofmt -l $$(find . -name '*.go' -not -path './bin/*')); [ -z "$$wrong" ] || { echo "gofmt: $$wrong"; exit 1; }
	$(GO) vet -tags $(TAGS) $(PKGS)
	@mkdir -p $(BIN)
	cd tools/lint && $(GO) build -o ../../$(BIN)/staticcheck honnef.co/go/tools/cmd/staticcheck
	$(BIN)/staticcheck -tags $(TAGS) $(PKGS)
	cd tools/lint && $(GO) build -o ../../$(BIN)/cross ./cross
	$(BIN)/cross ./cmd/keelson linux/arm64 darwin/arm64

peers: ## build the real etcd, etcdctl, etcdutl, kubectl, helm 3 and 4, containerd, runc, crictl and two CNI plugins into bin/peers: oracles for tests, rivals for benchmarks
	@mkdir -p $(BIN)/peers
	cd peers && CGO_ENABLED=0 $(GO) build -tags $(PURE) -o ../$(BIN)/peers/etcd go.etcd.io/etcd/server/v3
	cd peers && CGO_ENABLED=0 $(GO) build -tags $(PURE) -o ../$(BIN)/peers/etcdctl go.etcd.io/etcd/etcdctl/v3
	cd peers && CGO_ENABLED=0 $(GO) build -tags $(PURE) -o ../$(BIN)/peers/etcdutl go.etcd.io/etcd/etcdutl/v3
	cd peers/kubectl && CGO_ENABLED=0 $(GO) build -tags $(PURE) -ldflags "-X k8s.io/component-base/version.gitVersion=$$($(GO) list -m -f '{{.Version}}' k8s.io/kubectl | sed s/v0/v1/)" -o ../../$(BIN)/peers/kubectl .
	cd peers/helm3 && CGO_ENABLED=0 $(GO) build -tags $(PURE) -o ../../$(BIN)/peers/helm3 helm.sh/helm/v3/cmd/helm
	cd peers/helm4 && CGO_ENABLED=0 $(GO) build -tags $(PURE) -o ../../$(BIN)/peers/helm4 helm.sh/helm/v4/cmd/helm
	[ "$$($(GO) env GOOS)" != linux ] || for p in containerd containerd-shim-runc-v2; do \
		(cd peers/containerd && CGO_ENABLED=0 $(GO) build -tags $(PURE) -o ../../$(BIN)/peers/$$p github.com/containerd/containerd/v2/cmd/$$p) || exit 1; done
	[ "$$($(GO) env GOOS)" != linux ] || for p in main/ptp ipam/host-local; do \
		(cd peers/containerd && CGO_ENABLED=0 $(GO) build -tags $(PURE) -o ../../$(BIN)/peers/$${p#*/} github.com/containernetworking/plugins/plugins/$$p) || exit 1; done
	$(if $(CONTAINERS),cd peers/containerd && CGO_ENABLED=1 $(GO) build -tags $(PURE),seccomp -o ../../$(BIN)/peers/runc github.com/opencontainers/runc)
	cd peers/containerd && CGO_ENABLED=0 $(GO) build -tags $(PURE) -o ../../$(BIN)/peers/crictl sigs.k8s.io/cri-tools/cmd/crictl

etcd36: ## build the release of etcd that a cluster can be downgraded to into bin/peers, for the long runs
	@mkdir -p $(BIN)/peers
	cd peers/etcd36 && CGO_ENABLED=0 $(GO) build -tags $(PURE) -o ../../$(BIN)/peers/etcd36 go.etcd.io/etcd/server/v3

etcd-e2e: build peers etcd36 ## run etcd's own black-box suites against etcd and against Keelson and compare (hours; docs/etcd-compatibility.md)
	tools/etcd-e2e/run.sh -o $(BIN)/etcd-e2e

# The last release, or while there is none an earlier commit (the first with users and TLS).
PREVIOUS ?= $(shell git describe --tags --abbrev=0 2>/dev/null || echo f7edebe)
previous: ## build an earlier Keelson (PREVIOUS, a commit) into bin/peers, for the long runs
	@mkdir -p $(BIN)/peers $(BIN)/previous && git archive $(PREVIOUS) | tar -x -C $(BIN)/previous
	cd $(BIN)/previous && CGO_ENABLED=0 $(GO) build -tags $(PURE) -o ../peers/keelson-previous ./cmd/keelson
	rm -rf $(BIN)/previous

generate: ## regenerate api/*.pb.go (needs protoc and protoc-gen-{go,go-grpc,grpc-gateway})
	protoc -I api -I $$($(GO) list -m -f '{{.Dir}}' go.etcd.io/raft/v3) --go_out=. --go_opt=module=github.com/keelson-io/keelson \
		api/walpb/record.proto api/snappb/snap.proto api/leasepb/lease.proto
	protoc -I api --go_out=. --go_opt=module=github.com/keelson-io/keelson --go-grpc_out=. --go-grpc_opt=module=github.com/keelson-io/keelson \
		api/integritypb/integrity.proto
	protoc -I api -I $$($(GO) list -m -f '{{.Dir}}' go.etcd.io/raft/v3) --go_out=. --go_opt=module=github.com/keelson-io/keelson \
		--go-grpc_out=. --go-grpc_opt=module=github.com/keelson-io/keelson api/backuppb/backup.proto
	# etcd's protos are imported as etcd/api/..., and want annotations that only their gateway needs.
	@mkdir -p $(BIN)/proto/etcd/api && cp -r $$($(GO) list -m -f '{{.Dir}}' go.etcd.io/etcd/api/v3)/*pb $(BIN)/proto/etcd/api/ && chmod -R u+w $(BIN)/proto && find $(BIN)/proto -name '*.go' -delete
	@sed -i -e '/^import "\(google\/api\|protoc-gen-openapiv2\)/d' -e '/^ *option (google.api.http)/,/^ *};/d' -e '/^option (grpc.gateway/,/^};/d' \
		$(BIN)/proto/etcd/api/*/*.proto
	for s in v3lockpb/lock v3electionpb/election insightpb/insight; do \
		protoc -I api -I $(BIN)/proto --go_out=. --go_opt=module=github.com/keelson-io/keelson \
			--go-grpc_out=. --go-grpc_opt=module=github.com/keelson-io/keelson \
			--grpc-gateway_out=. --grpc-gateway_opt=module=github.com/keelson-io/keelson,grpc_api_configuration=api/$${s%/*}/gateway.yaml \
			api/$$s.proto || exit 1; done

PLATFORMS = linux/amd64 linux/arm64 darwin/amd64 darwin/arm64
release: ## archives of static binaries with checksums and SBOMs for PLATFORMS into dist/
	MAKE="$(MAKE)" packaging/release.sh $(VERSION) dist $(PLATFORMS)

cross: ## build for every supported platform
	@for p in $(PLATFORMS); do echo $$p; \
		CGO_ENABLED=0 GOOS=$${p%/*} GOARCH=$${p#*/} $(GO) build -o /dev/null ./cmd/keelson || exit 1; done

clean: ## remove what was built (not ./data)
	rm -rf $(BIN) $(SHIM)
