/* start-postgresql BIN DATA [ARG...]: make DATA when it is empty, then become the server. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static int fail(const char *what) {
    perror(what);
    return 1;
}

int main(int count, char **words) {
    char program[512], mark[512];
    struct stat state;
    int status;

    if (count < 3) {
        fprintf(stderr, "usage: start-postgresql BIN DATA [ARG...]\n");
        return 2;
    }
    snprintf(mark, sizeof mark, "%s/PG_VERSION", words[2]);
    if (stat(mark, &state)) {
        pid_t child = fork();
        if (child < 0)
            return fail("fork");
        if (child == 0) {
            snprintf(program, sizeof program, "%s/initdb", words[1]);
            setenv("LD_PRELOAD", "/usr/lib/noshell.so", 1);
            execl(program, program, "-D", words[2], "-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8", "-A", "trust",
                  "--no-instructions", NULL);
            _exit(fail(program));
        }
        if (waitpid(child, &status, 0) < 0 || status)
            return fail("initdb");
    }
    snprintf(program, sizeof program, "%s/postgres", words[1]);
    char **argv = calloc((size_t)count + 8, sizeof *argv);
    const char *start[] = {program, "-D", words[2], "-c", "listen_addresses=*", "-c", "unix_socket_directories=/tmp"};
    int filled = 0;
    for (size_t index = 0; index < sizeof start / sizeof *start; index++)
        argv[filled++] = (char *)start[index];
    for (int index = 3; index < count; index++)
        argv[filled++] = words[index];
    execv(program, argv);
    return fail(program);
}
