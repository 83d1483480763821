#![no_main]

#[path = "../../tests/fuzzing/requests.rs"]
mod requests;

libfuzzer_sys::fuzz_target!(|input: &[u8]| requests::check(input));
