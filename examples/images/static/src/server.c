/* Answers every request on port 8080 with one line. */
#include <arpa/inet.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void leave(int number) {
    (void)number;
    _exit(0);
}

int main(void) {
    static const char answer[] =
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 22\r\nconnection: close\r\n\r\n"
        "served by one program\n";
    struct sockaddr_in place = {.sin_family = AF_INET, .sin_port = htons(8080), .sin_addr = {INADDR_ANY}};
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), yes = 1;

    signal(SIGTERM, leave);
    signal(SIGPIPE, SIG_IGN);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(listener, (struct sockaddr *)&place, sizeof place) || listen(listener, 64))
        return EXIT_FAILURE;
    for (;;) {
        char request[4096];
        int one = accept(listener, NULL, NULL);
        if (one < 0)
            continue;
        if (read(one, request, sizeof request) > 0 && write(one, answer, strlen(answer)) < 0)
            _exit(EXIT_FAILURE);
        close(one);
    }
}
