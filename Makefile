# SPDX-License-Identifier: MIT

ARCH ?= $(shell dpkg --print-architecture)
KDIR ?=

.PHONY: modules
modules:
	tools/modules $(ARCH) "$(KDIR)" $(KBUILD_ARGS)
