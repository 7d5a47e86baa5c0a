// SPDX-License-Identifier: GPL-2.0-only
/*
 * Is the running kernel laid out as the headers that the module was built with?
 *
 * Module versioning only covers what exported symbols mention, and the module
 * goes far beyond these. So each structure that it looks into is compared with
 * the kernel's own description of its types: size of the structure, and for
 * each member in use offset and size.
 */
#include <linux/btf.h>
#include <linux/err.h>
#include <linux/mm_types.h>
#include <linux/module.h>

#include "hvo.h"
#include "platform.h"
#include "symbols.h"

struct member {
	const char *name;
	unsigned int offset;
	unsigned int size;
};

struct structure {
	const char *name;
	unsigned int size;
	const struct member *members;
	unsigned int count;
};

#define MEMBER(type, member) \
	{ #member, offsetof(struct type, member), sizeof_field(struct type, member) }
#define STRUCTURE(type) \
	{ #type, sizeof(struct type), type##_members, ARRAY_SIZE(type##_members) }

static const struct member page_members[] = {
	MEMBER(page, flags),
	MEMBER(page, compound_head),
	MEMBER(page, lru),
	MEMBER(page, mapping),
	MEMBER(page, private),
	MEMBER(page, _mapcount),
	MEMBER(page, _refcount),
#ifdef CONFIG_MEMCG
	MEMBER(page, memcg_data),
#endif
};

static const struct member folio_members[] = {
	MEMBER(folio, flags),
	MEMBER(folio, lru),
	MEMBER(folio, mapping),
	MEMBER(folio, private),
	MEMBER(folio, _mapcount),
	MEMBER(folio, _refcount),
};

static const struct member hstate_members[] = {
	MEMBER(hstate, resize_lock),
	MEMBER(hstate, order),
	MEMBER(hstate, demote_order),
	MEMBER(hstate, max_huge_pages),
	MEMBER(hstate, nr_huge_pages),
	MEMBER(hstate, free_huge_pages),
	MEMBER(hstate, surplus_huge_pages),
	MEMBER(hstate, hugepage_activelist),
	MEMBER(hstate, hugepage_freelists),
	MEMBER(hstate, nr_huge_pages_node),
	MEMBER(hstate, free_huge_pages_node),
	MEMBER(hstate, surplus_huge_pages_node),
	MEMBER(hstate, name),
};

static const struct member mm_struct_members[] = {
	MEMBER(mm_struct, pgd),
	MEMBER(mm_struct, page_table_lock),
};

static const struct structure structures[] = {
	STRUCTURE(page),
	STRUCTURE(folio),
	STRUCTURE(hstate),
	STRUCTURE(mm_struct),
};

#ifdef HVO_TEST
static bool break_struct;
module_param(break_struct, bool, 0444);
MODULE_PARM_DESC(break_struct, "expect every member one byte further on");
#else
#define break_struct false
#endif

/* Modifiers and typedefs have the size of what they name. */
static u32 type_size(const struct btf *btf, u32 id)
{
	const struct btf_type *type = btf_type_by_id(btf, id);
	u32 elements = 1;

	while (type) {
		switch (btf_kind(type)) {
		case BTF_KIND_PTR:
			return elements * sizeof(void *);
		case BTF_KIND_ARRAY:
			elements *= btf_array(type)->nelems;
			type = btf_type_by_id(btf, btf_array(type)->type);
			break;
		case BTF_KIND_TYPEDEF:
		case BTF_KIND_VOLATILE:
		case BTF_KIND_CONST:
		case BTF_KIND_RESTRICT:
		case BTF_KIND_TYPE_TAG:
			type = btf_type_by_id(btf, type->type);
			break;
		case BTF_KIND_INT:
		case BTF_KIND_STRUCT:
		case BTF_KIND_UNION:
		case BTF_KIND_ENUM:
		case BTF_KIND_ENUM64:
			return elements * type->size;
		default:
			return 0;
		}
	}
	return 0;
}

/*
 * Looks for a member, also in the anonymous structures and unions of @type,
 * which begins at bit @base of the whole. These nest a few levels deep only.
 */
static bool find_member(const struct btf *btf, const struct btf_type *type, u32 base,
			const char *name, u32 *ret_bit, u32 *ret_size)
{
	const struct btf_member *member;
	const char *member_name;
	int i;

	for_each_member(i, type, member) {
		u32 bit = base + __btf_member_bit_offset(type, member);

		member_name = hvo_btf_name_by_offset(btf, member->name_off);
		if (!member_name)
			continue;
		if (*member_name) {
			if (strcmp(member_name, name))
				continue;
			*ret_bit = bit;
			*ret_size = type_size(btf, member->type);
			return true;
		}
		if (find_member(btf, btf_type_by_id(btf, member->type), bit, name, ret_bit,
				ret_size))
			return true;
	}
	return false;
}

static int check_member(const struct btf *btf, const struct btf_type *type, const char *structure,
			const struct member *member)
{
	u32 bit, size;

	if (!find_member(btf, type, 0, member->name, &bit, &size)) {
		pr_err("struct %s of this kernel has no member %s\n", structure, member->name);
		return -EINVAL;
	}
	if (bit != (member->offset + break_struct) * BITS_PER_BYTE || size != member->size) {
		pr_err("struct %s: %s has %u bytes at %u.%u in this kernel, the module was built for %u at %u\n",
		       structure, member->name, size, bit / BITS_PER_BYTE, bit % BITS_PER_BYTE,
		       member->size, member->offset + break_struct);
		return -EINVAL;
	}
	return 0;
}

static int check_structure(const struct btf *btf, const struct structure *structure)
{
	const struct btf_type *type;
	unsigned int i;
	s32 id;
	int ret;

	id = hvo_btf_find_by_name_kind(btf, structure->name, BTF_KIND_STRUCT);
	type = id > 0 ? btf_type_by_id(btf, id) : NULL;
	if (!type) {
		pr_err("this kernel has no struct %s\n", structure->name);
		return -EINVAL;
	}
	if (type->size != structure->size) {
		pr_err("struct %s has %u bytes in this kernel, the module was built for %u\n",
		       structure->name, type->size, structure->size);
		return -EINVAL;
	}
	for (i = 0; i < structure->count; i++) {
		ret = check_member(btf, type, structure->name, &structure->members[i]);
		if (ret)
			return ret;
	}
	return 0;
}

int hvo_struct_check(void)
{
	const struct btf *btf = hvo_bpf_get_btf_vmlinux();
	unsigned int i;
	int ret;

	if (IS_ERR_OR_NULL(btf)) {
		pr_err("this kernel describes its types nowhere (CONFIG_DEBUG_INFO_BTF)\n");
		return -ENOENT;
	}
	for (i = 0; i < ARRAY_SIZE(structures); i++) {
		ret = check_structure(btf, &structures[i]);
		if (ret)
			return ret;
	}
	return 0;
}
