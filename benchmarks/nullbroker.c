/* nullbroker: a Kafka broker that answers at once and keeps nothing, so that a benchmark measures what is before it.
 *
 * One thread, epoll. It reads many requests with one call, answers them with one write, and lets the kernel throw the
 * bodies of large requests away (MSG_TRUNC) instead of copying them.
 *
 * Invariants
 * - Every request is answered, in order, under its own correlation id, when its last byte has arrived. (acks=0 is not
 *   looked for: a Produce is always answered.)
 * - Answers are well-formed for ApiVersions v0-4 (above: error 35 in the v0 form, as brokers do), Metadata v0-13,
 *   FindCoordinator v0-6, DescribeCluster v0-2, SaslHandshake v0-1 (and the bare tokens after v0), SaslAuthenticate
 *   v0-2 (anything is accepted, sessions never expire), Produce v3-13, Fetch v4-18 and Heartbeat v0-4.
 *   Produce and Fetch answer for topic "t" partition 0 without an error, whatever was asked; Fetch pads its records
 *   with zeros to --answer-bytes (v12 on: two bytes short at most). Every other API gets its correlation id and zeros,
 *   --answer-bytes in all.
 * - It is node --node-id at the address --advertise, the only broker, and leads all --partitions of every topic that
 *   is asked for; "all topics" is topic "t".
 * - What it keeps per connection is bounded by the longest request it must parse (64 KiB) and by the answers that the
 *   client has not read; while there are such, it reads nothing more of that client.
 *
 * Example: Heartbeat v0 for group "g", generation 1, member "m", correlation id 7, and its answer
 *
 *   $ nullbroker --port 9092 --advertise 127.0.0.1:9092 --node-id 1 --answer-bytes 100
 *   ready 9092
 *   > 00000016 000c 0000 00000007 0000 0001 67 00000001 0001 6d ...
 *   < 00000006 00000007 0000
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    READ_BYTES = 256 * 1024,
    PARSED_BYTES_MAX = 64 * 1024, /* of a request whose body must be understood */
    DISCARD_FROM_BYTES = 4096,    /* a rest of this size is worth a call of its own that copies nothing */
    LARGE_BYTES = 8 * 1024,       /* a request of this size is worth being read in two calls */
    FRAME_BYTES_MAX = 100 << 20,  /* Kafka: socket.request.max.bytes */
    HEAD_BYTES = 12,              /* size, key, version, correlation id */
    READS_PER_TURN = 16,
};

enum {
    PRODUCE = 0,
    FETCH = 1,
    METADATA = 3,
    FIND_COORDINATOR = 10,
    HEARTBEAT = 12,
    SASL_HANDSHAKE = 17,
    API_VERSIONS = 18,
    SASL_AUTHENTICATE = 36,
    DESCRIBE_CLUSTER = 60,
    KEYS = 128,
    VERSIONS = 32,
};

static struct {
    int port, node_id, partitions;
    char host[256];
    int advertised_port;
    size_t answer_bytes;
} options = {.node_id = 1, .partitions = 1, .host = "127.0.0.1", .answer_bytes = 100};

/* ---- a growing run of bytes, and Kafka's primitives in it ---- */

struct bytes {
    uint8_t *data;
    size_t used, room;
};

static uint8_t *grow(struct bytes *out, size_t count) {
    if (out->used + count > out->room) {
        out->room = 2 * (out->used + count);
        out->data = realloc(out->data, out->room);
        if (!out->data) abort();
    }
    uint8_t *start = out->data + out->used;
    out->used += count;
    return start;
}

static void put8(struct bytes *out, int value) { *grow(out, 1) = (uint8_t)value; }
static void put16(struct bytes *out, int value) { put8(out, value >> 8), put8(out, value); }
static void put32(struct bytes *out, int64_t value) { put16(out, (int)(value >> 16)), put16(out, (int)value); }
static void put64(struct bytes *out, int64_t value) { put32(out, value >> 32), put32(out, value); }
static void put_zeros(struct bytes *out, size_t count) { memset(grow(out, count), 0, count); }
static void put_raw(struct bytes *out, const void *data, size_t count) { memcpy(grow(out, count), data, count); }
static void put_uvarint(struct bytes *out, uint64_t value) {
    for (; value > 127; value >>= 7) put8(out, (int)(value & 127) | 128);
    put8(out, (int)value);
}

/* `flexible` chooses the encoding of KIP-482: compact lengths, and tags behind every struct. */
static void put_count(struct bytes *out, bool flexible, size_t count) {
    if (flexible) put_uvarint(out, count + 1);
    else put32(out, (int64_t)count);
}
static void put_text(struct bytes *out, bool flexible, const uint8_t *text, size_t count) {
    if (flexible) put_uvarint(out, count + 1);
    else put16(out, (int)count);
    put_raw(out, text, count);
}
static void put_string(struct bytes *out, bool flexible, const char *text) {
    put_text(out, flexible, (const uint8_t *)text, strlen(text));
}
static void put_null_string(struct bytes *out, bool flexible) {
    if (flexible) put8(out, 0);
    else put16(out, -1);
}
static void put_tags(struct bytes *out, bool flexible) {
    if (flexible) put8(out, 0);
}

/* A request's body being read; past its end it reads zeros and `broken` says so. */
struct cursor {
    const uint8_t *at, *end;
    bool broken;
};

static const uint8_t *take(struct cursor *in, size_t count) {
    static const uint8_t zeros[16];
    if ((size_t)(in->end - in->at) < count) {
        in->broken = true;
        return zeros;
    }
    in->at += count;
    return in->at - count;
}
static int take16(struct cursor *in) {
    const uint8_t *two = take(in, 2);
    return (int16_t)(two[0] << 8 | two[1]);
}
static int32_t take32(struct cursor *in) {
    uint32_t value;
    memcpy(&value, take(in, 4), 4);
    return (int32_t)be32toh(value);
}
static uint64_t take_uvarint(struct cursor *in) {
    uint64_t value = 0;
    for (int shift = 0; shift < 35; shift += 7) {
        uint8_t byte = *take(in, 1);
        value |= (uint64_t)(byte & 127) << shift;
        if (byte < 128) break;
    }
    return value;
}
/* Arrays and strings: their length, -1 for null. */
static int64_t take_count(struct cursor *in, bool flexible) {
    return flexible ? (int64_t)take_uvarint(in) - 1 : take32(in);
}
static int64_t take_text(struct cursor *in, bool flexible, const uint8_t **text) {
    int64_t count = flexible ? (int64_t)take_uvarint(in) - 1 : take16(in);
    *text = count > 0 && in->end - in->at < count ? (in->broken = true, in->at) : in->at;
    if (in->broken) return 0;
    if (count > 0) in->at += count;
    return count;
}
static void take_tags(struct cursor *in, bool flexible) {
    for (uint64_t left = flexible ? take_uvarint(in) : 0; left && !in->broken; left--) {
        take_uvarint(in);
        uint64_t count = take_uvarint(in);
        if (count > (uint64_t)(in->end - in->at)) in->broken = true;
        else in->at += count;
    }
}

/* ---- the answers ---- */

struct request {
    int key, version;
    struct cursor body;
};

/* key, lowest and highest version, first flexible version: client-facing APIs of a 4.3 broker. Produce says 0 although
 * 0-2 are refused by real brokers: KAFKA-18659. */
static const int16_t apis[][4] = {
    {0, 0, 13, 9},   {1, 4, 18, 12},  {2, 1, 11, 6},  {3, 0, 13, 9},   {8, 2, 10, 8},  {9, 1, 10, 6},  {10, 0, 6, 3},
    {11, 0, 9, 6},   {12, 0, 4, 4},   {13, 0, 5, 4},  {14, 0, 5, 4},   {15, 0, 6, 5},  {16, 0, 5, 3},  {17, 0, 1, 99},
    {18, 0, 4, 3},   {19, 2, 7, 5},   {20, 1, 6, 4},  {21, 0, 2, 2},   {22, 0, 5, 2},  {23, 2, 4, 4},  {24, 0, 5, 3},
    {25, 0, 4, 3},   {26, 0, 5, 3},   {27, 1, 2, 1},  {28, 0, 5, 3},   {29, 1, 3, 2},  {30, 1, 3, 2},  {31, 1, 3, 2},
    {32, 1, 4, 4},   {33, 0, 2, 2},   {34, 1, 2, 2},  {35, 1, 5, 2},   {36, 0, 2, 2},  {37, 0, 3, 2},  {38, 1, 3, 2},
    {39, 1, 2, 2},   {40, 1, 2, 2},   {41, 1, 3, 2},  {42, 0, 2, 2},   {43, 0, 2, 2},  {44, 0, 1, 1},  {45, 0, 1, 0},
    {46, 0, 0, 0},   {47, 0, 0, 99},  {48, 0, 1, 1},  {49, 0, 1, 1},   {50, 0, 0, 0},  {51, 0, 0, 0},  {55, 0, 2, 0},
    {57, 0, 2, 0},   {60, 0, 2, 0},   {61, 0, 0, 0},  {64, 0, 0, 0},   {65, 0, 0, 0},  {66, 0, 2, 0},  {68, 0, 1, 0},
    {69, 0, 1, 0},   {71, 0, 0, 0},   {72, 0, 0, 0},  {74, 0, 1, 0},   {75, 0, 0, 0},  {76, 1, 1, 0},  {77, 1, 1, 0},
    {78, 1, 2, 0},   {79, 1, 2, 0},   {80, 0, 1, 0},  {81, 0, 0, 0},   {83, 0, 0, 0},  {84, 0, 0, 0},  {85, 0, 1, 0},
    {86, 0, 0, 0},   {87, 0, 1, 0},   {88, 0, 0, 0},  {89, 0, 0, 0},   {90, 0, 1, 0},  {91, 0, 0, 0},  {92, 0, 0, 0},
};
enum { API_COUNT = sizeof apis / sizeof *apis };

static bool is_flexible(int key, int version) {
    for (int i = 0; i < API_COUNT; i++)
        if (apis[i][0] == key) return version >= apis[i][3];
    return false;
}

static void answer_api_versions(struct bytes *out, struct request *request) {
    int version = request->version > 4 ? 0 : request->version;
    bool flexible = version >= 3;
    put16(out, version == request->version ? 0 : 35 /* UNSUPPORTED_VERSION */);
    put_count(out, flexible, API_COUNT);
    for (int i = 0; i < API_COUNT; i++) {
        put16(out, apis[i][0]), put16(out, apis[i][1]), put16(out, apis[i][2]);
        put_tags(out, flexible);
    }
    if (version >= 1) put32(out, 0);
    put_tags(out, flexible);
}

static void put_partition(struct bytes *out, int version, int index) {
    bool flexible = version >= 9;
    put16(out, 0), put32(out, index), put32(out, options.node_id);
    if (version >= 7) put32(out, 0); /* leader epoch */
    put_count(out, flexible, 1), put32(out, options.node_id);
    put_count(out, flexible, 1), put32(out, options.node_id);
    if (version >= 5) put_count(out, flexible, 0);
    put_tags(out, flexible);
}

static void put_topic(struct bytes *out, int version, const uint8_t *name, size_t name_bytes, const uint8_t *topic_id) {
    bool flexible = version >= 9;
    put16(out, 0), put_text(out, flexible, name, name_bytes);
    if (version >= 10) put_raw(out, topic_id, 16);
    if (version >= 1) put8(out, 0); /* internal? */
    put_count(out, flexible, (size_t)options.partitions);
    for (int index = 0; index < options.partitions; index++) put_partition(out, version, index);
    if (version >= 8) put32(out, INT32_MIN); /* authorized operations: not asked for */
    put_tags(out, flexible);
}

/* The ids of topics are made of their names, so that the same topic always has the same. */
static void make_topic_id(const uint8_t *name, size_t name_bytes, uint8_t topic_id[16]) {
    memset(topic_id, 0x54, 16);
    for (size_t i = 0; i < name_bytes; i++) topic_id[i % 16] = (uint8_t)(31 * topic_id[i % 16] + name[i]);
}

static void put_topics(struct bytes *out, struct request *request) {
    struct cursor *in = &request->body;
    bool flexible = request->version >= 9;
    int64_t asked = take_count(in, flexible);
    bool all = asked < 0 || (asked == 0 && request->version == 0);
    uint8_t topic_id[16];
    make_topic_id((const uint8_t *)"t", 1, topic_id);
    if (all) {
        put_count(out, flexible, 1), put_topic(out, request->version, (const uint8_t *)"t", 1, topic_id);
        return;
    }
    if (asked > PARSED_BYTES_MAX) in->broken = true;
    put_count(out, flexible, (size_t)asked);
    for (int64_t i = 0; i < asked && !in->broken; i++) {
        const uint8_t *name, *asked_id = request->version >= 10 ? take(in, 16) : NULL;
        int64_t name_bytes = take_text(in, flexible, &name);
        take_tags(in, flexible);
        if (name_bytes < 0) put_topic(out, request->version, (const uint8_t *)"t", 1, asked_id);
        else make_topic_id(name, (size_t)name_bytes, topic_id),
             put_topic(out, request->version, name, (size_t)name_bytes, topic_id);
    }
}

static void put_node(struct bytes *out, bool flexible, bool with_rack) {
    put32(out, options.node_id), put_string(out, flexible, options.host), put32(out, options.advertised_port);
    if (with_rack) put_null_string(out, flexible);
}

static void answer_metadata(struct bytes *out, struct request *request) {
    int version = request->version;
    bool flexible = version >= 9;
    if (version >= 3) put32(out, 0);
    put_count(out, flexible, 1), put_node(out, flexible, version >= 1), put_tags(out, flexible);
    if (version >= 2) put_string(out, flexible, "nullbroker-cluster-id0");
    if (version >= 1) put32(out, options.node_id); /* controller */
    put_topics(out, request);
    if (version >= 8 && version <= 10) put32(out, INT32_MIN);
    if (version >= 13) put16(out, 0);
    put_tags(out, flexible);
}

static void answer_find_coordinator(struct bytes *out, struct request *request) {
    int version = request->version;
    bool flexible = version >= 3;
    if (version >= 1) put32(out, 0);
    if (version <= 3) {
        put16(out, 0);
        if (version >= 1) put_null_string(out, flexible);
        put_node(out, flexible, false), put_tags(out, flexible);
        return;
    }
    struct cursor *in = &request->body;
    take(in, 1); /* key type */
    int64_t asked = take_count(in, true);
    if (asked < 0 || asked > PARSED_BYTES_MAX) in->broken = true, asked = 0;
    put_count(out, true, (size_t)asked);
    for (int64_t i = 0; i < asked && !in->broken; i++) {
        const uint8_t *key;
        int64_t key_bytes = take_text(in, true, &key);
        put_text(out, true, key, key_bytes < 0 ? 0 : (size_t)key_bytes);
        put_node(out, true, false), put16(out, 0), put_null_string(out, true), put_tags(out, true);
    }
    put_tags(out, true);
}

static void answer_describe_cluster(struct bytes *out, struct request *request) {
    put32(out, 0), put16(out, 0), put_null_string(out, true);
    if (request->version >= 1) put8(out, 1); /* endpoint type: brokers */
    put_string(out, true, "nullbroker-cluster-id0"), put32(out, options.node_id);
    put_count(out, true, 1), put_node(out, true, true);
    if (request->version >= 2) put8(out, 0); /* fenced? */
    put_tags(out, true);
    put32(out, INT32_MIN), put_tags(out, true);
}

static void answer_sasl_handshake(struct bytes *out, struct request *request) {
    (void)request;
    put16(out, 0), put_count(out, false, 3);
    put_string(out, false, "PLAIN"), put_string(out, false, "SCRAM-SHA-256"), put_string(out, false, "SCRAM-SHA-512");
}

static void answer_sasl_authenticate(struct bytes *out, struct request *request) {
    bool flexible = request->version >= 2;
    put16(out, 0), put_null_string(out, flexible);
    put_count(out, flexible, 0);
    if (request->version >= 1) put64(out, 0); /* the session never expires */
    put_tags(out, flexible);
}

static void put_topic_t(struct bytes *out, bool flexible, bool by_id) {
    uint8_t topic_id[16];
    put_count(out, flexible, 1);
    if (by_id) make_topic_id((const uint8_t *)"t", 1, topic_id), put_raw(out, topic_id, 16);
    else put_string(out, flexible, "t");
    put_count(out, flexible, 1);
    put32(out, 0), put16(out, 0); /* partition, no error */
}

static void answer_produce(struct bytes *out, struct request *request) {
    int version = request->version;
    bool flexible = version >= 9;
    put_topic_t(out, flexible, version >= 13);
    put64(out, 0), put64(out, -1); /* base offset, log append time */
    if (version >= 5) put64(out, 0);
    if (version >= 8) put_count(out, flexible, 0), put_null_string(out, flexible);
    put_tags(out, flexible), put_tags(out, flexible);
    put32(out, 0), put_tags(out, flexible);
}

/* `out` begins with the frame's size: its length so far tells how many records bytes are missing. */
static void answer_fetch(struct bytes *out, struct request *request) {
    int version = request->version;
    bool flexible = version >= 12;
    put32(out, 0);
    if (version >= 7) put16(out, 0), put32(out, 0);
    put_topic_t(out, flexible, version >= 13);
    put64(out, 0), put64(out, 0); /* high watermark, last stable offset */
    if (version >= 5) put64(out, 0);
    put_count(out, flexible, 0);             /* aborted transactions */
    if (version >= 11) put32(out, -1);       /* preferred read replica */
    size_t behind = flexible ? 3 + 3 : 4;    /* a length of (mostly) three bytes, and three times tags */
    size_t records = out->used + behind < options.answer_bytes ? options.answer_bytes - out->used - behind : 0;
    put_count(out, flexible, records), put_zeros(out, records);
    put_tags(out, flexible), put_tags(out, flexible), put_tags(out, flexible);
}

static void answer_heartbeat(struct bytes *out, struct request *request) {
    if (request->version >= 1) put32(out, 0);
    put16(out, 0), put_tags(out, request->version >= 4);
}

/* The answers that depend on what is asked, so that the whole request must be at hand. */
static void (*const parsed_answers[KEYS])(struct bytes *, struct request *) = {
    [METADATA] = answer_metadata,
    [FIND_COORDINATOR] = answer_find_coordinator,
    [SASL_HANDSHAKE] = answer_sasl_handshake,
};

/* The answers that are the same each time: built once per key and version, then only copied. */
static void (*const fixed_answers[KEYS])(struct bytes *, struct request *) = {
    [PRODUCE] = answer_produce,           [FETCH] = answer_fetch,
    [HEARTBEAT] = answer_heartbeat,       [API_VERSIONS] = answer_api_versions,
    [SASL_AUTHENTICATE] = answer_sasl_authenticate, [DESCRIBE_CLUSTER] = answer_describe_cluster,
};

static void put_frame(struct bytes *out, struct request *request, const uint8_t *correlation_id,
                      void (*put_body)(struct bytes *, struct request *)) {
    struct bytes scratch = {0};
    put32(&scratch, 0), put_raw(&scratch, correlation_id, 4);
    bool tagged_header = is_flexible(request->key, request->version) && request->key != API_VERSIONS;
    if (put_body) put_tags(&scratch, tagged_header), put_body(&scratch, request);
    else if (options.answer_bytes > 8) put_zeros(&scratch, options.answer_bytes - 8);
    uint32_t size = htobe32((uint32_t)scratch.used - 4);
    memcpy(scratch.data, &size, 4);
    put_raw(out, scratch.data, scratch.used);
    free(scratch.data);
}

static struct bytes *fixed_frame(int key, int version) {
    static struct bytes frames[KEYS][VERSIONS];
    int known_key = key >= 0 && key < KEYS ? key : KEYS - 1, known_version = version & (VERSIONS - 1);
    struct bytes *frame = &frames[known_key][known_version];
    struct request request = {.key = known_key, .version = known_version};
    if (!frame->used) put_frame(frame, &request, (const uint8_t[4]){0}, fixed_answers[known_key]);
    return frame;
}

/* ---- connections ---- */

struct connection {
    int fd;
    bool bare_token;           /* SaslHandshake v0 went before: the next frame is a SASL token without a header */
    bool sends_large;          /* its last request was: read the head of the next alone, and discard the rest */
    size_t skip;               /* bytes of the current request that are still to come and not looked at */
    uint8_t head[HEAD_BYTES];  /* of the request that `skip` belongs to */
    struct bytes held;         /* the beginning of a request that must be parsed whole */
    struct bytes out;
};

static int epoll_fd;
static uint8_t read_buffer[PARSED_BYTES_MAX + READ_BYTES];

static int head16(const uint8_t *at) { return (int16_t)(at[0] << 8 | at[1]); }

static void answer_fixed(struct connection *connection, const uint8_t *head) {
    struct bytes *frame = fixed_frame(head16(head + 4), head16(head + 6));
    uint8_t *start = grow(&connection->out, frame->used);
    memcpy(start, frame->data, frame->used);
    memcpy(start + 4, head + 8, 4);
}

/* Answer a request whose `count` bytes are all here. False: it cannot be understood. */
static bool answer_parsed(struct connection *connection, const uint8_t *start, size_t count) {
    if (connection->bare_token) {
        connection->bare_token = false;
        put32(&connection->out, 0);
        return true;
    }
    struct request request = {head16(start + 4), head16(start + 6), {start + HEAD_BYTES, start + count, false}};
    const uint8_t *client_id;
    if (request.version < 0 || request.version >= VERSIONS) return false;
    take_text(&request.body, false, &client_id);
    take_tags(&request.body, is_flexible(request.key, request.version));
    put_frame(&connection->out, &request, start + 8, parsed_answers[request.key]);
    connection->bare_token = request.key == SASL_HANDSHAKE && request.version == 0;
    return !request.body.broken;
}

static bool is_parsed(const struct connection *connection, const uint8_t *head) {
    int key = head16(head + 4);
    return connection->bare_token || (key >= 0 && key < KEYS && parsed_answers[key]);
}

/* Answer every request in `data` that is complete; keep the beginning of the last. False: close the connection. */
static bool take_requests(struct connection *connection, const uint8_t *data, size_t count) {
    while (count) {
        if (connection->skip) {
            size_t step = connection->skip < count ? connection->skip : count;
            data += step, count -= step;
            if (connection->skip -= step) return true;
            answer_fixed(connection, connection->head);
            continue;
        }
        uint32_t size = 0;
        if (count >= 4) memcpy(&size, data, 4);
        size_t whole = (size_t)be32toh(size) + 4;
        bool head_is_here = count >= HEAD_BYTES || (connection->bare_token && count >= 4);
        if (head_is_here && is_parsed(connection, data)) {
            if (whole > PARSED_BYTES_MAX) return false;
            if (count < whole) head_is_here = false;
            else if (!answer_parsed(connection, data, whole)) return false;
            else {
                data += whole, count -= whole;
                continue;
            }
        }
        if (!head_is_here) {
            put_raw(&connection->held, data, count);
            return true;
        }
        if (whole < HEAD_BYTES || whole > FRAME_BYTES_MAX) return false;
        memcpy(connection->head, data, HEAD_BYTES);
        data += HEAD_BYTES, count -= HEAD_BYTES;
        connection->sends_large = whole >= LARGE_BYTES;
        if (!(connection->skip = whole - HEAD_BYTES)) answer_fixed(connection, connection->head);
    }
    return true;
}

/* Read and answer once. Returns the bytes read, 0 when there are none now, -1 when the connection is over; `more` says
 * whether it is worth asking again before other connections' turn. */
static ssize_t read_once(struct connection *connection, bool *more) {
    bool discards = connection->skip >= DISCARD_FROM_BYTES;
    size_t held = connection->held.used;
    size_t wanted = discards ? connection->skip : connection->sends_large ? HEAD_BYTES : READ_BYTES;
    if (held) memcpy(read_buffer, connection->held.data, held);
    ssize_t got = discards ? recv(connection->fd, NULL, wanted, MSG_TRUNC)
                           : recv(connection->fd, read_buffer + held, wanted, 0);
    *more = got == (ssize_t)wanted;
    if (got <= 0) return got < 0 && errno == EAGAIN ? 0 : -1;
    if (discards) {
        if (!(connection->skip -= (size_t)got)) answer_fixed(connection, connection->head);
        return got;
    }
    connection->held.used = 0;
    return take_requests(connection, read_buffer, held + (size_t)got) ? got : -1;
}

static bool flush(struct connection *connection) {
    struct bytes *out = &connection->out;
    ssize_t sent = send(connection->fd, out->data, out->used, MSG_NOSIGNAL);
    if (sent < 0) return errno == EAGAIN;
    out->used -= (size_t)sent;
    if (out->used) memmove(out->data, out->data + sent, out->used);
    return true;
}

static void drop(struct connection *connection) {
    close(connection->fd);
    free(connection->held.data), free(connection->out.data), free(connection);
}

/* Reading stops while answers wait to be sent: EPOLLOUT then stands in EPOLLIN's place. */
static void serve(struct connection *connection) {
    bool was_blocked = connection->out.used > 0, more = true;
    if (was_blocked && !flush(connection)) {
        drop(connection);
        return;
    }
    if (connection->out.used) return;
    ssize_t got = 0;
    for (int turn = 0; turn < READS_PER_TURN && more && got >= 0 && connection->out.used < READ_BYTES; turn++)
        got = read_once(connection, &more);
    bool flushed = !connection->out.used || flush(connection);
    if (got < 0 || !flushed) {
        drop(connection);
        return;
    }
    bool is_blocked = connection->out.used > 0;
    struct epoll_event event = {is_blocked ? EPOLLOUT : EPOLLIN, {.ptr = connection}};
    if (is_blocked != was_blocked) epoll_ctl(epoll_fd, EPOLL_CTL_MOD, connection->fd, &event);
}

static void accept_all(int listener) {
    for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0;) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
        struct connection *connection = calloc(1, sizeof *connection);
        connection->fd = fd;
        struct epoll_event event = {EPOLLIN, {.ptr = connection}};
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event);
    }
}

/* ---- start ---- */

static void parse_options(int argc, char **argv) {
    static const struct option names[] = {{"port", 1, 0, 'p'},         {"advertise", 1, 0, 'a'},
                                          {"node-id", 1, 0, 'n'},      {"answer-bytes", 1, 0, 'b'},
                                          {"partitions", 1, 0, 't'},   {0, 0, 0, 0}};
    for (int name; (name = getopt_long(argc, argv, "", names, NULL)) != -1;) switch (name) {
            case 'p': options.port = atoi(optarg); break;
            case 'n': options.node_id = atoi(optarg); break;
            case 'b': options.answer_bytes = strtoull(optarg, NULL, 10); break;
            case 't': options.partitions = atoi(optarg); break;
            case 'a':
                if (sscanf(optarg, "%255[^:]:%d", options.host, &options.advertised_port) == 2) break;
                /* fall through */
            default:
                fputs("usage: nullbroker [--port P] [--advertise HOST:PORT] [--node-id N] [--answer-bytes B] "
                      "[--partitions T]\n", stderr);
                exit(2);
        }
    if (options.answer_bytes > FRAME_BYTES_MAX) options.answer_bytes = FRAME_BYTES_MAX;
}

static int listen_at(int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    socklen_t address_bytes = sizeof address;
    inet_pton(AF_INET, "127.0.0.1", &address.sin_addr);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096)) {
        perror("nullbroker: cannot listen");
        exit(1);
    }
    getsockname(listener, (struct sockaddr *)&address, &address_bytes);
    options.port = ntohs(address.sin_port);
    if (!options.advertised_port) options.advertised_port = options.port;
    return listener;
}

int main(int argc, char **argv) {
    parse_options(argc, argv);
    signal(SIGPIPE, SIG_IGN);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    int listener = listen_at(options.port);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event events[256], listening = {EPOLLIN, {.ptr = NULL}};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &listening);
    printf("ready %d\n", options.port);
    fflush(stdout);
    for (;;) {
        int ready = epoll_wait(epoll_fd, events, 256, -1);
        for (int i = 0; i < ready; i++) {
            if (!events[i].data.ptr) accept_all(listener);
            else serve(events[i].data.ptr);
        }
    }
}
