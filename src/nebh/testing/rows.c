/* A database of one table: numbered rows, each on the disk before it is answered. For tests of data.

   rows serve PORT READS WRITES   serve /data; READS: formats it can read, such as "1,2"; WRITES: the one it leaves
   rows convert TO [STATUS [SECONDS]]   write a row, wait, then bring /data to format TO and exit with STATUS

   POST /row        the next row: NUMBER RELEASE
   GET /            "image CONFIG release FORMAT last": who answers, and on what data
   GET /rows        the whole table, a row a line: NUMBER RELEASE
   GET /bad         500 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *TABLE = "/data/rows", *FORMAT = "/data/format";

static void die(const char *what) {
    perror(what);
    exit(4);
}

static void end(int number) {
    (void)number;
    _exit(0);
}

static void read_text(const char *path, char *text, size_t size) {
    int fd = open(path, O_RDONLY);
    ssize_t got = fd < 0 ? 0 : read(fd, text, size - 1);
    text[got < 0 ? 0 : got] = 0;
    text[strcspn(text, "\n")] = 0;
    if (fd >= 0) close(fd);
}

static void sync_folder(void) {
    int fd = open("/data", O_RDONLY | O_DIRECTORY);
    if (fd < 0 || fsync(fd) != 0) die("sync /data");
    close(fd);
}

/* A new file beside it, then the name: a crash leaves the old format or the new one. */
static void write_format(const char *format) {
    int fd = open("/data/format.new", O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (fd < 0 || dprintf(fd, "%s\n", format) < 0 || fsync(fd) != 0) die("write the format");
    close(fd);
    if (rename("/data/format.new", FORMAT) != 0) die("rename the format");
    sync_folder();
}

static long last_row(void) {
    FILE *file = fopen(TABLE, "r");
    char line[128];
    long last = 0;
    while (file != NULL && fgets(line, sizeof line, file) != NULL)
        if (strchr(line, '\n') != NULL) last = atol(line);
    if (file != NULL) fclose(file);
    return last;
}

static void add_row(long number, const char *release) {
    int fd = open(TABLE, O_WRONLY | O_CREAT | O_APPEND, 0600);
    char line[64];
    int length = snprintf(line, sizeof line, "%ld %s\n", number, release);
    if (fd < 0 || write(fd, line, length) != length || fsync(fd) != 0) die("write a row");
    close(fd);
}

static int has(const char *list, const char *word) {
    char copy[256];
    snprintf(copy, sizeof copy, "%s", list);
    for (char *one = strtok(copy, ","); one != NULL; one = strtok(NULL, ","))
        if (strcmp(one, word) == 0) return 1;
    return 0;
}

static void answer(int client, int status, const char *text, size_t length) {
    dprintf(client, "HTTP/1.1 %d x\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n", status, length);
    for (size_t done = 0; done < length;) {
        ssize_t part = write(client, text + done, length - done);
        if (part <= 0) return;
        done += part;
    }
}

static void send_table(int client) {
    struct stat state;
    int fd = open(TABLE, O_RDONLY);
    char *text = NULL;
    size_t length = 0;
    if (fd >= 0 && fstat(fd, &state) == 0 && (text = malloc(state.st_size + 1)) != NULL) {
        ssize_t got = read(fd, text, state.st_size);
        length = got > 0 ? got : 0;
    }
    answer(client, 200, text == NULL ? "" : text, length);
    free(text);
    if (fd >= 0) close(fd);
}

static void serve_one(int client, long *last, const char *release) {
    char ask[2048], text[256], image[64], format[64];
    ssize_t got = read(client, ask, sizeof ask - 1);
    if (got <= 0) return;
    ask[got] = 0;
    if (strncmp(ask, "POST /row ", 10) == 0) {
        add_row(++*last, release);
        answer(client, 200, text, snprintf(text, sizeof text, "%ld %s\n", *last, release));
    } else if (strncmp(ask, "GET /rows ", 10) == 0) {
        send_table(client);
    } else if (strncmp(ask, "GET /bad ", 9) == 0) {
        answer(client, 500, "bad\n", 4);
    } else {
        const char *config = getenv("CONFIG");
        read_text("/etc/version", image, sizeof image);
        read_text(FORMAT, format, sizeof format);
        int length = snprintf(text, sizeof text, "%s %s %s %s %ld\n", image, config ? config : "-", release, format, *last);
        answer(client, 200, text, length);
    }
}

static int serve(int port, const char *reads, const char *writes) {
    char format[64];
    const char *release = getenv("NEBH_RELEASE");
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons(port)};
    int yes = 1, server = socket(AF_INET, SOCK_STREAM, 0);
    read_text(FORMAT, format, sizeof format);
    if (format[0] != 0 && !has(reads, format)) {
        fprintf(stderr, "cannot read format %s, only %s\n", format, reads);
        return 5;
    }
    if (atoi(format) < atoi(writes)) write_format(writes);
    long last = last_row();
    setsockopt(server, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(server, (void *)&here, sizeof here) != 0 || listen(server, 256) != 0) die("listen");
    printf("release %s serves format %s from row %ld\n", release ? release : "-", writes, last);
    fflush(stdout);
    for (;;) {
        int client = accept(server, NULL, NULL);
        if (client < 0) continue;
        struct timeval patience = {.tv_sec = 5};
        setsockopt(client, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
        serve_one(client, &last, release ? release : "-");
        close(client);
    }
}

int main(int argc, char **argv) {
    signal(SIGTERM, end);
    signal(SIGPIPE, SIG_IGN);
    if (argc == 5 && strcmp(argv[1], "serve") == 0) return serve(atoi(argv[2]), argv[3], argv[4]);
    if (argc >= 3 && strcmp(argv[1], "convert") == 0) {
        add_row(last_row() + 1, "convert");
        if (argc > 4) sleep(atoi(argv[4]));
        write_format(argv[2]);
        printf("converted %ld rows to format %s\n", last_row(), argv[2]);
        return argc > 3 ? atoi(argv[3]) : 0;
    }
    fprintf(stderr, "usage: rows serve PORT READS WRITES | rows convert TO [STATUS [SECONDS]]\n");
    return 2;
}
