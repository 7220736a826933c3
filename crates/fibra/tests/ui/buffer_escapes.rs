//! A spawned fiber cannot read into a buffer of a frame that may be gone by then.

use fibra::net::TcpStream;
use std::io::Read;

fn start(mut stream: TcpStream) -> fibra::JoinHandle<std::io::Result<usize>> {
    let mut buffer = [0; 16];
    fibra::spawn(move || {
        let lent: &'static mut [u8] = &mut buffer;
        stream.read(lent)
    })
}

fn main() {
    let _ = start;
}
