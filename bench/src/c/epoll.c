/* The epoll yardstick: one thread, one poller, echo over TCP.
 *
 * Promise: as cheap as we know how to make it, and correct. Sockets are registered once, edge
 * triggered. One event costs one `recv` and one `send`: a read that did not fill the buffer has
 * drained the edge, so the empty `recv` that would prove it is left out, except after RDHUP, HUP or
 * an error, when the end of the stream must still be read.
 *
 * Bytes the socket does not take wait in a backlog until it is writable; reading pauses meanwhile.
 *
 * Usage: epoll [PORT]; prints `port N`.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BUF_LEN = 2048, EVENT_MAX = 1024 };

/* A backlog is at most one buffer, because reading stops while there is one. */
struct conn {
    char *backlog;
    unsigned backlog_len;
    uint8_t ended; /* RDHUP, HUP or an error was reported: sticky, reads must go to the end */
};

static struct conn *conns;
static int poller;

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static void close_conn(int fd)
{
    free(conns[fd].backlog);
    conns[fd] = (struct conn){0};
    close(fd);
}

static void accept_all(int listener)
{
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) {
            if (errno == EINTR || errno == ECONNABORTED) continue;
            return;
        }
        struct epoll_event ev = {.events = EPOLLIN | EPOLLRDHUP | EPOLLET, .data.fd = fd};
        if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &ev)) close(fd);
    }
}

/* Keeps what the socket did not take and asks for writability. */
static void keep(int fd, const char *data, unsigned len)
{
    char *copy = malloc(len);
    if (!copy) die("malloc");
    memcpy(copy, data, len);
    conns[fd].backlog = copy;
    conns[fd].backlog_len = len;
    struct epoll_event ev = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.fd = fd};
    epoll_ctl(poller, EPOLL_CTL_MOD, fd, &ev);
}

/* Sends the backlog. True if reading may go on. */
static int flush(int fd)
{
    struct conn *c = &conns[fd];
    ssize_t n = send(fd, c->backlog, c->backlog_len, MSG_NOSIGNAL);
    if (n < 0) {
        if (errno != EAGAIN) close_conn(fd);
        return 0;
    }
    c->backlog_len -= n;
    memmove(c->backlog, c->backlog + n, c->backlog_len);
    if (c->backlog_len) return 0;
    free(c->backlog);
    c->backlog = NULL;
    struct epoll_event ev = {.events = EPOLLIN | EPOLLRDHUP | EPOLLET, .data.fd = fd};
    epoll_ctl(poller, EPOLL_CTL_MOD, fd, &ev);
    return 1;
}

static void on_conn(int fd, uint32_t events)
{
    char buf[BUF_LEN];
    struct conn *c = &conns[fd];
    int was_blocked = c->backlog_len > 0;
    if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) c->ended = 1;
    if (was_blocked && !flush(fd)) return;
    for (;;) {
        ssize_t n = recv(fd, buf, sizeof buf, 0);
        if (n <= 0) {
            if (n < 0 && errno == EAGAIN) return;
            close_conn(fd);
            return;
        }
        ssize_t sent = send(fd, buf, n, MSG_NOSIGNAL);
        if (sent < n) {
            if (sent < 0 && errno != EAGAIN) {
                close_conn(fd);
                return;
            }
            keep(fd, buf + (sent > 0 ? sent : 0), n - (sent > 0 ? sent : 0));
            return;
        }
        if (n < (ssize_t)sizeof buf && !c->ended) return;
    }
}

int main(int argc, char **argv)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    a.sin_port = htons(argc > 1 ? atoi(argv[1]) : 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); /* accepted sockets inherit */
    if (bind(listener, (void *)&a, sizeof a) || listen(listener, 4096)) die("listen");
    socklen_t len = sizeof a;
    getsockname(listener, (void *)&a, &len);
    struct rlimit lim;
    getrlimit(RLIMIT_NOFILE, &lim);
    size_t fd_max = lim.rlim_cur < 1 << 20 ? lim.rlim_cur : 1 << 20;
    conns = calloc(fd_max, sizeof *conns);
    poller = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event ev = {.events = EPOLLIN, .data.fd = listener}, got[EVENT_MAX];
    if (!conns || poller < 0 || epoll_ctl(poller, EPOLL_CTL_ADD, listener, &ev)) die("epoll");
    printf("port %d\n", ntohs(a.sin_port));
    fflush(stdout);
    for (;;) {
        int n = epoll_wait(poller, got, EVENT_MAX, -1);
        for (int i = 0; i < n; i++) {
            if (got[i].data.fd == listener) accept_all(listener);
            else on_conn(got[i].data.fd, got[i].events);
        }
    }
}
