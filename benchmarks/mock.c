// SPDX-License-Identifier: Apache-2.0
/* An imitation of vLLM's OpenAI server at almost no cost: one process, one thread, several listeners (= several instances).
 *
 *   mock [-d delay_us] [-n unary_delay_us] [-t ttft_us] [-a 0|1] [-m model] LISTENER...
 *
 * A LISTENER is a port on 127.0.0.1, or the path of a Unix socket (anything with a slash).
 *
 * POST to any path: with "stream": true an SSE stream of max_tokens chunks (default 128), else about 600 bytes of JSON with usage.
 * Each token's delta.content is " n<nonce, 8 digits>s<sequence, 8 digits>t<CLOCK_MONOTONIC ns, 16 digits>c<FNV-1a of what stands before,
 * 8 hex digits>", so that a reader can tell any changed byte: one send() and one HTTP chunk per SSE event, as vLLM does. The nonce is
 * the eight digits behind "nonce-" in the request body. The usage event is sent to those who ask with "include_usage": true.
 * Keys are looked for in the first 8 KiB and the last 2 KiB of a body, so that a large body costs the machine little.
 *
 * align=1: all streams of the process send on a common tick, as the steps of one engine; 0: each stream has its own phase.
 *
 * GET /ctl?delay_us=&unary_delay_us=&ttft_us=&align=&sum=   sets what is named and answers with the settings
 * GET /stats      counters;  /lasthead  the last request head as it arrived;  /lastbody  its body's length and, with sum=1, FNV-1a
 * GET /v1/models, anything with "info" in it, and anything else (a health answer)
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { MAX_LISTENERS = 16, READ_BYTES = 65536, HEAD_WINDOW = 8192, TAIL_WINDOW = 2048 };
enum mode { IDLE, STREAM, DELAYED };

static struct { uint64_t delay_us, unary_delay_us, ttft_us; int align, sum; const char *model; } settings = {20000, 0, 0, 1, 0, "mock-model"};
static struct { long conns, open, active, done, aborted, unary, streams, chunks, gets, short_writes, requests[MAX_LISTENERS]; uint64_t last_abort_ns; } stats;
static struct { char head[4096]; size_t body_bytes; uint64_t body_fnv; } last;
static int listeners, epoll, listen_fd[MAX_LISTENERS];

typedef struct conn {
    int fd, listener, mode, want_write;
    char *in;                       /* what has arrived and is not handled */
    size_t in_len, in_cap, scanned; /* scanned: how far a chunked body has been walked */
    char *out;                      /* what the socket would not take */
    size_t out_off, out_len, out_cap;
    int seq, total, usage;          /* of the running stream; usage: was asked for */
    char nonce[9];
    uint64_t due;                   /* monotonic ns, meaningful while in the heap */
    int heap_index;                 /* -1: not in the heap */
    struct conn *next_dead;
} conn;
static conn *graveyard; /* closed in this round of events; freed at its end, since an event may still point at them */

static uint64_t now_ns(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec; }
static void *grow(void *p, size_t n) { p = realloc(p, n); if (!p) { perror("mock: memory"); exit(1); } return p; }

/* ---- timers: a binary heap by due time ---- */
static conn **heap;
static int heap_len, heap_cap;
static void heap_swap(int a, int b) { conn *t = heap[a]; heap[a] = heap[b]; heap[b] = t; heap[a]->heap_index = a; heap[b]->heap_index = b; }
static void heap_up(int i) { while (i && heap[(i - 1) / 2]->due > heap[i]->due) { heap_swap(i, (i - 1) / 2); i = (i - 1) / 2; } }
static void heap_down(int i) {
    for (;;) {
        int l = 2 * i + 1, m = i;
        if (l < heap_len && heap[l]->due < heap[m]->due) m = l;
        if (l + 1 < heap_len && heap[l + 1]->due < heap[m]->due) m = l + 1;
        if (m == i) return;
        heap_swap(i, m); i = m;
    }
}
static void heap_add(conn *c) {
    if (heap_len == heap_cap) { heap_cap = heap_cap ? heap_cap * 2 : 256; heap = grow(heap, (size_t)heap_cap * sizeof *heap); }
    c->heap_index = heap_len; heap[heap_len++] = c; heap_up(c->heap_index);
}
static void heap_remove(conn *c) {
    int i = c->heap_index;
    if (i < 0) return;
    if (i != --heap_len) { heap[i] = heap[heap_len]; heap[i]->heap_index = i; heap_up(i); heap_down(heap[i]->heap_index); }
    c->heap_index = -1;
}

/* ---- connections ---- */
static void conn_close(conn *c) {
    if (c->mode != IDLE) { stats.aborted++; stats.last_abort_ns = now_ns(); }
    if (c->mode == STREAM) stats.active--;
    heap_remove(c);
    epoll_ctl(epoll, EPOLL_CTL_DEL, c->fd, 0); close(c->fd); stats.open--;
    c->fd = -1; c->next_dead = graveyard; graveyard = c;
}
static void bury(void) { while (graveyard) { conn *c = graveyard; graveyard = c->next_dead; free(c->in); free(c->out); free(c); } }
static void want_write(conn *c, int want) {
    if (c->want_write == want) return;
    c->want_write = want;
    struct epoll_event e = {.events = EPOLLIN | EPOLLRDHUP | (want ? EPOLLOUT : 0), .data.ptr = c};
    epoll_ctl(epoll, EPOLL_CTL_MOD, c->fd, &e);
}
static void conn_send(conn *c, const char *b, size_t n) {
    if (c->fd < 0) return;
    if (!c->out_len) {
        ssize_t r = send(c->fd, b, n, MSG_NOSIGNAL);
        if (r < 0) { if (errno != EAGAIN) { conn_close(c); return; } r = 0; }
        if ((size_t)r == n) return;
        stats.short_writes++; b += r; n -= (size_t)r;
    }
    if (c->out_off + c->out_len + n > c->out_cap) {
        memmove(c->out, c->out + c->out_off, c->out_len); c->out_off = 0;
        while (c->out_len + n > c->out_cap) c->out_cap = c->out_cap ? c->out_cap * 2 : 65536;
        c->out = grow(c->out, c->out_cap);
    }
    memcpy(c->out + c->out_off + c->out_len, b, n); c->out_len += n; want_write(c, 1);
}
static void conn_flush(conn *c) {
    while (c->out_len) {
        ssize_t r = send(c->fd, c->out + c->out_off, c->out_len, MSG_NOSIGNAL);
        if (r < 0) { if (errno != EAGAIN) conn_close(c); return; }
        c->out_off += (size_t)r; c->out_len -= (size_t)r;
    }
    c->out_off = 0; want_write(c, 0);
}

/* ---- answers ---- */
#define DATE "date: Mon, 01 Jan 2026 00:00:00 GMT\r\nserver: uvicorn\r\n"
static void reply(conn *c, const char *type, const char *body, size_t n) {
    char b[16384];
    int k = snprintf(b, sizeof b, "HTTP/1.1 200 OK\r\n" DATE "content-length: %zu\r\ncontent-type: %s\r\n\r\n", n, type);
    if ((size_t)k + n > sizeof b) { conn_close(c); return; }
    memcpy(b + k, body, n); conn_send(c, b, (size_t)k + n);
}
static void unary_reply(conn *c) {
    char b[2048];
    int n = snprintf(b, sizeof b,
        "{\"id\":\"chatcmpl-%s00000000000000000000000000000000\",\"object\":\"chat.completion\",\"created\":1760000000,\"model\":\"%s\","
        "\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"The quick brown fox jumps over the lazy dog and keeps on "
        "running through the forest until it reaches the river.\",\"refusal\":null,\"annotations\":null,\"audio\":null,\"function_call\":null,"
        "\"tool_calls\":[]},\"logprobs\":null,\"finish_reason\":\"stop\",\"stop_reason\":null}],\"service_tier\":null,\"system_fingerprint\":null,"
        "\"usage\":{\"prompt_tokens\":25,\"total_tokens\":57,\"completion_tokens\":32,\"prompt_tokens_details\":null},"
        "\"prompt_logprobs\":null,\"kv_transfer_params\":null}", c->nonce, settings.model);
    c->mode = IDLE; reply(c, "application/json", b, (size_t)n);
}
static void stream_chunk(conn *c, const char *event, int n) {
    char b[1200];
    int k = snprintf(b, sizeof b, "%x\r\n", (unsigned)n);
    memcpy(b + k, event, (size_t)n); k += n; b[k++] = '\r'; b[k++] = '\n';
    conn_send(c, b, (size_t)k); stats.chunks++;
}
static void schedule(conn *c, uint64_t now) {
    uint64_t d = settings.delay_us * 1000;
    c->due = settings.align && d ? (now / d + 1) * d : now + d;
    heap_remove(c); heap_add(c);
}
#define CHUNK_START "data: {\"id\":\"chatcmpl-%s000000000000000000000000\",\"object\":\"chat.completion.chunk\",\"created\":1760000000,\"model\":\"%s\",\"choices\":"
/* Send the tokens that are due: one, or all that are left when there is no delay. The end is three sends, as uvicorn makes them. */
static void stream_step(conn *c) {
    char e[1024];
    int k = snprintf(e, sizeof e, CHUNK_START, c->nonce, settings.model);
    while (c->seq < c->total) {
        char token[64];
        int t = snprintf(token, sizeof token, " n%ss%08dt%016llu", c->nonce, c->seq, (unsigned long long)now_ns());
        uint32_t h = 2166136261u;
        for (int i = 0; i < t; i++) h = (h ^ (unsigned char)token[i]) * 16777619u;
        int n = k + snprintf(e + k, sizeof e - (size_t)k, "[{\"index\":0,\"delta\":{\"content\":\"%sc%08x\"},\"logprobs\":null,\"finish_reason\":%s}]}\n\n",
            token, h, c->seq == c->total - 1 ? "\"stop\"" : "null");
        stream_chunk(c, e, n);
        if (c->fd < 0) return;
        if (++c->seq < c->total && settings.delay_us) { schedule(c, now_ns()); return; }
    }
    if (c->usage) {
        int n = k + snprintf(e + k, sizeof e - (size_t)k, "[],\"usage\":{\"prompt_tokens\":25,\"total_tokens\":%d,\"completion_tokens\":%d}}\n\n", 25 + c->total, c->total);
        stream_chunk(c, e, n);
    }
    if (c->fd >= 0) stream_chunk(c, "data: [DONE]\n\n", 14);
    if (c->fd >= 0) conn_send(c, "0\r\n\r\n", 5);
    if (c->fd < 0) return;
    stats.done++; stats.active--; c->mode = IDLE; heap_remove(c);
}
static void run_timers(uint64_t now) {
    while (heap_len && heap[0]->due <= now) {
        conn *c = heap[0];
        if (c->mode == STREAM) stream_step(c); else { heap_remove(c); if (c->mode == DELAYED) unary_reply(c); }
    }
}

/* ---- requests ---- */
static const char *find(const char *h, size_t n, const char *s) {
    size_t head = n < HEAD_WINDOW ? n : HEAD_WINDOW, tail = n - head < TAIL_WINDOW ? n - head : TAIL_WINDOW;
    const char *p = memmem(h, head, s, strlen(s));
    return p || !tail ? p : memmem(h + n - tail, tail, s, strlen(s));
}
static uint64_t query(const char *path, const char *key, uint64_t now) {
    for (const char *p = path; (p = strpbrk(p, "?&"));) { p++; if (!strncmp(p, key, strlen(key)) && p[strlen(key)] == '=') return strtoull(p + strlen(key) + 1, 0, 10); }
    return now;
}
static void handle_get(conn *c, const char *head, size_t head_len) {
    char path[512], b[4096]; size_t i = 0; int n;
    while (i < sizeof path - 1 && 4 + i < head_len && head[4 + i] != ' ') { path[i] = head[4 + i]; i++; }
    path[i] = 0; stats.gets++;
    if (!strncmp(path, "/ctl", 4)) {
        settings.delay_us = query(path, "delay_us", settings.delay_us); settings.unary_delay_us = query(path, "unary_delay_us", settings.unary_delay_us);
        settings.ttft_us = query(path, "ttft_us", settings.ttft_us); settings.align = (int)query(path, "align", (uint64_t)settings.align); settings.sum = (int)query(path, "sum", (uint64_t)settings.sum);
        n = snprintf(b, sizeof b, "{\"delay_us\":%lu,\"unary_delay_us\":%lu,\"ttft_us\":%lu,\"align\":%d,\"sum\":%d}", settings.delay_us, settings.unary_delay_us, settings.ttft_us, settings.align, settings.sum);
    } else if (!strncmp(path, "/stats", 6)) {
        n = snprintf(b, sizeof b, "{\"conns\":%ld,\"open\":%ld,\"active\":%ld,\"done\":%ld,\"aborted\":%ld,\"last_abort_ns\":%lu,\"now_ns\":%lu,\"unary\":%ld,\"streams\":%ld,\"chunks\":%ld,\"gets\":%ld,\"short_writes\":%ld,\"requests\":[",
            stats.conns, stats.open, stats.active, stats.done, stats.aborted, stats.last_abort_ns, now_ns(), stats.unary, stats.streams, stats.chunks, stats.gets, stats.short_writes);
        for (int l = 0; l < listeners; l++) n += snprintf(b + n, sizeof b - (size_t)n, "%s%ld", l ? "," : "", stats.requests[l]);
        n += snprintf(b + n, sizeof b - (size_t)n, "]}");
    } else if (!strncmp(path, "/lasthead", 9)) { reply(c, "text/plain", last.head, strlen(last.head)); return; }
    else if (!strncmp(path, "/lastbody", 9)) n = snprintf(b, sizeof b, "{\"bytes\":%zu,\"fnv\":\"%016lx\"}", last.body_bytes, last.body_fnv);
    else if (!strncmp(path, "/v1/models", 10)) n = snprintf(b, sizeof b, "{\"object\":\"list\",\"data\":[{\"id\":\"%s\",\"object\":\"model\",\"created\":1760000000,\"owned_by\":\"vllm\",\"root\":\"%s\",\"parent\":null,\"max_model_len\":131072}]}", settings.model, settings.model);
    else if (strstr(path, "info")) n = snprintf(b, sizeof b, "{\"model_path\":\"%s\",\"served_model_name\":\"%s\",\"model_id\":\"%s\",\"tokenizer_path\":\"%s\",\"is_generation\":true,\"version\":\"0.5.0\",\"tp_size\":1,\"dp_size\":1}", settings.model, settings.model, settings.model, settings.model);
    else n = snprintf(b, sizeof b, "{\"status\":\"ok\",\"version\":\"0.11.0\"}");
    reply(c, "application/json", b, (size_t)n);
}
static void handle(conn *c, const char *head, size_t head_len, const char *body, size_t body_len) {
    stats.requests[c->listener]++;
    if (!memcmp(head, "GET ", 4)) { handle_get(c, head, head_len); return; }
    size_t kept = head_len < sizeof last.head - 1 ? head_len : sizeof last.head - 1;
    memcpy(last.head, head, kept); last.head[kept] = 0; last.body_bytes = body_len;
    if (settings.sum) { uint64_t h = 14695981039346656037ull; for (size_t i = 0; i < body_len; i++) h = (h ^ (unsigned char)body[i]) * 1099511628211ull; last.body_fnv = h; }
    const char *p = find(body, body_len, "nonce-");
    memcpy(c->nonce, "00000000", 9);
    if (p && p + 14 <= body + body_len) memcpy(c->nonce, p + 6, 8);
    if (!find(body, body_len, "\"stream\":true") && !find(body, body_len, "\"stream\": true")) {
        stats.unary++;
        if (!settings.unary_delay_us) { unary_reply(c); return; }
        c->mode = DELAYED; c->due = now_ns() + settings.unary_delay_us * 1000; heap_add(c); return;
    }
    c->total = 128;
    if ((p = find(body, body_len, "\"max_tokens\":"))) c->total = atoi(p + 13);
    else if ((p = find(body, body_len, "\"max_completion_tokens\":"))) c->total = atoi(p + 24);
    if (c->total < 1) c->total = 1;
    c->usage = find(body, body_len, "\"include_usage\":true") || find(body, body_len, "\"include_usage\": true");
    stats.streams++; stats.active++; c->mode = STREAM; c->seq = 0;
    static const char h[] = "HTTP/1.1 200 OK\r\n" DATE "content-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n";
    conn_send(c, h, sizeof h - 1);
    if (c->fd < 0) return;
    if (settings.ttft_us) { c->due = now_ns() + settings.ttft_us * 1000; heap_add(c); } else stream_step(c);
}

/* Walk a chunked body from c->scanned on; the offset behind its end once all is there (no trailers), else 0. */
static size_t chunked_end(conn *c) {
    for (;;) {
        char *at = c->in + c->scanned, *nl = memmem(at, c->in_len - c->scanned, "\r\n", 2);
        if (!nl) return 0;
        size_t n = strtoul(at, 0, 16), next = (size_t)(nl - c->in) + 2 + n + 2;
        if (c->in_len < next) return 0;
        c->scanned = next;
        if (!n) return next;
    }
}
static size_t dechunk(char *body, size_t n) {
    char *from = body, *to = body;
    while (from < body + n) { char *nl = memmem(from, (size_t)(body + n - from), "\r\n", 2); size_t k = strtoul(from, 0, 16); if (!k) break; memmove(to, nl + 2, k); to += k; from = nl + 2 + k + 2; }
    return (size_t)(to - body);
}
static void process(conn *c) {
    while (c->fd >= 0 && c->mode == IDLE && c->in_len) {
        char *end = memmem(c->in, c->in_len, "\r\n\r\n", 4);
        if (!end) return;
        size_t head_len = (size_t)(end - c->in) + 4, body_len = 0, all; int chunked = 0;
        for (char *l = c->in; l < end;) {
            char *nl = memmem(l, (size_t)(end + 2 - l), "\r\n", 2);
            if (!strncasecmp(l, "content-length:", 15)) body_len = strtoul(l + 15, 0, 10);
            else if (!strncasecmp(l, "transfer-encoding:", 18)) chunked = 1;
            else if (!strncasecmp(l, "expect:", 7) && !c->scanned) { conn_send(c, "HTTP/1.1 100 Continue\r\n\r\n", 25); if (c->fd < 0) return; c->scanned = head_len; }
            l = nl + 2;
        }
        if (chunked) {
            if (c->scanned < head_len) c->scanned = head_len;
            if (!(all = chunked_end(c))) return;
            body_len = dechunk(c->in + head_len, all - head_len);
        } else if (c->in_len < (all = head_len + body_len)) return;
        handle(c, c->in, head_len, c->in + head_len, body_len);
        if (c->fd < 0) return;
        c->scanned = 0; memmove(c->in, c->in + all, c->in_len - all); c->in_len -= all;
    }
}
static void conn_read(conn *c) {
    for (;;) {
        if (c->in_len + READ_BYTES > c->in_cap) { c->in_cap = c->in_len * 2 + 2 * READ_BYTES; c->in = grow(c->in, c->in_cap); }
        ssize_t r = recv(c->fd, c->in + c->in_len, c->in_cap - c->in_len, 0);
        if (r > 0) { c->in_len += (size_t)r; if ((size_t)r < READ_BYTES) break; continue; }
        if (r < 0 && errno == EAGAIN) break;
        conn_close(c); return;
    }
    process(c);
}

/* ---- listeners and the loop ---- */
static int listen_on(const char *where) {
    int unix_path = strchr(where, '/') != 0, fd = socket(unix_path ? AF_UNIX : AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1, bad;
    if (unix_path) {
        struct sockaddr_un a = {.sun_family = AF_UNIX};
        if (strlen(where) >= sizeof a.sun_path) { fprintf(stderr, "mock: %s: too long for a Unix socket\n", where); return -1; }
        strcpy(a.sun_path, where); unlink(where); bad = bind(fd, (void *)&a, sizeof a);
    } else {
        struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(where)), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one); bad = bind(fd, (void *)&a, sizeof a);
    }
    if (bad || listen(fd, 4096)) { fprintf(stderr, "mock: %s: %s\n", where, strerror(errno)); return -1; }
    return fd;
}
static void accept_all(int l) {
    for (int fd, one = 1; (fd = accept4(listen_fd[l], 0, 0, SOCK_NONBLOCK)) >= 0;) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        conn *c = calloc(1, sizeof *c);
        if (!c) { perror("mock: memory"); exit(1); }
        c->fd = fd; c->listener = l; c->heap_index = -1;
        struct epoll_event e = {.events = EPOLLIN | EPOLLRDHUP, .data.ptr = c};
        epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &e); stats.conns++; stats.open++;
    }
}
int main(int argc, char **argv) {
    signal(SIGPIPE, SIG_IGN);
    for (int o; (o = getopt(argc, argv, "d:n:a:t:m:")) != -1;) switch (o) {
        case 'd': settings.delay_us = strtoull(optarg, 0, 10); break;
        case 'n': settings.unary_delay_us = strtoull(optarg, 0, 10); break;
        case 'a': settings.align = atoi(optarg); break;
        case 't': settings.ttft_us = strtoull(optarg, 0, 10); break;
        case 'm': settings.model = optarg; break;
        default: return 2;
    }
    epoll = epoll_create1(EPOLL_CLOEXEC);
    for (int i = optind; i < argc && listeners < MAX_LISTENERS; i++) {
        if ((listen_fd[listeners] = listen_on(argv[i])) < 0) return 1;
        struct epoll_event e = {.events = EPOLLIN, .data.u64 = (uint64_t)listeners};
        epoll_ctl(epoll, EPOLL_CTL_ADD, listen_fd[listeners++], &e);
    }
    if (!listeners) { fprintf(stderr, "mock: name a port or the path of a Unix socket\n"); return 2; }
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    struct epoll_event te = {.events = EPOLLIN, .data.u64 = MAX_LISTENERS}, ev[256];
    epoll_ctl(epoll, EPOLL_CTL_ADD, timer, &te);
    for (uint64_t armed = 0;;) {
        if (heap_len && heap[0]->due != armed) {
            armed = heap[0]->due;
            struct itimerspec it = {.it_value = {(time_t)(armed / 1000000000ull), (long)(armed % 1000000000ull)}};
            timerfd_settime(timer, TFD_TIMER_ABSTIME, &it, 0);
        }
        int n = epoll_wait(epoll, ev, 256, -1);
        for (int i = 0; i < n; i++) {
            uint64_t u = ev[i].data.u64;
            if (u < (uint64_t)listeners) { accept_all((int)u); continue; }
            if (u == MAX_LISTENERS) { uint64_t x; if (read(timer, &x, sizeof x) < 0) {} armed = 0; continue; }
            conn *c = ev[i].data.ptr;
            if (c->fd >= 0 && ev[i].events & EPOLLOUT) conn_flush(c);
            if (c->fd >= 0 && ev[i].events & ~(uint32_t)EPOLLOUT) conn_read(c);
        }
        run_timers(now_ns());
        bury();
    }
}
