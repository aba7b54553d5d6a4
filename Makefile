# make demo      shows it working, between two network namespaces
# make test      runs every check
# make supply    checks what others have made of it: licences, sources, known faults
# make long      runs what takes minutes, too
# make fuzz-smoke  runs each fuzz target for a little while
# make floods    lets strangers flood the programs as they are installed
# make soak      runs one knockd for an hour
# make picture   draws README's picture anew, from a demonstration
# make           builds the programs
# make deb       builds packages for Debian and its like, in target/packages
# make dist      builds what is published besides: static client, sources, SBOM, checksums
# make vm-test   tries the packages in whole Debians, as root
# make reproduce  builds all that again elsewhere: whether it comes out the same
# make install   installs them:  make && sudo make install

CARGO = cargo
BUILT = target/release

# How long 'make long' runs each fuzz target.
FUZZ_SECONDS = 300

DESTDIR    =
PREFIX     = /usr/local
BINDIR     = $(PREFIX)/bin
SBINDIR    = $(PREFIX)/sbin
MANDIR     = $(PREFIX)/share/man
DOCDIR     = $(PREFIX)/share/doc/knock
UNITDIR    = $(PREFIX)/lib/systemd/system
USERUNITDIR = $(PREFIX)/lib/systemd/user
BASHDIR    = $(PREFIX)/share/bash-completion/completions
ZSHDIR     = $(PREFIX)/share/zsh/site-functions
# The one place of all in which fish looks whatever XDG_DATA_DIRS says: so not below PREFIX.
FISHDIR    = /usr/share/fish/vendor_completions.d
# Where knockd looks: part of the programs, so not below PREFIX.
CONFDIR    = /etc/knock.d

PROGRAMS = knock knockd knockctl
MAN1 = knock.1
MAN5 = knock.d.5
MAN7 = knock-spa.7
MAN8 = knockd.8 knockctl.8 knock-courier.8
UNITS = knockd.service knockd-lock.service
USERUNITS = knock@.service
DOCS = README.md CHANGELOG.md CONTRIBUTING.md
# Of the crates that are linked in. Made with the programs, since their sources are there then.
NOTICES = $(BUILT)/third-party-notices.txt

.PHONY: build notices floods soak test supply long fuzz-smoke lint unit client deb dist vm-test reproduce demo bench bench-latency install uninstall clean

build:
	@tools/need build
	$(CARGO) build --release --locked
	@$(MAKE) -s notices

notices: $(NOTICES)

$(NOTICES): Cargo.toml Cargo.lock tools/notices
	CARGO='$(CARGO)' tools/notices >$@.new
	mv $@.new $@

# The order is from quick to slow: what fails early fails soon.
test: lint client unit

lint:
	@tools/need test
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --no-deps --document-private-items

# The client alone: for machines without libpcap.
client:
	$(CARGO) clippy --locked --no-default-features --bin knock -- -D warnings
	$(CARGO) build --locked --no-default-features --bin knock
	@if ldd target/debug/knock | grep -i pcap; then echo "knock must not need libpcap" >&2; exit 1; fi

unit:
	$(CARGO) test --locked --no-fail-fast

# What deny.toml says of the crates that others have made. Not a part of 'make test': what is known
# of them changes while this stays as it is. A skip in deny.toml that skips nothing any more fails.
supply:
	@tools/need supply
	$(CARGO) deny --locked check -A license-exception-not-encountered \
	    -D unmatched-skip -D unnecessary-skip bans licenses sources
	$(CARGO) deny --locked --no-default-features --target x86_64-pc-windows-gnu check \
	    -A license-not-encountered -A license-exception-not-encountered \
	    -A unmatched-skip -A unnecessary-skip bans licenses sources
	$(CARGO) deny --locked --manifest-path fuzz/Cargo.toml check \
	    -A unmatched-skip -A unnecessary-skip bans licenses sources
	@if $(CARGO) deny --locked fetch db; then set -ex; \
	    $(CARGO) deny --locked check advisories; \
	    $(CARGO) deny --locked --manifest-path fuzz/Cargo.toml check advisories; \
	else \
	    echo "SKIPPED: advisories: their database cannot be fetched" >&2; \
	fi

# What takes minutes, for whoever changed it; 'make test' leaves it out.
long:
	@tools/need long
	$(CARGO) test --locked --no-fail-fast --test cli -- --ignored fwknop_import::
	tools/windows
	$(CARGO) test --locked --no-fail-fast --test netns -- --ignored windows::
	tools/vm
	tools/fuzz $(FUZZ_SECONDS)

# Each target on its corpus, two at a time: some minutes to build, and two or three to run. The same
# each time: what nobody has changed is not to fail by chance. 'make long' tries something new.
fuzz-smoke:
	@tools/need fuzz
	cd fuzz && $(CARGO) fmt --check
	SEED=1 tools/fuzz 20

# Strangers at a hundred thousand packets a second, against the programs as they are installed.
floods: build
	@tools/need test
	RELEASED_KNOCKD=$(CURDIR)/$(BUILT)/knockd $(CARGO) test --locked --no-fail-fast --test netns abuse::

# An hour, as root.
soak: build
	@tools/need test
	tools/soak

deb:
	@tools/need deb
	tools/packaged
	@$(MAKE) -s notices BUILT=target/packaged
	tools/deb
	@ls -l target/packages/*.deb

dist:
	@tools/need dist
	@mkdir -p target/packaged
	@$(MAKE) -s notices BUILT=target/packaged
	tools/dist
	@cat target/dist/SHA256SUMS

# As root, a quarter of an hour; what is fetched is kept.
vm-test: deb
	@tools/need vm-test
	tools/vm-test

# Whether another checkout of the commit, elsewhere, gives the same bytes: two builds, an hour on two cores.
reproduce: deb dist
	tools/reproduce

demo:
	@tools/need demo
	$(CARGO) build --locked
	@demo/run.sh target/debug

# Of a demonstration as it runs now, for README.
.PHONY: picture
picture:
	@tools/need demo
	tools/picture docs/demo.svg

bench:
	@tools/need build
	$(CARGO) bench --locked --bench engine --bench spa --bench ledger --bench flood

# Beside classic knockd and fwknopd where they are installed; needs root.
bench-latency:
	@tools/need build
	$(CARGO) bench --locked --bench latency

# Does not build: with sudo there may be no cargo.
install:
	@for built in knock knockd knockctl knock-courier $(notdir $(NOTICES)); do \
	    [ -e $(BUILT)/$$built ] || { echo "There is no $(BUILT)/$$built: run make first." >&2; exit 1; }; \
	done
	install -d $(DESTDIR)$(BINDIR) $(DESTDIR)$(SBINDIR) $(DESTDIR)$(UNITDIR) $(DESTDIR)$(USERUNITDIR)
	install -m 0755 $(BUILT)/knock $(DESTDIR)$(BINDIR)
	install -m 0755 $(BUILT)/knockd $(BUILT)/knockctl $(BUILT)/knock-courier $(DESTDIR)$(SBINDIR)
	install -d $(DESTDIR)$(MANDIR)/man1 $(DESTDIR)$(MANDIR)/man5 $(DESTDIR)$(MANDIR)/man7 $(DESTDIR)$(MANDIR)/man8
	install -m 0644 $(MAN1:%=man/%) $(DESTDIR)$(MANDIR)/man1
	install -m 0644 $(MAN5:%=man/%) $(DESTDIR)$(MANDIR)/man5
	install -m 0644 $(MAN7:%=man/%) $(DESTDIR)$(MANDIR)/man7
	install -m 0644 $(MAN8:%=man/%) $(DESTDIR)$(MANDIR)/man8
	install -d $(DESTDIR)$(DOCDIR)/examples $(DESTDIR)$(DOCDIR)/docs/clients
	install -m 0644 $(DOCS) LICENSE-MIT LICENSE-APACHE $(NOTICES) $(DESTDIR)$(DOCDIR)
	install -m 0644 docs/*.md docs/*.yml docs/*.svg $(DESTDIR)$(DOCDIR)/docs
	install -m 0644 knock.d/examples/*.yaml $(DESTDIR)$(DOCDIR)/examples
	install -m 0755 docs/clients/knock_spa.py $(DESTDIR)$(DOCDIR)/docs/clients
	@# The pages are elsewhere now, and found by their names.
	sed -i 's|\[\([^]]*\)\](\(\.\./\)\?man/[^)]*)|\1|g' $(DOCS:%=$(DESTDIR)$(DOCDIR)/%) $(DESTDIR)$(DOCDIR)/docs/*.md
	set -e; for unit in $(UNITS); do \
	    sed 's|@SBINDIR@|$(SBINDIR)|g' dist/$$unit.in >$(DESTDIR)$(UNITDIR)/$$unit; \
	    chmod 0644 $(DESTDIR)$(UNITDIR)/$$unit; \
	done; for unit in $(USERUNITS); do \
	    sed 's|@BINDIR@|$(BINDIR)|g' dist/$$unit.in >$(DESTDIR)$(USERUNITDIR)/$$unit; \
	    chmod 0644 $(DESTDIR)$(USERUNITDIR)/$$unit; \
	done
	@# A program for another machine does not run on this one.
	install -d $(DESTDIR)$(BASHDIR) $(DESTDIR)$(ZSHDIR) $(DESTDIR)$(FISHDIR)
	@if $(BUILT)/knockctl -V >/dev/null 2>&1; then umask 022; set -e; for program in $(PROGRAMS); do \
	    $(BUILT)/knockctl completions bash $$program >$(DESTDIR)$(BASHDIR)/$$program; \
	    $(BUILT)/knockctl completions zsh $$program >$(DESTDIR)$(ZSHDIR)/_$$program; \
	    $(BUILT)/knockctl completions fish $$program >$(DESTDIR)$(FISHDIR)/$$program.fish; \
	done; else \
	    echo "$(BUILT)/knockctl does not run here: no completions installed."; \
	fi
	install -d -m 0755 $(DESTDIR)$(CONFDIR)
	@# A directory that holds any configuration is its administrator's: nothing is added to it.
	@# Sequences are nobody else's business.
	@if ls $(DESTDIR)$(CONFDIR)/*.yaml >/dev/null 2>&1; then \
	    echo "$(DESTDIR)$(CONFDIR) has a configuration already: left as it is."; \
	else \
	    install -m 0644 knock.d/knockd.yaml $(DESTDIR)$(CONFDIR) && \
	    install -m 0600 knock.d/doors.yaml $(DESTDIR)$(CONFDIR) && \
	    echo "Installed a first configuration in $(DESTDIR)$(CONFDIR)."; \
	fi
	@# Only on the machine itself, not in a package's tree.
	@if [ -z "$(DESTDIR)" ] && [ "$$(id -u)" -eq 0 ] && ! getent passwd knockd >/dev/null; then \
	    useradd --system --user-group --no-create-home --home-dir /nonexistent \
	        --shell /usr/sbin/nologin knockd && echo "Made the system user knockd."; \
	fi

# Leaves the configuration, the state and the user alone. A table without its knockd would lock
# ports that nothing opens any more.
uninstall:
	@[ -n "$(DESTDIR)" ] || tools/stopped $(SBINDIR)/knockd
	rm -f $(DESTDIR)$(BINDIR)/knock $(addprefix $(DESTDIR)$(SBINDIR)/,knockd knockctl knock-courier)
	rm -f $(MAN1:%=$(DESTDIR)$(MANDIR)/man1/%) $(MAN5:%=$(DESTDIR)$(MANDIR)/man5/%) $(MAN7:%=$(DESTDIR)$(MANDIR)/man7/%) $(MAN8:%=$(DESTDIR)$(MANDIR)/man8/%)
	rm -f $(PROGRAMS:%=$(DESTDIR)$(BASHDIR)/%) $(PROGRAMS:%=$(DESTDIR)$(ZSHDIR)/_%) $(PROGRAMS:%=$(DESTDIR)$(FISHDIR)/%.fish)
	rm -f $(UNITS:%=$(DESTDIR)$(UNITDIR)/%) $(USERUNITS:%=$(DESTDIR)$(USERUNITDIR)/%)
	rm -rf $(DESTDIR)$(DOCDIR)
	@for left in $(CONFDIR) /var/lib/knockd /etc/systemd/system/knockd.service.d \
	    /etc/systemd/system/multi-user.target.wants/knockd.service; do \
	    ! [ -e $(DESTDIR)$$left -o -L $(DESTDIR)$$left ] || echo "Left: $(DESTDIR)$$left"; \
	done
	@[ -n "$(DESTDIR)" ] || ! getent passwd knockd >/dev/null || \
	    echo "Left: the system user knockd (userdel knockd)"

clean:
	$(CARGO) clean
