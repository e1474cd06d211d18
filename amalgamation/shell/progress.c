/* progress.c: one line on the standard error that is drawn over itself:
 *
 *     importing  [=========>          ]  45 %  450,000 rows  98,120 rows/s  0:06 left
 *
 * Invariant: nothing is written unless the standard error is a terminal, and nothing is left of
 * the line once the work is over; a script or a log never sees it. Work that ends within half a
 * second shows no bar at all.
 *
 * The rate is smoothed over about five seconds, so that the time left follows a build that slows
 * down as its graph grows, without jumping from one batch to the next. */
#define _POSIX_C_SOURCE 200809L

#include "progress.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "output.h"

#define PROGRESS_QUIET_US    500000
#define PROGRESS_INTERVAL_US 100000
#define PROGRESS_SMOOTH_S    5.0
#define PROGRESS_BAR         20

uint64_t progress_now_us(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000u;
}

void progress_begin(struct progress *progress, const char *what, const char *unit)
{
    memset(progress, 0, sizeof *progress);
    progress->what = what;
    progress->unit = unit;
    progress->terminal = isatty(STDERR_FILENO) == 1;
    progress->start_us = progress->rate_us = progress_now_us();
}

static size_t progress_screen_width(void)
{
#if defined(TIOCGWINSZ)
    struct winsize size;

    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) {
        return size.ws_col;
    }
#endif
    return 80;
}

static void progress_measure(struct progress *progress, uint64_t now, uint64_t done)
{
    const double seconds = (double)(now - progress->rate_us) / 1e6;
    const double rate = seconds > 0 ? (double)(done - progress->rate_done) / seconds : 0;
    const double weight = seconds / (seconds + PROGRESS_SMOOTH_S);

    progress->rate =
        progress->rate_done == 0 ? rate : (1 - weight) * progress->rate + weight * rate;
    progress->rate_us = now;
    progress->rate_done = done;
}

static void progress_draw_bar(char *bar, double fraction)
{
    const int filled = (int)(fraction * PROGRESS_BAR);
    int i;

    for (i = 0; i < PROGRESS_BAR; i++) {
        bar[i] = i < filled ? '=' : i == filled ? '>' : ' ';
    }
    bar[PROGRESS_BAR] = '\0';
}

/* The line, cut to the screen: one that wraps could not be drawn over. */
static void progress_draw(const struct progress *progress, uint64_t done, double fraction)
{
    char count[OUTPUT_TEXT_BYTES], rate[OUTPUT_TEXT_BYTES], left[OUTPUT_TEXT_BYTES];
    char bar[PROGRESS_BAR + 1], line[256];
    const double remaining = fraction > 0 && progress->rate > 0
                                 ? (double)done * (1 - fraction) / fraction / progress->rate
                                 : 0;
    size_t width = progress_screen_width();

    output_format_count(done, count);
    output_format_count((uint64_t)progress->rate, rate);
    if (fraction < 0) {
        snprintf(line, sizeof line, "%s  %s %s  %s %s/s", progress->what, count, progress->unit,
                 rate, progress->unit);
    } else {
        progress_draw_bar(bar, fraction);
        snprintf(line, sizeof line, "%s  [%s] %3d %%  %s %s  %s %s/s  %s left", progress->what, bar,
                 (int)(fraction * 100), count, progress->unit, rate, progress->unit,
                 output_format_clock(remaining, left));
    }
    width = width - 1 < sizeof line ? width - 1 : sizeof line - 1;
    fprintf(stderr, "\r%.*s\033[K", (int)width, line);
    fflush(stderr);
}

void progress_update(struct progress *progress, uint64_t done, double fraction)
{
    uint64_t now;

    if (!progress->terminal) {
        return;
    }
    now = progress_now_us();
    if (now - progress->start_us < PROGRESS_QUIET_US ||
        now - progress->drawn_us < PROGRESS_INTERVAL_US) {
        return;
    }
    progress_measure(progress, now, done);
    progress_draw(progress, done, fraction > 1 ? 1 : fraction);
    progress->drawn_us = now;
    progress->shown = true;
}

void progress_end(struct progress *progress)
{
    if (progress->shown) {
        fputs("\r\033[K", stderr);
        fflush(stderr);
        progress->shown = false;
    }
}

#undef PROGRESS_QUIET_US
#undef PROGRESS_INTERVAL_US
#undef PROGRESS_SMOOTH_S
#undef PROGRESS_BAR
