/* Makes the n-th call of one kind fail, for paths below one folder: a library to preload, see failing_calls.py.

   The process that preloads it gives it a block of shared memory (failing_calls_use), so that calls are counted over
   the processes that it forks, and so that it can read which call failed. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind { OPEN, CREATE, WRITE, SYNC, RENAME, LINK, MKDIR, UNLINK, KINDS };

struct control {
    _Atomic int active;       /* whether calls are counted */
    int kind;                 /* which kind fails */
    int error;                /* with this errno */
    int forever;              /* every one from the n-th on, instead of the n-th alone */
    long nth;                 /* from 1 */
    _Atomic long counts[KINDS];
    _Atomic long failed;
    char folder[PATH_MAX];
    char path[PATH_MAX];      /* of the first call that failed */
};

static struct control *control;

void failing_calls_use(void *memory) { control = memory; }

size_t failing_calls_size(void) { return sizeof(struct control); }

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

/* Whether this call is to fail; sets errno. */
static int fails(enum kind kind, const char *path) {
    struct control *c = control;
    if (c == NULL || !c->active || path == NULL || strncmp(path, c->folder, strlen(c->folder)) != 0) return 0;
    long n = atomic_fetch_add(&c->counts[kind], 1) + 1;
    if ((int)kind != c->kind || n < c->nth || (n > c->nth && !c->forever)) return 0;
    if (atomic_fetch_add(&c->failed, 1) == 0) strncpy(c->path, path, PATH_MAX - 1);
    errno = c->error;
    return 1;
}

static const char *of_descriptor(int handle, char *buffer) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", handle);
    ssize_t n = REAL(readlink)(link, buffer, PATH_MAX - 1);
    if (n < 0) return NULL;
    buffer[n] = 0;
    return buffer;
}

static const char *absolute(int folder, const char *path, char *buffer) {
    if (path == NULL || path[0] == '/') return path;
    char base[PATH_MAX];
    if (folder == AT_FDCWD ? getcwd(base, sizeof base) == NULL : of_descriptor(folder, base) == NULL) return NULL;
    if (snprintf(buffer, PATH_MAX, "%s/%s", base, path) >= PATH_MAX) return NULL;
    return buffer;
}

static int fails_at(enum kind kind, int folder, const char *path) {
    char buffer[PATH_MAX];
    return control != NULL && control->active && fails(kind, absolute(folder, path, buffer));
}

static int fails_on(enum kind kind, int handle) {
    char buffer[PATH_MAX];
    return control != NULL && control->active && fails(kind, of_descriptor(handle, buffer));
}

static enum kind opening(int flags) { return flags & (O_WRONLY | O_RDWR | O_CREAT) ? CREATE : OPEN; }

#define MODE                                            \
    mode_t mode = 0;                                    \
    if (flags & (O_CREAT | __O_TMPFILE)) {              \
        va_list rest;                                   \
        va_start(rest, flags);                          \
        mode = va_arg(rest, mode_t);                    \
        va_end(rest);                                   \
    }

int open(const char *path, int flags, ...) {
    MODE
    return fails_at(opening(flags), AT_FDCWD, path) ? -1 : REAL(open)(path, flags, mode);
}
int open64(const char *path, int flags, ...) {
    MODE
    return fails_at(opening(flags), AT_FDCWD, path) ? -1 : REAL(open64)(path, flags, mode);
}
int openat(int folder, const char *path, int flags, ...) {
    MODE
    return fails_at(opening(flags), folder, path) ? -1 : REAL(openat)(folder, path, flags, mode);
}
int openat64(int folder, const char *path, int flags, ...) {
    MODE
    return fails_at(opening(flags), folder, path) ? -1 : REAL(openat64)(folder, path, flags, mode);
}
FILE *fopen(const char *path, const char *mode) {
    return fails_at(strpbrk(mode, "wa+") ? CREATE : OPEN, AT_FDCWD, path) ? NULL : REAL(fopen)(path, mode);
}
FILE *fopen64(const char *path, const char *mode) {
    return fails_at(strpbrk(mode, "wa+") ? CREATE : OPEN, AT_FDCWD, path) ? NULL : REAL(fopen64)(path, mode);
}

ssize_t write(int handle, const void *data, size_t size) {
    return fails_on(WRITE, handle) ? -1 : REAL(write)(handle, data, size);
}
ssize_t writev(int handle, const struct iovec *parts, int count) {
    return fails_on(WRITE, handle) ? -1 : REAL(writev)(handle, parts, count);
}
ssize_t pwrite(int handle, const void *data, size_t size, off_t offset) {
    return fails_on(WRITE, handle) ? -1 : REAL(pwrite)(handle, data, size, offset);
}
ssize_t pwrite64(int handle, const void *data, size_t size, off64_t offset) {
    return fails_on(WRITE, handle) ? -1 : REAL(pwrite64)(handle, data, size, offset);
}
ssize_t sendfile(int to, int from, off_t *offset, size_t size) {
    return fails_on(WRITE, to) ? -1 : REAL(sendfile)(to, from, offset, size);
}
ssize_t sendfile64(int to, int from, off64_t *offset, size_t size) {
    return fails_on(WRITE, to) ? -1 : REAL(sendfile64)(to, from, offset, size);
}
int ftruncate(int handle, off_t size) { return fails_on(WRITE, handle) ? -1 : REAL(ftruncate)(handle, size); }
int ftruncate64(int handle, off64_t size) { return fails_on(WRITE, handle) ? -1 : REAL(ftruncate64)(handle, size); }

int fsync(int handle) { return fails_on(SYNC, handle) ? -1 : REAL(fsync)(handle); }
int fdatasync(int handle) { return fails_on(SYNC, handle) ? -1 : REAL(fdatasync)(handle); }

int rename(const char *from, const char *to) {
    return fails_at(RENAME, AT_FDCWD, to) ? -1 : REAL(rename)(from, to);
}
int renameat(int a, const char *from, int b, const char *to) {
    return fails_at(RENAME, b, to) ? -1 : REAL(renameat)(a, from, b, to);
}
int link(const char *from, const char *to) { return fails_at(LINK, AT_FDCWD, to) ? -1 : REAL(link)(from, to); }
int linkat(int a, const char *from, int b, const char *to, int flags) {
    return fails_at(LINK, b, to) ? -1 : REAL(linkat)(a, from, b, to, flags);
}
int symlink(const char *from, const char *to) {
    return fails_at(LINK, AT_FDCWD, to) ? -1 : REAL(symlink)(from, to);
}
int symlinkat(const char *from, int folder, const char *to) {
    return fails_at(LINK, folder, to) ? -1 : REAL(symlinkat)(from, folder, to);
}
int mkdir(const char *path, mode_t mode) {
    return fails_at(MKDIR, AT_FDCWD, path) ? -1 : REAL(mkdir)(path, mode);
}
int mkdirat(int folder, const char *path, mode_t mode) {
    return fails_at(MKDIR, folder, path) ? -1 : REAL(mkdirat)(folder, path, mode);
}
int unlink(const char *path) { return fails_at(UNLINK, AT_FDCWD, path) ? -1 : REAL(unlink)(path); }
int unlinkat(int folder, const char *path, int flags) {
    return fails_at(UNLINK, folder, path) ? -1 : REAL(unlinkat)(folder, path, flags);
}
int rmdir(const char *path) { return fails_at(UNLINK, AT_FDCWD, path) ? -1 : REAL(rmdir)(path); }
