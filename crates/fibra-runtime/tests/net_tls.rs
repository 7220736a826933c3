//! A synchronous TLS crate just works on our streams.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod sides;

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::time::Duration;

use fibra_runtime::net::TcpStream;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use rustls::{ProtocolVersion, StreamOwned, SupportedProtocolVersion};
use sides::{noise, on_every_fiber_side, on_every_side, pair, spawn};

type Client = StreamOwned<ClientConnection, TcpStream>;
type Server = StreamOwned<ServerConnection, TcpStream>;

/// Both ends of a TLS connection that has not shaken hands yet.
fn tls_pair(version: &'static SupportedProtocolVersion) -> (Client, Server) {
    let made = rcgen::generate_simple_self_signed(vec![String::from("localhost")]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let client = ClientConfig::builder_with_protocol_versions(&[version])
        .with_root_certificates(roots)
        .with_no_client_auth();
    let server = ServerConfig::builder_with_protocol_versions(&[version])
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let (near, far) = pair();
    let name = ServerName::try_from("localhost").unwrap();
    let client = ClientConnection::new(Arc::new(client), name).unwrap();
    let server = ServerConnection::new(Arc::new(server)).unwrap();
    (StreamOwned::new(client, near), StreamOwned::new(server, far))
}

fn echoes_over(version: &'static SupportedProtocolVersion, expected: ProtocolVersion) {
    on_every_side(move || {
        let (mut client, mut server) = tls_pair(version);
        let echo = spawn(move || {
            let mut buf = vec![0; 10_007];
            loop {
                match server.read(&mut buf).unwrap() {
                    0 => break,
                    count => server.write_all(&buf[..count]).unwrap(),
                }
            }
            server.conn.send_close_notify();
            server.flush().unwrap();
        });
        let sent = noise(5, 200_000);
        let mut got = vec![0; sent.len()];
        for (sent, got) in sent.chunks(20_000).zip(got.chunks_mut(20_000)) {
            client.write_all(sent).unwrap();
            client.read_exact(got).unwrap();
        }
        assert!(got == sent);
        assert_eq!(client.conn.protocol_version(), Some(expected));
        client.conn.send_close_notify();
        client.flush().unwrap();
        assert_eq!(client.read(&mut [0]).unwrap(), 0, "a clean end");
        echo.join();
    });
}

#[test]
fn an_echo_over_tls_1_3() {
    echoes_over(&rustls::version::TLS13, ProtocolVersion::TLSv1_3);
}

#[test]
fn an_echo_over_tls_1_2() {
    echoes_over(&rustls::version::TLS12, ProtocolVersion::TLSv1_2);
}

#[test]
fn a_timeout_inside_a_handshake_comes_out_as_would_block_and_the_handshake_can_go_on() {
    on_every_side(|| {
        let (mut client, mut server) = tls_pair(&rustls::version::TLS13);
        client.sock.set_read_timeout(Some(Duration::from_millis(40))).unwrap();
        let error = client.write_all(b"hello").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        client.sock.set_read_timeout(None).unwrap();
        let echo = spawn(move || {
            let mut buf = [0; 5];
            server.read_exact(&mut buf).unwrap();
            server.write_all(&buf).unwrap();
            server.flush().unwrap();
        });
        client.write_all(b"hello").unwrap();
        let mut buf = [0; 5];
        client.read_exact(&mut buf).unwrap();
        assert_eq!(&buf, b"hello");
        echo.join();
    });
}

#[test]
fn a_deadline_and_a_cancel_come_out_of_the_tls_crate_as_what_they_are() {
    on_every_fiber_side(|| {
        let (mut client, _server) = tls_pair(&rustls::version::TLS13);
        let error = fibra_runtime::deadline(Duration::from_millis(20), || client.read(&mut [0]));
        assert_eq!(error.unwrap_err().kind(), ErrorKind::TimedOut);

        let (mut client, _server) = tls_pair(&rustls::version::TLS13);
        let reader = spawn(move || client.read(&mut [0]).unwrap_err());
        fibra_runtime::sleep(Duration::from_millis(2));
        reader.cancel();
        if let Some(error) = reader.outcome() {
            assert!(fibra_runtime::is_cancelled(&error), "{error:?}");
        }
    });
}

#[test]
fn a_stream_that_ends_without_a_goodbye_is_an_error() {
    on_every_side(|| {
        let (mut client, mut server) = tls_pair(&rustls::version::TLS13);
        let peer = spawn(move || {
            server.write_all(b"x").unwrap();
            server.flush().unwrap();
            server.sock.shutdown(Shutdown::Write).unwrap();
            server
        });
        assert_eq!(client.read(&mut [0; 8]).unwrap(), 1);
        assert_eq!(client.read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::UnexpectedEof);
        peer.join();
    });
}
