/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Kernel symbols that are not exported to modules.
 *
 * kallsyms_lookup_name() itself is found through a kprobe; everything else by
 * a search of the symbol table that also counts: a name that is missing or that
 * exists twice makes the module refuse to load.
 *
 * Functions are called through static calls where the architecture has them,
 * because with CONFIG_X86_KERNEL_IBT an indirect call needs an ENDBR that the
 * kernel removes from functions whose address nobody takes.
 */
#ifndef HVO_SYMBOLS_H
#define HVO_SYMBOLS_H

#include <linux/hugetlb.h>
#include <linux/kobject.h>
#include <linux/mutex.h>
#include <linux/stop_machine.h>

struct btf;

/**
 * struct hvo_kernel - objects of the kernel, resolved at load
 */
struct hvo_kernel {
	/** @init_mm: the kernel's own page tables */
	struct mm_struct *init_mm;
	/** @hstates: one per huge page size */
	struct hstate *hstates;
	/** @max_hstate: how many of them are in use */
	int *max_hstate;
	/** @hugetlb_lock: guards lists, counters and HPG_freed of every hstate */
	spinlock_t *hugetlb_lock;
	/** @mm_kobj: parent of /sys/kernel/mm/ entries */
	struct kobject **mm_kobj;
	/**
	 * @mf_mutex: held by memory_failure() while it decides what a page is
	 * and writes to its flags
	 */
	struct mutex *mf_mutex;
};

extern struct hvo_kernel hvo_kernel;

/**
 * hvo_symbols_resolve() - find everything that the module needs
 *
 * Context: module init; sleeps.
 * Return: 0; -ENOENT if a symbol is missing, -EEXIST if it is ambiguous (both
 * with its name in the log).
 */
int hvo_symbols_resolve(void);

/**
 * hvo_symbol_function() - address of a function for a hook
 * @name: its name in the source
 * @any_signature: also if the compiler has changed its parameters, which it
 *	says by suffixes (.isra.0, .constprop.0 and so on)
 * @ret_address: its address
 *
 * Context: module init, after hvo_symbols_resolve(); sleeps.
 * Return: 0; -ENOENT, -EEXIST as above.
 */
int hvo_symbol_function(const char *name, bool any_signature,
			unsigned long *ret_address);

/* The functions below do what the kernel's functions of the same name do. */
void hvo_get_online_mems(void);
void hvo_put_online_mems(void);
int hvo_stop_machine_cpuslocked(cpu_stop_fn_t fn, void *data);
void hvo_memmap_boot_pages_add(long delta);
void hvo_memmap_pages_add(long delta);
unsigned long hvo_ftrace_location(unsigned long address);
struct btf *hvo_bpf_get_btf_vmlinux(void);
s32 hvo_btf_find_by_name_kind(const struct btf *btf, const char *name, u8 kind);
const char *hvo_btf_name_by_offset(const struct btf *btf, u32 offset);
#ifdef CONFIG_X86
void hvo_flush_tlb_all(void);
void hvo_flush_tlb_kernel_range(unsigned long start, unsigned long end);
void hvo_put_page_bootmem(struct page *page);
#endif

#endif /* HVO_SYMBOLS_H */
