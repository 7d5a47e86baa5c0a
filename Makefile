# SPDX-License-Identifier: MIT
#
# The front door. Everything that is made lies under build/; "make clean"
# leaves what was downloaded there, "make distclean" nothing.

ARCH ?= $(shell dpkg --print-architecture)
KDIR ?=
PREFIX ?= /usr/local
DESTDIR ?=

.PHONY: all deps modules userspace selftests images check check-debug check-long lint demo bench bench-quick \
	install clean distclean help

# Targets run one after the other; the scripts themselves use every processor.
.NOTPARALLEL:

all: deps modules userspace

deps:
	@tools/deps/host

modules: deps
	@tools/build/modules $(ARCH) "$(KDIR)" $(KBUILD_ARGS)

userspace: deps
	@tools/build/userspace $(ARCH) all

selftests: deps
	@tools/build/test-modules $(ARCH)
	@tools/build/selftests $(ARCH)

images: deps
	@tools/vm/images amd64 arm64

check:
	@tools/check

check-debug:
	@CHECK_NAME=check-debug SUITE="$(SUITE)" tools/check deps debug_build debug_guest

check-long:
	@$(if $(filter command line,$(origin ARCH)),ARCH=$(ARCH)) SUBJECT="$(SUBJECT)" CELL="$(CELL)" \
		AGAIN="$(AGAIN)" GUESTS="$(GUESTS)" tools/check-long $(PART)

lint: deps
	@tools/lint/lint

demo:
	@tools/demo/demo $(ARCH)

bench: all
	@tools/bench/bench-quick
	@tools/bench/bench-hvo

bench-quick: all
	@tools/bench/bench-quick

install: deps
	@KDIR="$(KDIR)" DESTDIR="$(DESTDIR)" PREFIX="$(PREFIX)" tools/build/install $(ARCH)

clean:
	@rm -rf build/modules build/modules-* build/userspace build/selftests build/check build/lint \
		build/check-debug

distclean:
	rm -rf build

help:
	@sed -n '/^#:/s/^#: \{0,1\}//p' Makefile

#: make                build the modules and the daemon for this architecture
#: make demo           show the main jobs in virtual machines (README.md)
#: make check          every test, on amd64 and arm64; ends with
#:                     "N passed, N failed, N skipped"
#: make check-debug    the kernel modules' tests on a kernel with KASAN, lockdep
#:                     and kmemleak, amd64; builds that kernel the first time
#:                     (SUITE=NAME: only that folder of selftests/)
#: make check-long     hours: every cell of the fault matrix, for the peers, too;
#:                     200 kills, 256 devices, every power loss, long fuzzing.
#:                     Goes on where it was interrupted (PART=matrix|kills|many|
#:                     power|fuzz, SUBJECT=vduse-blk|qsd|nbd, CELL=PATTERN, ARCH=,
#:                     AGAIN=1, GUESTS=N at a time)
#: make lint           sparse, checkpatch, W=1, cppcheck, shellcheck
#: make bench-quick    instructions per I/O against the in-tree module and
#:                     qemu-storage-daemon
#: make bench          that, and what hvo.ko costs per huge page, on both
#:                     architectures and against the kernel's own HVO
#: make modules        the kernel modules only
#: make userspace      the daemon only
#: make selftests      the kselftest suites and the modules built for them (run
#:                     them with tools/vm/vm)
#: make images         what the virtual machines of both architectures boot
#: make install        modules, daemon, its systemd unit and manual pages on this host
#: make clean          remove what was built, keep downloads and images
#: make distclean      remove all of build/
#:
#: ARCH=amd64|arm64    what to build for (default: this host); cross-builds
#: KDIR=DIR            kernel build folder for the modules (default: headers of
#:                     the newest Debian 6.12 kernel, unpacked under build/;
#:                     for install: those of the running kernel)
#: KBUILD_ARGS=...     more arguments for the kernel's build, such as W=1
#: DESTDIR= PREFIX=    for install
#:
#: Missing Debian packages are installed as root or through sudo. A guest of
#: your own: tools/vm/vm --help.
