# SPDX-License-Identifier: GPL-2.0-only
#
# inflight_sim: the tracker of requests in flight, the module's own source
# files, in user space. Kernel headers become empty files (the shim has what is
# needed of them), those of the UAPI are the system's. Included by the Makefile;
# also on its own: make -f inflight_sim.mk OUTPUT=/tmp/x SANITIZE=1

OUTPUT ?= .
VDUSE_SRC := $(abspath $(dir $(lastword $(MAKEFILE_LIST)))/../../kernel/vduse)
SIM_DIR := $(dir $(lastword $(MAKEFILE_LIST)))
SIM_SRC := $(SIM_DIR)inflight_sim.c $(VDUSE_SRC)/inflight.c $(VDUSE_SRC)/watch.c
SIM_HDR := $(SIM_DIR)inflight_shim.h \
	$(addprefix $(VDUSE_SRC)/,domain.h inflight.h watch.h)
SIM_CFLAGS := -std=gnu11 -O2 -g -Wall -Wextra -Wno-unused-parameter
SIM_CFLAGS += -Wno-sign-compare -Wno-address-of-packed-member
ifdef SANITIZE
SIM_CFLAGS += -fsanitize=address,undefined -fno-sanitize-recover=all
else
SIM_CFLAGS += -static
endif

$(OUTPUT)/inflight_sim: $(SIM_SRC) $(SIM_HDR)
	mkdir -p $@.include/linux $@.include/uapi/linux
	for h in $$(sed -n 's,^#include <\(linux/.*\)>,\1,p' $(SIM_SRC) $(SIM_HDR)); do \
		test -e /usr/include/$$h || : > $@.include/$$h; \
	done
	for h in $$(sed -n 's,^#include <uapi/\(linux/.*\)>,\1,p' $(SIM_SRC)); do \
		echo "#include <$$h>" > $@.include/uapi/$$h; \
	done
	$(CC) $(SIM_CFLAGS) -include $(SIM_DIR)inflight_shim.h -I$@.include \
		-I$(VDUSE_SRC) -o $@ $(SIM_SRC)
