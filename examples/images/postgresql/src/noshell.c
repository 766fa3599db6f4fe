/* system() and popen() for a program whose commands are quoted words, `<`, `>`, `2>` and `2>&1`: no shell is asked. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define MOST 64

struct command {
    char *words[MOST + 1];
    char *in, *out, *err;
    int err_to_out;
    char text[16384];
};

/* Take the next word from *from to *to; quotes join, a backslash keeps the next letter. NULL at the end. */
static char *next(const char **from, char **to) {
    char *start = *to, quote = 0;
    while (**from == ' ' || **from == '\t' || **from == '\n')
        (*from)++;
    if (!**from)
        return NULL;
    for (; **from && (quote || !strchr(" \t\n", **from)); (*from)++) {
        if (quote ? **from == quote : **from == '"' || **from == '\'')
            quote = quote ? 0 : **from;
        else if (**from == '\\' && quote != '\'' && (*from)[1])
            *(*to)++ = *++(*from);
        else
            *(*to)++ = **from;
    }
    *(*to)++ = 0;
    return start;
}

static int parse(const char *line, struct command *found) {
    char *to = found->text, *word;
    int count = 0;
    memset(found, 0, sizeof *found);
    if (strlen(line) * 2 + 2 > sizeof found->text)
        return -1;
    while ((word = next(&line, &to))) {
        char **target = NULL;
        const char *rest = word;
        if (!strcmp(word, "2>&1")) {
            found->err_to_out = 1;
            continue;
        }
        if (!strncmp(word, "2>", 2))
            target = &found->err, rest += 2;
        else if (*word == '>')
            target = &found->out, rest += 1;
        else if (*word == '<')
            target = &found->in, rest += 1;
        if (target)
            *target = *rest ? (char *)rest : next(&line, &to);
        else if (count < MOST)
            found->words[count++] = word;
        else
            return -1;
    }
    return count ? 0 : -1;
}

static void become(struct command *found, int in, int out) {
    if (found->in)
        in = open(found->in, O_RDONLY);
    if (found->out)
        out = open(found->out, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    if (in > 0)
        dup2(in, 0);
    if (out > 1)
        dup2(out, 1);
    if (found->err_to_out)
        dup2(1, 2);
    else if (found->err) {
        int err = open(found->err, O_WRONLY | O_CREAT | O_TRUNC, 0666);
        if (err > 2)
            dup2(err, 2);
    }
    execvp(found->words[0], found->words);
    _exit(127);
}

int system(const char *line) {
    struct command found;
    int status;
    if (!line)
        return 1;
    if (parse(line, &found))
        return -1;
    fflush(NULL);
    pid_t child = fork();
    if (child == 0)
        become(&found, 0, 1);
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR)
            return -1;
    return status;
}

static struct { FILE *file; pid_t pid; } opened[16];

FILE *popen(const char *line, const char *mode) {
    struct command found;
    int ends[2], slot = 0;
    while (slot < 16 && opened[slot].file)
        slot++;
    if (slot == 16 || parse(line, &found) || pipe2(ends, O_CLOEXEC))
        return NULL;
    fflush(NULL);
    pid_t child = fork();
    if (child == 0)
        become(&found, *mode == 'w' ? ends[0] : 0, *mode == 'r' ? ends[1] : 1);
    close(ends[*mode == 'w' ? 0 : 1]);
    opened[slot].pid = child;
    return opened[slot].file = fdopen(ends[*mode == 'w' ? 1 : 0], *mode == 'w' ? "w" : "r");
}

int pclose(FILE *file) {
    int status;
    for (int slot = 0; slot < 16; slot++)
        if (opened[slot].file == file) {
            opened[slot].file = NULL;
            fclose(file);
            while (waitpid(opened[slot].pid, &status, 0) < 0)
                if (errno != EINTR)
                    return -1;
            return status;
        }
    return -1;
}
