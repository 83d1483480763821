//! A real S3 server by HTTPS, for the tests of the service's crate. It prints where it is: its settings, and then its
//! folder. It ends with its stdin.

#![allow(clippy::unwrap_used, reason = "it is a part of tests")]

use std::io;

#[path = "../tests/s3/mod.rs"]
#[expect(dead_code, reason = "other tests need more of it")]
mod s3;

fn main() {
    let server = s3::S3::start_with_tls();
    for (name, value) in server.settings() {
        println!("{name}={value}");
    }
    println!("FOLDER={}", server.folder.path().display());
    io::copy(&mut io::stdin(), &mut io::sink()).unwrap();
}
