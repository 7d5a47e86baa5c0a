#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# Loads what the suite tests, once. VDUSE_KO names the module to test:
#   (unset)   ../../../modules/ARCH/vduse.ko beside the built suite, or the
#             module of the checkout the suite runs from
#   in-tree   the running kernel's own vduse, to check the tests themselves
#   none      nothing: what is tested needs no vduse
#   PATH      this file
# Exit status: 0 loaded, 1 not (the reason is printed).

say() { echo "# load.sh: $*"; }

[ "${VDUSE_KO-}" != none ] || exit 0
[ -c /dev/vduse/control ] && exit 0

modprobe -a vdpa vhost_iotlb iova virtio_blk vhost_vdpa virtio_vdpa || {
	say "the kernel's vDPA modules do not load"
	exit 1
}

case ${VDUSE_KO-} in
in-tree)
	modprobe vduse || exit 1
	;;
*)
	case $(uname -m) in
	x86_64) arch=amd64 ;;
	aarch64) arch=arm64 ;;
	*) arch=$(uname -m) ;;
	esac
	dir=$(dirname "$0")
	for ko in "${VDUSE_KO-}" "$dir/../../../modules/$arch/vduse.ko" \
		"/src/build/modules/$arch/vduse.ko"; do
		[ -f "$ko" ] && break
		ko=
	done
	[ -n "$ko" ] || {
		say "no vduse.ko for $arch; build it or set VDUSE_KO"
		exit 1
	}
	insmod "$ko" || {
		say "insmod $ko failed"
		exit 1
	}
	;;
esac
[ -c /dev/vduse/control ] || {
	say "the module is loaded and /dev/vduse/control is missing"
	exit 1
}
