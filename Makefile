# The commands of this repository. They need Rust (with rustfmt and clippy), a C compiler and Python 3.9 or newer.

PYTHON ?= python3
CARGO ?= cargo

.PHONY: help build install uninstall dist deb abi abidiff abidiff-prove demo demo-failover demo-cluster test bench soak sanitize fuzz sim shuttle planted model bugs history reliability header notices docs fmt servers python clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

build: ## build target/release/libdlock.so and libdlock.a
	$(CARGO) build --locked --release
	@$(PYTHON) tools/package.py libs

install: ## install what `make build` built: PREFIX (/usr/local), LIBDIR (lib), below DESTDIR
	@$(PYTHON) tools/package.py install

uninstall: ## remove what `make install` with the same variables installs
	@$(PYTHON) tools/package.py uninstall

dist: build ## tarballs of the sources and of the library, with their sums, in target/dist/
	@$(PYTHON) tools/package.py dist

deb: build ## Debian packages in target/dist/ (needs dpkg-dev)
	@$(PYTHON) tools/package.py deb

abi: build ## record what the library and its header have that packaging/ does not; fails where something is gone
	@$(PYTHON) tools/package.py abi --update

abidiff: ## compare the ABI with that of the revision BASE (the last tag), by abidiff; needs abigail-tools
	@CARGO=$(CARGO) $(PYTHON) tools/abidiff.py $(BASE)

abidiff-prove: ## does abidiff find changes that were made to be found, and pass those that are none?
	@CARGO=$(CARGO) $(PYTHON) tools/abidiff.py --prove

demo: build ## several processes and threads take turns on one lock, on a private server
	@$(PYTHON) demo/demo.py

demo-failover: build ## the same behind sentinels: the primary is killed, and the sentinels name another
	@$(PYTHON) demo/demo.py --failover

demo-cluster: build ## locks on a cluster of six while a primary is killed
	@$(PYTHON) demo/cluster.py

test: ## run every check; the last line counts them
	@$(PYTHON) tools/check.py

bench: build ## measure against hiredis, other lock libraries, and the floor of the network
	@$(PYTHON) benches/run.py

soak: build ## stress and every kind of fault in turn, on every server, for SECONDS seconds (60)
	@$(PYTHON) tools/soak.py $(SECONDS)

sanitize: build ## the C programs under ThreadSanitizer (the C++ ones too), AddressSanitizer and valgrind (needs nightly Rust, clang)
	@$(PYTHON) tools/sanitize.py

fuzz: ## each target of fuzz/ for SECONDS seconds (60); needs nightly Rust and cargo-fuzz
	@for target in $$(sed -n 's/^name = "\([a-z]*\)"$$/\1/p' fuzz/Cargo.toml); do \
		$(CARGO) +nightly fuzz run $$target -- -max_total_time=$(or $(SECONDS),60) -max_len=4096 || exit 1; done

sim: ## SEEDS simulated histories (100000), each from its own seed
	DLOCK_SEEDS=$(or $(SEEDS),100000) $(CARGO) test --locked --release --test simulator -- --nocapture

shuttle: ## SEEDS interleavings (20000) of the driver's threads for each of its tests under the checker
	DLOCK_SEEDS=$(or $(SEEDS),20000) $(CARGO) test --locked --release --features shuttle --lib interleavings -- --nocapture

planted: ## how many seeds the simulator takes to find each planted bug, up to SEEDS (30000)
	DLOCK_SEEDS=$(or $(SEEDS),30000) $(CARGO) test --locked --release --features planted-bugs \
		--target-dir target/planted --test simulator every_planted_bug_is_found -- --exact --nocapture

model: ## explore the models of the protocol, at most STATES states each (3000000)
	@$(PYTHON) tools/model.py $(STATES)

bugs: ## put each bug that was found back in, in a copy: does its test find it?
	@$(PYTHON) tools/bugs.py

reliability: ## measure what docs/reliability.md shows, and write it there; SEEDS simulated histories (100000)
	@$(PYTHON) tools/reliability.py --seeds $(or $(SEEDS),100000)

history: ## judge a recorded history: FILES="a b …"
	@$(CARGO) run --locked --quiet --package dlock-history -- $(FILES)

header: ## write include/dlock.h anew from the Rust sources
	DLOCK_UPDATE_HEADER=1 $(CARGO) test --locked --test header

notices: ## write THIRD-PARTY-NOTICES anew, from what cargo has fetched
	@$(PYTHON) tools/notices.py

docs: python ## the API as pages below target/docs/: C and C++ by doxygen (to be installed), Rust by cargo, Python by pdoc
	@mkdir -p target/docs
	@command -v doxygen > /dev/null || { echo "doxygen is not installed: install the package doxygen of your system"; exit 1; }
	doxygen docs/Doxyfile
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" $(CARGO) doc --locked --quiet --no-deps --lib --target-dir target/docs/rust
	@$(PYTHON) tools/python.py docs > /dev/null
	@echo "target/docs/c/index.html, target/docs/rust/doc/dlock/index.html, target/docs/python/dlock.html"

fmt: ## format the sources
	$(CARGO) fmt --all

servers: ## fetch the servers of the conformance tests into target/servers/
	@$(PYTHON) tools/servers.py all

python: build ## build the Python package: a wheel in target/python/wheels/, sources in target/python/sdist/
	@$(PYTHON) tools/python.py wheel

clean: ## remove all that was built or fetched
	$(CARGO) clean
	rm -rf target
