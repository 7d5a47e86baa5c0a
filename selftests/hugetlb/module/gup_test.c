// SPDX-License-Identifier: GPL-2.0-only
/*
 * The kernel's gup_test (CONFIG_GUP_TEST, which no distribution sets) as a
 * module: all that it needs is exported but for one thing, and its
 * late_initcall() is a module_init() here. It has no exit: a loaded one stays.
 */
#include <linux/mm.h>
#include <linux/module.h>

/*
 * With CMA this asks for the migrate type of a page block, which modules cannot.
 * Only the check that a long-term pin got no page of a CMA area is lost by it.
 */
#ifdef CONFIG_CMA
#define folio_is_longterm_pinnable(folio) ((void)(folio), true)
#endif

#include <mm/gup_test.c>

MODULE_DESCRIPTION("get_user_pages() test of the kernel, as a module");
MODULE_LICENSE("GPL");
