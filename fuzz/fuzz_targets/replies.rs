#![no_main]

#[path = "../../tests/fuzzing/replies.rs"]
mod replies;

libfuzzer_sys::fuzz_target!(|input: &[u8]| replies::check(input));
