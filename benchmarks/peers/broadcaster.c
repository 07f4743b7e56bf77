/* The bare broadcaster: the least work a WebSocket hub can do, as a yardstick.
 *
 * One thread, one epoll. Whatever a connection sends as a text frame goes to
 * every connection that was opened at /sub, joined once per turn of the loop:
 * the same bytes are written to every subscriber. No rights, no envelope, no
 * storage. Usage: broadcaster PORT (bound to 127.0.0.1); prints "listening".
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define TURN_EVENTS 256
#define READ_BYTES (256 * 1024)
#define PENDING_MAX (64u * 1024 * 1024) /* a subscriber this far behind is dropped */

typedef struct {
    uint8_t *bytes;
    size_t used, room;
} Buffer;

typedef struct Connection {
    int fd;
    int is_open; /* the WebSocket handshake is done */
    int place;   /* index in subscribers, -1 for a publisher */
    Buffer in, out;
} Connection;

static Connection **subscribers;
static int subscriber_count, subscriber_room;
static Buffer joined;
static int poller;

static void append(Buffer *b, const void *bytes, size_t n) {
    if (b->used + n > b->room) {
        b->room = (b->used + n) * 2;
        b->bytes = realloc(b->bytes, b->room);
        if (!b->bytes) abort();
    }
    memcpy(b->bytes + b->used, bytes, n);
    b->used += n;
}

static void drop_front(Buffer *b, size_t n) {
    memmove(b->bytes, b->bytes + n, b->used - n);
    b->used -= n;
}

/* SHA-1 (RFC 3174) of a message of at most 119 bytes: a key and the GUID. */
static void sha1(const uint8_t *message, size_t n, uint8_t digest[20]) {
    uint32_t h[5] = {0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0};
    uint8_t block[128] = {0};
    size_t blocks = (n + 9 + 63) / 64;
    memcpy(block, message, n);
    block[n] = 0x80;
    for (int i = 0; i < 8; i++) block[blocks * 64 - 1 - i] = (uint8_t)(((uint64_t)n * 8) >> (8 * i));
    for (size_t k = 0; k < blocks; k++) {
        uint32_t w[80], a = h[0], b = h[1], c = h[2], d = h[3], e = h[4];
        for (int i = 0; i < 16; i++) {
            const uint8_t *p = block + k * 64 + i * 4;
            w[i] = (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
        }
        for (int i = 16; i < 80; i++) {
            uint32_t x = w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16];
            w[i] = x << 1 | x >> 31;
        }
        for (int i = 0; i < 80; i++) {
            uint32_t f = i < 20   ? ((b & c) | (~b & d)) + 0x5A827999
                         : i < 40 ? (b ^ c ^ d) + 0x6ED9EBA1
                         : i < 60 ? ((b & c) | (b & d) | (c & d)) + 0x8F1BBCDC
                                  : (b ^ c ^ d) + 0xCA62C1D6;
            uint32_t t = (a << 5 | a >> 27) + f + e + w[i];
            e = d, d = c, c = b << 30 | b >> 2, b = a, a = t;
        }
        h[0] += a, h[1] += b, h[2] += c, h[3] += d, h[4] += e;
    }
    for (int i = 0; i < 20; i++) digest[i] = (uint8_t)(h[i / 4] >> (24 - 8 * (i % 4)));
}

static void base64(const uint8_t *bytes, size_t n, char *text) {
    static const char letters[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < n; i += 3) {
        uint32_t v = (uint32_t)bytes[i] << 16;
        if (i + 1 < n) v |= (uint32_t)bytes[i + 1] << 8;
        if (i + 2 < n) v |= bytes[i + 2];
        *text++ = letters[v >> 18];
        *text++ = letters[v >> 12 & 63];
        *text++ = i + 1 < n ? letters[v >> 6 & 63] : '=';
        *text++ = i + 2 < n ? letters[v & 63] : '=';
    }
    *text = 0;
}

static void end(Connection *c) {
    if (c->place >= 0) {
        subscribers[c->place] = subscribers[--subscriber_count];
        subscribers[c->place]->place = c->place;
    }
    close(c->fd);
    free(c->in.bytes);
    free(c->out.bytes);
    free(c);
}

/* Write now what the kernel takes, keep the rest. False: the connection is dead. */
static int deliver(Connection *c, const uint8_t *bytes, size_t n) {
    if (c->out.used == 0) {
        ssize_t sent = send(c->fd, bytes, n, MSG_NOSIGNAL);
        if (sent < 0 && errno != EAGAIN) return 0;
        if (sent < 0) sent = 0;
        if ((size_t)sent == n) return 1;
        bytes += sent, n -= (size_t)sent;
        struct epoll_event wish = {.events = EPOLLIN | EPOLLOUT, .data.ptr = c};
        epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &wish);
    }
    if (c->out.used + n > PENDING_MAX) return 0;
    append(&c->out, bytes, n);
    return 1;
}

static int flush(Connection *c) {
    ssize_t sent = send(c->fd, c->out.bytes, c->out.used, MSG_NOSIGNAL);
    if (sent < 0) return errno == EAGAIN;
    drop_front(&c->out, (size_t)sent);
    if (c->out.used == 0) {
        struct epoll_event wish = {.events = EPOLLIN, .data.ptr = c};
        epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &wish);
    }
    return 1;
}

/* 1 the handshake is answered, 0 the head is incomplete, -1 it is no WebSocket. */
static int shake_hands(Connection *c) {
    append(&c->in, "", 1);
    c->in.used--;
    char *head = (char *)c->in.bytes, *stop = strstr(head, "\r\n\r\n");
    if (!stop) return c->in.used > 8192 ? -1 : 0;
    char *key = strcasestr(head, "\r\nsec-websocket-key:");
    if (!key || key > stop) return -1;
    key += strlen("\r\nsec-websocket-key:");
    key += strspn(key, " ");
    char secret[120], accept[32], answer[200];
    size_t n = strcspn(key, " \r");
    if (n > 60) return -1;
    memcpy(secret, key, n);
    strcpy(secret + n, "258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    uint8_t digest[20];
    sha1((uint8_t *)secret, strlen(secret), digest);
    base64(digest, 20, accept);
    int size = snprintf(answer, sizeof answer,
                        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                        "Connection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n",
                        accept);
    if (strncmp(head, "GET /sub ", 9) == 0) {
        if (subscriber_count == subscriber_room) {
            subscriber_room = subscriber_room ? subscriber_room * 2 : 64;
            subscribers = realloc(subscribers, (size_t)subscriber_room * sizeof *subscribers);
            if (!subscribers) abort();
        }
        c->place = subscriber_count;
        subscribers[subscriber_count++] = c;
    }
    drop_front(&c->in, (size_t)(stop + 4 - head));
    c->is_open = 1;
    return deliver(c, (uint8_t *)answer, (size_t)size) ? 1 : -1;
}

static void join_frame(const uint8_t *payload, size_t n) {
    uint8_t head[10] = {0x81};
    size_t size = 2;
    if (n < 126) {
        head[1] = (uint8_t)n;
    } else if (n < 65536) {
        head[1] = 126, head[2] = (uint8_t)(n >> 8), head[3] = (uint8_t)n, size = 4;
    } else {
        head[1] = 127, size = 10;
        for (int i = 0; i < 8; i++) head[2 + i] = (uint8_t)((uint64_t)n >> (56 - 8 * i));
    }
    append(&joined, head, size);
    append(&joined, payload, n);
}

/* Take every complete frame. False: closed or wrong. */
static int take_frames(Connection *c) {
    size_t at = 0;
    for (;;) {
        uint8_t *p = c->in.bytes + at;
        size_t left = c->in.used - at, head = 6;
        if (left < 2) break;
        if (!(p[1] & 0x80)) return 0; /* clients must mask, RFC 6455 5.1 */
        uint64_t n = p[1] & 127;
        if (n == 126) head = 8;
        if (n == 127) head = 14;
        if (left < head) break;
        if (n == 126) n = (uint64_t)p[2] << 8 | p[3];
        if (n == 127) {
            n = 0;
            for (int i = 0; i < 8; i++) n = n << 8 | p[2 + i];
        }
        if (n > 16 * 1024 * 1024) return 0;
        if (left < head + n) break;
        uint8_t *mask = p + head - 4, *payload = p + head;
        if ((p[0] & 15) == 8) return 0;
        if ((p[0] & 15) == 1) {
            for (uint64_t i = 0; i < n; i++) payload[i] ^= mask[i & 3];
            join_frame(payload, n);
        }
        at += head + n;
    }
    if (at) drop_front(&c->in, at);
    return 1;
}

static int take_bytes(Connection *c) {
    static uint8_t bytes[READ_BYTES];
    ssize_t n = recv(c->fd, bytes, sizeof bytes, 0);
    if (n == 0 || (n < 0 && errno != EAGAIN)) return 0;
    if (n < 0) return 1;
    append(&c->in, bytes, (size_t)n);
    if (!c->is_open) {
        int done = shake_hands(c);
        if (done <= 0) return done == 0;
    }
    return take_frames(c);
}

static void admit(int door) {
    int fd;
    while ((fd = accept4(door, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        int on = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        Connection *c = calloc(1, sizeof *c);
        if (!c) abort();
        c->fd = fd;
        c->place = -1;
        struct epoll_event wish = {.events = EPOLLIN, .data.ptr = c};
        epoll_ctl(poller, EPOLL_CTL_ADD, fd, &wish);
    }
}

int main(int count, char **words) {
    if (count != 2) return 2;
    signal(SIGPIPE, SIG_IGN);
    int door = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), on = 1;
    setsockopt(door, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(words[1]))};
    here.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(door, (struct sockaddr *)&here, sizeof here) || listen(door, 4096)) return 1;
    poller = epoll_create1(0);
    struct epoll_event wish = {.events = EPOLLIN, .data.ptr = NULL}, events[TURN_EVENTS];
    epoll_ctl(poller, EPOLL_CTL_ADD, door, &wish);
    puts("listening");
    fflush(stdout);
    for (;;) {
        int n = epoll_wait(poller, events, TURN_EVENTS, -1);
        for (int i = 0; i < n; i++) {
            Connection *c = events[i].data.ptr;
            if (!c) {
                admit(door);
                continue;
            }
            int alive = 1;
            if (events[i].events & EPOLLOUT) alive = flush(c);
            if (alive && events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) alive = take_bytes(c);
            if (!alive) end(c);
        }
        if (!joined.used) continue;
        for (int i = subscriber_count - 1; i >= 0; i--) /* backwards: end() moves the last one */
            if (!deliver(subscribers[i], joined.bytes, joined.used)) end(subscribers[i]);
        joined.used = 0;
    }
}
