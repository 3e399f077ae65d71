/* A disk that lacks what POOR_DISK names: links, folder-sync, folder-rename, locks; preloaded in tests. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static int lacks(const char *what) {
    const char *all = getenv("POOR_DISK");
    return all && strstr(all, what);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

int symlink(const char *to, const char *path) {
    if (lacks("links")) { errno = EOPNOTSUPP; return -1; }
    return REAL(symlink)(to, path);
}
int symlinkat(const char *to, int folder, const char *path) {
    if (lacks("links")) { errno = EOPNOTSUPP; return -1; }
    return REAL(symlinkat)(to, folder, path);
}
int link(const char *to, const char *path) {
    if (lacks("links")) { errno = EPERM; return -1; }
    return REAL(link)(to, path);
}
int linkat(int a, const char *to, int b, const char *path, int flags) {
    if (lacks("links")) { errno = EPERM; return -1; }
    return REAL(linkat)(a, to, b, path, flags);
}
int fsync(int file) {
    struct stat kind;
    if (lacks("folder-sync") && fstat(file, &kind) == 0 && S_ISDIR(kind.st_mode)) { errno = EINVAL; return -1; }
    return REAL(fsync)(file);
}
int flock(int file, int operation) {
    if (lacks("locks")) { errno = ENOLCK; return -1; }
    return REAL(flock)(file, operation);
}
static int over_folder(const char *path) {
    struct stat kind;
    return lacks("folder-rename") && stat(path, &kind) == 0 && S_ISDIR(kind.st_mode);
}
int rename(const char *from, const char *path) {
    if (over_folder(path)) { errno = EEXIST; return -1; }
    return REAL(rename)(from, path);
}
int renameat(int a, const char *from, int b, const char *path) {
    if (over_folder(path)) { errno = EEXIST; return -1; }
    return REAL(renameat)(a, from, b, path);
}
