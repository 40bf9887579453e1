# Every target works from a clean clone with an empty module cache; dev and
# test also install the Debian packages they need, where that is allowed.

ARGS ?=
NAME ?=
FUZZTIME ?= 30s
# RACE= runs the tests where no C compiler can be had.
RACE ?= -race

VERSION = $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)

# The version is passed by -ldflags: asking git for it as well would stop the
# build in a checkout that belongs to another user.
export GOFLAGS := $(shell go env GOFLAGS 2>/dev/null) -buildvcs=false

# Where root and bubblewrap are there, a test has no excuse to skip for want of
# them; CI has none for want of an S3 server.
WSMESH_REQUIRE ?= $(shell test "$$(id -u)" = 0 && command -v bwrap >/dev/null && echo bwrap,root)$(if $(CI),$(comma)s3)
export WSMESH_REQUIRE
comma := ,

.PHONY: help dev test test-long test-s3 check build bench demo fuzz mutants sandbox tools
.NOTPARALLEL:

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' Makefile

dev: sandbox build ## run one box in the foreground: NATS, a node, a gateway (ARGS='--data DIR …')
	@exec bin/wsmesh dev $(ARGS)

# A test's heap is small and what collects it is slow under the race detector: less
# often saves a fifth of the processor time.
GOGC ?= 400

# Three packages, and tests of one, at a time where there are fewer processors: tests of a mesh wait
# as much as they work. check has vetted them.
PARALLEL ?= $(shell n=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1); echo $$((n > 3 ? n : 3)))

test: tools bin/versitygw check ## check, then all tests under the race detector; a skip that .ci/skips.txt does not name is red
	go run ./.ci/testsum -skips .ci/skips.txt -- env GOGC=$(GOGC) $(if $(RACE),CGO_ENABLED=1 )go test -json -p $(PARALLEL) -parallel $(PARALLEL) -vet=off $(RACE) -shuffle=on -count=1 -timeout 30m ./node ./client ./sandbox ./chaos ./...

test-long: export WSMESH_LONG = 1
test-long: test ## the same with the long form of those tests that have one

test-s3: export WSMESH_REQUIRE := $(WSMESH_REQUIRE),s3
test-s3: tools bin/versitygw ## the tests that use an S3 server, a real one
	$(if $(RACE),CGO_ENABLED=1 )go test -vet=off $(RACE) -count=1 -timeout 20m ./objstore/s3bucket ./objstore/mirror
	$(if $(RACE),CGO_ENABLED=1 )go test -vet=off $(RACE) -count=1 -timeout 20m -run 'Mirror' ./node
	go test -vet=off -count=1 -timeout 20m -run 'TestWipedAndRestored' ./chaos

# The S3 server of tests; the go command keeps what it has built.
bin/versitygw:
	@echo 'installing versitygw, which takes minutes the first time' >&2
	@GOBIN=$(CURDIR)/bin go install github.com/versity/versitygw/cmd/versitygw@v1.8.0 2>&1 | grep -v '^go: downloading' >&2; \
	test -x bin/versitygw || echo 'versitygw could not be installed: the tests of a real S3 server are skipped, or fail where WSMESH_REQUIRE has s3' >&2

check: ## vet, staticcheck, gofumpt, go mod tidy -diff, macOS and Windows, which package may import which
	go vet ./... ./.ci/testsum
	go tool staticcheck ./... ./.ci/testsum
	@echo 'go tool gofumpt -l .'
	@files="$$(go tool gofumpt -l .)" || exit 1; \
	if [ -n "$$files" ]; then printf "%s\nformat them with: go tool gofumpt -w .\n" "$$files" >&2; exit 1; fi
	go mod tidy -diff
	@.ci/cross
	go test -count=1 . ./.ci/testsum

build: ## bin/wsmesh, with the small program that is process 1 of its sandboxes inside
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o sandbox/agent.bin ./sandbox/agent
	CGO_ENABLED=0 go build -trimpath -tags embedagent -ldflags '-X main.version=$(VERSION)' -o bin/wsmesh ./cmd/wsmesh

bench: sandbox build ## wsmesh bench against a mesh of its own (NAME='read exec', ARGS=--json)
	@.ci/bench '$(NAME)' $(ARGS)

demo: tools build ## the whole product on real input in under a minute: git, python3, memory, MCP, a kill (needs npm)
	@.ci/need 'command -v npm' 'nodejs npm' 'the demo cannot use the TypeScript client'
	@.ci/demo

fuzz: ## each native fuzz target in turn (FUZZTIME=30s each); red on any finding
	@.ci/fuzz '$(FUZZTIME)'

mutants: sandbox ## break each promise on a copy and see its test go red (NAME=one)
	go run ./chaos/mutants $(NAME)

sandbox:
	@.ci/need 'command -v bwrap' bubblewrap 'commands cannot be run in a workspace' || true

tools: sandbox
	@.ci/need 'command -v git' git 'tests that use git are skipped' || true
	@.ci/need 'command -v python3' python3 'tests that use Python are skipped' || true
	@$(if $(RACE),.ci/need 'echo "#include <stdlib.h>" | $${CC:-gcc} -E -' 'gcc libc6-dev' "go test -race cannot be built (make test RACE= goes without)")
