/* Preloaded into a kernel in user mode: ptrace with room for all of the host's registers.
 *
 * These kernels keep 2,696 bytes of extended registers for each thread. A host with AMX has 11,008,
 * and refuses a set that is shorter (EFAULT): the first process inside would end at once. What a
 * kernel does not know of is left as the thread has it.
 */
#include <stddef.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { PEEK_TEXT = 1, PEEK_USER = 3, GET_SET = 0x4204, SET_SET = 0x4205, XSTATE = 0x202 };

/* Not on the stack, which is the kernel's own and small. It has one processor and never changes
 * the thread within a call. */
static char whole[1 << 16] __attribute__((aligned(64)));

static long call(long request, long pid, void *address, void *data)
{
    return syscall(SYS_ptrace, request, pid, address, data);
}

long ptrace(long request, long pid, void *address, void *data)
{
    if (request >= PEEK_TEXT && request <= PEEK_USER) {
        long word = 0;
        return call(request, pid, address, &word) < 0 ? -1 : word;
    }
    if ((request != GET_SET && request != SET_SET) || (size_t)address != XSTATE)
        return call(request, pid, address, data);
    struct iovec *given = data, all = {whole, sizeof(whole)};
    if (call(GET_SET, pid, address, &all) < 0)
        return -1;
    if (given->iov_len > all.iov_len)
        given->iov_len = all.iov_len;
    if (request == GET_SET) {
        memcpy(given->iov_base, whole, given->iov_len);
        return 0;
    }
    memcpy(whole, given->iov_base, given->iov_len);
    return call(SET_SET, pid, address, &all);
}
