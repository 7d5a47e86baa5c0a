// SPDX-License-Identifier: GPL-2.0-only
/*
 * Does verify.c see each wrong order of steps, and nothing in the right one?
 *
 * Each case is a list of actions on a range of four pages that nobody else
 * uses, mapped by page entries in the vmalloc area: they are written by
 * hvo_pte_step() just like those of the vmemmap. Page 1 plays the shared page,
 * pages 2 and 3 give theirs back. A case passes if exactly its rule is broken.
 *
 * Nobody reads the range while it is mapped wrongly, and afterwards it is
 * unmapped. Changes of level 2 are only described to verify.c, with a block and
 * a table that map nothing.
 */
#include <linux/moduleparam.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>
#include <asm/pgalloc.h>

#include "hvo.h"
#include "pte.h"
#include "remap.h"
#include "verify.h"
#include "verify_rules.h"

#define RANGE_PAGES	4
#define MAX_ACTIONS	9
#define NO_RULE		HVO_RULE_MAX

enum action_kind {
	END,
	STEP,		/* hvo_pte_step() of @entry with the frame of @page */
	FLUSH,		/* @entry */
	FLUSH_ALL,
	SPOIL,		/* writes to frame @page, past all entries */
	FREE,		/* says that frame @page is given back */
	SAY_FRAME,	/* says that @entry is protected, and gets another frame */
	SAY_UNCACHED,	/* ... and other memory attributes */
	STOP,		/* says that the machine is stopped */
	BREAK,		/* says that the block becomes invalid */
	BREAK_FLUSH,	/* ... and the TLBs forget it */
	MAKE,		/* ... and it becomes a table */
	REPLACE,	/* says that the block becomes a table at once */
	BEND,		/* makes an entry of that table wrong */
};

struct action {
	enum action_kind kind;
	enum hvo_step step;
	unsigned int entry;
	unsigned int page;
};

struct order {
	const char *name;
	enum hvo_rule rule;
	struct action actions[MAX_ACTIONS];
};

#define PROTECT(entry)		{ STEP, HVO_PROTECT, entry }
#define UNPROTECT(entry)	{ STEP, HVO_UNPROTECT, entry }
#define SHARE(entry, page)	{ STEP, HVO_SHARE, entry, page }
#define UNSHARE(entry, page)	{ STEP, HVO_UNSHARE, entry, page }
#define NATIVE(entry, page)	{ STEP, HVO_NATIVE, entry, page }
#define FLUSH(entry)		{ FLUSH, 0, entry }
#define SPOIL(page)		{ SPOIL, 0, 0, page }
#define FREE(page)		{ FREE, 0, 0, page }
#define SAY(kind, entry)	{ kind, 0, entry }
#define DO(kind)		{ kind }

static const struct order orders[] = {
	/* What remap.c does. */
	{ "optimize", NO_RULE,
	  { PROTECT(1), PROTECT(2), DO(FLUSH_ALL), SHARE(2, 1), FLUSH(2), FREE(2) } },
	{ "give up", NO_RULE,
	  { PROTECT(1), PROTECT(2), DO(FLUSH_ALL), UNPROTECT(1), UNPROTECT(2) } },
	{ "restore", NO_RULE,
	  { PROTECT(1), PROTECT(2), DO(FLUSH_ALL), SHARE(2, 1), FLUSH(2),
	    UNSHARE(2, 2), FLUSH(2), UNPROTECT(1), UNPROTECT(2) } },

	/* Single steps that are not what they say. */
	{ "protect a read-only entry", HVO_RULE_PERMISSION,
	  { PROTECT(1), FLUSH(1), PROTECT(1) } },
	{ "share a writable entry", HVO_RULE_PERMISSION,
	  { PROTECT(1), FLUSH(1), SHARE(2, 1) } },
	{ "unshare a writable entry", HVO_RULE_PERMISSION, { UNSHARE(2, 1) } },
	{ "unprotect a writable entry", HVO_RULE_PERMISSION, { UNPROTECT(1) } },
	{ "share its own frame", HVO_RULE_FRAME, { PROTECT(1), FLUSH(1), SHARE(1, 1) } },
	{ "protect with another frame", HVO_RULE_FRAME, { SAY(SAY_FRAME, 1) } },
	{ "protect with other attributes", HVO_RULE_ATTRIBUTES, { SAY(SAY_UNCACHED, 1) } },

	/* Flushes that are missing. */
	{ "share before the flush", HVO_RULE_FLUSH,
	  { PROTECT(1), FLUSH(1), PROTECT(2), SHARE(2, 1) } },
	{ "share after the wrong flush", HVO_RULE_FLUSH,
	  { PROTECT(1), FLUSH(1), PROTECT(2), FLUSH(3), SHARE(2, 1) } },
	{ "unshare before the flush", HVO_RULE_FLUSH,
	  { PROTECT(1), PROTECT(2), DO(FLUSH_ALL), SHARE(2, 1), UNSHARE(2, 3) } },
	{ "unprotect before the flush", HVO_RULE_FLUSH, { PROTECT(1), UNPROTECT(1) } },
	{ "unprotect before the flush of unshare", HVO_RULE_FLUSH,
	  { PROTECT(1), PROTECT(2), DO(FLUSH_ALL), SHARE(2, 1), FLUSH(2),
	    UNSHARE(2, 2), UNPROTECT(2) } },
	{ "protect before the flush", HVO_RULE_FLUSH,
	  { PROTECT(1), FLUSH(1), UNPROTECT(1), PROTECT(1) } },

	/* Frames that are not what they should be. */
	{ "share other contents", HVO_RULE_CONTENTS,
	  { PROTECT(1), PROTECT(2), DO(FLUSH_ALL), SPOIL(1), SHARE(2, 1) } },
	{ "unshare other contents", HVO_RULE_CONTENTS,
	  { PROTECT(1), PROTECT(2), DO(FLUSH_ALL), SHARE(2, 1), FLUSH(2),
	    SPOIL(2), UNSHARE(2, 2) } },
	{ "share a writable frame", HVO_RULE_TARGET, { PROTECT(2), FLUSH(2), SHARE(2, 1) } },
	{ "share a frame that was not flushed", HVO_RULE_TARGET,
	  { PROTECT(2), FLUSH(2), PROTECT(1), SHARE(2, 1) } },
	{ "unshare to a frame in use", HVO_RULE_OWN_FRAME,
	  { PROTECT(1), PROTECT(2), PROTECT(3), DO(FLUSH_ALL), SHARE(2, 1), FLUSH(2),
	    UNSHARE(2, 3) } },
	{ "unprotect the shared entry", HVO_RULE_SHARED,
	  { PROTECT(1), PROTECT(2), DO(FLUSH_ALL), SHARE(2, 1), FLUSH(2), UNPROTECT(1) } },
	{ "unprotect a sharing entry", HVO_RULE_SHARED,
	  { PROTECT(1), PROTECT(2), DO(FLUSH_ALL), SHARE(2, 1), FLUSH(2), UNPROTECT(2) } },
	{ "unprotect the frame that others' TLBs have", HVO_RULE_SHARED,
	  { PROTECT(1), PROTECT(2), DO(FLUSH_ALL), SHARE(2, 1), FLUSH(2),
	    UNSHARE(2, 2), UNPROTECT(1) } },
	{ "free before the flush", HVO_RULE_FREE,
	  { PROTECT(1), PROTECT(2), DO(FLUSH_ALL), SHARE(2, 1), FREE(2) } },
	{ "free the shared frame", HVO_RULE_FREE,
	  { PROTECT(1), PROTECT(2), DO(FLUSH_ALL), SHARE(2, 1), FLUSH(2), FREE(1) } },

#ifdef CONFIG_ARM64
	{ "split", NO_RULE, { DO(STOP), DO(BREAK), DO(BREAK_FLUSH), DO(MAKE) } },
	{ "split while running", HVO_RULE_STOPPED, { DO(BREAK) } },
	{ "split without break", HVO_RULE_BREAK, { DO(STOP), DO(REPLACE) } },
	{ "split before the flush", HVO_RULE_BREAK_FLUSH, { DO(STOP), DO(BREAK), DO(MAKE) } },
	{ "split with a wrong table", HVO_RULE_TABLE,
	  { DO(STOP), DO(BREAK), DO(BREAK_FLUSH), DO(BEND), DO(MAKE) } },
	{ "native", HVO_RULE_NATIVE, { PROTECT(2), FLUSH(2), NATIVE(2, 1) } },
#else
	{ "split", NO_RULE, { DO(REPLACE) } },
	{ "split with a wrong table", HVO_RULE_TABLE, { DO(BEND), DO(REPLACE) } },
	{ "native", NO_RULE,
	  { PROTECT(2), FLUSH(2), NATIVE(2, 0), FLUSH(2), NATIVE(2, 2), FLUSH(2),
	    UNPROTECT(2) } },
	{ "native before the flush", HVO_RULE_FLUSH, { PROTECT(2), NATIVE(2, 0) } },
	{ "native of a writable entry", HVO_RULE_PERMISSION, { NATIVE(2, 0) } },
#endif
};

static char *verify_self_test = "not run";
module_param(verify_self_test, charp, 0444);
MODULE_PARM_DESC(verify_self_test, "\"ok\", or the first wrong order that was not caught");

struct test_range {
	struct page *pages[RANGE_PAGES];
	void *start;
	pte_t *table;
};

static unsigned long address_of(const struct test_range *range, unsigned int entry)
{
	return (unsigned long)range->start + entry * PAGE_SIZE;
}

static void flush(const struct test_range *range, unsigned int first, unsigned int count)
{
	struct hvo_flush flush = {};
	unsigned int i;

	for (i = first; i < first + count; i++)
		hvo_flush_add(&flush, address_of(range, i), address_of(range, i + 1));
	hvo_flush_done(&flush);
}

static void say_protected(const struct test_range *range, unsigned int entry, pgprot_t prot,
			  struct page *page)
{
	unsigned long address = address_of(range, entry);

	hvo_verify_step(address, HVO_PROTECT, ptep_get(hvo_pte(address)),
			pte_wrprotect(pfn_pte(page_to_pfn(page), prot)));
}

/* The frames that block and table claim to map are never touched. */
static pmd_t block_entry(const struct test_range *range)
{
	return pmd_mkhuge(pfn_pmd(page_to_pfn(range->pages[0]) & ~(PTRS_PER_PTE - 1UL),
				  PAGE_KERNEL));
}

static pmd_t table_entry(const struct test_range *range)
{
	pmd_t table;

	pmd_populate_kernel(NULL, &table, range->table);
	return table;
}

static void fill_table(const struct test_range *range)
{
	unsigned long pfn = pmd_pfn(block_entry(range));
	unsigned int i;

	for (i = 0; i < PTRS_PER_PTE; i++)
		range->table[i] = pfn_pte(pfn + i, PAGE_KERNEL);
}

static void act_on_block(const struct test_range *range, enum action_kind kind)
{
	unsigned long address = (unsigned long)range->start & PMD_MASK;
	pmd_t none = __pmd(0);

	switch (kind) {
	case STOP:
		hvo_verify_stopped(true);
		break;
	case BREAK:
		hvo_verify_block(address, block_entry(range), none);
		break;
	case BREAK_FLUSH:
		hvo_verify_flushed(address, address + PMD_SIZE);
		break;
	case MAKE:
		hvo_verify_block(address, none, table_entry(range));
		break;
	case REPLACE:
		hvo_verify_block(address, block_entry(range), table_entry(range));
		break;
	case BEND:
		swap(range->table[0], range->table[1]);
		break;
	default:
		break;
	}
}

static void act(const struct test_range *range, const struct action *action)
{
	struct page *page = range->pages[action->page];

	switch (action->kind) {
	case STEP:
		hvo_pte_step(address_of(range, action->entry), action->step, page);
		break;
	case FLUSH:
		flush(range, action->entry, 1);
		break;
	case FLUSH_ALL:
		flush(range, 0, RANGE_PAGES);
		break;
	case SPOIL:
		memset(page_address(page), 1, PAGE_SIZE);
		break;
	case FREE:
		hvo_verify_frame_free(page);
		break;
	case SAY_FRAME:
		say_protected(range, action->entry, PAGE_KERNEL, range->pages[0]);
		break;
	case SAY_UNCACHED:
		say_protected(range, action->entry, pgprot_noncached(PAGE_KERNEL),
			      range->pages[action->entry]);
		break;
	default:
		act_on_block(range, action->kind);
		break;
	}
}

static void free_range(struct test_range *range)
{
	unsigned int i;

	if (range->start)
		vunmap(range->start);
	for (i = 0; i < RANGE_PAGES; i++)
		if (range->pages[i])
			__free_page(range->pages[i]);
	free_page((unsigned long)range->table);
}

static int alloc_range(struct test_range *range)
{
	unsigned int i;

	*range = (struct test_range){};
	for (i = 0; i < RANGE_PAGES; i++) {
		range->pages[i] = alloc_page(GFP_KERNEL | __GFP_ZERO);
		if (!range->pages[i])
			goto free;
	}
	range->table = (pte_t *)get_zeroed_page(GFP_KERNEL);
	range->start = vmap(range->pages, RANGE_PAGES, VM_MAP, PAGE_KERNEL);
	if (!range->table || !range->start)
		goto free;
	fill_table(range);
	return 0;

free:
	free_range(range);
	return -ENOMEM;
}

/* Returns 0 if exactly the rule of the order was found broken. */
static int run_order(const struct order *order)
{
	const struct action *action;
	unsigned long broken;
	struct test_range range;
	int ret;

	ret = alloc_range(&range);
	if (ret)
		return ret;
	hvo_verify_test_begin();
	for (action = order->actions;
	     action < order->actions + MAX_ACTIONS && action->kind != END; action++)
		act(&range, action);
	hvo_verify_stopped(false);
	flush(&range, 0, RANGE_PAGES);
	broken = hvo_verify_test_end();
	free_range(&range);

	if (broken == (order->rule == NO_RULE ? 0 : BIT(order->rule)))
		return 0;
	pr_err("verify self-test: \"%s\" broke rules %#lx\n", order->name, broken);
	return -EIO;
}

int hvo_verify_selftest(void)
{
	unsigned int i;
	int ret = 0;

	mutex_lock(&hvo_remap_mutex);
	for (i = 0; i < ARRAY_SIZE(orders); i++) {
		ret = run_order(&orders[i]);
		if (ret)
			break;
	}
	mutex_unlock(&hvo_remap_mutex);
	verify_self_test = ret == -EIO ? (char *)orders[i].name : ret ? "out of memory" : "ok";
	return ret;
}
