// SPDX-License-Identifier: GPL-2.0-only
/*
 * hvo.ko: HugeTLB vmemmap optimization for kernels as they are.
 *
 * Each HugeTLB page is described by hundreds of struct pages that say the same;
 * the module maps them to one page and gives the others back, for pages that
 * are free and pages that are in use, and undoes it on request. hvo.h shows the
 * layout, remap.c has the protocol, pool.c the life of a folio, backend.h where
 * the module hangs in the kernel. Documentation/design/hvo.rst is the way in.
 *
 * This file: loading and unloading.
 *
 * While the module is loaded its hooks are in place; vm.hvo.enabled decides
 * whether anything is optimized. Each optimized folio and enabled=1 hold a
 * reference to the module, so hvo_exit() runs only when there is nothing left
 * to restore.
 */
#include <linux/module.h>

#include "hvo.h"
#include "backend.h"
#include "control.h"
#include "platform.h"
#include "pool.h"
#include "remap.h"
#include "selftest.h"
#include "stats.h"
#include "symbols.h"
#include "verify.h"
#include "vpages.h"

static bool enabled;
module_param(enabled, bool, 0444);
MODULE_PARM_DESC(enabled, "Set vm.hvo.enabled when the module is loaded");

static int __init check_host(void)
{
	return hvo_platform_check() ?: hvo_symbols_resolve() ?: hvo_struct_check();
}

static int __init selftest(void)
{
	int ret = hvo_verify_selftest() ?: hvo_selftest_run();

	if (ret)
		pr_err("self-test failed: %s\n", hvo_selftest_result());
	else
		pr_info("self-test: %s\n", hvo_selftest_result());
	return ret;
}

static int __init hvo_init(void)
{
	int ret;

	ret = check_host();
	if (ret)
		return ret;
	ret = hvo_stats_alloc();
	if (ret)
		return ret;
	ret = hvo_pool_init();
	if (ret)
		goto err_stats;
	ret = hvo_backend.attach();
	if (ret)
		goto err_pool;
	ret = selftest();
	if (ret)
		goto err_backend;
	ret = hvo_sysfs_create();
	if (ret)
		goto err_backend;
	ret = hvo_sysctl_register();
	if (ret)
		goto err_sysfs;
	pr_info("loaded for %s\n", hvo_backend.name);

	if (enabled && hvo_pool_set(true))
		pr_warn("not everything is optimized yet: write 1 to vm.hvo.enabled again\n");
	return 0;

err_sysfs:
	hvo_sysfs_remove();
err_backend:
	hvo_backend.detach();
err_pool:
	hvo_pool_exit();
	hvo_verify_exit();
err_stats:
	hvo_stats_free();
	return ret;
}

static void __exit hvo_exit(void)
{
	hvo_sysctl_unregister();
	hvo_sysfs_remove();
	hvo_pool_quiesce();
	hvo_backend.detach();
	hvo_pool_exit();
	hvo_verify_exit();
	hvo_stats_free();
}

module_init(hvo_init);
module_exit(hvo_exit);

MODULE_DESCRIPTION("HugeTLB vmemmap optimization at run time");
MODULE_LICENSE("GPL");
