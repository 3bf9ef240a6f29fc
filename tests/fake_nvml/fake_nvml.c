/* What would an NVIDIA driver say, on a machine that has none?
 *
 * A stand-in for libnvidia-ml.so.1 with the calls that nvidia-ml-py makes for energyd. It plays a known
 * power curve through the sensors of an H100 as they were measured, so that a test can compare what the
 * daemon stored with the curve's own integral. Used from any process by LD_LIBRARY_PATH.
 *
 * The curve: straight lines between knots, repeated for ever, as a function of CLOCK_BOOTTIME; so every
 * process sees the same one, and so does the truth in build.py. Device d plays it d x 0.7 s ahead (`ahead_ms`).
 *   FAKE_NVML_TRACE    file of knots, one "t_ns,power_mw" (or blank between) a line, first t_ns 0; lines
 *                      that start with no digit are skipped. Read at each first nvmlInit. Without it: a
 *                      built-in curve of 5 s between 120 and 640 W (`builtin`; build.py has the same one).
 *
 * The sensors (t in ms on a fixed grid):
 *   ring     every 20 ms the mean of the last 20 ms, however its stamps wander; 119 deep; CLOCK_REALTIME microseconds
 *   instant  (field 186) every 100 ms the mean of the last 25 ms
 *   average  (field 185, nvmlDeviceGetPowerUsage) every 100 ms the mean of the last 1 s
 *   counter  (field 83, nvmlDeviceGetTotalEnergyConsumption) every 100 ms the integral in mJ
 *
 * FAKE_NVML_SPENT names a file of two native 64-bit integers that each process keeps as it goes: CPU ns spent
 * inside these calls by all its threads, and their number.
 *
 * FAKE_NVML_USERS names a file to which each process adds a line when it takes the library and when it has let
 * go of it: "PID init" and "PID shutdown".
 *
 * FAKE_NVML_COUNTED names a file to which each read of an energy counter adds a line: "BOOTTIME_NS DEVICE".
 *
 * FAKE_NVML_CONTROL names a file that is looked at on every call (replace it by rename). One order a line,
 * '#' starts a comment; DEVICE defaults to all:
 *   devices N                          number of GPUs (1 to 16; default 1); 0: none
 *   error CALL CODE [device=D] [every=N]   CALL (or * for all but nvmlShutdown and nvmlErrorString) returns
 *                                      CODE; with device=D only where that GPU is meant; with every=N only
 *                                      each Nth such call
 *   field ID CODE [device=D] [every=N] nvmlReturn of that field alone
 *   missing WHAT [device=D]            ring | instant | average | counter | temperature | clock | limit |
 *                                      throttle | pids | mig: NOT_SUPPORTED. `average` takes
 *                                      nvmlDeviceGetPowerUsage along, `counter` field 83
 *   zero WHAT N [device=D]             every Nth value of ring or instant or average reads 0 mW
 *   scale WHAT X [device=D]            ring, instant, average or counter lies by the factor X
 *   wide                               values come as unsigned long long, not unsigned int
 *   period_ms MS · depth N             of the ring
 *   instant_period_ms MS · instant_window_ms MS · average_period_ms MS · average_window_ms MS
 *                                      how often each is new, and the time that its mean is over
 *   counter_period_ms MS               how often the counter steps
 *   ahead_ms MS                        device d plays the curve d x MS ahead
 *   lacks CALL                         the call is missing, as an older driver lacks a symbol: NVML 13
 *   jitter_ms MS                       ring stamps wander by up to +-MS (below half the period)
 *   young_ms MS                        the ring holds nothing older than MS after the process's nvmlInit
 *   delay_ms MS [CALL]                 CALL (default: every one) takes that much longer
 *   burn_ms MS CALL                    each CALL takes that much CPU time of its thread, as a driver does; one
 *                                      order a call. `counter` means both ways to read it
 *   counter_reset [device=D]           the counter starts again from 0 when a process first sees this line
 *   pids DEVICE PID [PID ...]          compute processes
 *   busy DEVICE PID PERCENT [PID PERCENT ...]  what nvmlDeviceGetProcessUtilization says of it, each 100 ms anew
 *                                      (NOT_SUPPORTED while MIG is on, as the driver has it)
 *   mig DEVICE 0|1 · limit_mw MW · temperature C · clock MHZ · throttle BITS · driver TEXT
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7 };
enum { TYPE_UINT = 1, TYPE_ULONGLONG = 3 };
enum { RING, INSTANT, AVERAGE, COUNTER, TEMPERATURE, CLOCK, LIMIT, THROTTLE, PIDS, MIG, WHATS };
static const char *what_names[WHATS] = {"ring", "instant", "average", "counter", "temperature",
                                        "clock", "limit", "throttle", "pids", "mig"};
enum { MAX_DEVICES = 16, MAX_RULES = 64, MAX_PIDS = 16, MAX_BURNS = 8 };
static const int64_t MS = 1000000, SECOND = 1000000000LL;

typedef union { double d; unsigned int ui; unsigned long ul; unsigned long long ull; } value_t;
typedef struct { unsigned long long stamp_us; value_t value; } sample_t;
typedef struct { unsigned int id, scope; int64_t stamp_us, latency_us; unsigned int type; int code; value_t value; } field_t;
typedef struct { unsigned int pid; unsigned long long memory; unsigned int gpu_instance, compute_instance; } process_t;
typedef struct { unsigned int pid; unsigned long long stamp_us; unsigned int sm, memory, encoder, decoder; } use_t;
typedef struct { int index; } device_t;
typedef struct { char call[64]; int field, code, device, every; unsigned long seen; } rule_t;

static struct {
    int devices, wide, rules, zero[3][MAX_DEVICES], mig[MAX_DEVICES], n_pids[MAX_DEVICES], reset[MAX_DEVICES];
    int missing[WHATS][MAX_DEVICES];
    double scale[4][MAX_DEVICES];
    int n_busy[MAX_DEVICES];
    struct { unsigned int pid, percent; } busy[MAX_DEVICES][MAX_PIDS];
    unsigned int pids[MAX_DEVICES][MAX_PIDS], limit_mw, temperature, clock;
    unsigned long long throttle;
    int64_t period, depth, jitter, young, ahead, counter_period, every[3], window[3];  /* of INSTANT, AVERAGE */
    double delay_ms;
    int burns;
    struct { char call[64]; int64_t ns; } burn[MAX_BURNS];
    char delay_call[64], driver[80];
    rule_t rule[MAX_RULES];
} c;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static device_t device[MAX_DEVICES];
static int users;
static int64_t began, offset;                 /* of this process's nvmlInit; realtime less boottime */
static double reset_mj[MAX_DEVICES];
static int was_reset[MAX_DEVICES];
static struct stat seen;
static _Thread_local int64_t entered, burning;  /* this thread's CPU time at the call; what the call shall take */
static int64_t nowhere[2], *spent = nowhere;  /* CPU ns in calls, calls */
static size_t n_knots;
static int64_t *knot_t;
static double *knot_mw, *knot_mj;
static const struct { int64_t ms; double w; } builtin[] = {
    {0, 120}, {1000, 120}, {1050, 600}, {2500, 640}, {2550, 200}, {3200, 200}, {3300, 500}, {4400, 520}, {4500, 120}, {5000, 120}};

/* ---- time and the curve ---------------------------------------------------------------------- */

static int64_t clock_ns(clockid_t id) {
    struct timespec t;
    clock_gettime(id, &t);
    return t.tv_sec * SECOND + t.tv_nsec;
}

static void add_knot(int64_t t, double mw) {
    knot_t = realloc(knot_t, (n_knots + 1) * sizeof *knot_t);
    knot_mw = realloc(knot_mw, (n_knots + 1) * sizeof *knot_mw);
    knot_mj = realloc(knot_mj, (n_knots + 1) * sizeof *knot_mj);
    knot_t[n_knots] = t;
    knot_mw[n_knots] = mw;
    knot_mj[n_knots] = n_knots ? knot_mj[n_knots - 1] + (mw + knot_mw[n_knots - 1]) / 2 * (t - knot_t[n_knots - 1]) / 1e9 : 0;
    n_knots++;
}

static void load_trace(void) {
    const char *path = getenv("FAKE_NVML_TRACE");
    FILE *f = path ? fopen(path, "r") : NULL;
    n_knots = 0;
    if (f) {
        char line[256];
        while (fgets(line, sizeof line, f)) {
            long long t;
            double mw;
            if (sscanf(line, "%lld%*[, \t]%lf", &t, &mw) == 2) add_knot(t, mw);
        }
        fclose(f);
    }
    if (n_knots < 2) {
        n_knots = 0;
        for (size_t i = 0; i < sizeof builtin / sizeof *builtin; i++) add_knot(builtin[i].ms * MS, builtin[i].w * 1000);
    }
}

static double energy_mj(int d, int64_t boottime) {
    int64_t length = knot_t[n_knots - 1], t = boottime + d * c.ahead, u = t % length;
    size_t low = 0, high = n_knots - 1;
    while (high - low > 1) {
        size_t middle = (low + high) / 2;
        if (knot_t[middle] <= u) low = middle; else high = middle;
    }
    double x = (u - knot_t[low]) / 1e9, step = (knot_t[high] - knot_t[low]) / 1e9;
    double slope = step > 0 ? (knot_mw[high] - knot_mw[low]) / step : 0;
    return (double)(t / length) * knot_mj[n_knots - 1] + knot_mj[low] + x * (knot_mw[low] + slope * x / 2);
}

static unsigned long long mean_mw(int d, int what, int64_t from, int64_t to, int64_t number) {
    if (c.zero[what][d] && number % c.zero[what][d] == 0) return 0;
    return (unsigned long long)(c.scale[what][d] * (energy_mj(d, to) - energy_mj(d, from)) / ((to - from) / 1e9) + 0.5);
}

/* ---- the control file ------------------------------------------------------------------------ */

static int what_of(const char *name) {
    for (int i = 0; i < WHATS; i++) if (!strcmp(name, what_names[i])) return i;
    return -1;
}

/* `device=D` and `every=N` of an order, wherever they stand in it */
static int option(const char *line, const char *name, int otherwise) {
    const char *at = strstr(line, name);
    return at ? atoi(at + strlen(name)) : otherwise;
}

static void order(char *line) {
    char verb[32] = "", a[64] = "", b[64] = "";
    line[strcspn(line, "#\n")] = 0;
    if (sscanf(line, "%31s %63s %63s", verb, a, b) < 1) return;
    int d = option(line, "device=", -1), what = what_of(a);
    if (!strcmp(verb, "devices")) c.devices = atoi(a) > MAX_DEVICES ? MAX_DEVICES : atoi(a);
    else if (!strcmp(verb, "wide")) c.wide = 1;
    else if (!strcmp(verb, "period_ms")) c.period = (int64_t)(atof(a) * MS);
    else if (!strcmp(verb, "depth")) c.depth = atoi(a);
    else if (!strcmp(verb, "jitter_ms")) c.jitter = (int64_t)(atof(a) * MS);
    else if (!strcmp(verb, "young_ms")) c.young = (int64_t)(atof(a) * MS);
    else if (!strcmp(verb, "instant_period_ms")) c.every[INSTANT] = (int64_t)(atof(a) * MS);
    else if (!strcmp(verb, "instant_window_ms")) c.window[INSTANT] = (int64_t)(atof(a) * MS);
    else if (!strcmp(verb, "average_period_ms")) c.every[AVERAGE] = (int64_t)(atof(a) * MS);
    else if (!strcmp(verb, "average_window_ms")) c.window[AVERAGE] = (int64_t)(atof(a) * MS);
    else if (!strcmp(verb, "counter_period_ms")) c.counter_period = (int64_t)(atof(a) * MS);
    else if (!strcmp(verb, "ahead_ms")) c.ahead = (int64_t)(atof(a) * MS);
    else if (!strcmp(verb, "limit_mw")) c.limit_mw = atoi(a);
    else if (!strcmp(verb, "temperature")) c.temperature = atoi(a);
    else if (!strcmp(verb, "clock")) c.clock = atoi(a);
    else if (!strcmp(verb, "throttle")) c.throttle = strtoull(a, NULL, 0);
    else if (!strcmp(verb, "driver")) snprintf(c.driver, sizeof c.driver, "%s", a);
    else if (!strcmp(verb, "delay_ms")) { c.delay_ms = atof(a); snprintf(c.delay_call, sizeof c.delay_call, "%s", b); }
    else if (!strcmp(verb, "burn_ms") && c.burns < MAX_BURNS) {
        snprintf(c.burn[c.burns].call, sizeof c.burn[0].call, "%s", b);
        c.burn[c.burns++].ns = (int64_t)(atof(a) * MS);
    } else if (!strcmp(verb, "mig")) c.mig[atoi(a) % MAX_DEVICES] = atoi(b);
    else if ((!strcmp(verb, "error") || !strcmp(verb, "field") || !strcmp(verb, "lacks")) && c.rules < MAX_RULES) {
        rule_t *r = &c.rule[c.rules++];
        if (*verb == 'l') strcpy(b, "13");
        if (*verb == 'f') { r->field = atoi(a); *r->call = 0; } else { r->field = 0; snprintf(r->call, sizeof r->call, "%s", a); }
        r->code = atoi(b);
        r->device = d;
        r->every = option(line, "every=", 1);
        if (r->every < 1) r->every = 1;
        r->seen = 0;
    } else if (!strcmp(verb, "pids")) {
        int at = atoi(a) % MAX_DEVICES;
        char *rest = NULL, *word = strtok_r(line, " \t", &rest);
        word = strtok_r(NULL, " \t", &rest);
        while ((word = strtok_r(NULL, " \t", &rest)) && c.n_pids[at] < MAX_PIDS) c.pids[at][c.n_pids[at]++] = atoi(word);
    } else if (!strcmp(verb, "busy")) {
        int at = atoi(a) % MAX_DEVICES;
        char *rest = NULL, *word = strtok_r(line, " \t", &rest), *percent;
        word = strtok_r(NULL, " \t", &rest);
        while ((word = strtok_r(NULL, " \t", &rest)) && (percent = strtok_r(NULL, " \t", &rest)) && c.n_busy[at] < MAX_PIDS) {
            c.busy[at][c.n_busy[at]].pid = atoi(word);
            c.busy[at][c.n_busy[at]++].percent = strtoul(percent, NULL, 0);
        }
    } else for (int i = 0; i < MAX_DEVICES; i++) {
        if (d >= 0 && d != i) continue;
        if (!strcmp(verb, "missing") && what >= 0) c.missing[what][i] = 1;
        if (!strcmp(verb, "zero") && what >= 0 && what < 3) c.zero[what][i] = atoi(b);
        if (!strcmp(verb, "scale") && what >= 0 && what < 4) c.scale[what][i] = atof(b);
        if (!strcmp(verb, "counter_reset")) c.reset[i] = 1;
    }
}

static void read_control(void) {
    const char *path = getenv("FAKE_NVML_CONTROL");
    struct stat now;
    memset(&now, 0, sizeof now);
    if (path) stat(path, &now);
    int same = now.st_ino == seen.st_ino && now.st_size == seen.st_size && now.st_mtim.tv_sec == seen.st_mtim.tv_sec &&
               now.st_mtim.tv_nsec == seen.st_mtim.tv_nsec;
    if (c.depth && same) return;
    seen = now;
    memset(&c, 0, sizeof c);
    c.devices = 1; c.period = 20 * MS; c.depth = 119; c.young = -1; c.ahead = 700 * MS;
    c.every[INSTANT] = c.every[AVERAGE] = c.counter_period = 100 * MS;
    c.window[INSTANT] = 25 * MS; c.window[AVERAGE] = SECOND;
    c.limit_mw = 700000; c.temperature = 41; c.clock = 1980;
    strcpy(c.driver, "999.01.02");
    for (int i = 0; i < MAX_DEVICES; i++) for (int k = 0; k < 4; k++) c.scale[k][i] = 1;
    FILE *f = path ? fopen(path, "r") : NULL;
    if (!f) return;
    char line[512];
    while (fgets(line, sizeof line, f)) order(line);
    fclose(f);
    for (int i = 0; i < MAX_DEVICES; i++) {
        if (c.reset[i] && !was_reset[i] && n_knots) reset_mj[i] = energy_mj(i, clock_ns(CLOCK_BOOTTIME));
        was_reset[i] = c.reset[i];
    }
}

static void open_spent(void) {
    const char *path = getenv("FAKE_NVML_SPENT");
    int fd = path ? open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600) : -1;
    if (fd < 0) return;
    void *at = ftruncate(fd, sizeof nowhere) ? MAP_FAILED : mmap(NULL, sizeof nowhere, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (at != MAP_FAILED) spent = at;
}

/* The call as a whole shall take so much CPU time: what the work here took counts. */
static void burn(const char *call) {
    for (int i = 0; i < c.burns; i++) if (!strcmp(c.burn[i].call, call)) burning += c.burn[i].ns;
}

/* What the script says about this call; the lock is held from here until `leave`. */
static int enter(const char *call, int d, int needs_init) {
    entered = clock_ns(CLOCK_THREAD_CPUTIME_ID);
    burning = 0;
    pthread_mutex_lock(&lock);
    read_control();
    burn(call);
    if (!strcmp(call, "nvmlDeviceGetTotalEnergyConsumption")) burn("counter");
    if (c.delay_ms > 0 && (!*c.delay_call || !strcmp(c.delay_call, call))) {
        struct timespec t = {(time_t)(c.delay_ms / 1000), (long)(c.delay_ms * 1e6) % 1000000000L};
        pthread_mutex_unlock(&lock);
        nanosleep(&t, NULL);
        pthread_mutex_lock(&lock);
    }
    if (needs_init && !users) return UNINITIALIZED;
    if (d >= c.devices) return NOT_FOUND;
    for (int i = 0; i < c.rules; i++) {
        rule_t *r = &c.rule[i];
        if (!*r->call || (strcmp(r->call, "*") && strcmp(r->call, call))) continue;
        if (r->device >= 0 && r->device != d) continue;
        if (++r->seen % r->every == 0) return r->code;
    }
    return SUCCESS;
}

static int leave(int code) {
    if (burning) {
        pthread_mutex_unlock(&lock);
        while (clock_ns(CLOCK_THREAD_CPUTIME_ID) < entered + burning) {}
        burning = 0;
        pthread_mutex_lock(&lock);
    }
    spent[0] += clock_ns(CLOCK_THREAD_CPUTIME_ID) - entered;
    spent[1]++;
    pthread_mutex_unlock(&lock);
    return code;
}

#define ENTER(call, d) do { int code_ = enter(call, d, 1); if (code_) return leave(code_); } while (0)
#define NEEDS(what, d) do { if (c.missing[what][d]) return leave(NOT_SUPPORTED); } while (0)

/* Stamps must not wander by a microsecond between calls: the offset holds until the wall clock steps. */
static int64_t realtime_offset(void) {
    int64_t b = clock_ns(CLOCK_BOOTTIME), now = clock_ns(CLOCK_REALTIME) - b;
    if (!offset || llabs(now - offset) > MS) offset = now;
    return offset;
}

static void put(value_t *value, unsigned int *type, unsigned long long number) {
    *type = c.wide ? TYPE_ULONGLONG : TYPE_UINT;
    value->ull = 0xAAAAAAAA00000000ULL;  /* rubbish beside a 32-bit value: whoever reads the wrong member sees it */
    if (c.wide) value->ull = number; else value->ui = (unsigned int)number;
}

static void tell(const char *what) {
    const char *path = getenv("FAKE_NVML_USERS");
    int fd = path ? open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666) : -1;
    if (fd < 0) return;
    dprintf(fd, "%d %s\n", getpid(), what);
    close(fd);
}

static void tell_counted(int d) {
    const char *path = getenv("FAKE_NVML_COUNTED");
    int fd = path ? open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666) : -1;
    if (fd < 0) return;
    dprintf(fd, "%lld %d\n", (long long)clock_ns(CLOCK_BOOTTIME), d);
    close(fd);
}

/* ---- NVML ------------------------------------------------------------------------------------ */

int nvmlInitWithFlags(unsigned int flags) {
    (void)flags;
    int code = enter("nvmlInitWithFlags", -1, 0);
    if (code) return leave(code);
    if (!users++) {
        tell("init");
        if (spent == nowhere) open_spent();
        began = clock_ns(CLOCK_BOOTTIME);
        load_trace();
        for (int i = 0; i < MAX_DEVICES; i++) device[i].index = i;
    }
    return leave(SUCCESS);
}

int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }

int nvmlShutdown(void) {
    entered = clock_ns(CLOCK_THREAD_CPUTIME_ID);
    burning = 0;
    pthread_mutex_lock(&lock);
    if (!users) return leave(UNINITIALIZED);
    if (!--users) tell("shutdown");
    return leave(SUCCESS);
}

const char *nvmlErrorString(int code) {
    switch (code) {
    case 3: return "Not Supported";
    case 15: return "GPU is lost";
    case 999: return "Unknown Error";
    default: return "Scripted Error";
    }
}

int nvmlSystemGetDriverVersion(char *text, unsigned int length) {
    ENTER("nvmlSystemGetDriverVersion", -1);
    snprintf(text, length, "%s", c.driver);
    return leave(SUCCESS);
}

int nvmlSystemGetNVMLVersion(char *text, unsigned int length) {
    ENTER("nvmlSystemGetNVMLVersion", -1);
    snprintf(text, length, "99.%s", c.driver);
    return leave(SUCCESS);
}

int nvmlDeviceGetCount_v2(unsigned int *count) {
    ENTER("nvmlDeviceGetCount_v2", -1);
    *count = c.devices;
    return leave(SUCCESS);
}

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, device_t **out) {
    ENTER("nvmlDeviceGetHandleByIndex_v2", (int)index);
    *out = &device[index];
    return leave(SUCCESS);
}

static void uuid_of(int d, char *text, unsigned int length) {
    snprintf(text, length, "GPU-fa4e0000-0000-4000-8000-%012x", d);
}

int nvmlDeviceGetHandleByUUID(const char *uuid, device_t **out) {
    char text[64];
    for (int d = 0; d < MAX_DEVICES; d++) {
        uuid_of(d, text, sizeof text);
        if (strcmp(text, uuid)) continue;
        ENTER("nvmlDeviceGetHandleByUUID", d);
        *out = &device[d];
        return leave(SUCCESS);
    }
    return NOT_FOUND;
}

int nvmlDeviceGetUUID(device_t *h, char *text, unsigned int length) {
    ENTER("nvmlDeviceGetUUID", h->index);
    uuid_of(h->index, text, length);
    return leave(SUCCESS);
}

int nvmlDeviceGetName(device_t *h, char *text, unsigned int length) {
    ENTER("nvmlDeviceGetName", h->index);
    snprintf(text, length, "Fake H100 %d", h->index);
    return leave(SUCCESS);
}

int nvmlDeviceGetIndex(device_t *h, unsigned int *index) {
    ENTER("nvmlDeviceGetIndex", h->index);
    *index = h->index;
    return leave(SUCCESS);
}

int nvmlDeviceGetMigMode(device_t *h, unsigned int *current, unsigned int *pending) {
    ENTER("nvmlDeviceGetMigMode", h->index);
    NEEDS(MIG, h->index);
    *current = *pending = c.mig[h->index];
    return leave(SUCCESS);
}

/* What instant or average show now: the mean over their window before the newest point of their grid. */
static unsigned long long polled_mw(int d, int what) {
    int64_t number = clock_ns(CLOCK_BOOTTIME) / c.every[what], at = number * c.every[what];
    return mean_mw(d, what, at - c.window[what], at, number);
}

static unsigned long long counter_mj(int d) {
    tell_counted(d);
    double mj = energy_mj(d, clock_ns(CLOCK_BOOTTIME) / c.counter_period * c.counter_period) - reset_mj[d];
    return mj > 0 ? (unsigned long long)(c.scale[COUNTER][d] * mj) : 0;
}

int nvmlDeviceGetPowerUsage(device_t *h, unsigned int *mw) {
    ENTER("nvmlDeviceGetPowerUsage", h->index);
    NEEDS(AVERAGE, h->index);
    *mw = (unsigned int)polled_mw(h->index, AVERAGE);
    return leave(SUCCESS);
}

int nvmlDeviceGetTotalEnergyConsumption(device_t *h, unsigned long long *mj) {
    ENTER("nvmlDeviceGetTotalEnergyConsumption", h->index);
    NEEDS(COUNTER, h->index);
    *mj = counter_mj(h->index);
    return leave(SUCCESS);
}

int nvmlDeviceGetFieldValues(device_t *h, int count, field_t *fields) {
    int d = h->index;
    ENTER("nvmlDeviceGetFieldValues", d);
    for (field_t *f = fields; f < fields + count; f++) {
        int what = f->id == 186 ? INSTANT : f->id == 185 ? AVERAGE : f->id == 83 ? COUNTER : -1;
        f->stamp_us = clock_ns(CLOCK_REALTIME) / 1000;
        f->latency_us = 1;
        f->code = what < 0 || c.missing[what][d] ? NOT_SUPPORTED : SUCCESS;
        for (int i = 0; i < c.rules; i++) {
            rule_t *r = &c.rule[i];
            if (r->field == (int)f->id && (r->device < 0 || r->device == d) && ++r->seen % r->every == 0) f->code = r->code;
        }
        if (f->code) continue;
        if (what == COUNTER) { burn("counter"); f->type = TYPE_ULONGLONG; f->value.ull = counter_mj(d); }
        else put(&f->value, &f->type, polled_mw(d, what));
    }
    return leave(SUCCESS);
}

/* The instant of ring sample k. */
static int64_t ring_t(int64_t k) {
    if (!c.jitter) return k * c.period;
    uint64_t hash = (uint64_t)k * 0x9E3779B97F4A7C15ULL;
    hash ^= hash >> 29;
    return k * c.period + (int64_t)(hash % (2 * (uint64_t)c.jitter + 1)) - c.jitter;
}

int nvmlDeviceGetSamples(device_t *h, int kind, unsigned long long last_us, unsigned int *type, unsigned int *count, sample_t *out) {
    int d = h->index;
    ENTER("nvmlDeviceGetSamples", d);
    NEEDS(RING, d);
    if (!out) burning = 0;  /* asked for the size only; what a drain costs was measured with it */
    if (kind) return leave(NOT_SUPPORTED);
    int64_t shift = realtime_offset(), now = clock_ns(CLOCK_BOOTTIME), newest = now / c.period + 1;
    while (ring_t(newest) > now) newest--;
    unsigned int found = 0, room = out ? *count : ~0u;
    *type = c.wide ? TYPE_ULONGLONG : TYPE_UINT;
    for (int64_t k = newest - c.depth + 1; k <= newest && found < room; k++) {
        int64_t t = ring_t(k);
        unsigned long long stamp = (unsigned long long)(t + shift) / 1000;
        if (stamp <= last_us || (c.young >= 0 && t < began - c.young)) continue;
        if (out) {
            out[found].stamp_us = stamp;
            put(&out[found].value, type, mean_mw(d, RING, t - c.period, t, k));
        }
        found++;
    }
    *count = found;
    return leave(found ? SUCCESS : NOT_FOUND);
}

int nvmlDeviceGetComputeRunningProcesses_v3(device_t *h, unsigned int *count, process_t *out) {
    int d = h->index;
    ENTER("nvmlDeviceGetComputeRunningProcesses_v3", d);
    NEEDS(PIDS, d);
    unsigned int room = *count;
    *count = c.n_pids[d];
    if (!c.n_pids[d]) return leave(SUCCESS);
    if (!out || room < (unsigned int)c.n_pids[d]) return leave(INSUFFICIENT_SIZE);
    for (int i = 0; i < c.n_pids[d]; i++) out[i] = (process_t){c.pids[d][i], 1ULL << 30, ~0u, ~0u};
    return leave(SUCCESS);
}

int nvmlDeviceGetProcessUtilization(device_t *h, use_t *out, unsigned int *count, unsigned long long last_us) {
    int d = h->index;
    ENTER("nvmlDeviceGetProcessUtilization", d);
    if (c.mig[d]) return leave(NOT_SUPPORTED);
    unsigned long long stamp = (unsigned long long)(clock_ns(CLOCK_BOOTTIME) / (100 * MS) * (100 * MS) + realtime_offset()) / 1000;
    unsigned int room = *count;
    *count = c.n_busy[d];
    if (!c.n_busy[d]) return leave(SUCCESS);
    if (stamp <= last_us) return leave(NOT_FOUND);
    if (!out || room < *count) return leave(INSUFFICIENT_SIZE);
    for (int i = 0; i < c.n_busy[d]; i++) out[i] = (use_t){c.busy[d][i].pid, stamp, c.busy[d][i].percent, 0, 0, 0};
    return leave(SUCCESS);
}

int nvmlDeviceGetEnforcedPowerLimit(device_t *h, unsigned int *mw) {
    ENTER("nvmlDeviceGetEnforcedPowerLimit", h->index);
    NEEDS(LIMIT, h->index);
    *mw = c.limit_mw;
    return leave(SUCCESS);
}

int nvmlDeviceGetTemperature(device_t *h, int sensor, unsigned int *celsius) {
    (void)sensor;
    ENTER("nvmlDeviceGetTemperature", h->index);
    NEEDS(TEMPERATURE, h->index);
    *celsius = c.temperature;
    return leave(SUCCESS);
}

int nvmlDeviceGetClockInfo(device_t *h, int kind, unsigned int *mhz) {
    (void)kind;
    ENTER("nvmlDeviceGetClockInfo", h->index);
    NEEDS(CLOCK, h->index);
    *mhz = c.clock;
    return leave(SUCCESS);
}

int nvmlDeviceGetCurrentClocksThrottleReasons(device_t *h, unsigned long long *bits) {
    ENTER("nvmlDeviceGetCurrentClocksThrottleReasons", h->index);
    NEEDS(THROTTLE, h->index);
    *bits = c.throttle;
    return leave(SUCCESS);
}

/* ---- what other tools ask besides (make bench compares with them) ---------------------------- */

int nvmlDeviceGetArchitecture(device_t *h, unsigned int *architecture) {
    ENTER("nvmlDeviceGetArchitecture", h->index);
    *architecture = 9;  /* Hopper */
    return leave(SUCCESS);
}

int nvmlDeviceGetComputeMode(device_t *h, unsigned int *mode) {
    ENTER("nvmlDeviceGetComputeMode", h->index);
    *mode = 0;
    return leave(SUCCESS);
}

int nvmlDeviceGetUtilizationRates(device_t *h, unsigned int *gpu_and_memory) {
    ENTER("nvmlDeviceGetUtilizationRates", h->index);
    gpu_and_memory[0] = gpu_and_memory[1] = 50;
    return leave(SUCCESS);
}

int nvmlDeviceGetMemoryInfo(device_t *h, unsigned long long *total_free_used) {
    ENTER("nvmlDeviceGetMemoryInfo", h->index);
    total_free_used[0] = 80ULL << 30;
    total_free_used[1] = total_free_used[2] = 40ULL << 30;
    return leave(SUCCESS);
}

int nvmlDeviceGetPowerManagementLimit(device_t *h, unsigned int *mw) {
    ENTER("nvmlDeviceGetPowerManagementLimit", h->index);
    *mw = c.limit_mw;
    return leave(SUCCESS);
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(device_t *h, unsigned int *count, process_t *out) {
    (void)out;
    ENTER("nvmlDeviceGetGraphicsRunningProcesses_v3", h->index);
    *count = 0;
    return leave(SUCCESS);
}
