/* internals.h: the modules of omendb.c from inside, for the tests of one module. A program that
 * includes this is linked with omendb.c compiled so that its internal functions have names for the
 * linker (-DOMENDB_INTERNAL=), once for all such programs. What is private to one module (static in
 * its file) stays so: a test that needs it includes omendb.c instead.
 *
 * To be included before any header of the system. */
#ifndef OMENDB_TESTS_INTERNALS_H
#define OMENDB_TESTS_INTERNALS_H

#if !defined(_GNU_SOURCE)
#define _GNU_SOURCE 1
#endif
#if !defined(_DARWIN_C_SOURCE)
#define _DARWIN_C_SOURCE 1
#endif
#define OMENDB_INTERNAL

#include "amalgamation/blocks.h"
#include "amalgamation/calibration.h"
#include "amalgamation/checksum.h"
#include "amalgamation/codes.h"
#include "amalgamation/cpu.h"
#include "amalgamation/database.h"
#include "amalgamation/decimal.h"
#include "amalgamation/declaration.h"
#include "amalgamation/document.h"
#include "amalgamation/error.h"
#include "amalgamation/filter.h"
#include "amalgamation/format.h"
#include "amalgamation/graph.h"
#include "amalgamation/graph_bulk.h"
#include "amalgamation/graph_bulk_internal.h"
#include "amalgamation/graph_internal.h"
#include "amalgamation/hash.h"
#include "amalgamation/idmap.h"
#include "amalgamation/idmodel.h"
#include "amalgamation/internal.h"
#include "amalgamation/json.h"
#include "amalgamation/kernels.h"
#include "amalgamation/lifecycle.h"
#include "amalgamation/manifest.h"
#include "amalgamation/memory.h"
#include "amalgamation/memtable.h"
#include "amalgamation/overlay.h"
#include "amalgamation/platform.h"
#include "amalgamation/prefetch.h"
#include "amalgamation/records.h"
#include "amalgamation/rows.h"
#include "amalgamation/salvage.h"
#include "amalgamation/scalar.h"
#include "amalgamation/segment.h"
#include "amalgamation/sort.h"
#include "amalgamation/storage.h"
#include "amalgamation/tombstones.h"
#include "amalgamation/wal.h"

#endif
