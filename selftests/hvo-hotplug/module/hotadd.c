// SPDX-License-Identifier: GPL-2.0-only
/*
 * Adds a range of physical memory to the kernel and removes it again, as a
 * memory device's driver does: for tests, on machines without such a device.
 * The range has to be memory that the kernel was told at boot to leave out
 * (memmap= on x86, mem= on arm64).
 *
 * Parameters: base and size, in whole memory blocks; self_hosted, whether the
 * memory is to carry its own vmemmap (memory_hotplug.memmap_on_memory has to
 * allow that); present, 0 or 1, adds and removes. The module cannot be unloaded
 * while the memory is there.
 */
#include <linux/kernel.h>
#include <linux/memory_hotplug.h>
#include <linux/module.h>

static unsigned long long base;
module_param(base, ullong, 0444);
static unsigned long long size;
module_param(size, ullong, 0444);
static bool self_hosted;
module_param(self_hosted, bool, 0644);

/* Written under the parameters' lock, or before the module is live. */
static bool present;

static int hotadd_add(void)
{
	mhp_t flags = MHP_NONE;
	int ret;

	if (self_hosted) {
		if (!mhp_supports_memmap_on_memory())
			return -EOPNOTSUPP;
		flags = MHP_MEMMAP_ON_MEMORY;
	}
	if (!try_module_get(THIS_MODULE))
		return -ENODEV;
	ret = add_memory(0, base, size, flags);
	if (ret) {
		module_put(THIS_MODULE);
		return ret;
	}
	present = true;
	return 0;
}

/* Pages that cannot be moved make this fail; the memory is then online as before. */
static int hotadd_remove(void)
{
	int ret = offline_and_remove_memory(base, size);

	if (ret)
		return ret;
	present = false;
	module_put(THIS_MODULE);
	return 0;
}

static int hotadd_set_present(const char *val, const struct kernel_param *kp)
{
	bool wanted;
	int ret = kstrtobool(val, &wanted);

	if (ret)
		return ret;
	if (wanted == present)
		return 0;
	return wanted ? hotadd_add() : hotadd_remove();
}

static const struct kernel_param_ops hotadd_present_ops = {
	.set = hotadd_set_present,
	.get = param_get_bool,
};
module_param_cb(present, &hotadd_present_ops, &present, 0644);

static int __init hotadd_init(void)
{
	return 0;
}

/* Without memory there is nothing to undo. */
static void __exit hotadd_exit(void)
{
}

module_init(hotadd_init);
module_exit(hotadd_exit);

MODULE_DESCRIPTION("Adds and removes a range of memory, for tests");
MODULE_LICENSE("GPL");
