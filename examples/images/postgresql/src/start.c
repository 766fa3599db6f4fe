/* start-postgresql [--run SQL] BIN DATA [ARG...]: make DATA when it is empty, then become the server.
   --run SQL: run the file in the database `postgres`, a statement ends with a blank line, and end: 0 = all went well. */
#include <fcntl.h>
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

/* Become initdb; what it starts would ask a shell. */
static int make_database(const char *bin, const char *data) {
    char program[512];
    snprintf(program, sizeof program, "%s/initdb", bin);
    setenv("LD_PRELOAD", "/usr/lib/noshell.so", 1);
    execl(program, program, "-D", data, "-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8", "-A", "trust",
          "--no-instructions", NULL);
    return fail(program);
}

static int ensure_database(const char *bin, const char *data) {
    char mark[512];
    struct stat state;
    int status;
    snprintf(mark, sizeof mark, "%s/PG_VERSION", data);
    if (stat(mark, &state) == 0)
        return 0;
    pid_t child = fork();
    if (child < 0)
        return fail("fork");
    if (child == 0)
        _exit(make_database(bin, data));
    return waitpid(child, &status, 0) < 0 || status ? fail("initdb") : 0;
}

/* A server for one user, which says errors on its standard error and ends with 0 all the same. */
static int run_statements(const char *bin, const char *data, const char *file) {
    char program[512], line[4096];
    int words[2], wrong = 0, status;
    snprintf(program, sizeof program, "%s/postgres", bin);
    if (pipe(words))
        return fail("pipe");
    pid_t child = fork();
    if (child < 0)
        return fail("fork");
    if (child == 0) {
        int statements = open(file, O_RDONLY);
        if (statements < 0)
            _exit(fail(file));
        dup2(statements, 0);
        dup2(words[1], 1);
        dup2(words[1], 2);
        close(words[0]);
        execl(program, program, "--single", "-j", "-D", data, "postgres", NULL);
        _exit(fail(program));
    }
    close(words[1]);
    FILE *said = fdopen(words[0], "r");
    while (said != NULL && fgets(line, sizeof line, said) != NULL) {
        wrong |= strstr(line, "ERROR:") != NULL || strstr(line, "FATAL:") != NULL;
        fputs(line, stdout);
    }
    fflush(stdout);
    return waitpid(child, &status, 0) < 0 || status || wrong;
}

int main(int count, char **words) {
    char program[512];
    const char *file = NULL;

    if (count > 2 && strcmp(words[1], "--run") == 0) {
        file = words[2];
        words += 2;
        count -= 2;
    }
    if (count < 3) {
        fprintf(stderr, "usage: start-postgresql [--run SQL] BIN DATA [ARG...]\n");
        return 2;
    }
    if (ensure_database(words[1], words[2]))
        return 1;
    if (file != NULL)
        return run_statements(words[1], words[2], file);
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
