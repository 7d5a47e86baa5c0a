// SPDX-License-Identifier: GPL-2.0-only
/*
 * What a host can be that the module refuses to work on. All checks need
 * nothing but exported symbols: they come first of all.
 */
#include <linux/security.h>
#include <xen/xen.h>

#include "hvo.h"
#include "platform.h"

/*
 * KVM copies memory tags to a guest page by page, and on the way marks the raw
 * struct page of each as tagged. It does not keep off HugeTLB memory if the
 * guest's use of tags was switched on after the memory was given to it, so any
 * process that may open /dev/kvm could have it write to a read-only tail.
 */
#ifdef CONFIG_ARM64_MTE
#include <asm/cpufeature.h>

static bool tags_may_be_copied(void)
{
	return IS_ENABLED(CONFIG_KVM) && system_supports_mte();
}
#else
static bool tags_may_be_copied(void)
{
	return false;
}
#endif

/*
 * Lockdown is asked for the use of kprobes: that is what the module begins
 * with, and it is forbidden from confidentiality mode on. Under integrity mode,
 * which Secure Boot sets, only the module's signature counts, and the module
 * loader has checked that.
 */
int hvo_platform_check(void)
{
	if (xen_pv_domain()) {
		pr_err("not on Xen PV: the hypervisor owns the page tables\n");
		return -EOPNOTSUPP;
	}
	if (tags_may_be_copied()) {
		pr_err("not with memory tags (MTE) and KVM, which writes to struct pages that would be read-only: boot with arm64.nomte\n");
		return -EOPNOTSUPP;
	}
	if (security_locked_down(LOCKDOWN_KPROBES)) {
		pr_err("not with lockdown in confidentiality mode: it forbids looking for kernel symbols\n");
		return -EPERM;
	}
	return 0;
}
