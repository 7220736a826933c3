//! A buffer that a child of a scope reads into is not the parent's while the child runs.

use fibra::net::TcpStream;
use std::io::Read;

fn first_byte(mut stream: TcpStream) -> u8 {
    let mut buffer = [0; 16];
    fibra::scope(|scope| {
        scope.spawn(|| stream.read(&mut buffer));
        buffer[0]
    })
}

fn main() {
    let _ = first_byte;
}
