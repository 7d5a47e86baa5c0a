// SPDX-License-Identifier: GPL-2.0-only
/*
 * /sys/kernel/mm/hvo: one folder per huge page size, and in it one per node.
 *
 * All these folders have the same files; what a file shows follows from the
 * figure that its attribute names and from the level that its folder belongs to.
 * Levels exist for every node that may come to be, so that memory plugged in
 * later shows without further doing.
 *
 * The objects are the kernel's plain ones: their release function is not ours,
 * so nothing of the module is needed once they are deleted, whoever still holds
 * a reference. Deleting waits for readers that are in a show function; an open
 * file answers ENODEV from then on.
 */
#include <linux/kobject.h>
#include <linux/slab.h>
#include <linux/sysfs.h>

#include "backend.h"
#include "control.h"
#include "hvo.h"
#include "pool.h"
#include "selftest.h"
#include "stats.h"
#include "symbols.h"
#include "vpages.h"

/**
 * struct hvo_level - a folder
 * @kobj: of the folder
 * @h: the size it is about; NULL for all of them
 * @nid: the node it is about; NUMA_NO_NODE for all of them
 */
struct hvo_level {
	struct kobject *kobj;
	struct hstate *h;
	int nid;
};

/* The first is that of hvo/ itself. A level is complete before it has files. */
static struct hvo_level *hvo_levels;
static unsigned int hvo_nr_levels;

static const struct hvo_level *hvo_level_of(const struct kobject *kobj)
{
	const struct hvo_level *level = hvo_levels;

	while (level->kobj != kobj)
		level++;
	return level;
}

/**
 * struct hvo_stat_attribute - a file that shows one counter
 * @attr: the file
 * @stat: the counter
 */
struct hvo_stat_attribute {
	struct kobj_attribute attr;
	enum hvo_stat stat;
};

static struct hvo_stat_attribute hvo_stat_attributes[HVO_STAT_MAX];

static ssize_t hvo_stat_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	const struct hvo_level *level = hvo_level_of(kobj);
	enum hvo_stat stat = container_of(attr, struct hvo_stat_attribute, attr)->stat;

	return sysfs_emit(buf, "%ld\n", hvo_stat_read(level->h, level->nid, stat));
}

static ssize_t optimized_in_use_show(struct kobject *kobj, struct kobj_attribute *attr,
				     char *buf)
{
	const struct hvo_level *level = hvo_level_of(kobj);

	return sysfs_emit(buf, "%lu\n", hvo_pool_in_use(level->h, level->nid));
}

static ssize_t saved_kb_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	const struct hvo_level *level = hvo_level_of(kobj);

	return sysfs_emit(buf, "%lu\n", hvo_stat_saved_kb(level->h, level->nid));
}

static ssize_t reserve_kb_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%lu\n", hvo_reserve_kb());
}

static ssize_t stop_machine_max_us_show(struct kobject *kobj, struct kobj_attribute *attr,
					char *buf)
{
	return sysfs_emit(buf, "%lu\n", hvo_stat_stop_max_us());
}

static ssize_t backend_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%s\n", hvo_backend.name);
}

static ssize_t self_test_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%s\n", hvo_selftest_result());
}

static struct kobj_attribute backend_attr = __ATTR_RO(backend);
static struct kobj_attribute self_test_attr = __ATTR_RO(self_test);
static struct kobj_attribute saved_kb_attr = __ATTR(saved_kB, 0444, saved_kb_show, NULL);
static struct kobj_attribute reserve_kb_attr = __ATTR(reserve_kB, 0444, reserve_kb_show, NULL);
static struct kobj_attribute stop_machine_max_us_attr = __ATTR_RO(stop_machine_max_us);
static struct kobj_attribute optimized_in_use_attr = __ATTR_RO(optimized_in_use);

static struct attribute *hvo_root_attrs[] = {
	&backend_attr.attr,
	&self_test_attr.attr,
	&saved_kb_attr.attr,
	&reserve_kb_attr.attr,
	&stop_machine_max_us_attr.attr,
	NULL
};

static const struct attribute_group hvo_root_group = {
	.attrs = hvo_root_attrs,
};

/* Filled by hvo_sysfs_stat_attributes(); the last stays NULL. */
static struct attribute *hvo_level_attrs[HVO_STAT_MAX + 3];

static const struct attribute_group hvo_level_group = {
	.attrs = hvo_level_attrs,
};

static void hvo_sysfs_stat_attributes(void)
{
	unsigned int stat;

	for (stat = 0; stat < HVO_STAT_MAX; stat++) {
		struct hvo_stat_attribute *file = &hvo_stat_attributes[stat];

		file->stat = stat;
		file->attr.show = hvo_stat_show;
		file->attr.attr.name = hvo_stat_names[stat];
		file->attr.attr.mode = 0444;
		hvo_level_attrs[stat] = &file->attr.attr;
	}
	hvo_level_attrs[stat++] = &optimized_in_use_attr.attr;
	hvo_level_attrs[stat] = &saved_kb_attr.attr;
}

static int hvo_level_create(const char *name, struct kobject *parent, struct hstate *h,
			    int nid, const struct attribute_group *group)
{
	struct hvo_level *level = &hvo_levels[hvo_nr_levels];
	struct kobject *kobj = kobject_create_and_add(name, parent);

	if (!kobj)
		return -ENOMEM;

	level->kobj = kobj;
	level->h = h;
	level->nid = nid;
	hvo_nr_levels++;
	return sysfs_create_group(kobj, group);
}

/* A size, and the nodes below it. */
static int hvo_size_create(struct hstate *h, struct kobject *root)
{
	char name[32];
	struct kobject *kobj;
	int ret, nid;

	snprintf(name, sizeof(name), "hugepages-%lukB", huge_page_size(h) / SZ_1K);
	ret = hvo_level_create(name, root, h, NUMA_NO_NODE, &hvo_level_group);
	if (ret)
		return ret;

	kobj = hvo_levels[hvo_nr_levels - 1].kobj;
	for_each_node(nid) {
		snprintf(name, sizeof(name), "node%d", nid);
		ret = hvo_level_create(name, kobj, h, nid, &hvo_level_group);
		if (ret)
			return ret;
	}
	return 0;
}

int hvo_sysfs_create(void)
{
	struct hstate *h = hvo_kernel.hstates;
	unsigned int sizes = *hvo_kernel.max_hstate;
	struct hstate *end = h + sizes;
	int ret;

	hvo_levels = kvcalloc(1 + sizes * (1 + num_possible_nodes()), sizeof(*hvo_levels),
			      GFP_KERNEL);
	if (!hvo_levels)
		return -ENOMEM;

	hvo_sysfs_stat_attributes();
	ret = hvo_level_create("hvo", *hvo_kernel.mm_kobj, NULL, NUMA_NO_NODE,
			       &hvo_root_group);
	for (; !ret && h < end; h++)
		ret = hvo_size_create(h, hvo_levels[0].kobj);
	if (ret)
		hvo_sysfs_remove();
	return ret;
}

void hvo_sysfs_remove(void)
{
	/* Deleted by hand: a late last reference must not delay that. */
	while (hvo_nr_levels) {
		struct kobject *kobj = hvo_levels[--hvo_nr_levels].kobj;

		kobject_del(kobj);
		kobject_put(kobj);
	}
	kvfree(hvo_levels);
	hvo_levels = NULL;
}
