/* The io_uring yardstick: one thread, one ring, echo over TCP, raw system calls.
 *
 * Promise: as cheap as we know how to make it, and correct. What it uses: DEFER_TASKRUN and
 * SINGLE_ISSUER, a registered ring descriptor, no SQ array, direct descriptors, one multishot
 * accept, one multishot receive per connection into one provided-buffer ring, one `enter` per turn
 * that submits and waits at once. Sends go out of the receive buffer itself.
 *
 *   turn k    enter: sends queued in turn k-1 run inline; the CQ then holds their failures only
 *             (success is skipped), followed by receives
 *             reap the CQ to the end; queue one send per receive
 *             give back the buffers of turn k-1's sends: all have run, all failures were seen
 *
 * Rules:
 *  1. A fast send is MSG_DONTWAIT | MSG_WAITALL with CQE_SKIP_SUCCESS: it either takes everything
 *     inside `enter` and says nothing, or posts a completion with what it did take.
 *  2. A connection has at most one fast send per turn. More bytes in the same turn, and bytes a
 *     fast send did not take, are copied to the connection's backlog, so order holds.
 *  3. The backlog goes out by one waiting send at a time, whose completion is not skipped.
 *  4. Buffers are offered as connections need them (64, then 2 for each), not all at once: the ring
 *     is a queue, and cycling through 8 MB would miss the cache on every request.
 *  5. A yardstick has no limit on backlogs. Do not copy that.
 *
 * Usage: uring [-c] [PORT]; prints `port N`. -c posts a completion for every send, for comparison.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/io_uring.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Newer than the headers of some distributions. */
#ifndef IORING_SETUP_NO_SQARRAY
#define IORING_SETUP_NO_SQARRAY (1U << 16)
#endif
#ifndef IORING_FILE_INDEX_ALLOC
#define IORING_FILE_INDEX_ALLOC (~0U)
#endif

enum { SQ_LEN = 1024, CQ_LEN = 8192, BUF_COUNT = 4096, BUF_FIRST = 64, BUF_PER_CONN = 2 };
/* 33 cache lines apart: the first lines of neighbours fall into different cache sets. */
enum { BUF_LEN = 2048, BUF_STRIDE = 2048 + 64, GROUP = 1 };
enum kind { ACCEPT, RECV, FAST, SLOW, CLOSE };

struct conn {
    char *backlog;
    uint32_t backlog_len, backlog_cap, sending; /* sending: bytes of the slow send in flight */
    uint32_t fast_turn;                         /* turn in which the last fast send was queued */
    uint8_t open, eof, listed;
};

static struct {
    int enter_fd;
    unsigned enter_flags, sq_mask, cq_mask, sq_tail, queued;
    unsigned *ksq_head, *ksq_tail, *ksq_flags, *kcq_head, *kcq_tail;
    struct io_uring_sqe *sqes;
    struct io_uring_cqe *cqes;
} ring;

static struct io_uring_buf_ring *bufs;
static char *buf_base;
static uint16_t buf_tail;
static int buf_offered;

static struct conn *conns;
static unsigned conn_max;
static uint32_t turn = 1;
static uint8_t fast_flags = IOSQE_FIXED_FILE | IOSQE_CQE_SKIP_SUCCESS;

static uint16_t *sent_now, *sent_before; /* buffers of the fast sends of this turn and the last */
static unsigned sent_now_len, sent_before_len;
static uint32_t sent_len[BUF_COUNT]; /* for a send that falls short: it tells only what it took */
static uint32_t *work; /* connections with a backlog to send or a close to do */
static unsigned work_len;

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static int enter(unsigned submit, unsigned wait_for, unsigned flags)
{
    for (;;) {
        int n = syscall(SYS_io_uring_enter, ring.enter_fd, submit, wait_for,
                        flags | ring.enter_flags, NULL, 0);
        if (n >= 0) return n;
        if (errno == EBUSY || errno == EAGAIN) return 0; /* CQ full: reap first */
        if (errno != EINTR) die("io_uring_enter");
    }
}

static void publish_sqes(void)
{
    __atomic_store_n(ring.ksq_tail, ring.sq_tail, __ATOMIC_RELEASE);
}

static struct io_uring_sqe *next_sqe(enum kind kind, uint32_t slot, uint16_t bid)
{
    while (ring.queued > ring.sq_mask) {
        publish_sqes();
        ring.queued -= enter(ring.queued, 0, 0);
    }
    struct io_uring_sqe *sqe = &ring.sqes[ring.sq_tail++ & ring.sq_mask];
    ring.queued++;
    memset(sqe, 0, sizeof *sqe);
    sqe->user_data = (uint64_t)slot | (uint64_t)bid << 32 | (uint64_t)kind << 48;
    return sqe;
}

static void arm_accept(int listener)
{
    struct io_uring_sqe *sqe = next_sqe(ACCEPT, 0, 0);
    sqe->opcode = IORING_OP_ACCEPT;
    sqe->fd = listener;
    sqe->ioprio = IORING_ACCEPT_MULTISHOT;
    sqe->file_index = IORING_FILE_INDEX_ALLOC;
}

static void arm_recv(uint32_t slot)
{
    struct io_uring_sqe *sqe = next_sqe(RECV, slot, 0);
    sqe->opcode = IORING_OP_RECV;
    sqe->fd = slot;
    sqe->flags = IOSQE_FIXED_FILE | IOSQE_BUFFER_SELECT;
    sqe->ioprio = IORING_RECV_MULTISHOT;
    sqe->buf_group = GROUP;
}

static void queue_send(enum kind kind, uint32_t slot, uint16_t bid, const char *data, unsigned len)
{
    struct io_uring_sqe *sqe = next_sqe(kind, slot, bid);
    sqe->opcode = IORING_OP_SEND;
    sqe->fd = slot;
    sqe->flags = kind == FAST ? fast_flags : IOSQE_FIXED_FILE;
    sqe->addr = (uintptr_t)data;
    sqe->len = len;
    sqe->msg_flags = MSG_NOSIGNAL | MSG_WAITALL | (kind == FAST ? MSG_DONTWAIT : 0);
}

static char *buf_at(uint16_t bid)
{
    return buf_base + (size_t)bid * BUF_STRIDE;
}

static void offer_buf(uint16_t bid)
{
    struct io_uring_buf *b = &bufs->bufs[buf_tail++ & (BUF_COUNT - 1)];
    b->addr = (uintptr_t)buf_at(bid);
    b->len = BUF_LEN;
    b->bid = bid;
}

static void publish_bufs(void)
{
    __atomic_store_n(&bufs->tail, buf_tail, __ATOMIC_RELEASE);
}

static void offer_new_bufs(int count)
{
    while (count-- > 0 && buf_offered < BUF_COUNT) offer_buf(buf_offered++);
}

static void list_for_work(uint32_t slot)
{
    if (conns[slot].listed) return;
    conns[slot].listed = 1;
    work[work_len++] = slot;
}

static void append_backlog(uint32_t slot, const char *data, uint32_t len)
{
    struct conn *c = &conns[slot];
    if (c->backlog_len + len > c->backlog_cap) {
        /* A slow send in flight reads the old memory; MSG_WAITALL may read it again later. */
        uint32_t cap = (c->backlog_len + len) * 2;
        char *bigger = malloc(cap);
        if (!bigger) die("malloc");
        if (c->backlog_len) memcpy(bigger, c->backlog, c->backlog_len);
        if (!c->sending) free(c->backlog);
        c->backlog = bigger; /* with a send in flight the old block is leaked: rare, and safe */
        c->backlog_cap = cap;
    }
    memcpy(c->backlog + c->backlog_len, data, len);
    c->backlog_len += len;
    list_for_work(slot);
}

static void on_accept(int listener, struct io_uring_cqe *cqe)
{
    if (cqe->res >= 0) {
        struct conn *c = &conns[cqe->res];
        c->open = 1;
        c->eof = 0;
        c->backlog_len = c->sending = c->fast_turn = 0;
        arm_recv(cqe->res);
        if (buf_offered < BUF_FIRST + BUF_PER_CONN * (cqe->res + 1)) offer_new_bufs(BUF_PER_CONN);
    }
    if (!(cqe->flags & IORING_CQE_F_MORE)) arm_accept(listener);
}

static void on_recv(uint32_t slot, struct io_uring_cqe *cqe)
{
    struct conn *c = &conns[slot];
    if (cqe->res > 0) {
        uint16_t bid = cqe->flags >> IORING_CQE_BUFFER_SHIFT;
        if (c->backlog_len || c->fast_turn == turn) {
            append_backlog(slot, buf_at(bid), cqe->res);
            offer_buf(bid);
        } else {
            c->fast_turn = turn;
            queue_send(FAST, slot, bid, buf_at(bid), cqe->res);
            sent_len[bid] = cqe->res;
            sent_now[sent_now_len++] = bid;
        }
    }
    if (cqe->flags & IORING_CQE_F_MORE) return;
    if (cqe->res > 0 || cqe->res == -ENOBUFS) {
        arm_recv(slot);
        return;
    }
    c->eof = 1;
    list_for_work(slot);
}

static void on_fast(uint32_t slot, uint16_t bid, int res)
{
    uint32_t len = sent_len[bid];
    if (res == (int)len) return;
    if (res >= 0 || res == -EAGAIN) {
        uint32_t done = res > 0 ? res : 0;
        append_backlog(slot, buf_at(bid) + done, len - done);
    } /* else: the connection broke, and its receive will say so */
}

static void on_slow(uint32_t slot, int res)
{
    struct conn *c = &conns[slot];
    uint32_t done = res > 0 ? (uint32_t)res : c->sending; /* broken: drop what was being sent */
    memmove(c->backlog, c->backlog + done, c->backlog_len - done);
    c->backlog_len -= done;
    c->sending = 0;
    list_for_work(slot);
}

/* Starts slow sends and closes. A connection whose fast send has not run yet waits a turn. */
static void do_work(void)
{
    unsigned kept = 0;
    for (unsigned i = 0; i < work_len; i++) {
        uint32_t slot = work[i];
        struct conn *c = &conns[slot];
        if (c->fast_turn == turn) {
            work[kept++] = slot;
            continue;
        }
        c->listed = 0;
        if (c->sending || !c->open) continue;
        if (c->backlog_len) {
            c->sending = c->backlog_len;
            queue_send(SLOW, slot, 0, c->backlog, c->backlog_len);
        } else if (c->eof) {
            c->open = 0;
            struct io_uring_sqe *sqe = next_sqe(CLOSE, slot, 0);
            sqe->opcode = IORING_OP_CLOSE;
            sqe->file_index = slot + 1;
        }
    }
    work_len = kept;
}

static void reap(int listener)
{
    unsigned head = *ring.kcq_head;
    for (;;) {
        unsigned tail = __atomic_load_n(ring.kcq_tail, __ATOMIC_ACQUIRE);
        if (head == tail) {
            if (!(__atomic_load_n(ring.ksq_flags, __ATOMIC_RELAXED) & IORING_SQ_CQ_OVERFLOW)) break;
            enter(0, 0, IORING_ENTER_GETEVENTS); /* rule 1 needs every failure seen */
            continue;
        }
        while (head != tail) {
            struct io_uring_cqe *cqe = &ring.cqes[head++ & ring.cq_mask];
            uint32_t slot = (uint32_t)cqe->user_data;
            switch (cqe->user_data >> 48) {
            case ACCEPT: on_accept(listener, cqe); break;
            case RECV: on_recv(slot, cqe); break;
            case FAST: on_fast(slot, (uint16_t)(cqe->user_data >> 32), cqe->res); break;
            case SLOW: on_slow(slot, cqe->res); break;
            }
        }
        __atomic_store_n(ring.kcq_head, head, __ATOMIC_RELEASE);
    }
}

static void serve(int listener)
{
    arm_accept(listener);
    for (;;) {
        publish_bufs();
        publish_sqes();
        ring.queued -= enter(ring.queued, work_len ? 0 : 1, IORING_ENTER_GETEVENTS);
        turn++;
        reap(listener);
        for (unsigned i = 0; i < sent_before_len; i++) offer_buf(sent_before[i]);
        uint16_t *swap = sent_before;
        sent_before = sent_now;
        sent_before_len = sent_now_len;
        sent_now = swap;
        sent_now_len = 0;
        do_work();
    }
}

static void set_up_ring(void)
{
    struct io_uring_params p;
    unsigned base = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_CQSIZE |
                    IORING_SETUP_SUBMIT_ALL | IORING_SETUP_CLAMP;
    int fd = -1;
    for (int plain = 0; plain < 2 && fd < 0; plain++) {
        memset(&p, 0, sizeof p);
        p.cq_entries = CQ_LEN;
        p.flags = base | (plain ? 0 : IORING_SETUP_NO_SQARRAY);
        fd = syscall(SYS_io_uring_setup, SQ_LEN, &p);
    }
    if (fd < 0) die("io_uring_setup");
    size_t len = p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe);
    size_t sq_len = p.sq_off.array + p.sq_entries * sizeof(unsigned);
    if (sq_len > len) len = sq_len;
    char *m = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
    ring.sqes = mmap(NULL, p.sq_entries * sizeof(struct io_uring_sqe), PROT_READ | PROT_WRITE,
                     MAP_SHARED | MAP_POPULATE, fd, IORING_OFF_SQES);
    if (m == MAP_FAILED || ring.sqes == MAP_FAILED) die("mmap");
    ring.ksq_head = (unsigned *)(m + p.sq_off.head);
    ring.ksq_tail = (unsigned *)(m + p.sq_off.tail);
    ring.ksq_flags = (unsigned *)(m + p.sq_off.flags);
    ring.kcq_head = (unsigned *)(m + p.cq_off.head);
    ring.kcq_tail = (unsigned *)(m + p.cq_off.tail);
    ring.cqes = (struct io_uring_cqe *)(m + p.cq_off.cqes);
    ring.sq_mask = p.sq_entries - 1;
    ring.cq_mask = p.cq_entries - 1;
    if (!(p.flags & IORING_SETUP_NO_SQARRAY))
        for (unsigned i = 0; i < p.sq_entries; i++) ((unsigned *)(m + p.sq_off.array))[i] = i;

    ring.enter_fd = fd;
    struct io_uring_rsrc_update up = {.offset = -1U, .data = fd};
    if (syscall(SYS_io_uring_register, fd, IORING_REGISTER_RING_FDS, &up, 1) == 1) {
        ring.enter_fd = up.offset;
        ring.enter_flags = IORING_ENTER_REGISTERED_RING;
    }

    struct rlimit lim;
    getrlimit(RLIMIT_NOFILE, &lim);
    conn_max = lim.rlim_cur < 16384 ? lim.rlim_cur : 16384;
    struct io_uring_rsrc_register files = {.nr = conn_max, .flags = IORING_RSRC_REGISTER_SPARSE};
    if (syscall(SYS_io_uring_register, fd, IORING_REGISTER_FILES2, &files, sizeof files) < 0)
        die("register files");

    size_t ring_bytes = BUF_COUNT * sizeof(struct io_uring_buf);
    bufs = mmap(NULL, ring_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    size_t bytes = (((size_t)BUF_COUNT * BUF_STRIDE) | ((2 << 20) - 1)) + 1;
    buf_base = aligned_alloc(2 << 20, bytes);
    if (bufs == MAP_FAILED || !buf_base) die("buffers");
    madvise(buf_base, bytes, MADV_HUGEPAGE);
    struct io_uring_buf_reg reg = {
        .ring_addr = (uintptr_t)bufs, .ring_entries = BUF_COUNT, .bgid = GROUP};
    if (syscall(SYS_io_uring_register, fd, IORING_REGISTER_PBUF_RING, &reg, 1) < 0)
        die("register buffers");
    offer_new_bufs(BUF_FIRST);

    conns = calloc(conn_max, sizeof *conns);
    work = calloc(conn_max, sizeof *work);
    sent_now = calloc(BUF_COUNT, sizeof *sent_now);
    sent_before = calloc(BUF_COUNT, sizeof *sent_before);
    if (!conns || !work || !sent_now || !sent_before) die("calloc");
}

int main(int argc, char **argv)
{
    if (argc > 1 && !strcmp(argv[1], "-c")) {
        fast_flags = IOSQE_FIXED_FILE;
        argv++, argc--;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    a.sin_port = htons(argc > 1 ? atoi(argv[1]) : 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); /* accepted sockets inherit */
    if (bind(listener, (void *)&a, sizeof a) || listen(listener, 4096)) die("listen");
    socklen_t len = sizeof a;
    getsockname(listener, (void *)&a, &len);
    set_up_ring();
    printf("port %d\n", ntohs(a.sin_port));
    fflush(stdout);
    serve(listener);
}
