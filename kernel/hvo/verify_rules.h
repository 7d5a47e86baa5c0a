/* SPDX-License-Identifier: GPL-2.0-only */
/* What verify.c lets verify_selftest.c see. */
#ifndef HVO_VERIFY_RULES_H
#define HVO_VERIFY_RULES_H

/* The rules that a step can break; verify.c has the words for each. */
enum hvo_rule {
	HVO_RULE_PERMISSION,
	HVO_RULE_FRAME,
	HVO_RULE_ATTRIBUTES,
	HVO_RULE_FLUSH,
	HVO_RULE_CONTENTS,
	HVO_RULE_TARGET,
	HVO_RULE_OWN_FRAME,
	HVO_RULE_SHARED,
	HVO_RULE_NATIVE,
	HVO_RULE_FREE,
	HVO_RULE_STOPPED,
	HVO_RULE_BREAK,
	HVO_RULE_BREAK_FLUSH,
	HVO_RULE_TABLE,
	HVO_RULE_MAX,
};

/**
 * hvo_verify_test_begin() - what follows is wrong on purpose
 *
 * Broken rules are neither counted nor logged until the end of the test.
 *
 * Context: process; caller holds hvo_remap_mutex, nothing is optimized.
 */
void hvo_verify_test_begin(void);

/**
 * hvo_verify_test_end() - forget everything
 *
 * Context: as hvo_verify_test_begin().
 * Return: a bit for each rule that was broken.
 */
unsigned long hvo_verify_test_end(void);

#endif /* HVO_VERIFY_RULES_H */
