/*
 * A container's process that blocks inside of its own write to stdout, holding the pipe.
 *
 * It says "running", and on SIGUSR1 writes from a page that only userfaultfd can fill: the
 * write waits in the kernel with the pipe's lock, and so does whoever splices from the pipe,
 * O_NONBLOCK or not. On SIGUSR2 the page is filled and the write goes on. SIGTERM ends it with
 * code 7. With the argument "probe" it only says by its exit code whether this host permits
 * such a page: 0, or 1 and the reason on stdout.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGE 4096

static char *page;
static int fault_fd;

static void give_up(const char *what) {
    printf("%s: %s\n", what, strerror(errno));
    exit(1);
}

static void *fill_when_told(void *signals) {
    int number;
    for (;;) {
        sigwait(signals, &number);
        if (number == SIGTERM)
            _exit(7);
        if (number == SIGUSR2) {
            static char lines[PAGE];
            memset(lines, '.', PAGE);
            lines[PAGE - 1] = '\n';
            struct uffdio_copy copy = {
                .dst = (unsigned long)page, .src = (unsigned long)lines, .len = PAGE};
            ioctl(fault_fd, UFFDIO_COPY, &copy);
        }
    }
    return NULL;
}

/* Ends when a write waits for the page: a thread less tells the test. */
static void *end_with_the_fault(void *unused) {
    struct uffd_msg message;
    while (read(fault_fd, &message, sizeof message) < 0 && errno == EINTR)
        ;
    return NULL;
}

int main(int argc, char **argv) {
    fault_fd = syscall(SYS_userfaultfd, O_CLOEXEC);
    if (fault_fd < 0)
        give_up("userfaultfd");
    struct uffdio_api api = {.api = UFFD_API};
    if (ioctl(fault_fd, UFFDIO_API, &api))
        give_up("UFFDIO_API");
    page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct uffdio_register range = {
        .range = {.start = (unsigned long)page, .len = PAGE},
        .mode = UFFDIO_REGISTER_MODE_MISSING};
    if (page == MAP_FAILED || ioctl(fault_fd, UFFDIO_REGISTER, &range))
        give_up("UFFDIO_REGISTER");
    if (argc > 1 && strcmp(argv[1], "probe") == 0)
        return 0;

    static sigset_t others, start;
    sigemptyset(&others);
    sigaddset(&others, SIGTERM);
    sigaddset(&others, SIGUSR2);
    sigemptyset(&start);
    sigaddset(&start, SIGUSR1);
    sigprocmask(SIG_BLOCK, &others, NULL);
    sigprocmask(SIG_BLOCK, &start, NULL);
    pthread_t thread;
    pthread_create(&thread, NULL, fill_when_told, &others);
    pthread_create(&thread, NULL, end_with_the_fault, NULL);
    if (write(1, "running\n", 8) != 8)
        return 1;
    for (;;) {
        int number;
        sigwait(&start, &number);
        /* The first byte moves the pipe's pump; the second write is the one that waits. */
        if (write(1, "stuck\n", 6) != 6 || write(1, page, PAGE) != PAGE)
            return 1;
        if (write(1, "moved on\n", 9) != 9)
            return 1;
    }
}
