/* A service that answers every request as nebh.testing.load wants it and, told by the path, floods: GET /do/KIND starts children that do
 * nothing but KIND. It answers on while they flood, where the kernel lets it. Bounded by its container alone. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static void burn(void) {
    for (volatile unsigned long n = 0;; n++) {
    }
}

static void fork_bomb(void) {
    for (;;) {
        if (fork() == 0 && fork() == 0) burn();
    }
}

/* Ask for memory until killed; be forked anew. */
static void eat_memory(void) {
    for (;;) {
        pid_t child = fork();
        if (child == 0) {
            for (;;) {
                char *more = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
                if (more != MAP_FAILED) memset(more, 1, 1 << 20);
            }
        }
        if (child > 0) waitpid(child, NULL, 0);
    }
}

static void hold_descriptors(void) {
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    for (;;) {
        if (open("/dev/null", O_RDONLY) < 0) open("/proc/self/stat", O_RDONLY);
    }
}

static void fill_tmp(void) {
    static char data[65536];
    for (;;) {
        int fd = open("/tmp/full", O_WRONLY | O_CREAT | O_APPEND, 0600);
        while (write(fd, data, sizeof data) > 0) {
        }
        close(fd); /* and on against the full file system */
    }
}

static void make_files(void) {
    char path[64];
    for (unsigned long n = 0;; n++) {
        snprintf(path, sizeof path, "/tmp/%lx", n);
        int fd = open(path, O_WRONLY | O_CREAT, 0600);
        if (fd >= 0) close(fd);
    }
}

static void print_lines(void) {
    static const char LINE[] = "a line that nobody needs, again and again and again and again and again and again\n";
    for (;;) {
        if (write(1, LINE, sizeof LINE - 1) < 0) pause();
    }
}

/* Connections to an address, which nobody ever closes. */
static void hold_connections(const char *address, uint16_t port) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    inet_pton(AF_INET, address, &to.sin_addr);
    for (;;) {
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        if (fd >= 0) connect(fd, (void *)&to, sizeof to);
    }
}

static void flood(const char *kind, const char *address, uint16_t port) {
    int count = strcmp(kind, "burn") == 0 || strcmp(kind, "connect") == 0 ? 2 : 1;
    for (int i = 0; i < count; i++) {
        if (fork() != 0) continue;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (strcmp(kind, "burn") == 0) burn();
        if (strcmp(kind, "fork") == 0) fork_bomb();
        if (strcmp(kind, "memory") == 0) eat_memory();
        if (strcmp(kind, "descriptors") == 0) hold_descriptors();
        if (strcmp(kind, "tmp") == 0) fill_tmp();
        if (strcmp(kind, "files") == 0) make_files();
        if (strcmp(kind, "log") == 0) print_lines();
        if (strcmp(kind, "connect") == 0) hold_connections(address, port);
        _exit(1);
    }
}

/* GET /probe?WORDS: run /bin/probe with the words, which `+` keeps apart, and answer with what it prints. */
static void probe(int channel, char *words) {
    char *list[16] = {"/bin/probe"};
    int count = 1;
    for (char *word = strtok(words, "+"); word != NULL && count < 15; word = strtok(NULL, "+")) list[count++] = word;
    dprintf(channel, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
    if (fork() == 0) {
        dup2(channel, 1);
        execv("/bin/probe", list);
        _exit(127);
    }
    wait(NULL);
}

static void answer(int channel, uint16_t port) {
    char request[8192], kind[32];
    size_t length = 0;
    while (length < sizeof request - 1) {
        ssize_t got = read(channel, request + length, sizeof request - 1 - length);
        if (got <= 0) return;
        length += (size_t)got;
        request[length] = 0;
        if (strstr(request, "\r\n\r\n") != NULL) break;
    }
    char *end = strchr(request, ' ') ? strchr(strchr(request, ' ') + 1, ' ') : NULL;
    if (end != NULL) *end = 0;
    if (strncmp(request, "GET /probe?", 11) == 0) {
        probe(channel, request + 11);
        return;
    }
    char address[INET_ADDRSTRLEN] = "127.0.0.1";
    if (sscanf(request, "GET /do/%31[a-z]/%15[0-9.]", kind, address) >= 1) flood(kind, address, port);
    dprintf(channel, "HTTP/1.1 200 OK\r\nContent-Length: 17\r\nConnection: close\r\n\r\n"
                     "{\"version\": \"1\"}\n");
}

int main(int count, char **words) {
    uint16_t port = (uint16_t)(count > 1 ? atoi(words[1]) : 8080);
    struct sockaddr_in6 at = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    int listener = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
    signal(SIGPIPE, SIG_IGN);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (void *)&at, sizeof at) != 0 || listen(listener, 512) != 0) return 1;
    for (;;) {
        int channel = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (channel < 0) continue;
        struct timeval patience = {10, 0};
        setsockopt(channel, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
        answer(channel, port);
        close(channel);
        while (waitpid(-1, NULL, WNOHANG) > 0) {
        }
    }
}
