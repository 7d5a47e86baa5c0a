// SPDX-License-Identifier: GPL-2.0-only
/*
 * /proc/sys/vm/hvo/ and, where the kernel has none, vm.hugetlb_optimize_vmemmap.
 *
 * The kernel's own handlers parse and check; a value that they refuse changes
 * nothing. As with all of vm.*, only root of the initial user namespace may
 * write, in whatever container: /proc/sys/vm is the same everywhere.
 *
 * Removing a table waits for the handlers in it. A write to vm.hvo.enabled may
 * take long, so it holds the module: rmmod fails meanwhile instead of hanging.
 */
#include <linux/module.h>
#include <linux/sysctl.h>

#include "backend.h"
#include "control.h"
#include "hvo.h"
#include "pool.h"

static struct ctl_table_header *hvo_sysctl_header;
static struct ctl_table_header *hvo_sysctl_native_header;

/* The pool follows @enable, or the module is on its way out. */
static int hvo_switch(bool enable)
{
	int ret;

	if (!try_module_get(THIS_MODULE))
		return -ENODEV;
	ret = hvo_pool_set(enable);
	module_put(THIS_MODULE);
	return ret;
}

static int hvo_enabled_handler(const struct ctl_table *table, int write, void *buffer,
			       size_t *lenp, loff_t *ppos)
{
	/* Writes of nothing, or behind the first byte, succeed and give no value. */
	int value = write ? -1 : READ_ONCE(hvo_settings.enabled);
	struct ctl_table local = *table;
	int ret;

	local.data = &value;
	ret = proc_dointvec_minmax(&local, write, buffer, lenp, ppos);
	if (ret || !write || value < 0)
		return ret;
	return hvo_switch(value);
}

static const int hvo_batch_min = HVO_BATCH_MIN;
static const int hvo_batch_max = HVO_BATCH_MAX;

/* proc_dointvec_minmax() writes whole integers, once, and only good ones. */
static struct ctl_table hvo_sysctl_table[] = {
	{
		.procname	= "enabled",
		.maxlen		= sizeof(int),
		.mode		= 0644,
		.proc_handler	= hvo_enabled_handler,
		.extra1		= SYSCTL_ZERO,
		.extra2		= SYSCTL_ONE,
	},
	{
		.procname	= "in_use",
		.data		= &hvo_settings.in_use,
		.maxlen		= sizeof(int),
		.mode		= 0644,
		.proc_handler	= proc_dointvec_minmax,
		.extra1		= SYSCTL_ZERO,
		.extra2		= SYSCTL_ONE,
	},
	{
		.procname	= "batch",
		.data		= &hvo_settings.batch,
		.maxlen		= sizeof(int),
		.mode		= 0644,
		.proc_handler	= proc_dointvec_minmax,
		.extra1		= (void *)&hvo_batch_min,
		.extra2		= (void *)&hvo_batch_max,
	},
};

/* As on kernels with HVO: says what happens to folios that come, no others. */
static struct ctl_table hvo_sysctl_native_table[] = {
	{
		.procname	= "hugetlb_optimize_vmemmap",
		.data		= &hvo_settings.new_folios,
		.maxlen		= sizeof(int),
		.mode		= 0644,
		.proc_handler	= proc_dointvec_minmax,
		.extra1		= SYSCTL_ZERO,
		.extra2		= SYSCTL_ONE,
	},
};

int hvo_sysctl_register(void)
{
	if (!hvo_backend.has_native) {
		hvo_sysctl_native_header = register_sysctl("vm", hvo_sysctl_native_table);
		if (!hvo_sysctl_native_header)
			return -ENOMEM;
	}

	hvo_sysctl_header = register_sysctl("vm/hvo", hvo_sysctl_table);
	if (!hvo_sysctl_header) {
		unregister_sysctl_table(hvo_sysctl_native_header);
		return -ENOMEM;
	}
	return 0;
}

void hvo_sysctl_unregister(void)
{
	unregister_sysctl_table(hvo_sysctl_header);
	unregister_sysctl_table(hvo_sysctl_native_header);
}
