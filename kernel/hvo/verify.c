// SPDX-License-Identifier: GPL-2.0-only
/*
 * Is every change of a vmemmap entry one that the architectures allow?
 *
 * Two indexes say what is in force, and what a TLB may still hold:
 *
 * entries	one struct entry for each page entry that is not plain. Plain is
 *		read-write with a frame of its own, and flushed since it is.
 *		XA_MARK_0: changed and not flushed since; then @old is what a
 *		TLB may hold.
 * frames	one struct frame for each frame that such an entry maps, or that
 *		a TLB may hold because one did, with the number of them.
 *
 * check_step() looks at a step before it is made and reports the first rule
 * that it breaks; whatever it found, the step is recorded and made, so that a
 * test shows the consequences, too. Changes of level 2 only happen one after
 * the other, so for them there is one struct block.
 *
 * Everything is guarded by hvo_remap_mutex. In stop_machine(), where struct
 * pages may be unmapped, nothing is allocated, freed or printed.
 */
#include <linux/moduleparam.h>
#include <linux/slab.h>
#include <linux/xarray.h>

#include "hvo.h"
#include "remap.h"
#include "verify.h"
#include "verify_rules.h"

/* A test must not stop verifying because memory is short. */
#define HVO_GFP_VERIFY	(GFP_KERNEL | __GFP_NOFAIL)

struct mapping {
	unsigned long pfn;
	bool writable;
};

struct entry {
	struct mapping now;
	struct mapping old;
};

/* Numbers of entries and of TLB entries, read-only and writable ones. */
struct frame {
	unsigned int mapped[2];
	unsigned int cached[2];
};

/* A block mapping between break and make. */
struct block {
	unsigned long address;
	pmd_t pmd;
	bool broken;
	bool flushed;
};

static DEFINE_XARRAY(entries);
static DEFINE_XARRAY(frames);
static struct block block;
static bool stopped;

static const char * const rules[HVO_RULE_MAX] = {
	[HVO_RULE_PERMISSION]	= "permissions do not change as the step says",
	[HVO_RULE_FRAME]	= "the frame changes, or does not, against what the step says",
	[HVO_RULE_ATTRIBUTES]	= "memory attributes change",
	[HVO_RULE_FLUSH]	= "no TLB flush since the entry changed",
	[HVO_RULE_CONTENTS]	= "the frames' contents differ",
	[HVO_RULE_TARGET]	= "the frame to share can still be written",
	[HVO_RULE_OWN_FRAME]	= "the new frame is in use",
	[HVO_RULE_SHARED]	= "made writable, and another entry or a TLB has the frame",
	[HVO_RULE_NATIVE]	= "a live entry gets other contents",
	[HVO_RULE_FREE]		= "a frame is freed that an entry or a TLB has",
	[HVO_RULE_STOPPED]	= "a block is replaced while the machine runs",
	[HVO_RULE_BREAK]	= "a block is replaced without break",
	[HVO_RULE_BREAK_FLUSH]	= "a table is made with no TLB flush since the break",
	[HVO_RULE_TABLE]	= "a table maps something else than its block",
};

static unsigned int violations;
module_param(violations, uint, 0444);
MODULE_PARM_DESC(violations, "Page-table steps that broke a rule");

/* Bits of the rules that were broken, and of those that are in the log. */
static unsigned long broken, logged;
static unsigned long broken_at[HVO_RULE_MAX];
static bool testing;

static void report(enum hvo_rule rule, unsigned long address)
{
	broken |= BIT(rule);
	broken_at[rule] = address;
	if (!testing)
		violations++;
}

static void log_new(void)
{
	unsigned long fresh = broken & ~logged;
	unsigned int rule;

	if (testing || stopped)
		return;
	for_each_set_bit(rule, &fresh, HVO_RULE_MAX)
		pr_err("a page-table step broke a rule: %s (struct page of pfn %#lx)\n",
		       rules[rule], page_to_pfn((struct page *)broken_at[rule]));
	logged |= fresh;
}

/* Only what lets the processor write counts, whatever the kernel's view. */
#ifdef CONFIG_ARM64
#define PERMISSION_BITS		(PTE_WRITE | PTE_RDONLY | PTE_DIRTY)

static bool writable(pte_t pte)
{
	return !(pte_val(pte) & PTE_RDONLY) || pte_write(pte);
}
#else
#define PERMISSION_BITS		(_PAGE_RW | _PAGE_DIRTY | _PAGE_SAVED_DIRTY)

static bool writable(pte_t pte)
{
	return pte_write(pte);
}
#endif

static struct mapping mapping_of(pte_t pte)
{
	return (struct mapping){ .pfn = pte_pfn(pte), .writable = writable(pte) };
}

static bool same_attributes(pte_t a, pte_t b)
{
	return !((pgprot_val(pte_pgprot(a)) ^ pgprot_val(pte_pgprot(b))) & ~PERMISSION_BITS);
}

static bool same_contents(pte_t a, pte_t b)
{
	return !memcmp(page_address(pte_page(a)), page_address(pte_page(b)), PAGE_SIZE);
}

static struct entry *find_entry(unsigned long address)
{
	return xa_load(&entries, address >> PAGE_SHIFT);
}

static bool is_flushed(unsigned long address)
{
	return !xa_get_mark(&entries, address >> PAGE_SHIFT, XA_MARK_0);
}

static const struct frame *find_frame(pte_t pte)
{
	return xa_load(&frames, pte_pfn(pte));
}

/* Nobody can write to the frame, and at least one entry has it for sharing. */
static bool can_be_shared(const struct frame *frame)
{
	return frame && frame->mapped[false] && !frame->mapped[true] && !frame->cached[true];
}

static bool has_one_user(const struct frame *frame)
{
	return frame && frame->mapped[false] + frame->mapped[true] == 1 &&
	       !frame->cached[false] && !frame->cached[true];
}

/* What each step demands of the entry alone. */
struct demand {
	bool from_writable;
	bool to_writable;
	bool other_frame;
};

static const struct demand demands[] = {
	[HVO_PROTECT]	= { .from_writable = true },
	[HVO_SHARE]	= { .other_frame = true },
	[HVO_UNSHARE]	= { .other_frame = true },
	[HVO_UNPROTECT]	= { .to_writable = true },
	[HVO_NATIVE]	= { .other_frame = true },
};

/* Returns the rule that is broken, or HVO_RULE_MAX. */
static enum hvo_rule check_entry(enum hvo_step step, pte_t old, pte_t new)
{
	const struct demand *demand = &demands[step];

	if (step == HVO_NATIVE && !IS_ENABLED(CONFIG_X86))
		return HVO_RULE_NATIVE;
	if (writable(old) != demand->from_writable || writable(new) != demand->to_writable)
		return HVO_RULE_PERMISSION;
	if ((pte_pfn(old) != pte_pfn(new)) != demand->other_frame)
		return HVO_RULE_FRAME;
	if (!same_attributes(old, new))
		return HVO_RULE_ATTRIBUTES;
	return HVO_RULE_MAX;
}

static enum hvo_rule check_step(unsigned long address, enum hvo_step step, pte_t old, pte_t new)
{
	enum hvo_rule rule = check_entry(step, old, new);

	if (rule != HVO_RULE_MAX)
		return rule;
	/* Read-only and never seen: only the kernel makes entries like that. */
	if (!is_flushed(address) ||
	    (!find_entry(address) && step != HVO_PROTECT && step != HVO_NATIVE))
		return HVO_RULE_FLUSH;

	switch (step) {
	case HVO_SHARE:
		if (!can_be_shared(find_frame(new)))
			return HVO_RULE_TARGET;
		return same_contents(old, new) ? HVO_RULE_MAX : HVO_RULE_CONTENTS;
	case HVO_UNSHARE:
		if (find_frame(new))
			return HVO_RULE_OWN_FRAME;
		return same_contents(old, new) ? HVO_RULE_MAX : HVO_RULE_CONTENTS;
	case HVO_UNPROTECT:
		return has_one_user(find_frame(new)) ? HVO_RULE_MAX : HVO_RULE_SHARED;
	default:
		return HVO_RULE_MAX;
	}
}

static struct frame *get_frame(unsigned long pfn)
{
	struct frame *frame = xa_load(&frames, pfn);

	if (!frame) {
		frame = kzalloc(sizeof(*frame), HVO_GFP_VERIFY);
		xa_store(&frames, pfn, frame, HVO_GFP_VERIFY);
	}
	return frame;
}

static void put_frame(unsigned long pfn)
{
	static const struct frame unused;
	struct frame *frame = xa_load(&frames, pfn);

	if (!memcmp(frame, &unused, sizeof(unused)))
		kfree(xa_erase(&frames, pfn));
}

static void map(struct mapping mapping)
{
	get_frame(mapping.pfn)->mapped[mapping.writable]++;
}

static void unmap(struct mapping mapping)
{
	get_frame(mapping.pfn)->mapped[mapping.writable]--;
	put_frame(mapping.pfn);
}

static void forget_cached(struct mapping mapping)
{
	get_frame(mapping.pfn)->cached[mapping.writable]--;
	put_frame(mapping.pfn);
}

static struct entry *new_entry(unsigned long address, pte_t pte)
{
	struct entry *entry = kzalloc(sizeof(*entry), HVO_GFP_VERIFY);

	entry->now = mapping_of(pte);
	map(entry->now);
	xa_store(&entries, address >> PAGE_SHIFT, entry, HVO_GFP_VERIFY);
	return entry;
}

static void record_step(unsigned long address, pte_t old, pte_t new)
{
	struct entry *entry = find_entry(address) ?: new_entry(address, old);

	if (!is_flushed(address))
		forget_cached(entry->old);
	entry->old = entry->now;
	get_frame(entry->old.pfn)->cached[entry->old.writable]++;
	unmap(entry->now);
	entry->now = mapping_of(new);
	map(entry->now);
	xa_set_mark(&entries, address >> PAGE_SHIFT, XA_MARK_0);
}

void hvo_verify_step(unsigned long address, enum hvo_step step, pte_t old, pte_t new)
{
	enum hvo_rule rule;

	lockdep_assert_held(&hvo_remap_mutex);
	rule = check_step(address, step, old, new);
	if (rule != HVO_RULE_MAX)
		report(rule, address);
	record_step(address, old, new);
	log_new();
}

static void drop_entry(unsigned long index, struct entry *entry)
{
	if (xa_get_mark(&entries, index, XA_MARK_0))
		forget_cached(entry->old);
	unmap(entry->now);
	xa_erase(&entries, index);
	kfree(entry);
}

static void flush_entry(unsigned long index, struct entry *entry)
{
	if (entry->now.writable) {
		drop_entry(index, entry);
		return;
	}
	forget_cached(entry->old);
	xa_clear_mark(&entries, index, XA_MARK_0);
}

static void flush_entries(unsigned long start, unsigned long end)
{
	unsigned long index = start >> PAGE_SHIFT, last = (end - 1) >> PAGE_SHIFT;
	struct entry *entry = xa_find(&entries, &index, last, XA_MARK_0);

	while (entry) {
		flush_entry(index, entry);
		entry = xa_find_after(&entries, &index, last, XA_MARK_0);
	}
}

void hvo_verify_flushed(unsigned long start, unsigned long end)
{
	if (start <= block.address && block.address < end)
		block.flushed = true;
	if (stopped)
		return;
	flush_entries(start, end);
	log_new();
}

void hvo_verify_frame_free(const struct page *frame)
{
	lockdep_assert_held(&hvo_remap_mutex);
	if (!xa_load(&frames, page_to_pfn(frame)))
		return;
	report(HVO_RULE_FREE, (unsigned long)frame);
	log_new();
}

void hvo_verify_forget(unsigned long start, unsigned long end)
{
	struct entry *entry;
	unsigned long index;

	lockdep_assert_held(&hvo_remap_mutex);
	xa_for_each_range(&entries, index, entry, start >> PAGE_SHIFT, (end - 1) >> PAGE_SHIFT)
		drop_entry(index, entry);
}

void hvo_verify_stopped(bool now_stopped)
{
	stopped = now_stopped;
}

static bool maps_the_same(pmd_t table, pmd_t old)
{
	const pte_t *pte = (const pte_t *)pmd_page_vaddr(table);
	unsigned int i;

	for (i = 0; i < PTRS_PER_PTE; i++)
		if (!pte_present(pte[i]) || pte_pfn(pte[i]) != pmd_pfn(old) + i ||
		    !writable(pte[i]))
			return false;
	return true;
}

static enum hvo_rule check_block(unsigned long address, pmd_t old, pmd_t new)
{
	if (IS_ENABLED(CONFIG_ARM64)) {
		if (!stopped)
			return HVO_RULE_STOPPED;
		if (pmd_none(new))
			return HVO_RULE_MAX;
		if (!pmd_none(old) || !block.broken || block.address != address)
			return HVO_RULE_BREAK;
		if (!block.flushed)
			return HVO_RULE_BREAK_FLUSH;
		old = block.pmd;
	}
	return maps_the_same(new, old) ? HVO_RULE_MAX : HVO_RULE_TABLE;
}

void hvo_verify_block(unsigned long address, pmd_t old, pmd_t new)
{
	enum hvo_rule rule = check_block(address, old, new);

	if (rule != HVO_RULE_MAX)
		report(rule, address);
	block = (struct block){ .address = address, .pmd = old, .broken = pmd_none(new) };
}

static unsigned int drop_all(void)
{
	struct entry *entry;
	unsigned long index;
	unsigned int count = 0;

	xa_for_each(&entries, index, entry) {
		drop_entry(index, entry);
		count++;
	}
	xa_destroy(&entries);
	xa_destroy(&frames);
	block = (struct block){};
	return count;
}

void hvo_verify_test_begin(void)
{
	testing = true;
	broken = 0;
}

unsigned long hvo_verify_test_end(void)
{
	unsigned long result = broken;

	drop_all();
	testing = false;
	stopped = false;
	broken = 0;
	return result;
}

void hvo_verify_exit(void)
{
	unsigned int left = drop_all();

	if (left)
		pr_err("%u vmemmap entries were not made plain again\n", left);
}
