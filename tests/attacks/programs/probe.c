/* Tries, from inside a container, everything that a container should not be able to do; prints one row for each:
 * `kind name: what happened`. Nothing it tries does harm where it is allowed: calls get arguments that the kernel
 * refuses after it has let the caller in, files are opened and not written. Rows do not depend on the kernel beyond
 * what they say: what is absent and what is hidden are both `nothing`.
 *
 * Every try runs in a child of its own: one that is killed is a row, not the end. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <linux/keyctl.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#define BAD ((long)-1) /* an address nobody has */

static const char *name_of(int error) {
    static char text[32];
    const char *name = strerrorname_np(error);
    if (name != NULL) return name;
    snprintf(text, sizeof text, "error %d", error);
    return text;
}

/* Run `try` in a child; print its row: what `try` printed, or the signal that ended it. */
#define ROW(kind, name, ...)                                                        \
    do {                                                                            \
        printf("%s %s: ", kind, name);                                              \
        fflush(stdout);                                                             \
        pid_t child = fork();                                                       \
        if (child == 0) {                                                           \
            __VA_ARGS__;                                                            \
            fflush(stdout);                                                         \
            _exit(0);                                                               \
        }                                                                           \
        int status = 0;                                                             \
        waitpid(child, &status, 0);                                                 \
        if (WIFSIGNALED(status)) printf("killed");                                  \
        printf("\n");                                                               \
        fflush(stdout);                                                             \
    } while (0)

static void say(long result) {
    printf("%s", result >= 0 ? "allowed" : name_of(errno));
}

struct call {
    const char *name;
    long number;
    long a[6];
};
#define CALL(name, ...) {#name, SYS_##name, {__VA_ARGS__}}
#define NEW(name, number, ...) {#name, number, {__VA_ARGS__}}

/* New calls have the same number on every machine. */
static const struct call CALLS[] = {
    CALL(acct, BAD),
    CALL(add_key, BAD, BAD, BAD, 0, KEY_SPEC_SESSION_KEYRING),
    CALL(adjtimex, BAD),
    CALL(bpf, 0, BAD, 0),
    CALL(chroot, BAD),
    CALL(clock_adjtime, 0, BAD),
    CALL(clock_settime, 0, BAD),
    CALL(clone3, BAD, 88),
    CALL(delete_module, BAD, 0),
    CALL(fanotify_init, 0xffff, 0),
    CALL(fanotify_mark, -1, 0, 0, -1, BAD),
    CALL(finit_module, -1, BAD, 0),
    CALL(fsconfig, -1, 0xffff, 0, 0, 0),
    CALL(fsmount, -1, 0xffff, 0),
    CALL(fsopen, BAD, 0),
    CALL(fspick, -1, BAD, 0),
    CALL(get_mempolicy, 0, 0, 0, 0, 0xffff),
    CALL(init_module, BAD, 0, BAD),
#ifdef SYS_ioperm
    CALL(ioperm, 0xfffff, 1, 1),
    CALL(iopl, 9),
#endif
    CALL(io_uring_enter, -1, 0, 0, 0, 0, 0),
    CALL(io_uring_register, -1, 0, 0, 0),
    CALL(io_uring_setup, 0, BAD),
    CALL(kcmp, 0, 0, 99, 0, 0),
    CALL(kexec_load, 0, 0, 0, 0xffff),
    CALL(kexec_file_load, -1, -1, 0, BAD, 0xffff),
    CALL(keyctl, 0xffff, 0, 0, 0, 0),
    CALL(lookup_dcookie, 0, BAD, 0),
    CALL(mbind, 0, 0, 0xffff, 0, 0, 0),
    CALL(migrate_pages, 0, 0, BAD, BAD),
#ifdef SYS_modify_ldt
    CALL(modify_ldt, 0xffff, 0, 0),
#endif
    CALL(mount, BAD, BAD, BAD, 0, 0),
    CALL(mount_setattr, -1, BAD, 0, BAD, 0),
    CALL(move_mount, -1, BAD, -1, BAD, 0),
    CALL(move_pages, 0, 1, BAD, BAD, BAD, 0),
    CALL(name_to_handle_at, -1, BAD, BAD, BAD, 0),
    CALL(open_by_handle_at, -1, BAD, 0),
    CALL(open_tree, -1, BAD, 0),
    CALL(perf_event_open, BAD, 0, -1, -1, 0),
    CALL(personality, 0x0040000),
    CALL(pidfd_getfd, -1, 0, 0),
    CALL(pivot_root, BAD, BAD),
    CALL(process_madvise, -1, BAD, 0, 0, 0),
    CALL(process_vm_readv, 1, BAD, 1, BAD, 1, 0),
    CALL(process_vm_writev, 1, BAD, 1, BAD, 1, 0),
    CALL(ptrace, 0, 0, 0, 0),
    CALL(quotactl, 0, BAD, 0, 0),
    CALL(quotactl_fd, -1, 0, 0, 0),
    CALL(reboot, 0, 0, 0, 0),
    CALL(remap_file_pages, 0, 0, 0, 0, 0),
    CALL(request_key, BAD, BAD, BAD, 0),
    CALL(setdomainname, BAD, 1),
    CALL(setfsgid, 0),
    CALL(setfsuid, 0),
    CALL(sethostname, BAD, 1),
    CALL(set_mempolicy, 0xffff, 0, 0),
    CALL(setns, -1, 0),
    CALL(settimeofday, BAD, 0),
    CALL(swapoff, BAD),
    CALL(swapon, BAD, 0),
    CALL(syslog, 0xffff, 0, 0),
    CALL(umount2, BAD, 0),
    CALL(unshare, 0),
    CALL(userfaultfd, 1 /* from user mode only: no privilege needed */),
    CALL(vhangup),
    CALL(vmsplice, -1, 0, 0, 0),
    NEW(open_tree_attr, 467, -1, BAD, 0, 0, 0),
};

static void try_calls(void) {
    for (size_t i = 0; i < sizeof CALLS / sizeof *CALLS; i++) {
        const struct call *c = &CALLS[i];
        ROW("call", c->name, say(syscall(c->number, c->a[0], c->a[1], c->a[2], c->a[3], c->a[4], c->a[5])));
    }
#ifdef __x86_64__
    /* the same kernel by its other two doors: getpid as 32-bit and as x32 code */
    ROW("call", "32-bit code", { long r = 20; __asm__ volatile("int $0x80" : "+a"(r) : : "memory");
        printf("%s", r > 0 ? "allowed" : name_of((int)-r)); });
    ROW("call", "x32 code", { long r = syscall(0x40000000 + SYS_getpid);
        printf("%s", r > 0 ? "allowed" : "refused"); });
#endif
}

static int child_end(void *unused) {
    (void)unused;
    return 0;
}

static void try_namespaces(void) {
    static const struct { const char *name; int flag; } KINDS[] = {
        {"cgroup", CLONE_NEWCGROUP}, {"ipc", CLONE_NEWIPC}, {"mount", CLONE_NEWNS}, {"network", CLONE_NEWNET},
        {"pid", CLONE_NEWPID}, {"time", 0x80}, {"user", CLONE_NEWUSER}, {"uts", CLONE_NEWUTS},
    };
    static char stack[65536] __attribute__((aligned(16)));
    for (size_t i = 0; i < sizeof KINDS / sizeof *KINDS; i++) {
        int flag = KINDS[i].flag;
        ROW("namespace by unshare", KINDS[i].name, say(unshare(flag)));
        if (flag != 0x80) /* clone cannot make one */
            ROW("namespace by clone", KINDS[i].name, say(clone(child_end, stack + sizeof stack, flag | SIGCHLD, NULL)));
    }
}

static void try_identities(const char *self) {
    ROW("identity", "setuid 0", say(setuid(0)));
    ROW("identity", "setgid 0", say(setgid(0)));
    ROW("identity", "setgroups", { gid_t none = 0; say(syscall(SYS_setgroups, 1, &none)); });
    ROW("identity", "raise a hard limit", { struct rlimit l; getrlimit(RLIMIT_NOFILE, &l); l.rlim_max++;
        say(setrlimit(RLIMIT_NOFILE, &l)); });
    ROW("identity", "real-time scheduling", { struct sched_param p = {1}; say(sched_setscheduler(0, SCHED_FIFO, &p)); });
    ROW("identity", "lower nice", say(setpriority(PRIO_PROCESS, 0, -5)));
    ROW("identity", "keep capabilities", say(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, 13, 0, 0)));
    ROW("identity", "setuid program", {
        execl("/bin/setuid-probe", "probe", "whoami", NULL);
        printf("%s", name_of(errno));
    });
    ROW("identity", "gain by exec", {
        execl(self, "probe", "capabilities", NULL);
        printf("%s", name_of(errno));
    });
}

static void try_sockets(void) {
    static const struct { const char *name; int family, type, protocol; } SOCKETS[] = {
        {"ALG", AF_ALG, SOCK_SEQPACKET, 0},       {"INET raw", AF_INET, SOCK_RAW, 1},
        {"INET6 raw", AF_INET6, SOCK_RAW, 58},
        {"PACKET", AF_PACKET, SOCK_RAW, 0},       {"VSOCK", AF_VSOCK, SOCK_STREAM, 0},
        {"INET", AF_INET, SOCK_STREAM, 0},        {"UNIX", AF_UNIX, SOCK_STREAM, 0},
    };
    for (size_t i = 0; i < sizeof SOCKETS / sizeof *SOCKETS; i++)
        ROW("socket", SOCKETS[i].name, say(socket(SOCKETS[i].family, SOCKETS[i].type, SOCKETS[i].protocol)));
    ROW("socket", "low port", {
        struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(80)};
        say(bind(socket(AF_INET, SOCK_STREAM, 0), (void *)&a, sizeof a));
    });
}

/* What a read of a file gives: `nothing` when it is absent, hidden, forbidden or empty. */
static void read_some(const char *path) {
    char data[64];
    int fd = open(path, O_RDONLY | O_NONBLOCK);
    ssize_t got = fd < 0 ? -1 : read(fd, data, sizeof data);
    if (fd >= 0 && got < 0 && errno == EISDIR) {
        DIR *folder = fdopendir(fd);
        got = 0;
        for (struct dirent *e; folder != NULL && (e = readdir(folder)) != NULL;)
            if (e->d_name[0] != '.') got = 1;
    }
    printf("%s", got > 0 ? "readable" : "nothing");
}

static void try_paths(void) {
    static const char *READ[] = {
        "/dev/mem", "/dev/kmsg", "/dev/fuse", "/dev/kvm", "/dev/net/tun", "/dev/vda", "/dev/loop-control", "/dev/mapper",
        "/dev/pts", "/dev/mqueue", "/dev/ptmx",
        "/proc/acpi", "/proc/asound", "/proc/config.gz", "/proc/interrupts", "/proc/kallsyms", "/proc/kcore",
        "/proc/keys", "/proc/kmsg", "/proc/kpagecount", "/proc/kpageflags", "/proc/latency_stats", "/proc/modules",
        "/proc/sched_debug", "/proc/scsi", "/proc/slabinfo", "/proc/timer_list", "/proc/timer_stats",
        "/proc/vmallocinfo", "/proc/1/root/etc/shadow", "/etc/shadow", "/run", "/var/lib/nebh",
        "/sys", "/sys/fs/cgroup", "/sys/firmware", "/sys/kernel/debug", "/sys/devices/virtual/powercap",
    };
    for (size_t i = 0; i < sizeof READ / sizeof *READ; i++) ROW("read", READ[i], read_some(READ[i]));
    static const char *WRITE[] = {
        "/", "/bin/probe", "/etc/hosts", "/etc/resolv.conf", "/dev", "/proc/sys/kernel/core_pattern",
        "/proc/sys/vm/drop_caches", "/proc/sys/net/ipv4/ip_forward", "/proc/sys/kernel/hostname",
        "/proc/sysrq-trigger", "/proc/irq/default_smp_affinity", "/proc/self/setgroups",
        "/proc/self/exe", "/sys/fs/cgroup/release_agent", "/sys/fs/cgroup/cgroup.procs",
        "/sys/kernel/uevent_helper",
    };
    for (size_t i = 0; i < sizeof WRITE / sizeof *WRITE; i++)
        ROW("write", WRITE[i], {
            struct stat s;
            int found = stat(WRITE[i], &s), fd;
            if (found == 0 && S_ISDIR(s.st_mode)) fd = open(WRITE[i], O_TMPFILE | O_WRONLY, 0600);
            else fd = found < 0 ? -1 : open(WRITE[i], O_WRONLY | O_NONBLOCK);
            printf("%s", fd >= 0 ? "writable" : "refused");
        });
    ROW("write", "an oom_score_adj below 0", {
        int fd = open("/proc/self/oom_score_adj", O_WRONLY);
        printf("%s", fd >= 0 && write(fd, "-1", 2) == 2 ? "writable" : "refused");
    });
    ROW("write", "a map of user 0", {
        int fd = open("/proc/self/uid_map", O_WRONLY);
        printf("%s", fd >= 0 && write(fd, "0 0 1", 5) == 5 ? "writable" : "refused");
    });
    ROW("make", "a device", say(mknod("/tmp/device", S_IFCHR | 0600, (1 << 8) | 1)));
    ROW("make", "a program in /tmp", {
        int in = open("/proc/self/exe", O_RDONLY), out = open("/tmp/program", O_WRONLY | O_CREAT, 0700);
        char data[65536];
        for (ssize_t n; (n = read(in, data, sizeof data)) > 0;)
            if (write(out, data, (size_t)n) != n) break;
        close(out);
        execl("/tmp/program", "probe", "whoami", NULL);
        printf("%s", name_of(errno));
        unlink("/tmp/program");
    });
    ROW("make", "executable memory of /tmp", {
        int fd = open("/tmp/library", O_RDWR | O_CREAT, 0700);
        if (ftruncate(fd, 4096) != 0) printf("?");
        say(mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0) == MAP_FAILED ? -1 : 0);
        unlink("/tmp/library");
    });
    ROW("make", "a way out by chdir ..", {
        for (int i = 0; i < 64; i++)
            if (chdir("..") != 0) break;
        struct stat here, root;
        printf("%s", stat(".", &here) == 0 && stat("/", &root) == 0 && here.st_ino == root.st_ino &&
            here.st_dev == root.st_dev ? "stays inside" : "outside");
    });
}

static void print_status(void) {
    char line[512];
    FILE *file = fopen("/proc/self/status", "r");
    while (file != NULL && fgets(line, sizeof line, file)) {
        static const char *WANTED[] = {"Umask", "Uid", "Gid", "Groups", "Cap", "NoNewPrivs", "Seccomp:"};
        for (size_t i = 0; i < sizeof WANTED / sizeof *WANTED; i++)
            if (strncmp(line, WANTED[i], strlen(WANTED[i])) == 0) {
                printf("status ");
                for (char *c = line; *c; c++) putchar(*c == '\t' ? ' ' : *c);
            }
    }
    if (file != NULL) fclose(file);
}

static void print_file(const char *name, const char *path) {
    char line[512];
    FILE *file = fopen(path, "r");
    while (file != NULL && fgets(line, sizeof line, file)) {
        printf("%s:", name);
        for (char *word = strtok(line, " \t\n"); word != NULL; word = strtok(NULL, " \t\n")) printf(" %s", word);
        printf("\n");
    }
    if (file != NULL) fclose(file);
}

static void print_limits(void) {
    static const struct { const char *name; int which; } LIMITS[] = {
        {"core", RLIMIT_CORE}, {"locked memory", RLIMIT_MEMLOCK}, {"files", RLIMIT_NOFILE}, {"processes", RLIMIT_NPROC},
    };
    for (size_t i = 0; i < sizeof LIMITS / sizeof *LIMITS; i++) {
        struct rlimit l;
        getrlimit(LIMITS[i].which, &l);
        printf("limit %s: %ld %ld\n", LIMITS[i].name, (long)l.rlim_cur, (long)l.rlim_max);
    }
}

static void print_descriptors(void) {
    for (int fd = 0; fd < 1024; fd++) {
        char path[64], target[256];
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        ssize_t length = readlink(path, target, sizeof target - 1);
        if (length < 0) continue;
        target[length] = 0;
        if (strchr(target, '[') != NULL) *strchr(target, '[') = 0; /* pipe:[1234] */
        printf("descriptor %d: %s\n", fd, target);
    }
}

static void print_mounts(void) {
    char line[2048];
    FILE *file = fopen("/proc/self/mountinfo", "r");
    while (file != NULL && fgets(line, sizeof line, file)) {
        char where[256], options[256], kind[64];
        char *rest = strstr(line, " - ");
        if (rest == NULL || sscanf(line, "%*s %*s %*s %*s %255s %255s", where, options) != 2) continue;
        if (sscanf(rest + 3, "%63s", kind) != 1) continue;
        printf("mount %s: %s %s\n", where, kind, options);
    }
    if (file != NULL) fclose(file);
}

static void print_addresses(void) {
    struct ifaddrs *all, *one;
    if (getifaddrs(&all) != 0) return;
    for (one = all; one != NULL; one = one->ifa_next) {
        char text[INET6_ADDRSTRLEN] = "";
        if (one->ifa_addr == NULL) continue;
        if (one->ifa_addr->sa_family == AF_INET)
            inet_ntop(AF_INET, &((struct sockaddr_in *)one->ifa_addr)->sin_addr, text, sizeof text);
        if (one->ifa_addr->sa_family == AF_INET6)
            inet_ntop(AF_INET6, &((struct sockaddr_in6 *)one->ifa_addr)->sin6_addr, text, sizeof text);
        if (text[0]) printf("address %s: %s\n", one->ifa_name, text);
    }
    freeifaddrs(all);
}

/* NAME=ADDRESS:PORT (the port after the last colon): does it accept a connection within two seconds? */
static void try_connect(char *word) {
    char *address = strchr(word, '='), *port = strrchr(word, ':');
    struct sockaddr_storage to = {0};
    struct sockaddr_in *four = (void *)&to;
    struct sockaddr_in6 *six = (void *)&to;
    if (address == NULL || port == NULL) return;
    *address++ = *port++ = 0;
    if (strchr(address, ':') != NULL) {
        six->sin6_family = AF_INET6;
        six->sin6_port = htons((uint16_t)atoi(port));
        inet_pton(AF_INET6, address, &six->sin6_addr);
    } else {
        four->sin_family = AF_INET;
        four->sin_port = htons((uint16_t)atoi(port));
        inet_pton(AF_INET, address, &four->sin_addr);
    }
    ROW("reach", word, {
        int fd = socket(to.ss_family, SOCK_STREAM | SOCK_NONBLOCK, 0), error = 0;
        socklen_t size = sizeof error;
        connect(fd, (void *)&to, to.ss_family == AF_INET ? sizeof *four : sizeof *six);
        struct pollfd one = {fd, POLLOUT, 0};
        if (poll(&one, 1, 2000) == 1) getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
        else error = ETIMEDOUT;
        printf("%s", error == 0 ? "reached" : "not reached");
    });
}

int main(int count, char **words) {
    if (count == 2 && strcmp(words[1], "whoami") == 0) {
        printf("runs as %d", (int)geteuid());
        return 0;
    }
    if (count == 2 && strcmp(words[1], "capabilities") == 0) {
        uint32_t head[2] = {0x20080522, 0}, data[6] = {0};
        syscall(SYS_capget, head, data);
        printf("%08x%08x", data[3], data[0]);
        return 0;
    }
    signal(SIGPIPE, SIG_IGN);
    print_descriptors(); /* first: later there are more */
    print_status();
    print_file("uid_map", "/proc/self/uid_map");
    print_file("gid_map", "/proc/self/gid_map");
    print_file("oom_score_adj", "/proc/self/oom_score_adj");
    print_limits();
    print_mounts();
    print_addresses();
    try_calls();
    try_namespaces();
    try_identities(words[0]);
    try_sockets();
    try_paths();
    for (int i = 1; i < count; i++) try_connect(words[i]);
    printf("end\n");
    return 0;
}
