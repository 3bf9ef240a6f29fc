/* How do the clocks read on a machine that sleeps, or whose wall clock is set?
 *
 * Put before a process by LD_PRELOAD (absolute path), it adds to what clock_gettime says, which is what
 * Python, DuckDB and fake_nvml.c ask. FAKE_CLOCK names a file of two native int64, mapped by every process
 * and changed in place by build.py, so that all see a change at the same instant:
 *   [0] ns asleep: on BOOTTIME and REALTIME, not on MONOTONIC
 *   [1] ns by which the wall clock was set: on REALTIME alone
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static int (*real)(clockid_t, struct timespec *);
static const volatile int64_t *shift;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("FAKE_CLOCK");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd >= 0) {
        void *map = mmap(NULL, 2 * sizeof(int64_t), PROT_READ, MAP_SHARED, fd, 0);
        if (map != MAP_FAILED) shift = map;
        close(fd);
    }
}

int clock_gettime(clockid_t id, struct timespec *t) {
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int code = real(id, t);
    if (code || !shift) return code;
    int64_t add = 0;
    if (id == CLOCK_BOOTTIME || id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE) add += shift[0];
    if (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE) add += shift[1];
    int64_t ns = t->tv_nsec + add % 1000000000 + 1000000000;
    t->tv_sec += add / 1000000000 + ns / 1000000000 - 1;
    t->tv_nsec = ns % 1000000000;
    return 0;
}
