/* progress.h: a bar for work that takes long, on a terminal only. */
#ifndef OMENDB_SHELL_PROGRESS_H
#define OMENDB_SHELL_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

struct progress {
    const char *what; /* "importing" */
    const char *unit; /* "rows" */
    bool terminal;
    bool shown;
    uint64_t start_us;
    uint64_t drawn_us;
    uint64_t rate_us; /* when rate_done was taken */
    uint64_t rate_done;
    double rate; /* a second, smoothed */
};

void progress_begin(struct progress *progress, const char *what, const char *unit);

/* done: of the unit. fraction: 0 to 1 of the work, or below 0 when nobody knows. Cheap: draws ten
 * times a second at most, and not in the first half second. */
void progress_update(struct progress *progress, uint64_t done, double fraction);

/* Takes the bar away. */
void progress_end(struct progress *progress);

/* Microseconds of the monotonic clock. */
uint64_t progress_now_us(void);

#endif
