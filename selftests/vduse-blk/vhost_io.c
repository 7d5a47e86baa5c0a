// SPDX-License-Identifier: GPL-2.0-only
/*
 * usage: vhost_io NAME read|write SECTOR [no-flush]
 *
 * Drives the device NAME, bound to vhost_vdpa, for one request of 4096 bytes:
 * "write" writes a pattern, "read" compares with it. With no-flush the driver
 * does not accept VIRTIO_BLK_F_FLUSH, which makes the device write-through.
 * Linux's own driver always accepts it.
 */
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "util.h"
#include "vhost_drv.h"

#define FEATURES (BIT64(VIRTIO_F_ACCESS_PLATFORM) | BIT64(VIRTIO_F_VERSION_1))
#define LEN 4096

static void pattern(unsigned char *p, uint64_t sector)
{
	size_t i;

	for (i = 0; i < LEN; i++)
		p[i] = (unsigned char)(i * 7 + i / 256 + sector);
}

static int run(struct vhost_drv *d, bool write, uint64_t sector)
{
	unsigned char want[LEN], *data = d->mem + VHOST_DRV_DATA;
	int ret;

	pattern(want, sector);
	if (write)
		memcpy(data, want, LEN);
	ret = vhost_drv_request(d, write ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN,
				sector, LEN, 20000);
	if (!ret && memcmp(data, want, LEN)) {
		fprintf(stderr, "vhost_io: other data\n");
		return 1;
	}
	if (ret)
		fprintf(stderr, "vhost_io: %s\n",
			ret < 0 ? strerror(-ret) : "the request failed");
	return ret != 0;
}

int main(int argc, char **argv)
{
	uint64_t features = FEATURES | BIT64(VIRTIO_BLK_F_FLUSH);
	struct vhost_drv d;
	int ret;

	if (argc < 4 || (strcmp(argv[2], "read") && strcmp(argv[2], "write")))
		return 2;
	if (argc > 4)
		features = FEATURES;
	ret = vhost_drv_open(&d, argv[1]);
	if (!ret)
		ret = vhost_drv_start(&d, features);
	if (ret) {
		fprintf(stderr, "vhost_io: %s: %s\n", argv[1], strerror(-ret));
		return 1;
	}
	ret = run(&d, !strcmp(argv[2], "write"), strtoull(argv[3], NULL, 0));
	vhost_drv_close(&d);
	return ret;
}
