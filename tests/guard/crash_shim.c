/* Kills its process in the middle of a chosen change to a regular file; preloaded by ledger_crash.py. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static long left = -1, permille = 0;

/* The change after `n` others ends the process; a write has by then written `share` thousandths of its bytes. */
void crash_at(long n, long share) { left = n; permille = share; }

static int due(void) { return left >= 0 && left-- == 0; }

static int due_at(int fd) {
    struct stat found;
    return left >= 0 && fstat(fd, &found) == 0 && S_ISREG(found.st_mode) && due();
}

static void die(void) { kill(getpid(), SIGKILL); }

#define REAL(name, type) ((type)dlsym(RTLD_NEXT, name))

ssize_t write(int fd, const void *data, size_t n) {
    ssize_t (*real)(int, const void *, size_t) = REAL("write", ssize_t (*)(int, const void *, size_t));
    if (due_at(fd)) { real(fd, data, n * permille / 1000); die(); }
    return real(fd, data, n);
}

ssize_t pwrite64(int fd, const void *data, size_t n, off64_t at) {
    ssize_t (*real)(int, const void *, size_t, off64_t) = REAL("pwrite64", ssize_t (*)(int, const void *, size_t, off64_t));
    if (due_at(fd)) { real(fd, data, n * permille / 1000, at); die(); }
    return real(fd, data, n, at);
}

ssize_t pwrite(int fd, const void *data, size_t n, off_t at) { return pwrite64(fd, data, n, at); }

int fsync(int fd) {
    if (due_at(fd)) die();
    return REAL("fsync", int (*)(int))(fd);
}

int fdatasync(int fd) {
    if (due_at(fd)) die();
    return REAL("fdatasync", int (*)(int))(fd);
}

int ftruncate64(int fd, off64_t n) {
    if (due_at(fd)) die();
    return REAL("ftruncate64", int (*)(int, off64_t))(fd, n);
}

int ftruncate(int fd, off_t n) { return ftruncate64(fd, n); }

int unlink(const char *path) {
    if (due()) die();
    return REAL("unlink", int (*)(const char *))(path);
}

int link(const char *from, const char *to) {
    if (due()) die();
    return REAL("link", int (*)(const char *, const char *))(from, to);
}
