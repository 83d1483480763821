#![no_main]

#[path = "../../tests/fuzzing/settings.rs"]
mod settings;

libfuzzer_sys::fuzz_target!(|input: &[u8]| settings::check(input));
