/* lifecycle.h: a database from open to close; the surface's way in. */
#ifndef OMENDB_LIFECYCLE_H
#define OMENDB_LIFECYCLE_H

#include "internal.h"

OMENDB_INTERNAL int database_open(const char *path, const omendb_options *options, omendb **db);
OMENDB_INTERNAL int database_close(omendb *db);
OMENDB_INTERNAL void database_free(omendb *db); /* accepts a half-built one */
/* A handle that counted as a child is gone; the last one of a released database closes it. */
OMENDB_INTERNAL void database_child_done(omendb *db);

#endif
