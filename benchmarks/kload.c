/* kload: a load generator that speaks Kafka's framing, fast enough not to be what is measured.
 *
 * C connections keep D requests in flight each until N are answered (closed loop), or send R requests a second in all
 * whatever the answers do (open loop; latency counts from the time a request was due, so a stall is not hidden).
 * One thread, epoll, one write per read, bodies shared between all requests.
 *
 * Invariants
 * - Every request is well-formed: topic "t", partition 0, padded to the asked size by fields that may be long.
 * - Correlation ids count up from 0 on each connection; an answer out of order, a malformed size or an early close is
 *   an error, ends that connection and makes the exit code 1. Answers are otherwise not looked at.
 * - It always ends: at N answers, at --duration, or when no connection is left; set-up waits at most 10 s per answer.
 *
 * Example: 16 requests of 200 bytes in flight on one connection, one JSON line out
 *
 *   $ kload 127.0.0.1 9092 --connections 1 --depth 16 --bytes 200 --count 100000 --kind fetch
 *   {"requests":100000,"seconds":0.42,"rate":236000,"p50_us":61.0,...,"errors":0,"unanswered":0}
 *
 * --bytes is the whole frame, its 4 bytes of size included. --hello 1 sends ApiVersions v0 first on each connection,
 * --hello 2 Metadata v1 as well; --warmup W sends W requests on each connection, one by one, before the clock starts.
 * --gate prints "ready" then and waits for a line on stdin; the connections stay open after the result until stdin
 * ends. So the runner can read a proxy's CPU time exactly around the measured part. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum {
    HEAD_BYTES = 12, /* size, key, version, correlation id: the part of a frame that differs between requests */
    READ_BYTES = 256 * 1024,
    IOV_MAX_USED = 128,
    SETUP_TIMEOUT_SECONDS = 10,
    SEND_BUFFER_BYTES = 512 * 1024, /* left to grow, it outgrows the CPU cache: half the rate at 256 KiB frames */
    FRAME_BYTES_MAX = 64 * 1024 * 1024,
};

/* ---- options ---- */

static struct {
    const char *host;
    int port, connections, depth, hello, warmup;
    size_t bytes;
    uint64_t count;
    const char *kind;
    double rate, duration_seconds;
    bool gate;
} options = {.connections = 1, .depth = 1, .bytes = 200, .count = 10000, .kind = "fetch", .duration_seconds = 60};

static void die(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("kload: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    exit(2);
}

static void parse_options(int argc, char **argv) {
    static const struct option names[] = {
        {"connections", 1, 0, 'c'}, {"depth", 1, 0, 'd'}, {"bytes", 1, 0, 'b'},    {"count", 1, 0, 'n'},
        {"kind", 1, 0, 'k'},        {"rate", 1, 0, 'r'},  {"duration", 1, 0, 't'}, {"hello", 1, 0, 'h'},
        {"warmup", 1, 0, 'w'},      {"gate", 0, 0, 'g'},  {0, 0, 0, 0}};
    for (int name; (name = getopt_long(argc, argv, "", names, NULL)) != -1;) switch (name) {
            case 'c': options.connections = atoi(optarg); break;
            case 'd': options.depth = atoi(optarg); break;
            case 'b': options.bytes = strtoull(optarg, NULL, 10); break;
            case 'n': options.count = strtoull(optarg, NULL, 10); break;
            case 'k': options.kind = optarg; break;
            case 'r': options.rate = atof(optarg); break;
            case 't': options.duration_seconds = atof(optarg); break;
            case 'h': options.hello = atoi(optarg); break;
            case 'w': options.warmup = atoi(optarg); break;
            case 'g': options.gate = true; break;
            default: exit(2);
        }
    if (argc - optind != 2) die("usage: kload HOST PORT [--connections C] [--depth D] [--bytes S] [--count N] "
                                "[--kind fetch|produce|produce8|heartbeat] [--rate R] [--duration SECONDS] "
                                "[--hello 0|1|2] [--warmup W] [--gate]");
    options.host = argv[optind];
    options.port = atoi(argv[optind + 1]);
    if (options.connections < 1 || options.depth < 1) die("--connections and --depth begin at 1");
    if (options.bytes > FRAME_BYTES_MAX) die("--bytes is at most %d", FRAME_BYTES_MAX);
}

/* ---- the request, built once ---- */

static uint8_t *frame; /* the request; its correlation id, at byte 8, is each request's own */
static uint8_t *cursor;

static void put8(int value) { *cursor++ = (uint8_t)value; }
static void put16(int value) { put8(value >> 8), put8(value); }
static void put32(int64_t value) { put16((int)(value >> 16)), put16((int)value); }
static void put64(int64_t value) { put32(value >> 32), put32(value); }
static void put_zeros(size_t count) { memset(cursor, 0, count), cursor += count; }
static void put_string(const char *text) {
    put16((int)strlen(text));
    cursor = (uint8_t *)stpcpy((char *)cursor, text);
}
static void put_uvarint(uint64_t value) {
    for (; value > 127; value >>= 7) put8((int)(value & 127) | 128);
    put8((int)value);
}

static void put_header(int key, int version, size_t client_id_padding) {
    cursor = frame + 4;
    put16(key), put16(version), put32(0);
    put16((int)(5 + client_id_padding)); /* the client id takes up what the other padding cannot express */
    memcpy(cursor, "kload", 5), cursor += 5;
    memset(cursor, 'x', client_id_padding), cursor += client_id_padding;
}

/* The rack id stays empty, as a proxy may have to blank it; the list of forgotten partitions is what grows. */
static void put_fetch_11(size_t padding, size_t client_id_padding) {
    put_header(1, 11, client_id_padding);
    put32(-1), put32(500), put32(1), put32(50 << 20), put8(0); /* replica, max wait, min and max bytes, isolation */
    put32(0), put32(-1);                                       /* session id and epoch: a full fetch */
    put32(1), put_string("t"), put32(1);
    put32(0), put32(-1), put64(0), put64(-1), put32(1 << 20); /* partition, leader epoch, offset, log start, max */
    put32(1), put_string("t"), put32((int64_t)padding), put_zeros(4 * padding);
    put_string("");
}

static void put_produce_11(size_t padding, size_t client_id_padding) {
    put_header(0, 11, client_id_padding);
    put8(0);                            /* tags */
    put8(0), put16(1), put32(30000);    /* no transactional id, acks, timeout */
    put8(2), put8(2), put8('t');        /* one topic */
    put8(2), put32(0);                  /* one partition */
    put_uvarint(padding + 1), put_zeros(padding);
    put8(0), put8(0), put8(0);
}

static void put_produce_8(size_t padding, size_t client_id_padding) {
    put_header(0, 8, client_id_padding);
    put16(-1), put16(1), put32(30000);
    put32(1), put_string("t"), put32(1), put32(0);
    put32((int64_t)padding), put_zeros(padding);
}

static void put_heartbeat_3(size_t padding, size_t client_id_padding) {
    put_header(12, 3, client_id_padding);
    put_string("g"), put32(1);
    if (padding > INT16_MAX) die("a heartbeat has at most 32 KiB");
    put16((int)padding), memset(cursor, 'm', padding), cursor += padding; /* member id */
    put16(-1);
}

static const struct kind {
    const char *name;
    void (*put)(size_t padding, size_t client_id_padding);
    size_t padding_unit_bytes;
} kinds[] = {
    {"fetch", put_fetch_11, 4},
    {"produce", put_produce_11, 1},
    {"produce8", put_produce_8, 1},
    {"heartbeat", put_heartbeat_3, 1},
};

static size_t frame_bytes(const struct kind *kind, size_t padding, size_t client_id_padding) {
    kind->put(padding, client_id_padding);
    return (size_t)(cursor - frame);
}

static void build_request(void) {
    const struct kind *kind = NULL;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (!strcmp(kinds[i].name, options.kind)) kind = &kinds[i];
    if (!kind) die("--kind %s is not known", options.kind);
    frame = malloc(options.bytes + 1024);
    size_t minimum = frame_bytes(kind, 0, 0);
    if (options.bytes < minimum) die("--bytes %zu: this kind takes at least %zu", options.bytes, minimum);
    size_t padding = (options.bytes - minimum) / kind->padding_unit_bytes;
    while (frame_bytes(kind, padding, 0) > options.bytes) padding--; /* a longer length field ate some */
    size_t built = frame_bytes(kind, padding, options.bytes - frame_bytes(kind, padding, 0));
    if (built != options.bytes) die("--bytes %zu cannot be built", options.bytes);
    cursor = frame, put32((int64_t)built - 4);
}

/* ---- connections ---- */

struct connection {
    int fd;
    bool open, wants_write;
    uint32_t queued, sent, answered; /* correlation ids: next to queue, next to finish sending, next to be answered */
    size_t sent_bytes;               /* of the frame `sent` */
    uint64_t scheduled;              /* open loop: how many of this connection's requests were queued */
    uint64_t *started_ns;            /* ring of `depth`, by correlation id */
    uint8_t (*heads)[HEAD_BYTES];    /* same */
    uint8_t answer_head[8];          /* size and correlation id of the answer that is arriving */
    size_t answer_have, answer_skip;
};

static struct connection *connections;
static int epoll_fd;
static uint8_t read_buffer[READ_BYTES];
static uint64_t issued, answered_all, errors, started_at_ns;
static uint32_t *latencies; /* tenths of a microsecond, so that 7 minutes fit */
static int open_connections;
static char first_error[160];

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void fail(struct connection *connection, const char *what) {
    if (!errors++) snprintf(first_error, sizeof first_error, "%s", what);
    epoll_ctl(epoll_fd, EPOLL_CTL_DEL, connection->fd, NULL);
    close(connection->fd);
    connection->open = false;
    open_connections--;
}

static uint64_t schedule_index(const struct connection *connection) {
    return (uint64_t)(connection - connections) + connection->scheduled * (uint64_t)options.connections;
}

static uint64_t due_ns(uint64_t index) { return started_at_ns + (uint64_t)((double)index / options.rate * 1e9); }

/* Queue every request that this connection may send now. */
static void issue(struct connection *connection, uint64_t now) {
    while (connection->queued - connection->answered < (uint32_t)options.depth) {
        uint64_t started = now;
        if (options.rate > 0) {
            uint64_t index = schedule_index(connection);
            if (index >= options.count || (started = due_ns(index)) > now) return;
            connection->scheduled++;
        } else if (issued >= options.count) return;
        uint32_t slot = connection->queued % (uint32_t)options.depth;
        uint32_t id = htobe32(connection->queued);
        memcpy(connection->heads[slot] + 8, &id, 4);
        connection->started_ns[slot] = started;
        connection->queued++, issued++;
    }
}

static void watch(struct connection *connection, bool wants_write) {
    if (connection->wants_write == wants_write) return;
    connection->wants_write = wants_write;
    struct epoll_event event = {EPOLLIN | (wants_write ? EPOLLOUT : 0u), {.ptr = connection}};
    epoll_ctl(epoll_fd, EPOLL_CTL_MOD, connection->fd, &event);
}

static int gather(const struct connection *connection, struct iovec *parts) {
    int used = 0;
    size_t skip = connection->sent_bytes;
    for (uint32_t id = connection->sent; id != connection->queued && used + 2 <= IOV_MAX_USED; id++, skip = 0) {
        uint8_t *head = connection->heads[id % (uint32_t)options.depth];
        if (skip < HEAD_BYTES) parts[used++] = (struct iovec){head + skip, HEAD_BYTES - skip};
        size_t body_skip = skip < HEAD_BYTES ? HEAD_BYTES : skip;
        parts[used++] = (struct iovec){frame + body_skip, options.bytes - body_skip};
    }
    return used;
}

static void flush(struct connection *connection) {
    while (connection->sent != connection->queued) {
        struct iovec parts[IOV_MAX_USED];
        ssize_t written = writev(connection->fd, parts, gather(connection, parts));
        if (written < 0 && errno == EAGAIN) {
            watch(connection, true);
            return;
        }
        if (written < 0) {
            fail(connection, strerror(errno));
            return;
        }
        size_t total = connection->sent_bytes + (size_t)written;
        connection->sent += (uint32_t)(total / options.bytes);
        connection->sent_bytes = total % options.bytes;
    }
    watch(connection, false);
}

static const char *finish_answer(struct connection *connection, uint64_t now) {
    uint32_t id;
    memcpy(&id, connection->answer_head + 4, 4);
    if (be32toh(id) != connection->answered) return "an answer's correlation id is not the next one awaited";
    if (connection->answered == connection->sent) return "an answer to a request that was not sent";
    uint64_t tenths = (now - connection->started_ns[connection->answered % (uint32_t)options.depth]) / 100;
    latencies[answered_all++] = tenths > UINT32_MAX ? UINT32_MAX : (uint32_t)tenths;
    connection->answered++;
    connection->answer_have = 0;
    return NULL;
}

/* Walk the answers in `data`; returns what is wrong with them, or NULL. */
static const char *take_answers(struct connection *connection, const uint8_t *data, size_t count, uint64_t now) {
    while (count) {
        if (connection->answer_have < 8) {
            size_t take = 8 - connection->answer_have < count ? 8 - connection->answer_have : count;
            memcpy(connection->answer_head + connection->answer_have, data, take);
            data += take, count -= take;
            if ((connection->answer_have += take) < 8) break;
            uint32_t size;
            memcpy(&size, connection->answer_head, 4);
            size = be32toh(size);
            if (size < 4 || size > FRAME_BYTES_MAX) return "an answer's size is not believable";
            connection->answer_skip = size - 4;
        }
        size_t take = connection->answer_skip < count ? connection->answer_skip : count;
        data += take, count -= take;
        if (connection->answer_skip -= take) break;
        const char *wrong = finish_answer(connection, now);
        if (wrong) return wrong;
    }
    return NULL;
}

static void readable(struct connection *connection) {
    ssize_t count = recv(connection->fd, read_buffer, sizeof read_buffer, 0);
    if (count < 0 && errno == EAGAIN) return;
    if (count <= 0) {
        fail(connection, count ? strerror(errno) : "closed by the other side");
        return;
    }
    uint64_t now = now_ns();
    const char *wrong = take_answers(connection, read_buffer, (size_t)count, now);
    if (wrong) {
        fail(connection, wrong);
        return;
    }
    issue(connection, now);
    flush(connection);
}

/* ---- set-up: plain blocking calls, one connection after the other ---- */

static void write_all(int fd, const uint8_t *data, size_t count) {
    while (count) {
        ssize_t written = send(fd, data, count, MSG_NOSIGNAL);
        if (written <= 0) die("set-up: a write failed: %s", strerror(errno));
        data += written, count -= (size_t)written;
    }
}

static void read_all(int fd, uint8_t *data, size_t count) {
    while (count) {
        ssize_t got = recv(fd, data, count, 0);
        if (got <= 0) die("set-up: %s", got ? strerror(errno) : "closed by the other side");
        data += got, count -= (size_t)got;
    }
}

static void exchange(struct connection *connection, uint8_t *request, size_t count) {
    uint32_t id = htobe32(connection->queued), size;
    memcpy(request + 8, &id, 4);
    write_all(connection->fd, request, count);
    uint8_t head[8];
    read_all(connection->fd, head, 8);
    if (memcmp(head + 4, &id, 4)) die("set-up: an answer's correlation id is not the one awaited");
    memcpy(&size, head, 4);
    for (size_t left = be32toh(size) - 4; left;) {
        size_t take = left < sizeof read_buffer ? left : sizeof read_buffer;
        read_all(connection->fd, read_buffer, take);
        left -= take;
    }
    connection->queued = connection->sent = ++connection->answered;
}

static void open_connection(struct connection *connection) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)options.port)};
    if (inet_pton(AF_INET, options.host, &address.sin_addr) != 1) die("%s is not an IPv4 address", options.host);
    connection->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct timeval timeout = {.tv_sec = SETUP_TIMEOUT_SECONDS};
    setsockopt(connection->fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    setsockopt(connection->fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
    setsockopt(connection->fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout);
    setsockopt(connection->fd, SOL_SOCKET, SO_SNDBUF, &(int){SEND_BUFFER_BYTES}, sizeof(int));
    if (connect(connection->fd, (struct sockaddr *)&address, sizeof address))
        die("cannot connect to %s:%d: %s", options.host, options.port, strerror(errno));
    /* ApiVersions v0 and Metadata v1 (all topics), client id "k" */
    uint8_t versions[] = {0, 0, 0, 11, 0, 18, 0, 0, 0, 0, 0, 0, 0, 1, 'k'};
    uint8_t metadata[] = {0, 0, 0, 15, 0, 3, 0, 1, 0, 0, 0, 0, 0, 1, 'k', 255, 255, 255, 255};
    if (options.hello >= 1) exchange(connection, versions, sizeof versions);
    if (options.hello >= 2) exchange(connection, metadata, sizeof metadata);
    for (int i = 0; i < options.warmup; i++) exchange(connection, frame, options.bytes);
    fcntl(connection->fd, F_SETFL, O_NONBLOCK);
    connection->open = true, open_connections++;
    connection->started_ns = calloc((size_t)options.depth, sizeof *connection->started_ns);
    connection->heads = calloc((size_t)options.depth, HEAD_BYTES);
    for (int i = 0; i < options.depth; i++) memcpy(connection->heads[i], frame, HEAD_BYTES);
    struct epoll_event event = {EPOLLIN, {.ptr = connection}};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, connection->fd, &event);
}

static void wait_for_line(void) {
    for (int byte; (byte = getchar()) != EOF && byte != '\n';) continue;
}

/* ---- the measured part ---- */

static void arm(int timer_fd, uint64_t at_ns) {
    struct itimerspec when = {.it_value = {(time_t)(at_ns / 1000000000u), (long)(at_ns % 1000000000u)}};
    timerfd_settime(timer_fd, TFD_TIMER_ABSTIME, &when, NULL);
}

/* Open loop: send what is due, and wake up when the next request is. */
static void tick(int timer_fd) {
    static uint64_t next_index;
    uint64_t now = now_ns(), expirations;
    while (read(timer_fd, &expirations, sizeof expirations) > 0) continue;
    for (; next_index < options.count && due_ns(next_index) <= now; next_index++) {
        struct connection *connection = &connections[next_index % (uint64_t)options.connections];
        if (!connection->open) continue;
        issue(connection, now);
        flush(connection);
    }
    if (next_index < options.count) arm(timer_fd, due_ns(next_index));
}

static void run(void) {
    int timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    struct epoll_event events[256], timer_event = {EPOLLIN, {.ptr = NULL}};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, timer_fd, &timer_event);
    started_at_ns = now_ns();
    uint64_t deadline = started_at_ns + (uint64_t)(options.duration_seconds * 1e9);
    if (options.rate > 0) tick(timer_fd);
    for (int i = 0; i < options.connections && options.rate <= 0; i++) {
        issue(&connections[i], started_at_ns);
        flush(&connections[i]);
    }
    while (answered_all < options.count && open_connections && now_ns() < deadline) {
        int ready = epoll_wait(epoll_fd, events, 256, 100);
        for (int i = 0; i < ready; i++) {
            struct connection *connection = events[i].data.ptr;
            if (!connection) tick(timer_fd);
            else if (connection->open && events[i].events & ~(uint32_t)EPOLLOUT) readable(connection);
            else if (connection->open) flush(connection);
        }
    }
    close(timer_fd);
}

static int ascending(const void *left, const void *right) {
    uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;
    return (a > b) - (a < b);
}

static double quantile_us(double share) {
    if (!answered_all) return 0;
    return latencies[(size_t)((double)(answered_all - 1) * share)] / 10.0;
}

static void report(double seconds) {
    qsort(latencies, answered_all, sizeof *latencies, ascending);
    printf("{\"requests\":%llu,\"seconds\":%.6f,\"rate\":%.0f,\"p50_us\":%.1f,\"p95_us\":%.1f,\"p99_us\":%.1f,"
           "\"max_us\":%.1f,\"errors\":%llu,\"unanswered\":%llu,\"first_error\":\"%s\"}\n",
           (unsigned long long)answered_all, seconds, seconds > 0 ? (double)answered_all / seconds : 0,
           quantile_us(0.5), quantile_us(0.95), quantile_us(0.99), quantile_us(1), (unsigned long long)errors,
           (unsigned long long)(options.count - answered_all), first_error);
    fflush(stdout);
}

int main(int argc, char **argv) {
    parse_options(argc, argv);
    build_request();
    signal(SIGPIPE, SIG_IGN); /* a write to a closed connection is an error to count, not the end */
    prctl(PR_SET_TIMERSLACK, 1000ul); /* ns; the default of 50 us would show in open-loop latencies */
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    connections = calloc((size_t)options.connections, sizeof *connections);
    latencies = malloc((options.count + 1) * sizeof *latencies);
    if (!connections || !latencies) die("out of memory");
    for (int i = 0; i < options.connections; i++) open_connection(&connections[i]);
    if (options.gate) {
        puts("ready");
        fflush(stdout);
        wait_for_line();
    }
    if (options.count) run();
    report(options.count ? (double)(now_ns() - started_at_ns) / 1e9 : 0);
    if (options.gate) wait_for_line();
    return errors != 0;
}
