# SPDX-License-Identifier: GPL-3.0-or-later
# Everything runs on Debian's own interpreter: the zygote must be the python3 that the
# machine's programs use, and python3-seccomp exists for no other.
PYTHON := /usr/bin/python3
VENV := .venv
RUN_PACKAGES := python3 python3-prctl python3-pyroute2 python3-dbus python3-seccomp
# A session without hardware and a real activity to open in it. The last two are what
# Sugar's activities die without and Debian only suggests.
DEMO_PACKAGES := xvfb dbus-daemon python3-xlib python3-gi xdg-dbus-proxy \
	librsvg2-common \
	sugar-calculate-activity sugar-icon-theme sugar-themes \
	python3-carquinyol telepathy-mission-control-5
SUGAR_PACKAGES := sugar-log-activity sugar-memorize-activity sugar-terminal-activity \
	gstreamer1.0-espeak gstreamer1.0-plugins-base gstreamer1.0-plugins-good
# What else Debian has; with WebKit in it, so only for the long tests.
MORE_ACTIVITIES := sugar-browse-activity sugar-chat-activity sugar-jukebox-activity \
	sugar-pippy-activity sugar-read-activity sugar-write-activity
TEST_PACKAGES := python3-pip python3-venv python3-setuptools python3-wheel \
	python3-pytest python3-pytest-timeout python3-hypothesis python3-jsonschema \
	libnss-systemd bubblewrap acl groff-base zsh locales x11-utils libglib2.0-bin \
	at-spi2-core gir1.2-atspi-2.0 gettext pkexec polkitd \
	python3-jinja2 python3-psutil python3-simplejson python3-yaml \
	$(DEMO_PACKAGES) $(SUGAR_PACKAGES) sugar-imageviewer-activity xdotool \
	sugar-session openssh-client patch strace gdb gcc libc6-dev libsdl2-2.0-0 \
	binutils-x86-64-linux-gnu binutils-aarch64-linux-gnu
# Of the interpreter that is there by then: expanded only where it is used.
TESTSUITE = libpython$(shell $(PYTHON) -c \
	'import sys; print("%d.%d" % sys.version_info[:2])')-testsuite
# The emulator is for what an init of the other processor becomes.
LONG_PACKAGES = $(MORE_ACTIVITIES) qemu-user \
	$(shell sed -n '/^[^\#]/s/.* //p' tests/twins/packages.txt)
# The compiler is for the reference in C.
BENCH_PACKAGES := bubblewrap gcc libc6-dev $(DEMO_PACKAGES) $(SUGAR_PACKAGES)
TOOLS := ruff==0.8.6 mypy==1.14.1

# A variable of make, not only of the environment: sudo drops the one, keeps the other.
export ISOLAUNCHER_MUST_WORK

# Nothing is fetched while dpkg has everything, so a second run needs no network. The
# package lists are brought up to date only if they prove too old: an unreachable third
# source must not stop an installation that does not need it.
define debian
@missing=; for package in $(1); do \
	dpkg-query -W -f='$${Status}' $$package 2>/dev/null | grep -q ' installed$$' \
		|| missing="$$missing $$package"; done; \
if [ -n "$$missing" ]; then \
	echo "missing:$$missing"; \
	if [ "$$(id -u)" != 0 ]; then \
		echo "run this as root: apt-get install$$missing" >&2; exit 1; fi; \
	install="env DEBIAN_FRONTEND=noninteractive apt-get install -y -q \
		--no-install-recommends"; \
	$$install $$missing || { apt-get update -q; $$install $$missing; }; \
fi
endef

# Where Sugar's shell and the session bus look; DESTDIR is for who makes packages.
EXTENSION := /usr/share/sugar/extensions/deviceicon/isolauncher.py
SERVICE := /usr/share/dbus-1/services/org.sugarlabs.IsoLauncher1.service
SUGAR_LAUNCH := /usr/local/bin/sugar-launch

# Whole or not at all: a shell that found half of it would launch nothing.
put = sed '$(1)' $(2) > $(DESTDIR)$(3).new && chmod $(4) $(DESTDIR)$(3).new \
	&& mv $(DESTDIR)$(3).new $(DESTDIR)$(3) \
	|| { rm -f $(DESTDIR)$(3).new; exit 1; }

.PHONY: help setup tools demo test test-long check bench install-sugar \
	remove-sugar clean

help:  ## Says what each target does.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' \
		| expand -t 15

setup: ## Installs what is missing and makes .venv, whose bin/isolauncher runs this checkout.
	$(call debian,$(RUN_PACKAGES))
	@$(MAKE) -s $(VENV)/bin/isolauncher

# -I: neither PYTHON* variables nor a person's own site-packages have a say in a command
# that is run as root.
$(VENV)/bin/isolauncher: Makefile
	$(PYTHON) -m venv --without-pip --system-site-packages $(VENV)
	@echo "$(CURDIR)" > $$(echo $(VENV)/lib/python3.*/site-packages)/isolauncher.pth
	@for command in cli.main:$@ session.service:$@-session; do \
		printf '%s\n' '#!$(CURDIR)/$(VENV)/bin/python3 -I' 'import sys' '' \
			"from isolauncher.$${command%%:*} import main" '' 'sys.exit(main())' \
			> $${command#*:}; \
		chmod 755 $${command#*:}; done

tools: setup
	$(call debian,$(TEST_PACKAGES) $(TESTSUITE))
	@test -e $(VENV)/bin/ruff -a -e $(VENV)/bin/mypy -a -e $(VENV)/bin/pip \
		|| $(VENV)/bin/python3 -m pip install -q pip $(TOOLS)
	@for module in pytest pip; do \
		printf '%s\n' '#!$(CURDIR)/$(VENV)/bin/python3' 'import runpy' \
			"runpy.run_module('$$module', run_name='__main__')" > $(VENV)/bin/$$module; \
		chmod 755 $(VENV)/bin/$$module; done

demo: setup ## Opens Calculate in its sandbox, on a display of its own; shows the report.
	$(call debian,$(DEMO_PACKAGES))
	@$(PYTHON) integration/demo/calculate.py

test: tools ## Runs every test but the long ones; as root, ten minutes or so.
	$(VENV)/bin/python3 tests/support/lanes.py $(ARGS)

test-long: tools ## Runs the tests that take minutes: machines, fuzzing, thousands of launches.
	$(call debian,$(LONG_PACKAGES))
	$(VENV)/bin/python3 -m pytest -m long --timeout 3600 $(ARGS)

check: tools ## Looks without running: ruff, its formatting, mypy --strict.
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

bench: setup ## Measures launches, memory and activities' windows against cold starts and others.
	$(call debian,$(BENCH_PACKAGES))
	$(VENV)/bin/isolauncher bench $(ARGS)
	$(PYTHON) integration/demo/in_session.py -- isolauncher bench --windows

install-sugar: setup ## Has Sugar launch through this checkout, and its control panel show it.
	$(call debian,sugar-session gettext python3-xlib pkexec)
	install -d $(DESTDIR)$(dir $(EXTENSION)) $(DESTDIR)$(dir $(SERVICE)) \
		$(DESTDIR)$(dir $(SUGAR_LAUNCH))
	$(call put,s|^Exec=.*|Exec=$(CURDIR)/$(VENV)/bin/isolauncher-session|,\
		integration/dbus/org.sugarlabs.IsoLauncher1.service,$(SERVICE),644)
	$(call put,s|^isolauncher=.*|isolauncher=$(CURDIR)/$(VENV)/bin/isolauncher|,\
		integration/sugar/sugar-launch,$(SUGAR_LAUNCH),755)
	$(call put,s|^CHECKOUT = ""|CHECKOUT = "$(CURDIR)"|,\
		integration/sugar/deviceicon/isolauncher.py,$(EXTENSION),644)
	integration/sugar/install-section --destdir "$(DESTDIR)/"

remove-sugar: ## Has Sugar's shell launch by itself again.
	rm -f $(DESTDIR)$(EXTENSION) $(DESTDIR)$(SERVICE) $(DESTDIR)$(SUGAR_LAUNCH)
	integration/sugar/install-section --remove --destdir "$(DESTDIR)/"

clean: ## Removes .venv and everything else that was made here; no package is removed.
	rm -rf $(VENV) build dist bench-results *.egg-info
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
