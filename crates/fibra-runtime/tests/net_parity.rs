//! One script against `std::net` and ours: the same sequence of results and errors.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod sides;

use std::fmt::Debug;
use std::io;

use sides::on_every_side;

/// What a script saw, line by line.
#[derive(Default)]
struct Log(Vec<String>);

impl Log {
    /// Notes a result: the value, or the kind of the error and its OS code.
    fn note<T: Debug>(&mut self, what: &str, result: io::Result<T>) {
        let result = result.map_err(|error| (error.kind(), error.raw_os_error()));
        self.0.push(format!("{what}: {result:?}"));
    }
}

/// Makes a test that runs the body with `$net` being `std::net`, then ours on every side.
macro_rules! parity {
    ($(fn $name:ident($net:ident, $log:ident) $body:block)*) => {$(
        #[test]
        fn $name() {
            fn with_std() -> Vec<String> {
                #[allow(unused_imports, reason = "not every script needs all of them")]
                use {std::net as $net, std::io::{Read, Write}};
                let mut $log = Log::default();
                $body
                $log.0
            }
            fn with_ours() -> Vec<String> {
                #[allow(unused_imports, reason = "not every script needs all of them")]
                use {fibra_runtime::net as $net, std::io::{Read, Write}};
                let mut $log = Log::default();
                $body
                $log.0
            }
            let expected = with_std();
            assert!(!expected.is_empty(), "a script that notes nothing shows nothing");
            on_every_side(move || assert_eq!(with_ours(), expected));
        }
    )*};
}

/// Both ends of a new connection, of whichever kind.
macro_rules! pair {
    ($net:ident) => {{
        let listener = $net::TcpListener::bind("127.0.0.1:0").unwrap();
        let near = $net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (far, _) = listener.accept().unwrap();
        (near, far)
    }};
}

/// A port of 127.0.0.1 that refuses connections as long as the socket lives.
fn refusing() -> (socket2::Socket, std::net::SocketAddr) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

/// Has the kernel send a reset when the stream is dropped.
fn reset_on_drop(stream: &impl std::os::fd::AsFd) {
    let socket = socket2::SockRef::from(stream);
    socket.set_linger(Some(std::time::Duration::ZERO)).unwrap();
}

const SHORT: Option<std::time::Duration> = Some(std::time::Duration::from_millis(40));

parity! {
    fn timeouts_are_validated_kept_and_answered_with_would_block(net, log) {
        let (mut near, mut far) = pair!(net);
        log.note("initial", near.read_timeout());
        log.note("zero read", near.set_read_timeout(Some(std::time::Duration::ZERO)));
        log.note("zero write", near.set_write_timeout(Some(std::time::Duration::ZERO)));
        log.note("set read", near.set_read_timeout(SHORT));
        log.note("set write", near.set_write_timeout(SHORT));
        log.note("read timeout", near.read_timeout());
        log.note("write timeout", near.write_timeout());
        let mut buf = [0; 8];
        log.note("read", near.read(&mut buf));
        log.note("peek", near.peek(&mut buf));
        log.note("vectored", near.read_vectored(&mut [io::IoSliceMut::new(&mut buf)]));
        let full = loop {
            if let Err(error) = near.write(&[0; 65536]) {
                break Err::<(), _>(error);
            }
        };
        log.note("write into a full pipe", full);
        log.note("their write", far.write(b"late"));
        log.note("read after a timeout", near.read(&mut buf));
        log.note("unset", near.set_read_timeout(None));
        log.note("read timeout", near.read_timeout());
    }

    fn a_clone_shares_timeouts_modes_and_bytes(net, log) {
        let (near, mut far) = pair!(net);
        let mut clone = near.try_clone().unwrap();
        near.set_read_timeout(SHORT).unwrap();
        log.note("the clone's timeout", clone.read_timeout());
        log.note("the clone's read", clone.read(&mut [0; 4]));
        near.set_nonblocking(true).unwrap();
        log.note("the clone does not wait", clone.read(&mut [0; 4]));
        near.set_nonblocking(false).unwrap();
        near.set_nodelay(true).unwrap();
        log.note("nodelay", clone.nodelay());
        drop(near);
        far.write_all(b"still open").unwrap();
        let mut buf = [0; 10];
        log.note("read", clone.read_exact(&mut buf));
        log.note("bytes", Ok(buf));
        drop(clone);
        log.note("closed with the last handle", far.read(&mut buf));
    }

    fn peek_takes_nothing(net, log) {
        let (mut near, mut far) = pair!(net);
        far.write_all(b"abcdef").unwrap();
        let mut buf = [0; 4];
        log.note("peek", near.peek(&mut buf));
        log.note("bytes", Ok(buf));
        log.note("peek one", near.peek(&mut buf[..1]));
        log.note("read", near.read(&mut buf));
        log.note("bytes", Ok(buf));
        log.note("read", near.read(&mut buf));
        drop(far);
        log.note("peek at the end", near.peek(&mut buf));
        log.note("peek again", near.peek(&mut buf));
        log.note("read", near.read(&mut buf));
    }

    fn shutting_down_the_write_half(net, log) {
        let (mut near, mut far) = pair!(net);
        log.note("write", near.write(b"bye"));
        log.note("shutdown", near.shutdown(net::Shutdown::Write));
        log.note("write after it", near.write(b"x"));
        log.note("empty write after it", near.write(b""));
        log.note("vectored", near.write_vectored(&[io::IoSlice::new(b"x")]));
        let mut text = String::new();
        log.note("they read", far.read_to_string(&mut text));
        log.note("the end again", far.read(&mut [0; 1]));
        log.note("they answer", far.write(b"answer"));
        let mut buf = [0; 6];
        log.note("read", near.read_exact(&mut buf));
        log.note("bytes", Ok(buf));
        log.note("again", near.shutdown(net::Shutdown::Write));
    }

    fn shutting_down_the_read_half(net, log) {
        let (mut near, _far) = pair!(net);
        log.note("shutdown", near.shutdown(net::Shutdown::Read));
        log.note("read", near.read(&mut [0; 4]));
        log.note("peek", near.peek(&mut [0; 4]));
        log.note("write", near.write(b"ok"));
        log.note("again", near.shutdown(net::Shutdown::Read));
    }

    fn shutting_down_both_halves(net, log) {
        let (mut near, mut far) = pair!(net);
        log.note("shutdown", near.shutdown(net::Shutdown::Both));
        log.note("read", near.read(&mut [0; 4]));
        log.note("write", near.write(b"x"));
        log.note("they read", far.read(&mut [0; 4]));
    }

    fn the_end_of_a_stream_stays_the_end(net, log) {
        let (mut near, mut far) = pair!(net);
        far.write_all(b"12345").unwrap();
        drop(far);
        let mut buf = [0; 8];
        log.note("too much asked for", near.read_exact(&mut buf));
        log.note("read", near.read(&mut buf));
        log.note("read", near.read(&mut buf));
        let mut rest = Vec::new();
        log.note("to the end", near.read_to_end(&mut rest));
    }

    fn empty_reads_and_writes(net, log) {
        let (mut near, mut far) = pair!(net);
        log.note("write nothing", near.write(b""));
        log.note("write no buffers", near.write_vectored(&[]));
        log.note("write empty buffers", near.write_vectored(&[io::IoSlice::new(b"")]));
        log.note("read no buffers", near.read_vectored(&mut []));
        log.note("read empty buffers", near.read_vectored(&mut [io::IoSliceMut::new(&mut [])]));
        near.set_read_timeout(SHORT).unwrap();
        log.note("read nothing of nothing", near.read(&mut []));
        log.note("peek nothing of nothing", near.peek(&mut []));
        near.set_nonblocking(true).unwrap();
        log.note("not waiting", near.read(&mut []));
        log.note("not waiting", near.peek(&mut []));
        near.set_nonblocking(false).unwrap();
        far.write_all(b"abc").unwrap();
        log.note("wait for the bytes", near.peek(&mut [0; 1]));
        log.note("read nothing of something", near.read(&mut []));
        log.note("peek nothing of something", near.peek(&mut []));
        log.note("read", near.read(&mut [0; 8]));
        drop(far);
        log.note("the end", near.read(&mut [0; 1]));
        log.note("read nothing at the end", near.read(&mut []));
    }

    fn vectored_reads_and_writes_keep_the_order(net, log) {
        let (mut near, mut far) = pair!(net);
        let bufs = [b"one ", &b""[..], b"two ", b"three"].map(io::IoSlice::new);
        log.note("write", near.write_vectored(&bufs));
        near.shutdown(net::Shutdown::Write).unwrap();
        let (mut a, mut b, mut c) = ([0; 3], [0; 0], [0; 7]);
        let mut bufs = [&mut a[..], &mut b, &mut c].map(io::IoSliceMut::new);
        log.note("read", far.read_vectored(&mut bufs));
        log.note("bytes", Ok((a, c)));
        let mut bufs = [&mut a[..], &mut c].map(io::IoSliceMut::new);
        log.note("read", far.read_vectored(&mut bufs));
        log.note("bytes", Ok((a, c)));
        let mut bufs = [&mut a[..], &mut c].map(io::IoSliceMut::new);
        log.note("the end", far.read_vectored(&mut bufs));
    }

    fn more_buffers_than_one_call_takes(net, log) {
        let (mut near, mut far) = pair!(net);
        let bytes: Vec<u8> = (0..3000_u32).map(|i| i as u8).collect();
        let bufs: Vec<_> = bytes.chunks(1).map(io::IoSlice::new).collect();
        log.note("write", near.write_vectored(&bufs));
        near.shutdown(net::Shutdown::Write).unwrap();
        let mut got = vec![0; 3000];
        let mut room: Vec<_> = got.chunks_mut(1).map(io::IoSliceMut::new).collect();
        log.note("read", far.read_vectored(&mut room));
        log.note("bytes", Ok(got));
        log.note("the end", far.read(&mut [0; 1]));
    }

    fn nonblocking_calls_fail_instead_of_waiting(net, log) {
        let (mut near, mut far) = pair!(net);
        near.set_read_timeout(SHORT).unwrap();
        log.note("set", near.set_nonblocking(true));
        let mut buf = [0; 8];
        log.note("read", near.read(&mut buf));
        log.note("peek", near.peek(&mut buf));
        log.note("vectored", near.read_vectored(&mut [io::IoSliceMut::new(&mut buf)]));
        far.write_all(b"data").unwrap();
        far.shutdown(net::Shutdown::Write).unwrap();
        // The bytes are on their way; std has no other way to wait for them either.
        let count = loop {
            match near.read(&mut buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => fibra_runtime::yield_now(),
                result => break result,
            }
        };
        log.note("read", count);
        let full = loop {
            if let Err(error) = near.write(&[0; 65536]) {
                break Err::<(), _>(error);
            }
        };
        log.note("write into a full pipe", full);
        near.set_nonblocking(false).unwrap();
        log.note("the timeout is back", near.read_timeout());
        log.note("the end", near.read(&mut buf));
    }

    fn a_nonblocking_listener(net, log) {
        let listener = net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        log.note("accept", listener.accept().map(|_| ()));
        log.note("incoming", listener.incoming().next().unwrap().map(|_| ()));
        let mut near = net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let far = loop {
            match listener.accept() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => fibra_runtime::yield_now(),
                result => break result,
            }
        };
        let (far, from) = far.unwrap();
        log.note("the same address", Ok(from == near.local_addr().unwrap()));
        near.write_all(b"x").unwrap();
        log.note("the accepted stream waits", (&far).read(&mut [0; 4]));
    }

    fn connecting_to_nobody(net, log) {
        let (_guard, address) = refusing();
        log.note("connect", net::TcpStream::connect(address).map(|_| ()));
        let timeout = std::time::Duration::from_secs(10);
        log.note("with a timeout", net::TcpStream::connect_timeout(&address, timeout).map(|_| ()));
        let zero = std::time::Duration::ZERO;
        log.note("with none", net::TcpStream::connect_timeout(&address, zero).map(|_| ()));
    }

    fn forms_of_addresses(net, log) {
        let none: &[std::net::SocketAddr] = &[];
        log.note("no address", net::TcpStream::connect(none).map(|_| ()));
        log.note("no address to bind", net::TcpListener::bind(none).map(|_| ()));
        for text in ["", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:70000", ":80:"] {
            log.note(text, net::TcpStream::connect(text).map(|_| ()));
        }
        let listener = net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (_guard, dead) = refusing();
        let both = [dead, listener.local_addr().unwrap()];
        log.note("the second one answers", net::TcpStream::connect(&both[..]).map(|_| ()));
        log.note("literal", net::TcpStream::connect(format!("127.0.0.1:{port}")).map(|_| ()));
        log.note("pair", net::TcpStream::connect(("127.0.0.1", port)).map(|_| ()));
        log.note("owned", net::TcpStream::connect((String::from("127.0.0.1"), port)).map(|_| ()));
        log.note("name", net::TcpStream::connect(("localhost", port)).map(|_| ()));
        log.note("name", net::TcpStream::connect(format!("localhost:{port}").as_str()).map(|_| ()));
        let ip = std::net::Ipv4Addr::LOCALHOST;
        log.note("ip", net::TcpStream::connect((ip, port)).map(|_| ()));
        log.note("any ip", net::TcpStream::connect((std::net::IpAddr::V4(ip), port)).map(|_| ()));
        let address = std::net::SocketAddrV4::new(ip, port);
        log.note("v4", net::TcpStream::connect(address).map(|_| ()));
        log.note("reference", net::TcpStream::connect::<&std::net::SocketAddrV4>(&address).map(|_| ()));
    }

    fn version_six(net, log) {
        let listener = net::TcpListener::bind("[::1]:0").unwrap();
        let address = listener.local_addr().unwrap();
        log.note("ip", Ok(address.ip()));
        let mut near = net::TcpStream::connect(address).unwrap();
        let (mut far, from) = listener.accept().unwrap();
        log.note("same", Ok(from == near.local_addr().unwrap()));
        near.write_all(b"six").unwrap();
        log.note("read", far.read(&mut [0; 8]));
    }

    fn binding_what_is_taken_or_not_ours(net, log) {
        let first = net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = first.local_addr().unwrap();
        log.note("taken", net::TcpListener::bind(address).map(|_| ()));
        log.note("not ours", net::TcpListener::bind("192.0.2.1:0").map(|_| ()));
        // A connection closed from this side keeps the port in TIME_WAIT.
        let mut near = net::TcpStream::connect(address).unwrap();
        let (far, _) = first.accept().unwrap();
        drop(far);
        log.note("the end", near.read(&mut [0; 1]));
        drop((near, first));
        log.note("free again", net::TcpListener::bind(address).map(|_| ()));
    }

    fn a_reset_is_seen_once_and_then_the_end(net, log) {
        let (mut near, far) = pair!(net);
        reset_on_drop(&far);
        drop(far);
        log.note("read", near.read(&mut [0; 4]));
        log.note("read again", near.read(&mut [0; 4]));
        log.note("write", near.write(b"x"));
        log.note("peer", near.peer_addr());
        log.note("shutdown", near.shutdown(net::Shutdown::Both));
    }

    fn options_and_addresses(net, log) {
        let listener = net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let near = net::TcpStream::connect(address).unwrap();
        let (far, from) = listener.accept().unwrap();
        log.note("peer", Ok(near.peer_addr().unwrap() == address));
        log.note("local", Ok(near.local_addr().unwrap() == from));
        log.note("theirs", Ok(far.peer_addr().unwrap() == from));
        log.note("nodelay", near.nodelay());
        log.note("set", near.set_nodelay(true));
        log.note("nodelay", near.nodelay());
        log.note("ttl", near.ttl());
        log.note("set", near.set_ttl(7));
        log.note("ttl", near.ttl());
        log.note("set", listener.set_ttl(9));
        log.note("ttl", listener.ttl());
        log.note("zero ttl", near.set_ttl(0));
        log.note("no error", near.take_error().map(|error| error.is_none()));
        log.note("no error", listener.take_error().map(|error| error.is_none()));
    }

    fn how_they_print(net, log) {
        let listener = net::TcpListener::bind("127.0.0.1:0").unwrap();
        let near = net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (far, _) = listener.accept().unwrap();
        // Numbers differ from run to run.
        let shape = |text: String| text.replace(|c: char| c.is_ascii_digit(), "");
        log.note("stream", Ok(shape(format!("{near:?}"))));
        log.note("listener", Ok(shape(format!("{listener:?}"))));
        log.note("pretty", Ok(shape(format!("{far:#?}"))));
    }

    fn readers_and_copiers_of_std(net, log) {
        use std::io::{BufRead, BufReader, BufWriter};
        let (near, far) = pair!(net);
        let mut writer = BufWriter::new(&near);
        for line in 0..1000 {
            writeln!(writer, "line {line}").unwrap();
        }
        writer.flush().unwrap();
        near.shutdown(net::Shutdown::Write).unwrap();
        let mut reader = BufReader::with_capacity(7, &far);
        let mut first = String::new();
        log.note("a line", reader.read_line(&mut first));
        log.note("the line", Ok(first));
        let mut rest = Vec::new();
        log.note("copied", io::copy(&mut reader, &mut rest));
        log.note("bytes", Ok(rest));
    }

    fn a_timeout_passes_through_a_buffered_reader(net, log) {
        use std::io::{BufRead, BufReader};
        let (near, mut far) = pair!(net);
        near.set_read_timeout(SHORT).unwrap();
        let mut reader = BufReader::new(&near);
        let mut line = String::new();
        far.write_all(b"half a ").unwrap();
        log.note("a line", reader.read_line(&mut line));
        far.write_all(b"line\n").unwrap();
        log.note("the rest of it", reader.read_line(&mut line));
        log.note("line", Ok(line));
        log.note("exactly", reader.read_exact(&mut [0; 1]));
        log.note("copy", io::copy(&mut &near, &mut io::sink()));
    }

    fn connecting_to_a_listener_that_is_full_times_out(net, log) {
        let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let full = full.unwrap();
        full.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        full.listen(0).unwrap();
        let address = full.local_addr().unwrap().as_socket().unwrap();
        let timeout = std::time::Duration::from_millis(200);
        let mut kept = Vec::new();
        let error = loop {
            match net::TcpStream::connect_timeout(&address, timeout) {
                Ok(stream) => kept.push(stream),
                Err(error) => break error,
            }
            assert!(kept.len() < 16, "the backlog has no end");
        };
        log.note("kept", Ok(kept.len()));
        log.note("connect", Err::<(), _>(error));
    }

    fn a_connection_that_times_out_by_itself_is_not_taken_for_a_timeout_of_the_call(net, log) {
        let (mut near, _far) = pair!(net);
        // The peer never reads, so that the kernel gives the connection up.
        let limit = std::time::Duration::from_millis(100);
        socket2::SockRef::from(&near).set_tcp_user_timeout(Some(limit)).unwrap();
        near.set_write_timeout(Some(std::time::Duration::from_secs(50))).unwrap();
        let end = loop {
            if let Err(error) = near.write(&[0; 65536]) {
                break Err::<(), _>(error);
            }
        };
        log.note("write", end);
        let (mut near, _far) = pair!(net);
        socket2::SockRef::from(&near).set_tcp_user_timeout(Some(limit)).unwrap();
        near.set_nonblocking(true).unwrap();
        let end = loop {
            match near.write(&[0; 65536]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    fibra_runtime::sleep(std::time::Duration::from_millis(1));
                }
                Err(error) => break Err::<(), _>(error),
                Ok(_) => {}
            }
        };
        log.note("write without waiting", end);
    }
}
