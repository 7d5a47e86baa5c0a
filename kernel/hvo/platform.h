/* SPDX-License-Identifier: GPL-2.0-only */
/* Hosts on which the module refuses to load. */
#ifndef HVO_PLATFORM_H
#define HVO_PLATFORM_H

/**
 * hvo_platform_check() - may the module work on this host at all?
 *
 * Refuses Xen PV (the hypervisor owns the page tables), arm64 processors with
 * memory tags (KVM may write to tails then) and lockdown in confidentiality
 * mode (which forbids looking into the kernel). Needs no symbol of symbols.h.
 *
 * Context: module init; sleeps.
 * Return: 0; -EOPNOTSUPP, -EPERM, with the reason in the log.
 */
int hvo_platform_check(void);

/**
 * hvo_struct_check() - is the running kernel the one that we were built for?
 *
 * Compares size and offset of each member that the module uses with the
 * running kernel's BTF.
 *
 * Context: module init, after hvo_symbols_resolve(); sleeps.
 * Return: 0; -EINVAL for a difference, -ENOENT without BTF, with the name of
 * the structure and member in the log.
 */
int hvo_struct_check(void);

#endif /* HVO_PLATFORM_H */
