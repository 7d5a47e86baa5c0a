// SPDX-License-Identifier: GPL-2.0-only
/*
 * What /proc/kpageflags and /proc/kpagecount say of every page of HugeTLB
 * folios is the same whether they are optimized or not.
 */
#include <stdlib.h>
#include <sys/mman.h>

#include "kselftest_harness.h"
#include "util.h"

#define KPF_COMPOUND_HEAD (UINT64_C(1) << 15)
#define KPF_COMPOUND_TAIL (UINT64_C(1) << 16)
#define KPF_HUGE (UINT64_C(1) << 17)

#define FILES 2
static const char *const files[FILES] = { "/proc/kpageflags", "/proc/kpagecount" };

/*
 * pages: of each folio; free are those from the half on
 * words: flags and counts of all, in the order of @head
 */
struct view {
	size_t folios;
	size_t pages;
	uint64_t head[8];
	uint64_t *words;
};

FIXTURE(pageflags)
{
	struct view plain, now;
	void *mapping;
};

FIXTURE_VARIANT(pageflags)
{
	unsigned long kb;
	size_t folios;
};

FIXTURE_VARIANT_ADD(pageflags, 2M) { .kb = KB_2M, .folios = 8 };
FIXTURE_VARIANT_ADD(pageflags, 32M) { .kb = KB_32M, .folios = 4 };
FIXTURE_VARIANT_ADD(pageflags, 1G) { .kb = KB_1G, .folios = 1 };

FIXTURE_SETUP(pageflags) {}
FIXTURE_TEARDOWN(pageflags)
{
	free(self->plain.words);
	free(self->now.words);
	if (pool_get(variant->kb, "nr_hugepages") > 0)
		pool_set(variant->kb, ALL_NODES, 0);
}

static int view_init(struct view *v, const struct view *like)
{
	*v = *like;
	v->words = calloc(FILES * v->folios * v->pages, sizeof(*v->words));
	return v->words ? 0 : -ENOMEM;
}

static int view_take(struct view *v)
{
	uint64_t *words = v->words;
	size_t file, i;
	int err;

	for (file = 0; file < FILES; file++)
		for (i = 0; i < v->folios; i++, words += v->pages) {
			err = kpage_read(files[file], v->head[i], v->pages, words);
			if (err)
				return err;
		}
	return 0;
}

/* How many words differ; the first of them are printed. */
static size_t view_compare(const struct view *a, const struct view *b)
{
	size_t i, folio, differ = 0;

	for (i = 0; i < FILES * a->folios * a->pages; i++) {
		if (a->words[i] == b->words[i])
			continue;
		folio = i / a->pages;
		if (++differ <= 8)
			printf("# %s, folio %zu page %zu: %#llx and %#llx\n",
			       files[folio / a->folios], folio % a->folios, i % a->pages,
			       (unsigned long long)a->words[i], (unsigned long long)b->words[i]);
	}
	return differ;
}

/* A head and tails, all huge: else the comparison would say nothing. */
static size_t view_unlike_a_huge_page(const struct view *v)
{
	size_t i, wrong = 0;
	uint64_t kind;

	for (i = 0; i < v->folios * v->pages; i++) {
		kind = i % v->pages ? KPF_COMPOUND_TAIL : KPF_COMPOUND_HEAD;
		wrong += (v->words[i] & (KPF_HUGE | KPF_COMPOUND_HEAD | KPF_COMPOUND_TAIL)) !=
			 (KPF_HUGE | kind);
	}
	return wrong;
}

/* Takes pages, looks where they are, and gives the second half back. */
static int folios_find(struct view *v, unsigned long kb, void **ret_mapping)
{
	size_t i, size = (size_t)kb << 10, kept = (v->folios + 1) / 2;
	char *p = huge_map(kb, v->folios, MAP_PRIVATE);

	if (!p)
		return -errno;
	for (i = 0; i < v->folios; i++) {
		p[i * size] = 1;
		v->head[i] = pfn_of(p + i * size);
		if (!v->head[i])
			return -ENOENT;
	}
	if (kept < v->folios)
		munmap(p + kept * size, (v->folios - kept) * size);
	*ret_mapping = p;
	return 0;
}

TEST_F_TIMEOUT(pageflags, same_before_and_after, PATIENCE)
{
	struct view shape = { .folios = variant->folios, .pages = variant->kb / 4 };

	if (pool_get(variant->kb, "nr_hugepages") < 0)
		SKIP(return, "no huge pages of %lu kB on this architecture", variant->kb);
	ASSERT_EQ(0, pool_set(variant->kb, ALL_NODES, (long)variant->folios));
	ASSERT_EQ(0, folios_find(&shape, variant->kb, &self->mapping));
	ASSERT_EQ(0, view_init(&self->plain, &shape));
	ASSERT_EQ(0, view_init(&self->now, &shape));

	ASSERT_EQ(0, view_take(&self->plain));
	EXPECT_EQ(0, view_unlike_a_huge_page(&self->plain));

	ASSERT_EQ(0, hvo_set("enabled", 1));
	ASSERT_EQ((long)variant->folios, hvo_figure(variant->kb, ALL_NODES, "optimized"));
	ASSERT_EQ(0, view_take(&self->now));
	EXPECT_EQ(0, view_compare(&self->plain, &self->now)) {
		TH_LOG("optimized");
	}

	ASSERT_EQ(0, hvo_set("enabled", 0));
	ASSERT_EQ(0, view_take(&self->now));
	EXPECT_EQ(0, view_compare(&self->plain, &self->now)) {
		TH_LOG("restored");
	}
	munmap(self->mapping, ((variant->folios + 1) / 2) * variant->kb << 10);
}

FIXTURE(the_end) {};
FIXTURE_SETUP(the_end) {}
FIXTURE_TEARDOWN(the_end) {}

TEST_F_TIMEOUT(the_end, nothing_is_left, PATIENCE)
{
	EXPECT_EQ(0, hvo_end());
}

HVO_MAIN
