//! Scratch.
use fibra_runtime as fibra;
use std::io::{Read, Write};
#[test]
fn echo() {
    let builder = fibra::Builder::new().workers(2);
    builder
        .run(|| {
            let listener = fibra::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let addr = listener.local_addr().unwrap();
            let server = fibra::spawn(move || {
                for stream in listener.incoming() {
                    let Ok(mut stream) = stream else { break };
                    fibra::spawn(move || {
                        let mut buf = [0; 1024];
                        while let Ok(n @ 1..) = stream.read(&mut buf) {
                            if stream.write_all(&buf[..n]).is_err() {
                                break;
                            }
                        }
                    });
                }
            });
            let clients: Vec<_> = (0..100)
                .map(|i| {
                    fibra::spawn(move || {
                        let mut s = fibra::net::TcpStream::connect(addr).unwrap();
                        for k in 0..100u32 {
                            let msg = [(i as u8).wrapping_add(k as u8); 64];
                            s.write_all(&msg).unwrap();
                            let mut back = [0; 64];
                            s.read_exact(&mut back).unwrap();
                            assert_eq!(msg, back);
                        }
                    })
                })
                .collect();
            for c in clients {
                c.join().unwrap();
            }
            server.cancel();
            server.join().unwrap();
        })
        .unwrap();
}
