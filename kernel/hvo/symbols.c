// SPDX-License-Identifier: GPL-2.0-only
/*
 * How a symbol that is not exported is found, and how it is called.
 *
 * A kprobe that is never armed says where kallsyms_lookup_name() is; that
 * function finds the two that walk the symbol table, and everything else is
 * looked up by a walk that counts. Only vmlinux is searched: a function of the
 * same name in a module is neither taken nor in the way.
 *
 * Each function has a static call. Where the architecture patches call sites
 * (amd64), the call is direct and needs no ENDBR; elsewhere it is an indirect
 * call through the key. Nothing here is written after hvo_symbols_resolve(), so
 * there are no locks.
 */
#include <linux/bpf.h>
#include <linux/btf.h>
#include <linux/ftrace.h>
#include <linux/kallsyms.h>
#include <linux/kprobes.h>
#include <linux/memory_hotplug.h>
#include <linux/module.h>
#include <linux/static_call.h>
#include <linux/vmstat.h>
#ifdef CONFIG_X86
#include <linux/bootmem_info.h>
#include <asm/ibt.h>
#endif

#include "hvo.h"
#include "symbols.h"

struct hvo_kernel hvo_kernel;

DEFINE_STATIC_CALL_NULL(kallsyms_lookup_name, kallsyms_lookup_name);
DEFINE_STATIC_CALL_NULL(kallsyms_on_each_symbol, kallsyms_on_each_symbol);
DEFINE_STATIC_CALL_NULL(kallsyms_on_each_match_symbol, kallsyms_on_each_match_symbol);
DEFINE_STATIC_CALL_NULL(get_online_mems, get_online_mems);
DEFINE_STATIC_CALL_NULL(put_online_mems, put_online_mems);
DEFINE_STATIC_CALL_NULL(stop_machine_cpuslocked, stop_machine_cpuslocked);
DEFINE_STATIC_CALL_NULL(memmap_boot_pages_add, memmap_boot_pages_add);
DEFINE_STATIC_CALL_NULL(memmap_pages_add, memmap_pages_add);
DEFINE_STATIC_CALL_NULL(ftrace_location, ftrace_location);
DEFINE_STATIC_CALL_NULL(bpf_get_btf_vmlinux, bpf_get_btf_vmlinux);
DEFINE_STATIC_CALL_NULL(btf_find_by_name_kind, btf_find_by_name_kind);
DEFINE_STATIC_CALL_NULL(btf_name_by_offset, btf_name_by_offset);
#ifdef CONFIG_X86
/* Modules do not even see the declarations of these two. */
DEFINE_STATIC_CALL_NULL(flush_tlb_all, hvo_flush_tlb_all);
DEFINE_STATIC_CALL_NULL(flush_tlb_kernel_range, hvo_flush_tlb_kernel_range);
DEFINE_STATIC_CALL_NULL(put_page_bootmem, put_page_bootmem);
#endif

/* A symbol is an object, whose address goes to @object, or a static call. */
struct symbol {
	const char *name;
	void **object;
	struct static_call_key *key;
	void *trampoline;
};

#define OBJECT(symbol, member) { #symbol, .object = (void **)&hvo_kernel.member }
#define FUNCTION(symbol) \
	{ #symbol, .key = &STATIC_CALL_KEY(symbol), .trampoline = STATIC_CALL_TRAMP_ADDR(symbol) }

/* The walkers come first: the others are looked up by them. */
static const struct symbol walkers[] = {
	FUNCTION(kallsyms_on_each_symbol),
	FUNCTION(kallsyms_on_each_match_symbol),
};

static const struct symbol symbols[] = {
	FUNCTION(kallsyms_lookup_name),
	FUNCTION(kallsyms_on_each_symbol),
	FUNCTION(kallsyms_on_each_match_symbol),
	OBJECT(init_mm, init_mm),
	OBJECT(hstates, hstates),
	OBJECT(hugetlb_max_hstate, max_hstate),
	OBJECT(hugetlb_lock, hugetlb_lock),
	OBJECT(mm_kobj, mm_kobj),
	OBJECT(mf_mutex, mf_mutex),
	FUNCTION(get_online_mems),
	FUNCTION(put_online_mems),
	FUNCTION(stop_machine_cpuslocked),
	FUNCTION(memmap_boot_pages_add),
	FUNCTION(memmap_pages_add),
	FUNCTION(ftrace_location),
	FUNCTION(bpf_get_btf_vmlinux),
	FUNCTION(btf_find_by_name_kind),
	FUNCTION(btf_name_by_offset),
#ifdef CONFIG_X86
	FUNCTION(flush_tlb_all),
	FUNCTION(flush_tlb_kernel_range),
	FUNCTION(put_page_bootmem),
#endif
};

/* What a walk has found of one name. */
struct matches {
	const char *name;
	bool any_signature;
	unsigned int count;
	unsigned long address;
};

static int check_matches(const struct matches *matches)
{
	if (matches->count == 1)
		return 0;
	if (!matches->count) {
		pr_err("the kernel has no symbol %s\n", matches->name);
		return -ENOENT;
	}
	pr_err("symbol %s is ambiguous, the kernel has %u of that name\n", matches->name,
	       matches->count);
	return -EEXIST;
}

static int count_match(void *data, unsigned long address)
{
	struct matches *matches = data;

	matches->count++;
	matches->address = address;
	return 0;
}

static int find_symbol(const char *name, unsigned long *ret_address)
{
	struct matches matches = { .name = name };
	int ret;

	static_call(kallsyms_on_each_match_symbol)(count_match, name, &matches);
	ret = check_matches(&matches);
	if (ret)
		return ret;
	*ret_address = matches.address;
	return 0;
}

static void set_symbol(const struct symbol *symbol, unsigned long address)
{
	if (symbol->object)
		*symbol->object = (void *)address;
	else
		__static_call_update(symbol->key, symbol->trampoline, (void *)address);
}

/*
 * The probe stays disabled, so that not even for a moment the kernel's text is
 * changed.
 *
 * With CONFIG_X86_KERNEL_IBT the probe's address is the one behind the ENDBR.
 * A direct call may go there, too: the function itself is asked where it
 * begins, and any other difference than an ENDBR is not understood.
 */
static int find_kallsyms_lookup_name(void)
{
	struct kprobe probe = {
		.symbol_name = "kallsyms_lookup_name",
		.flags = KPROBE_FLAG_DISABLED,
	};
	unsigned long address, begin, behind_begin = 0;
	int ret;

	ret = register_kprobe(&probe);
	if (ret) {
		pr_err("no kprobe can be set on %s (error %d)\n", probe.symbol_name, ret);
		return -ENOENT;
	}
	address = (unsigned long)probe.addr;
	unregister_kprobe(&probe);

	static_call_update(kallsyms_lookup_name, (typeof(kallsyms_lookup_name) *)address);
	begin = static_call(kallsyms_lookup_name)("kallsyms_lookup_name");
#ifdef CONFIG_X86_KERNEL_IBT
	behind_begin = ENDBR_INSN_SIZE;
#endif
	if (address != begin && address != begin + behind_begin) {
		pr_err("symbol %s is not where a kprobe finds it\n", probe.symbol_name);
		return -EEXIST;
	}
	return 0;
}

static int find_walkers(void)
{
	unsigned long address;
	int i;

	for (i = 0; i < ARRAY_SIZE(walkers); i++) {
		address = static_call(kallsyms_lookup_name)(walkers[i].name);
		if (!address) {
			pr_err("the kernel has no symbol %s\n", walkers[i].name);
			return -ENOENT;
		}
		set_symbol(&walkers[i], address);
	}
	return 0;
}

#ifdef HVO_TEST
static char *break_symbol = "";
module_param(break_symbol, charp, 0444);
MODULE_PARM_DESC(break_symbol, "look up a name that is \"missing\" or \"ambiguous\"");

/* Many files have a static function type_show() for sysfs. */
static int find_broken_symbol(void)
{
	unsigned long address;

	if (!strcmp(break_symbol, "missing"))
		return find_symbol("hvo_no_such_symbol", &address);
	if (!strcmp(break_symbol, "ambiguous"))
		return find_symbol("type_show", &address);
	return 0;
}
#else
static int find_broken_symbol(void)
{
	return 0;
}
#endif

int hvo_symbols_resolve(void)
{
	unsigned long address;
	int i, ret;

	ret = find_kallsyms_lookup_name();
	if (ret)
		return ret;
	ret = find_walkers();
	if (ret)
		return ret;
	for (i = 0; i < ARRAY_SIZE(symbols); i++) {
		ret = find_symbol(symbols[i].name, &address);
		if (ret)
			return ret;
		set_symbol(&symbols[i], address);
	}
	return find_broken_symbol();
}

/*
 * Suffixes that the compiler gives to a function which it changed but which
 * still is the whole function. Not among them: .part.N and .cold, which are
 * pieces of one.
 */
static bool only_suffixes(const char *suffix)
{
	static const char * const whole[] = { ".isra.", ".constprop." };
	size_t length;
	int i;

	while (*suffix) {
		for (i = 0; i < ARRAY_SIZE(whole); i++) {
			length = str_has_prefix(suffix, whole[i]);
			if (length)
				break;
		}
		if (i == ARRAY_SIZE(whole) || !isdigit(suffix[length]))
			return false;
		suffix += length;
		while (isdigit(*suffix))
			suffix++;
	}
	return true;
}

static int count_function(void *data, const char *name, unsigned long address)
{
	struct matches *matches = data;
	size_t length = str_has_prefix(name, matches->name);

	if (!length || !only_suffixes(name + length))
		return 0;
	if (name[length] && !matches->any_signature) {
		pr_err("the compiler has changed the parameters of %s: it is %s here\n",
		       matches->name, name);
		return 0;
	}
	return count_match(matches, address);
}

int hvo_symbol_function(const char *name, bool any_signature,
			unsigned long *ret_address)
{
	struct matches matches = { .name = name, .any_signature = any_signature };
	int ret;

	static_call(kallsyms_on_each_symbol)(count_function, &matches);
	ret = check_matches(&matches);
	if (ret)
		return ret;
	*ret_address = matches.address;
	return 0;
}

void hvo_get_online_mems(void)
{
	static_call(get_online_mems)();
}

void hvo_put_online_mems(void)
{
	static_call(put_online_mems)();
}

int hvo_stop_machine_cpuslocked(cpu_stop_fn_t fn, void *data)
{
	return static_call(stop_machine_cpuslocked)(fn, data, NULL);
}

void hvo_memmap_boot_pages_add(long delta)
{
	static_call(memmap_boot_pages_add)(delta);
}

void hvo_memmap_pages_add(long delta)
{
	static_call(memmap_pages_add)(delta);
}

unsigned long hvo_ftrace_location(unsigned long address)
{
	return static_call(ftrace_location)(address);
}

struct btf *hvo_bpf_get_btf_vmlinux(void)
{
	return static_call(bpf_get_btf_vmlinux)();
}

s32 hvo_btf_find_by_name_kind(const struct btf *btf, const char *name, u8 kind)
{
	return static_call(btf_find_by_name_kind)(btf, name, kind);
}

const char *hvo_btf_name_by_offset(const struct btf *btf, u32 offset)
{
	return static_call(btf_name_by_offset)(btf, offset);
}

#ifdef CONFIG_X86
void hvo_flush_tlb_all(void)
{
	static_call(flush_tlb_all)();
}

void hvo_flush_tlb_kernel_range(unsigned long start, unsigned long end)
{
	static_call(flush_tlb_kernel_range)(start, end);
}

void hvo_put_page_bootmem(struct page *page)
{
	static_call(put_page_bootmem)(page);
}
#endif
