/* The ends of the log path for pump_bench.py: writers and readers that cost next to nothing.
 *
 *   pump_tool write SIZE SECONDS          writes to stdout for so long, SIZE bytes at a time;
 *                                         prints to stderr how many bytes that were
 *   pump_tool read                        reads stdin to its end; prints bytes and seconds
 *   pump_tool copy                        stdin to stdout by read and write, 64 KiB at a time
 *   pump_tool splice                      stdin to stdout by poll and splice, as little as it takes
 *   pump_tool stamp RATE COUNT FD...      COUNT lines a descriptor, RATE a second each, that
 *                                         start with CLOCK_MONOTONIC in nanoseconds; prints how
 *                                         many lines that were in how many seconds: it ends at
 *                                         its time also where it could not keep the pace
 *   pump_tool collect FD...               reads such lines until all ends; prints the delays
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#define LINE 120
#define LOOK 65536 /* bytes from one look at the clock to the next */
static char buffer[1 << 20];

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static int write_all(int fd, const char *data, size_t left) {
    while (left) {
        ssize_t n = write(fd, data, left);
        if (n < 0) return -1;
        data += n, left -= n;
    }
    return 0;
}

static int run_write(size_t size, double seconds) {
    int64_t end = now_ns() + (int64_t)(seconds * 1e9), total = 0, look = 0;
    memset(buffer, 'x', sizeof buffer);
    for (int64_t i = size - 1; i < (int64_t)sizeof buffer; i += size) buffer[i] = '\n';
    do {
        if (write_all(1, buffer, size)) return 1;
        total += size;
        if (total < look) continue;
        look = total + LOOK;
        if (now_ns() >= end) break;
    } while (1);
    fprintf(stderr, "%lld\n", (long long)total);
    return 0;
}

static int run_read(void) {
    int64_t total = 0, began = 0;
    ssize_t n;
    while ((n = read(0, buffer, 65536)) > 0) {
        if (!began) began = now_ns();
        total += n;
    }
    printf("%lld %.6f\n", (long long)total, (now_ns() - began) / 1e9);
    return n < 0;
}

static int run_splice(void) {
    struct pollfd source = {.fd = 0, .events = POLLIN}, sink = {.fd = 1, .events = POLLOUT};
    ssize_t n;
    while (poll(&source, 1, -1) == 1 &&
           (n = splice(0, NULL, 1, NULL, 1 << 20, SPLICE_F_MOVE | SPLICE_F_NONBLOCK)) != 0)
        if (n < 0 && (errno != EAGAIN || poll(&sink, 1, -1) != 1)) return 1;
    return 0;
}

static int run_copy(void) {
    ssize_t n;
    while ((n = read(0, buffer, 65536)) > 0)
        if (write_all(1, buffer, n)) return 1;
    return n < 0;
}

/* The lines of several descriptors are spread evenly over each period. */
static int run_stamp(double rate, int64_t count, int fds, char **fd) {
    char line[LINE + 1];
    int64_t start = now_ns() + 50000000;
    int64_t end = start + (int64_t)(count * 1e9 / rate), i;
    double step = 1e9 / rate / fds;
    for (i = 0; i < count * fds && (i < fds || now_ns() < end); i++) {
        int64_t at = start + (int64_t)(i * step);
        struct timespec t = {at / 1000000000, at % 1000000000};
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
        snprintf(line, sizeof line, "%-*lld", LINE - 1, (long long)now_ns());
        line[LINE - 1] = '\n';
        if (write_all(atoi(fd[i % fds]), line, LINE)) return 1;
    }
    printf("%lld %.6f\n", (long long)i, (now_ns() - start) / 1e9);
    return 0;
}

static int run_collect(int fds, char **fd) {
    int poll = epoll_create1(0), open_fds = fds;
    static int have[4096];
    static char line[4096][LINE];
    for (int i = 0; i < fds; i++) {
        struct epoll_event e = {.events = EPOLLIN, .data.u32 = i};
        epoll_ctl(poll, EPOLL_CTL_ADD, atoi(fd[i]), &e);
    }
    while (open_fds) {
        struct epoll_event ready[64];
        int k = epoll_wait(poll, ready, 64, -1);
        int64_t seen = now_ns();
        for (int j = 0; j < k; j++) {
            int i = ready[j].data.u32, from = atoi(fd[i]);
            ssize_t n = read(from, buffer, 65536);
            if (n <= 0) {
                epoll_ctl(poll, EPOLL_CTL_DEL, from, NULL), open_fds--;
                continue;
            }
            for (ssize_t b = 0; b < n; b++) {
                line[i][have[i]++] = buffer[b];
                if (have[i] == LINE) {
                    have[i] = 0;
                    printf("%lld\n", (long long)(seen - atoll(line[i])));
                }
            }
        }
    }
    return 0;
}

int main(int argc, char **argv) {
    if (argc == 4 && !strcmp(argv[1], "write")) return run_write(atol(argv[2]), atof(argv[3]));
    if (argc == 2 && !strcmp(argv[1], "read")) return run_read();
    if (argc == 2 && !strcmp(argv[1], "splice")) return run_splice();
    if (argc == 2 && !strcmp(argv[1], "copy")) return run_copy();
    if (argc > 4 && !strcmp(argv[1], "stamp"))
        return run_stamp(atof(argv[2]), atoll(argv[3]), argc - 4, argv + 4);
    if (argc > 2 && argc < 4096 && !strcmp(argv[1], "collect"))
        return run_collect(argc - 2, argv + 2);
    fprintf(stderr, "usage: see the source\n");
    return 2;
}
