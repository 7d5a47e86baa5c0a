// SPDX-License-Identifier: GPL-2.0-only
/*
 * The test device as a process of its own, for scripts: it creates the VDUSE
 * device, serves it until it is killed or gets SIGTERM, and then destroys it
 * when no vDPA device is on top. It never talks netlink; the script does.
 *
 * usage: testd NAME [queues=N] [size=MIB] [queue-size=N] [packed] [keep] [drop]
 *		     [hold-every=N] [hold-io] [hold-messages]
 *	  testd NAME create | destroy
 *
 *	create, destroy	do that, and nothing else
 *	keep		open a device that exists, and do not destroy it
 *	drop		give up root when the device is open
 *	hold-every=N	never complete every Nth request
 *	hold-io		never look at the rings
 *	hold-messages	never read a control message
 */
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "testdev.h"
#include "util.h"

#define NOBODY 65534

static struct testdev t;
static bool keep, drop;

static void on_term(int signal)
{
	t.stop = true;
}

static int option(const char *arg)
{
	unsigned int n;

	if (sscanf(arg, "queues=%u", &n) == 1 && n <= TESTDEV_QUEUES)
		t.queues = n;
	else if (sscanf(arg, "size=%u", &n) == 1)
		t.size = (uint64_t)n << 20;
	else if (sscanf(arg, "queue-size=%u", &n) == 1)
		t.queue_size = n;
	else if (sscanf(arg, "hold-every=%u", &n) == 1)
		t.hold_every = n;
	else if (!strcmp(arg, "packed"))
		t.features |= BIT64(VIRTIO_F_RING_PACKED);
	else if (!strcmp(arg, "hold-io"))
		t.hold_io = true;
	else if (!strcmp(arg, "hold-messages"))
		t.hold_messages = true;
	else if (!strcmp(arg, "keep"))
		keep = true;
	else if (!strcmp(arg, "drop"))
		drop = true;
	else
		return -1;
	return 0;
}

static int fail(int ret)
{
	fprintf(stderr, "testd: %s: %s\n", t.name, strerror(-ret));
	return 1;
}

static int device_open(void)
{
	int ret = 0;

	if (keep)
		t.disk = mmap(NULL, t.size, PROT_READ | PROT_WRITE,
			      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	else
		ret = testdev_create(&t);
	return ret ? ret : testdev_open(&t);
}

int main(int argc, char **argv)
{
	struct sigaction sa = { .sa_handler = on_term };
	int i, ret;

	if (argc < 2)
		return 2;
	if (require_vduse())
		return 1;
	testdev_init(&t, "testd");
	snprintf(t.name, sizeof(t.name), "%s", argv[1]);
	if (argc == 3 && !strcmp(argv[2], "destroy")) {
		ret = vduse_destroy(t.name);
		return ret ? fail(ret) : 0;
	}
	if (argc == 3 && !strcmp(argv[2], "create")) {
		ret = testdev_create(&t);
		return ret ? fail(ret) : 0;
	}
	for (i = 2; i < argc; i++) {
		if (option(argv[i])) {
			fprintf(stderr, "testd: bad option '%s'\n", argv[i]);
			return 2;
		}
	}
	sigaction(SIGTERM, &sa, NULL);
	sigaction(SIGINT, &sa, NULL);
	ret = device_open();
	if (ret)
		return fail(ret);
	if (drop && (setgid(NOBODY) || setuid(NOBODY)))
		return fail(-errno);
	printf("ready\n");
	fflush(stdout);
	testdev_run(&t);
	testdev_close(&t);
	if (!keep && !drop)
		testdev_destroy(&t);
	return 0;
}
