//! What the fuzz targets check holds for their seeds. `make fuzz` looks for inputs for which it
//! does not.

use std::fs;
use std::path::Path;

mod replies;
mod requests;
mod settings;

/// Checks each seed of a target.
fn check_seeds(target: &str, check: fn(&[u8])) {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let mut count = 0;
    for seed in fs::read_dir(&seeds).expect("a folder") {
        check(&fs::read(seed.expect("a seed").path()).expect("a file"));
        count += 1;
    }
    assert!(count > 0, "there is no seed in {}", seeds.display());
}

#[test]
fn every_request_of_the_seeds_is_answered_or_refused_as_it_must() {
    check_seeds("requests", requests::check);
}

#[test]
fn every_reply_of_the_seeds_is_a_number_or_a_refusal_in_time() {
    check_seeds("replies", replies::check);
}

#[test]
fn every_setting_of_the_seeds_is_taken_or_refused_as_it_must() {
    check_seeds("settings", settings::check);
}
