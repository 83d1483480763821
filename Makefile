# What one does with Abukiks. `make` alone lists it.

# The commit that a build is made from, for /version. Only this crate is rebuilt when it changes.
COMMIT := $(shell git describe --always --dirty --abbrev=40 --exclude='*' 2>/dev/null)
ifneq ($(COMMIT),)
export ABUKIKS_COMMIT ?= $(COMMIT)
endif

.PHONY: help
help: ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

.PHONY: run
run: ## build and start the service with a Redis of its own; PORT and .env set it up
	@dev/needs.sh run
	@setpriv --pdeathsig TERM -- dev/run.sh

# The admin processes for other attached resources than Redis: what they depend on is not in the service.
ATTACHED := admin/attached/Cargo.toml

# Most promises wait: for a clock, a process, a network.
THREADS := --test-threads $(shell expr 2 \* $$(nproc))

# The tests come last, so that their summary is what one sees at the end.
.PHONY: test
test: lint doc tools reproduce ## check everything: format, lints, documentation, tests
	cargo test --locked --doc
	cargo test --locked --lib --bins
	cargo test --locked --manifest-path $(ATTACHED) --target-dir target
	cargo test --locked --test promises -- $(THREADS)

# What needs root, a browser, a container or a tool beside Redis. A new promise is part of `make check`
# until its name is added here.
NEEDS_MORE := alerts:: collectors:: contract:: cost:: deploy:: faults:: image:: journal_cost:: kubernetes:: monitors:: nixos:: \
    packages:: page:: proxies:: rename:: reproducible:: run:: switching:: systemd:: versions:: \
    the_sdk_of_grafana loads_nothing_but executes_no_other_one
.PHONY: check
check: ## check format, lints and what Rust and Redis are enough for; in three minutes
	@dev/needs.sh run
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	cargo test --locked --lib --bins
	cargo test --locked --test promises -- $(THREADS) $(addprefix --skip ,$(NEEDS_MORE))

.PHONY: faults
faults: ## break everything that can break, and write docs/faults.md from what came of it
	@dev/needs.sh test
	WRITE_FAULTS=1 cargo test --locked --test promises faults::

.PHONY: dashboard
dashboard: ## write the dashboard in monitoring/ anew from its source, tests/dashboard.rs
	@dev/needs.sh run
	WRITE_DOCS=1 cargo test --locked --test promises dashboard::the_dashboard_is_what

.PHONY: lint
lint: ## check format and lints; warnings are errors
	@dev/needs.sh lint
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	cargo clippy --locked --no-default-features -- -D warnings
	cargo fmt --check --manifest-path $(ATTACHED)
	cargo clippy --locked --all-targets --manifest-path $(ATTACHED) --target-dir target -- -D warnings
	dev/lint-systems.sh
	shellcheck dev/* packages/postinst packages/postrm packages/prerm packages/attached/p* systemd/abukiks-admin systemd/install.sh nixos/tests/tree.sh .ci/run
	dev/lint-nix.sh

# It fetches the database of vulnerabilities. PROGRAMS are checked by the list of crates in them.
.PHONY: audit
audit: ## check dependencies by deny.toml: licenses, sources, known vulnerabilities
	dev/audit.sh $(PROGRAMS)

.PHONY: msrv
msrv: ## compile with the oldest Rust that Cargo.toml names
	@dev/needs.sh run
	dev/msrv.sh

.PHONY: update
update: ## bring all lock files up to date
	dev/update.sh

# With all that `make update` has changed.
.PHONY: propose
propose: ## open a pull request with the changes here, from a branch `update`
	git diff --quiet || { \
		git switch --force-create update && \
		git commit --all --message='Update the dependencies' && \
		git push --force origin update && \
		{ gh pr list --head update --json url --jq '.[].url' | grep . || gh pr create --fill --head update; }; }

.PHONY: fmt
fmt: ## format the code
	cargo fmt
	cargo fmt --manifest-path $(ATTACHED)

.PHONY: doc
doc: ## build the documentation; warnings are errors
	@dev/needs.sh run
	RUSTDOCFLAGS=-Dwarnings cargo doc --locked --no-deps

.PHONY: build
build: ## build what is shipped, in target/dist
	@dev/needs.sh run
	dev/build-release.sh target/dist

.PHONY: attached
attached: ## build the admin processes for backups and mail, in target/dist
	@dev/needs.sh run
	dev/build-release.sh target/dist '' admin/attached

.PHONY: reproduce
reproduce: ## build it twice in different surroundings, and compare the bytes
	@dev/needs.sh run
	dev/reproduce.sh . target/dist

# Linked to musl: they run on every distribution. ARCH is x86_64 or aarch64, for which gcc-aarch64-linux-gnu
# compiles here.
ARCH ?= $(shell uname -m)
STATIC := target/static/$(ARCH)
.PHONY: static
static: ## build static programs, in target/static/ARCH; ARCH=aarch64 for arm64
	@ARCH=$(ARCH) dev/needs.sh package
	@rustup --quiet target add $(ARCH)-unknown-linux-musl 2>/dev/null || true
	dev/build-release.sh $(STATIC) $(ARCH)-unknown-linux-musl

.PHONY: attached-static
attached-static: static ## build static programs of `make attached` too, in target/static/ARCH
	dev/build-release.sh $(STATIC) $(ARCH)-unknown-linux-musl admin/attached

.PHONY: deb rpm
deb: ## make a package for Debian and its kin, in target/packages
rpm: ## make a package for Fedora and its kin, in target/packages
deb rpm: static
	dev/package.sh $(STATIC) target/packages $@

RELEASE_FOR ?= x86_64 aarch64
.PHONY: release
release: ## make all that a release has, in target/packages; TAG=v0.1.0 refuses another version
	@[ -z '$(TAG)' ] || grep --line-regexp 'version = "$(TAG:v%=%)"' Cargo.toml || \
		{ echo "Cargo.toml does not have the version of $(TAG)" >&2; exit 65; }
	rm -rf target/packages
	for arch in $(RELEASE_FOR); do \
		$(MAKE) --no-print-directory attached-static ARCH=$$arch || exit; \
		for part in service attached; do \
			PART=$$part dev/package.sh target/static/$$arch target/packages deb rpm tar image sbom image-sbom || exit; \
		done; \
	done
	packages/index.py target/packages
	cd target/packages && sha256sum * >SHA256SUMS

# Each host gets the same build: the package of a release, or a flake on NixOS (docs/deploy.md).
.PHONY: deploy rollback
deploy: ## install a release on hosts, and check them: PACKAGE=FILE or FLAKE=.#NAME, HOST="A B"
	@dev/deploy.sh deploy '$(or $(PACKAGE),$(FLAKE))' $(HOST)
rollback: ## install the release before on hosts again, and check them: HOST="A B"
	@dev/deploy.sh rollback $(HOST)

# All that is claimed about speed, on this machine. A quiet one: what else runs is measured, too.
.PHONY: bench
bench: build rivals ## measure the service against others; QUICK=1 for a short look
	@dev/needs.sh bench
	@$(MAKE) --no-print-directory .run/bench/installed
	cargo build --quiet --release --locked --no-default-features --bin abukiks --target-dir target/bench
	benches/bench.py

.PHONY: bench-scaling
bench-scaling: build rivals ## measure one, two, four and eight instances, and what one Redis bears
	@dev/needs.sh bench
	benches/scaling.py

# What the service is measured against.
.PHONY: rivals
rivals:
	@dev/needs.sh run
	cargo build --quiet --release --locked --manifest-path benches/rivals/Cargo.toml --target-dir target/rivals

.PHONY: bench-journal
bench-journal: build ## measure what logging to the journal costs; needs root
	@dev/needs.sh bench
	benches/journal.py

# Coverage and the address sanitizer are options that only a nightly compiler takes; RUSTC_BOOTSTRAP
# has any other take them, too.
FUZZ_SECONDS ?= 60
FUZZ_TARGETS := requests replies settings
.PHONY: fuzz
fuzz: ## look for input that breaks the service, FUZZ_SECONDS=60 for each target
	@dev/needs.sh fuzz
	@command -v cargo-fuzz >/dev/null || { \
		echo "cargo-fuzz is missing; installing it with cargo"; \
		cargo install --quiet --locked cargo-fuzz; }
	@cd fuzz && for target in $(FUZZ_TARGETS); do \
		mkdir -p corpus/$$target && \
		RUSTC_BOOTSTRAP=1 cargo fuzz run $$target corpus/$$target seeds/$$target -- \
			-max_total_time=$(FUZZ_SECONDS) -timeout=20 || exit; \
	done

# Onto any systemd distribution, below PREFIX and DESTDIR (see systemd/install.sh).
.PHONY: install uninstall
install: ## install what `make build` has built; PREFIX=/usr/local
uninstall: ## remove what `make install` has installed
install uninstall:
	@systemd/install.sh $@

.PHONY: clean
clean: ## remove what was built; the count in .run stays
	cargo clean
	rm -rf .run/tools .run/bench

# The programs of the tests that are not Debian packages.
.PHONY: tools
tools:
	@dev/needs.sh test
	@rustup target add $$(uname -m)-unknown-linux-musl 2>/dev/null || \
	  echo "Rust for musl is not to be had: the image is tested with dynamic programs."
	@if [ -e tests/requirements.txt ]; then $(MAKE) --no-print-directory .run/tools/installed; fi

.run/tools/installed: tests/requirements.txt
.run/bench/installed: benches/requirements.txt
.run/%/installed:
	rm -rf $(@D)
	python3 -m venv $(@D)
	$(@D)/bin/pip install --quiet --requirement $^
	touch $@
