/* Counts, fails, ends at or records the calls of a process that write files below a folder.

   Preloaded into a process (LD_PRELOAD), which calls `arm` and `record`. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

enum { OFF, FAIL_ONCE, FAIL_FROM, END_BEFORE, END_AMID };

static char folder[4096];
static int mode = OFF, failure = 0;
static long count = 0, place = 0;
static int log_file = -1;

static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static size_t (*real_fwrite)(const void *, size_t, size_t, FILE *);
static int (*real_fsync)(int), (*real_fdatasync)(int), (*real_ftruncate)(int, off_t);
static int (*real_unlink)(const char *), (*real_rename)(const char *, const char *);
static int (*real_open)(const char *, int, ...), (*real_mkdir)(const char *, mode_t);
static FILE *(*real_fopen)(const char *, const char *);

__attribute__((constructor)) static void set_up(void) {
    real_write = dlsym(RTLD_NEXT, "write");
    real_pwrite = dlsym(RTLD_NEXT, "pwrite64");
    real_fwrite = dlsym(RTLD_NEXT, "fwrite");
    real_fsync = dlsym(RTLD_NEXT, "fsync");
    real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
    real_ftruncate = dlsym(RTLD_NEXT, "ftruncate64");
    real_unlink = dlsym(RTLD_NEXT, "unlink");
    real_rename = dlsym(RTLD_NEXT, "rename");
    real_open = dlsym(RTLD_NEXT, "open64");
    real_mkdir = dlsym(RTLD_NEXT, "mkdir");
    real_fopen = dlsym(RTLD_NEXT, "fopen64");
}

/* Calls below a folder are counted from 0; the call at a place is treated as the mode says. */
void arm(const char *below, int how, long where, int error) {
    strncpy(folder, below, sizeof folder - 1);
    count = 0, place = where, failure = error, mode = how;
}

long counted(void) { return count; }

void record(const char *path) {
    log_file = real_open(path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 0644);
}

static int is_below(const char *path) { return *folder && !strncmp(path, folder, strlen(folder)); }

static int path_of(int file, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, 4095);
    path[length < 0 ? 0 : length] = 0;
    return *folder && length > 0 && is_below(path);
}

/* A record: what, path, second path or data, numbers. */
static void note(const char *what, const char *path, long offset, long size, const void *data) {
    if (log_file < 0) return;
    char head[8300];
    int length = snprintf(head, sizeof head, "%s\t%ld\t%ld\t%s\n", what, offset, size, path);
    real_write(log_file, head, length);
    if (data) real_write(log_file, data, size);
}

/* Whether the next call is to fail; may end the process. 2: do half of it, and end the process. */
static int fails(void) {
    long number = count++;
    if (mode == OFF || number < place) return 0;
    if (mode == FAIL_ONCE && number > place) return 0;
    if (mode == END_BEFORE) _exit(9);
    if (mode == END_AMID) return 2;
    errno = failure;
    return 1;
}

ssize_t write(int file, const void *data, size_t size) {
    char path[4096];
    if (!path_of(file, path)) return real_write(file, data, size);
    int failed = fails();
    if (failed == 2) { real_write(file, data, size / 2); _exit(9); }
    if (failed) return -1;
    int flags = fcntl(file, F_GETFL);
    long offset = flags & O_APPEND ? lseek(file, 0, SEEK_END) : lseek(file, 0, SEEK_CUR);
    ssize_t written = real_write(file, data, size);
    if (written > 0) note("write", path, offset, written, data);
    return written;
}

ssize_t pwrite64(int file, const void *data, size_t size, off_t offset) {
    char path[4096];
    if (!path_of(file, path)) return real_pwrite(file, data, size, offset);
    int failed = fails();
    if (failed == 2) { real_pwrite(file, data, size / 2, offset); _exit(9); }
    if (failed) return -1;
    ssize_t written = real_pwrite(file, data, size, offset);
    if (written > 0) note("write", path, offset, written, data);
    return written;
}

ssize_t pwrite(int file, const void *data, size_t size, off_t offset) {
    return pwrite64(file, data, size, offset);
}

size_t fwrite(const void *data, size_t size, size_t items, FILE *stream) {
    char path[4096];
    if (!path_of(fileno(stream), path)) return real_fwrite(data, size, items, stream);
    int failed = fails();
    if (failed == 2) { real_fwrite(data, size, items / 2, stream); fflush(stream); _exit(9); }
    if (failed) return 0;
    long offset = ftell(stream);
    size_t written = real_fwrite(data, size, items, stream);
    if (written) note("write", path, offset, written * size, data);
    return written;
}

#define FLUSH(name)                                                                              \
    int name(int file) {                                                                         \
        char path[4096];                                                                         \
        if (!path_of(file, path)) return real_##name(file);                                      \
        int failed = fails();                                                                    \
        if (failed == 2) _exit(9);                                                               \
        if (failed) return -1;                                                                   \
        int result = real_##name(file);                                                          \
        if (!result) note("flush", path, 0, 0, NULL);                                            \
        return result;                                                                           \
    }
FLUSH(fsync)
FLUSH(fdatasync)

int ftruncate64(int file, off_t size) {
    char path[4096];
    if (!path_of(file, path)) return real_ftruncate(file, size);
    int failed = fails();
    if (failed == 2) _exit(9);
    if (failed) return -1;
    int result = real_ftruncate(file, size);
    if (!result) note("truncate", path, size, 0, NULL);
    return result;
}

int ftruncate(int file, off_t size) { return ftruncate64(file, size); }

int truncate64(const char *path, off_t size) {
    int file = real_open(path, O_WRONLY);
    if (file < 0) return -1;
    int result = ftruncate64(file, size), error = errno;
    close(file);
    errno = error;
    return result;
}

int truncate(const char *path, off_t size) { return truncate64(path, size); }

int unlink(const char *path) {
    if (!is_below(path)) return real_unlink(path);
    int failed = fails();
    if (failed == 2) _exit(9);
    if (failed) return -1;
    int result = real_unlink(path);
    if (!result) note("unlink", path, 0, 0, NULL);
    return result;
}

int rename(const char *path, const char *target) {
    if (!is_below(path) && !is_below(target)) return real_rename(path, target);
    int failed = fails();
    if (failed == 2) _exit(9);
    if (failed) return -1;
    int result = real_rename(path, target);
    char both[8200];
    snprintf(both, sizeof both, "%s\t%s", path, target);
    if (!result) note("rename", both, 0, 0, NULL);
    return result;
}

int mkdir(const char *path, mode_t bits) {
    if (!is_below(path)) return real_mkdir(path, bits);
    int failed = fails();
    if (failed == 2) _exit(9);
    if (failed) return -1;
    int result = real_mkdir(path, bits);
    if (!result) note("folder", path, 0, 0, NULL);
    return result;
}

int open64(const char *path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    mode_t bits = flags & O_CREAT ? va_arg(more, mode_t) : 0;
    va_end(more);
    if (!(flags & O_CREAT) || !is_below(path) || !access(path, F_OK)) {
        struct stat facts;
        int is_cut = (flags & O_TRUNC) && is_below(path) && !stat(path, &facts) && facts.st_size;
        int file = real_open(path, flags, bits);
        if (is_cut && file >= 0) note("truncate", path, 0, 0, NULL);
        return file;
    }
    int failed = fails();
    if (failed == 2) _exit(9);
    if (failed) return -1;
    int file = real_open(path, flags, bits);
    if (file >= 0) note("create", path, 0, 0, NULL);
    return file;
}

int open(const char *path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    mode_t bits = flags & O_CREAT ? va_arg(more, mode_t) : 0;
    va_end(more);
    return open64(path, flags, bits);
}

FILE *fopen64(const char *path, const char *how) {
    if (*how != 'w' || !is_below(path)) return real_fopen(path, how);
    int failed = fails();
    if (failed == 2) _exit(9);
    if (failed) return NULL;
    FILE *stream = real_fopen(path, how);
    if (stream) note("create", path, 0, 0, NULL);
    return stream;
}

FILE *fopen(const char *path, const char *how) { return fopen64(path, how); }
